"""Every entry of the allow-list against Postgres, on boundary values, errors included.

For each entry a SELECT is generated over a table that holds all combinations of the argument
types' boundary values. Postgres evaluates it (row by row where it raises), and so do we, through
the planner. A row that Postgres refuses must be flagged as failed, and no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from tests.integration.compared import Table, database, difference
from views.sql.types import NUMBERS
from views.values import functions
from views.values.time import FIELDS, TIME_FIELDS, UNITS

pytestmark = pytest.mark.service

TIMESTAMP = "timestamp without time zone"
_INTEGERS = {"smallint": 15, "integer": 31, "bigint": 63}

VALUES: dict[str, list[str | None]] = {
    **{
        name: [None, "0", "1", "-1", "2", "7", "-7", str(2**bits - 1), str(-(2**bits))]
        for name, bits in _INTEGERS.items()
    },
    "numeric(12,2)": [
        None,
        "0",
        "1",
        "-1",
        "0.01",
        "-0.05",
        "7.00",
        "2.5",
        "-2.5",
        "3.45",
        "123.45",
        "9999999999.99",
        "-9999999999.99",
    ],
    "numeric(38,0)": [None, "1", "-3", "9" * 38, "-" + "9" * 38],
    "numeric": [
        None,
        "0",
        "0.000",
        "1",
        "-1.50",
        "2.5",
        "-2.5",
        "0.0000000001",
        "1e30",
        "-12345678901234567890.5",
        "NaN",
        "Infinity",
        "-Infinity",
        "32767.5",
        "2147483647.4",
    ],
    "real": [
        None,
        "0",
        "-0",
        "1",
        "-1.5",
        "2.5",
        "3.5",
        "0.1",
        "3e38",
        "1e-38",
        "NaN",
        "Infinity",
        "-Infinity",
        "123456",
        "1234567",
        "32767.5",
    ],
    "double precision": [
        None,
        "0",
        "-0",
        "1",
        "-1.5",
        "2.5",
        "3.5",
        "0.1",
        "1e308",
        "-1e308",
        "5e-324",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e15",
        "123456789012345680",
        "0.0001",
        "0.00001",
        "2147483647.5",
        "9223372036854775807",
    ],
    "boolean": [None, "true", "false"],
    "text": [
        None,
        "",
        "a",
        "A",
        "abc",
        "ABC%",
        "a_c",
        "a\\b",
        " x ",
        "Ä",
        "ä€😀z",
        "12",
        " -7 ",
        "1.50",
        "1e3",
        "true",
        "NO",
        "NaN",
        "-inf",
        "99999999999999999999",
        "x\ny",
        "héllo wörld",
        "%",
        "+5",
        "1e400",
        ".5",
        "5.",
        "-",
    ],
    "character varying(10)": [None, "", "abc", "ABC", "äb ", "12"],
    "character(4)": [None, "", "abc", "ab d", "A"],
    "uuid": [None, "00000000-0000-0000-0000-000000000000", "ffffffff-0000-4000-8000-0123456789ab"],
    "bytea": [None, "\\x", "\\x00ff", "\\x41"],
    "time without time zone": [None, "00:00", "23:59:59.999999", "12:30:00.5", "24:00"],
    "date": [
        None,
        "1970-01-01",
        "2000-02-29",
        "2024-12-31",
        "1999-12-31",
        "0001-01-01",
        "0044-03-15 BC",
        "4714-11-24 BC",
        "5874897-12-31",
        "infinity",
        "-infinity",
        "9999-12-31",
        "10000-01-01",
        "2021-01-03",
    ],
    **{
        name: [
            None,
            "1970-01-01 00:00:00",
            "2000-02-29 12:34:56.789",
            "2024-12-31 23:59:59.999999",
            "1969-12-31 23:59:59.5",
            "0044-03-15 01:02:03 BC",
            "4713-01-01 00:00:00 BC",
            "infinity",
            "-infinity",
            "294240-12-31 23:59:59.999999",
            "2021-01-31 10:00:00",
            "2021-01-03 00:00:00.000001",
            "9999-12-31 23:00:00",
            "10000-01-01 00:00:00",
        ]
        for name in ("timestamp without time zone", "timestamp with time zone")
    },
}

_BY_BASE = {
    "numeric": ("numeric(12,2)", "numeric", "numeric(38,0)"),
    "character varying": ("character varying(10)",),
    "character": ("character(4)",),
}
_TEXT_CONSTANTS: dict[str, list[Any]] = {
    "like": ["a%", "_b%", "%", "", "a\\_c", "%Ä%", "A%", "__", "a\\\\b", "%x%", "ABC\\%"],
    "btrim": [" ", "ab", "", "ä"],
    "starts_with": ["a", "", "ä€"],
    "replace": [("a", "xx"), ("", "y"), ("bc", "")],
    "substring": [1, 2, 0, -1, 3],
    "left": [0, 1, 2, -1, -10, 100],
}
_TEXT_CONSTANTS |= {"ilike": _TEXT_CONSTANTS["like"], "right": _TEXT_CONSTANTS["left"]}
_TEXT_CONSTANTS |= {"ltrim": _TEXT_CONSTANTS["btrim"], "rtrim": _TEXT_CONSTANTS["btrim"]}
_INTERVALS = [
    "interval '1 day'", "interval '-1 month'", "interval '1 year 2 months 3 days'",
    "interval '36 hours'", "interval '90 minutes'", "interval '1' day", "interval '5 seconds'",
]  # fmt: skip

Case = tuple[tuple[str, ...], str]
"""(column types, expression over a, b, …)"""


def _columns(name: str) -> tuple[str, ...]:
    return _BY_BASE.get(name, (name,))


def _listed() -> Iterator[Case]:
    for (name, args), entry in functions.FUNCTIONS.items():
        if name == "extract":
            fields = [f for f in FIELDS if args[1] != "date" or f not in TIME_FIELDS]
            yield from (((args[1],), entry.sql.format(f, "a")) for f in fields)
        elif name == "date_trunc":
            yield from (((args[1],), entry.sql.format(f"'{u}'", "a")) for u in UNITS)
        elif "interval" in args:
            yield from (((args[0],), entry.sql.format("a", i)) for i in _INTERVALS)
        elif entry.constant:
            yield from _with_constants(name, args, entry)
        else:
            for types in itertools.product(*map(_columns, args)):
                yield types, entry.sql.format(*"ab"[: len(types)])


def _with_constants(name: str, args: Sequence[str], entry: functions.Function) -> Iterator[Case]:
    for column in _columns(args[0]):
        if args[0] == "numeric":
            yield from (((column,), entry.sql.format("a", n)) for n in (0, 1, 2, 5, -1, -3))
        elif len(args) == 3 and name == "substring":
            for start, count in itertools.product((1, 2, 0, -1), (0, 1, 2, 5)):
                yield (column,), entry.sql.format("a", start, count)
        else:
            for given in _TEXT_CONSTANTS[name]:
                texts = given if isinstance(given, tuple) else (given,)
                yield (column,), entry.sql.format("a", *(_sql(t) for t in texts))


def _sql(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _operators() -> Iterator[Case]:
    numbers = [c for n in NUMBERS for c in _columns(n)]
    for a, b in itertools.product(numbers, numbers):
        if a != b:
            for op in ("+", "*", "/", "=", "<", ">=", "IS DISTINCT FROM"):
                yield (a, b), f"a {op} b"
    for kind in VALUES:
        for op in (*functions.COMPARISONS, "IS DISTINCT FROM", "IS NOT DISTINCT FROM"):
            yield (kind, kind), f"a {op} b"
    for op in functions.COMPARISONS:
        yield ("text", "character(4)"), f"a {op} b"
        # A date after the year 294247 is no timestamp that Arrow can carry.
        yield ("date", TIMESTAMP), f"CASE WHEN a <= '9999-12-31' THEN a END {op} b"
    for a in ("numeric(12,2)", "integer", "double precision", "text", "date"):
        for form in (
            "greatest(a, b)", "least(a, b)", "nullif(a, b)", "coalesce(a, b)", "a IN (b, a)",
            "a NOT IN (b, NULL)", "a BETWEEN b AND b", "CASE WHEN a < b THEN a ELSE b END",
            "CASE a WHEN b THEN 1 ELSE 0 END", "a IS NULL OR b IS NOT NULL",
        ):  # fmt: skip
            yield (a, a), form


def _casts() -> Iterator[Case]:
    for source, target in functions.CASTS:
        for column in _columns(source) if source != "enum" else ():
            if column in VALUES:
                yield (column,), f"a::{target}"
    for column in (*_columns("numeric"), "integer", "bigint", "text", "double precision", "real"):
        for target in ("numeric(6,1)", "numeric(20,4)", "numeric(3,3)"):
            yield (column,), f"a::{target}"
    for column in ("text", "integer", "character(4)", "character varying(10)"):
        yield (column,), "a::varchar(2)"
    yield ("character varying(10)",), "a::integer"


def _forms() -> Iterator[Case]:
    """Lazy evaluation, three-valued logic, typing of literals, precedence."""
    pair = ("integer", "integer")
    for form in (
        "CASE WHEN b <> 0 THEN a / b END", "b <> 0 AND a / b > 1", "b = 0 OR a / b > 1",
        "coalesce(a, a / b)", "coalesce(a / b, 0)", "NOT a = b", "a % 3 = 1 AND b > 0",
        "a + 1", "a * 1.5", "a / 2", "7 / 2 + a * 0", "a + 2147483648", "-a", "abs(a)", "a - -1",
        "a = 1 OR NULL", "(a > b) IS TRUE", "(a > b) IS NOT FALSE", "(a > b) IS UNKNOWN",
        "a::text || '-' || b", "concat(a, '/', b)", "'x' || a", "round(a / 7.0, 3)", "a / 7.0",
        "a::bigint * b", "a::double precision / b", "trunc(a * 1.239, 1)", "a IN (1, 2, NULL)",
        "a NOT IN (1, 2)", "nullif(a, 0) / b", "greatest(a, b, 0)", "round(a)", "ceil(a / 2.0)",
        "CASE a WHEN 1 THEN 'one' WHEN 2 THEN 'two' ELSE 'many' END", "a BETWEEN 0 AND b + 0 * a",
        "a::text = '7'", "length(a::text)", "a = '7'", "CASE WHEN a > 0 THEN 1.5 ELSE b END",
        "a IS NULL = (b IS NULL)", "mod(a, b)", "a - b - 1", "a / 3 * 3",
        "date '2020-01-31' + a % 1000", "timestamp '2020-01-31 10:00' + interval '1 month'",
        "-a % 4", "2 - a::bigint * 3", "a::numeric / 3", "a % 2 * 0.5", "(a = 1) = (b = 1)",
    ):  # fmt: skip
        yield pair, form
    yield ("text", "text"), "trim(a) || upper(b)"
    yield ("text",), "lower(trim(leading 'a' from a))"
    yield ("boolean", "boolean"), "a AND b OR NOT a"
    yield ("boolean", "boolean"), "a::int + b::int"
    yield ("boolean",), "a || 'x'"
    yield ("date",), "a + interval '1 month'"
    yield ("date",), "date_trunc('month', a)"
    yield ("timestamp with time zone",), "a > '2000-01-01 00:00:00+02'"
    yield ("timestamp without time zone",), "extract(year from a)::int"


CASES = tuple(dict.fromkeys((*_listed(), *_operators(), *_casts(), *_forms())))


@pytest.fixture(scope="module")
def connection(postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    with database(postgres) as made:
        yield made


def combinations(connection: psycopg.Connection[Any], types: tuple[str, ...]) -> Table:
    """All combinations of the boundary values of some types."""
    name = "t_" + "_".join(str(list(VALUES).index(t)) for t in types)
    return Table(connection, name, types, list(itertools.product(*(VALUES[t] for t in types))))


@pytest.fixture(scope="module")
def tables(connection: psycopg.Connection[Any]) -> dict[tuple[str, ...], Table]:
    return {types: combinations(connection, types) for types in dict.fromkeys(t for t, _ in CASES)}


GROUPS = sorted({types for types, _ in CASES})


@pytest.mark.parametrize("types", GROUPS, ids=" × ".join)
def test_equals_postgres(
    connection: psycopg.Connection[Any],
    tables: dict[tuple[str, ...], Table],
    types: tuple[str, ...],
) -> None:
    table = tables[types]
    cases = [e for t, e in CASES if t == types]
    wrong = [w for e in cases if (w := difference(connection, table, e))]
    assert not wrong, "\n".join(wrong)
