"""Whole batches of numbers against Postgres: random values of all sizes, computed in both.

Batches of up to numeric.FEW rows go through Python's Decimals, longer ones through Arrow. The
allow-list's boundary values are run here again by Arrow alone, and long columns of random values
by every operator and cast on numbers.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import psycopg
import pytest

from tests.integration import test_expressions_oracle as oracle
from tests.integration.compared import Table, difference
from views.sql.types import NUMBERS, base
from views.values import numeric

pytestmark = pytest.mark.service

NUMERIC_GROUPS = [
    types for types in oracle.GROUPS if any(base(t) in (*NUMBERS, "text", "bytea") for t in types)
]

connection = oracle.connection
tables = oracle.tables


@pytest.mark.parametrize("types", NUMERIC_GROUPS, ids=" × ".join)
def test_boundary_values_without_decimals(
    monkeypatch: pytest.MonkeyPatch,
    connection: psycopg.Connection[Any],
    tables: dict[tuple[str, ...], Table],
    types: tuple[str, ...],
) -> None:
    monkeypatch.setattr(numeric, "FEW", 0)
    cases = [e for t, e in oracle.CASES if t == types]
    wrong = [w for e in cases if (w := difference(connection, tables[types], e))]
    assert not wrong, "\n".join(wrong)


ROWS = 400
EXPRESSIONS = {
    "numeric": (
        "a + b", "a - b", "a * b", "a / b", "a % b", "a / 7", "a / c", "-a", "abs(a)", "a < b",
        "a = b", "greatest(a, b)", "round(a)", "round(a, 3)", "round(a, -2)", "trunc(a, 5)",
        "ceil(a)", "floor(a)", "a::bigint", "a::real", "a::double precision", "a::text",
        "a::numeric(12,2)", "a::numeric(38,20)", "a::numeric(60,3)", "c::numeric / 3", "a + c",
        "d::numeric", "d::numeric(20,4)", "round(a / 3, 30)",
    ),
    "floats": (
        "a::numeric", "b::numeric", "a::text", "b::text", "a::numeric(20,5)", "b::numeric(12,2)",
        "d::double precision", "d::real", "a::real",
    ),
}  # fmt: skip


def _number(rng: random.Random) -> str | None:
    """Of any size; many zeros, quotients that end, the same value with several scales."""
    if rng.random() < 0.05:
        return None
    if rng.random() < 0.1:
        return rng.choice(["0", "0.00", "NaN", "Infinity", "-Infinity", "0.5", "-2.50", "10000"])
    digits = rng.choice([1, 3, 9, 18, 25, 37, 45])
    whole = str(rng.randrange(10 ** rng.randint(0, digits)))
    scale = rng.choice([0, 0, 2, 2, 5, 12, 25])
    fraction = "".join(rng.choice("0000123456789") for _ in range(scale))
    sign = rng.choice(["", "-"])
    return sign + whole + ("." + fraction if scale else "")


def _float(rng: random.Random, single: bool) -> str | None:
    kind = rng.random()
    if kind < 0.05:
        return None
    if kind < 0.1:
        given = ["NaN", "Infinity", "-Infinity", "0", "-0", "1e15", "1e10", "1e-4", "1e23"]
        return rng.choice([*given, repr(2.0 ** rng.randint(-60, 120))])
    if kind < 0.3:
        return repr(rng.randrange(-(10**16), 10**16) / 10 ** rng.randint(0, 20))
    if kind < 0.4:  # on the middle between two numbers of 15 (6) digits
        digits = 6 if single else 15
        return f"{rng.randrange(10 ** (digits - 1), 10**digits)}5e{rng.randint(-digits, 0)}"
    if kind < 0.6 and not single:
        return repr(struct.unpack("d", rng.randbytes(8))[0])
    return repr(rng.gauss(0, 10.0 ** rng.randint(-5, 12)))


def _table(connection: psycopg.Connection[Any], name: str, seed: int) -> Table:
    rng = random.Random(seed)
    types = ("numeric", "numeric", "bigint", "text")
    if name == "floats":
        types = ("double precision", "real", "bigint", "text")
    rows = []
    for _ in range(ROWS):
        if name == "floats":
            a, b = _float(rng, False), _float(rng, True)
            text = rng.choice([a, b, _number(rng)])
        else:
            a, b = _number(rng), _number(rng)
            text = rng.choice([a, f" +{rng.randrange(10**9)}.50 ", "007.", ".5", "1e3", "x"])
        rows.append((a, b, str(rng.choice([1, 3, -7, 10**6, rng.randrange(10**18)])), text))
    return Table(connection, f"{name}_{seed}", types, rows)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_random_columns(connection: psycopg.Connection[Any], name: str, seed: int) -> None:
    table = _table(connection, name, seed)
    wrong = [w for e in EXPRESSIONS[name] if (w := difference(connection, table, e))]
    assert not wrong, "\n".join(wrong)
