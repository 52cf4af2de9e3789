"""Every type, in every form, against what Postgres itself says about the values."""

from __future__ import annotations

import datetime as dt
import math
import struct
from collections.abc import Callable
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdc.errors import BadData
from cdc.postgres.types import binary_decodable
from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY
from tests.fix_services import PostgresServer
from tests.pg_wire import Connection, Reader, Slot, Table, copied, described, session

BOUNDARIES: dict[str, list[str]] = {
    "int2": ["0", "-1", "32767", "-32768"],
    "int4": ["0", "-1", "2147483647", "-2147483648"],
    "int8": ["0", "-1", "9223372036854775807", "-9223372036854775808"],
    "oid": ["0", "1", "4294967295"],
    "float4": ["0", "-0", "1.1", "3.4028235e38", "1e-45", "NaN", "Infinity", "-Infinity", "1e10"],
    "float8": ["0", "-0", "0.1", "1.7976931348623157e308", "5e-324", "NaN", "Infinity",
               "-Infinity", "1e15", "123456789.12345678"],
    "numeric": ["0", "0.00", "-0.10", "1", "10000", "9999.9999", "100000000", "0.00001", "1e-20",
                "-123456789012345678901234567890.123456789", "NaN", "Infinity", "-Infinity",
                "1e100", "12345678.000", "0.0001000", "20000", "-0.5", "1e131071", "1e-16383"],
    "numeric(12,2)": ["0", "-0.01", "9999999999.99", "-9999999999.99", "1", "10000", "0.1", "100"],
    "numeric(18,0)": ["0", "999999999999999999", "-999999999999999999", "10000"],
    "numeric(18,18)": ["0", "0.999999999999999999", "-0.000000000000000001"],
    "numeric(19,3)": ["0", "9999999999999999.999", "-9999999999999999.999", "0.001"],
    "numeric(38,0)": ["0", "9" * 38, "-" + "9" * 38, "1", "1" + "0" * 37, "18446744073709551616",
                      "18446744073709551615", "-18446744073709551616"],
    "numeric(38,37)": ["0", "9." + "9" * 37, "-0." + "0" * 36 + "1"],
    "numeric(38,10)": ["0", "1234567890123456789012345678.0123456789", "-0.0000000001"],
    "numeric(40,2)": ["0", "9" * 38 + ".99", "NaN"],
    "bool": ["true", "false"],
    "text": ["", "a", "NULL", "é", "日本語 🐘", "a\"b\\c{d},e", " x ", "x" * 5000],
    "varchar(10)": ["", "abc", "日本"],
    "char(5)": ["", "abc", "abcde"],
    '"char"': ["", "a", "~"],
    "name": ["", "abc"],
    "mood": ["sad", "happy", "so so"],
    "positive": ["1", "999"],
    "money_like": ["0.10", "-99.99"],
    "bytea": ["\\x", "\\x00", "\\x00ff10abcd", "\\x" + "5c78" * 700],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
             "550e8400-e29b-41d4-a716-446655440000"],
    "json": ["{}", '{"b": 1,  "a":[1, null]}', '"é"', "null"],
    "jsonb": ["{}", '{"b": 1,  "a":[1, null]}', '"é"', "null", "1.10"],
    "date": ["1970-01-01", "2000-02-29", "0001-01-01", "4713-01-01 BC", "0044-03-15 BC",
             "0001-12-31 BC", "5874897-12-31", "10000-01-01", "infinity", "-infinity",
             "1900-03-01", "1600-02-29"],
    "time": ["00:00:00", "23:59:59.999999", "24:00:00", "12:34:56.7", "00:00:00.000001"],
    "timestamp": ["1970-01-01", "2024-02-29 12:34:56.789", "4713-01-01 00:00:00 BC",
                  "0044-03-15 12:00:00.5 BC", "294247-01-10 04:00:54.775806", "infinity",
                  "-infinity",
                  "12345-06-07 08:09:10.000011", "1969-12-31 23:59:59.999999"],
    "timestamptz": ["1970-01-01 00:00+00", "2024-02-29 12:34:56.789+05:30", "infinity", "-infinity",
                    "0044-03-15 12:00:00.5+00 BC", "294246-01-10 04:00:54.775806+00",
                    "1880-01-01 00:00:00+00"],
    "interval": ["0", "1 year", "-1 year", "1 mon", "1 year -1 mon", "1 day", "-1 day +02:03",
                 "1 day -02:03:04.5", "-1 mon 1 day", "-1 mon 1 day 04:05:06",
                 "1 year 2 mons 3 days 04:05:06.789", "infinity", "-infinity", "100000 hours",
                 "-0.000001 sec", "-1 day -00:00:00.1", "13 mons", "-13 mons", "178000000 years",
                 "2147483647 days", "-9223372036854775808 microseconds"],
    "timetz": ["12:00:00+02"],
    "inet": ["10.0.0.1/8", "::1"],
    "int4range": ["[1,5)", "empty"],
    "point": ["(1,2)"],
    "bit(3)": ["101"],
    "pair": ["(1,\"a b\")"],
    "int4[]": ["{}", "{1}", "{1,NULL,3}", "{NULL}"],
    "int8[]": ["{}", "{" + ",".join(map(str, range(300))) + "}"],
    "text[]": ["{}", '{""}', '{NULL,"NULL",null}', '{"a,b","c\\"d","e\\\\f","{g}",h i,é}',
               '{"\\\\","\\\\\\"",x}'],
    "numeric(6,2)[]": ["{1.10,-2,NULL}"],
    "numeric[]": ["{1.10,NaN,NULL,1e30}"],
    "timestamptz[]": ['{"2024-02-29 12:34:56.789+05:30",infinity,NULL}'],
    "date[]": ["{2024-02-29,-infinity,0044-03-15 BC}"],
    "mood[]": ['{sad,"so so",NULL}'],
    "bytea[]": ['{"\\\\x00ff","\\\\x",NULL}'],
    "bool[]": ["{t,f,NULL}"],
    "uuid[]": ["{550e8400-e29b-41d4-a716-446655440000,NULL}"],
    "float8[]": ["{1.5,NaN,-Infinity,NULL}"],
    "interval[]": ['{"1 day","-01:00:00",NULL}'],
    "jsonb[]": ['{"{\\"a\\": 1}",NULL}'],
    "inet[]": ["{10.0.0.1,NULL}"],
    "int_list": ["{1,2}"],
    "int4[][]": ["{{1,2},{3,4}}", "{1}", "{}"],
    "box[]": ["{(1,1),(0,0);(2,2),(0,0)}"],
}  # fmt: skip

DEFINITIONS = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
CREATE DOMAIN positive AS int4 CHECK (value > 0);
CREATE DOMAIN money_base AS numeric(8,2);
CREATE DOMAIN money_like AS money_base;
CREATE DOMAIN int_list AS int4[];
CREATE TYPE pair AS (a int, b text);
"""


def make(connection: Connection, name: str, types: list[str]) -> Table:
    """A published table with one column per type: c0, c1, …"""
    columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(types))
    connection.execute(
        f"CREATE TABLE {name} (id bigint PRIMARY KEY, {columns});"
        f"CREATE PUBLICATION p_{name} FOR TABLE {name}".encode()
    )
    return described(connection, f"public.{name}")


def fill(connection: Connection, table: Table, rows: list[list[str | None]]) -> None:
    count = len(table.types)
    places = ", ".join(["%s"] * count)
    with connection.cursor() as cursor, connection.transaction():
        statement = f"INSERT INTO {table.schema.name} VALUES ({places})"
        cursor.executemany(statement.encode(), [[str(i), *row] for i, row in enumerate(rows)])


def forms(connection: Connection, table: Table, slot: Slot) -> dict[str, pa.RecordBatch]:
    """The inserted rows in each form."""
    (in_text,) = Reader(table).decode(slot.payloads(binary=False)).rows
    found = {"copy": copied(connection, table), "pgoutput text": in_text.new}
    if all(map(binary_decodable, table.types.values())):
        (in_binary,) = Reader(table).decode(slot.payloads(binary=True)).rows
        found["pgoutput binary"] = in_binary.new
    return found


def require_equal(forms: dict[str, pa.RecordBatch], table: Table) -> pa.RecordBatch:
    copy = forms["copy"]
    for name, batch in forms.items():
        for number, column in enumerate(table.schema.columns):
            left, right = raw(copy.column(number)), raw(batch.column(number))
            left.validate(full=column.type != pa.time64("us"))
            right.validate(full=column.type != pa.time64("us"))
            assert same(left, right), (name, column.sql_type, left, right)
    return copy


def raw(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def same(left: pa.Array, right: pa.Array) -> bool:
    """Identical, NaN and the sign of zero included."""
    if pa.types.is_list(left.type):
        return left.offsets.equals(right.offsets) and same(left.flatten(), right.flatten())
    if pa.types.is_floating(left.type):
        return [hexed(v) for v in left.to_pylist()] == [hexed(v) for v in right.to_pylist()]
    return bool(raw(left).equals(raw(right)))


def hexed(value: float | None) -> str | None:
    return None if value is None else struct.pack(">d", value).hex()


TEXT_ONLY = {
    "timetz", "inet", "int4range", "point", "bit(3)", "pair", "inet[]", "int4[][]", "box[]",
}  # fmt: skip


@pytest.mark.parametrize("binary", [True, False])
def test_boundaries_in_every_form(pg_database: str, *, binary: bool) -> None:
    chosen = {kind: v for kind, v in BOUNDARIES.items() if (kind in TEXT_ONLY) != binary}
    types = list(chosen)
    height = max(map(len, chosen.values())) + 1
    rows = [
        [values[i] if i < len(values) else None for values in chosen.values()]
        for i in range(height)
    ]
    with session(pg_database) as connection:
        connection.execute(DEFINITIONS.encode())
        table = make(connection, "every", types)
        slot = Slot(connection, "every_slot", "p_every")
        fill(connection, table, rows)
        copy = require_equal(forms(connection, table, slot), table)
        slot.payloads(binary=True, consume=True)
        for number, column in enumerate(table.schema.columns):
            require_meaning(connection, table, column.name, copy.column(number))
        connection.execute(b"SELECT pg_drop_replication_slot('every_slot')")


def test_boundaries_on_every_version(postgres_major: PostgresServer) -> None:
    name = postgres_major.new_database()
    with session(postgres_major.url(name)) as connection:
        connection.execute(DEFINITIONS.encode())
        chosen = {kind: list(v) for kind, v in BOUNDARIES.items() if kind not in TEXT_ONLY}
        if connection.info.server_version < 170_000:
            newer = ("infinity", "-infinity", "-9223372036854775808 microseconds")
            chosen["interval"] = [v for v in chosen["interval"] if v not in newer]
        table = make(connection, "every", list(chosen))
        slot = Slot(connection, "every_slot", "p_every")
        rows = [list(row) for row in zip_longest(*chosen.values())]
        fill(connection, table, rows)
        copy = require_equal(forms(connection, table, slot), table)
        for number, column in enumerate(table.schema.columns):
            require_meaning(connection, table, column.name, copy.column(number))
    postgres_major.drop_database(name)


def require_meaning(connection: Connection, table: Table, name: str, found: pa.Array) -> None:
    """The decoded column says what Postgres says."""
    kind = table.types[name]
    expression = MEANINGS.get(str(found.type), "{}")
    if pa.types.is_string(raw(found).type):
        expression = PRINTED
    if pa.types.is_list(found.type):
        require_list_meaning(connection, table, name, found)
        return
    query = f"SELECT {expression.format(name)} FROM {table.schema.name} ORDER BY id"
    expected = [row[0] for row in connection.execute(query.encode()).fetchall()]
    assert list(map(plain, values(found))) == list(map(plain, expected)), kind.spelling


def require_list_meaning(connection: Connection, table: Table, name: str, found: pa.Array) -> None:
    assert raw(found).is_valid().to_pylist() == [
        row[0]
        for row in connection.execute(
            f"SELECT {name} IS NOT NULL FROM {table.schema.name} ORDER BY id".encode()
        )
    ]
    lengths = (
        [len(v) for v in found.cast(found.type).to_pylist() if v is not None]
        if not (
            pa.types.is_timestamp(found.type.value_type) or pa.types.is_date(found.type.value_type)
        )
        else None
    )
    if lengths is not None:
        query = f"SELECT cardinality({name}) FROM {table.schema.name} WHERE {name} IS NOT NULL"
        assert lengths == [row[0] for row in connection.execute((query + " ORDER BY id").encode())]
    inner = found.flatten()
    expression = MEANINGS.get(str(inner.type), "{}")
    if pa.types.is_string(raw(inner).type):
        expression = PRINTED
    query = (
        f"SELECT {expression.format('u.e')} FROM {table.schema.name},"
        f" unnest({name}) WITH ORDINALITY AS u(e, n) ORDER BY id, n"
    )
    expected = [row[0] for row in connection.execute(query.encode())]
    assert list(map(plain, values(inner))) == list(map(plain, expected)), name


PRINTED = "CASE WHEN {0} IS DISTINCT FROM NULL THEN concat({0}) END"
MICROS = (
    "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::int8"
    f" WHEN {{0}} > 'epoch' THEN {TIMESTAMP_INFINITY} WHEN {{0}} < 'epoch'"
    f" THEN -{TIMESTAMP_INFINITY} END"
)
MEANINGS = {
    "float": "{}::float8",
    "time64[us]": "(extract(epoch FROM {}) * 1000000)::int8",
    "timestamp[us]": MICROS,
    "timestamp[us, tz=UTC]": MICROS,
    "date32[day]": "CASE WHEN isfinite({0}) THEN {0} - date '1970-01-01'"
    f" WHEN {{0}} > 'epoch' THEN {DATE_INFINITY} WHEN {{0}} < 'epoch' THEN -{DATE_INFINITY} END",
}


def values(array: pa.Array) -> list[Any]:
    if str(array.type) == "date32[day]":
        return array.view(pa.int32()).to_pylist()
    if str(array.type) in MEANINGS and not pa.types.is_floating(array.type):
        return array.view(pa.int64()).to_pylist()
    return raw(array).to_pylist()


def plain(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack(">d", value)
    return str(value) if isinstance(value, Decimal) else value


def test_what_is_decoded_in_binary(pg_database: str) -> None:
    with session(pg_database) as connection:
        connection.execute(DEFINITIONS.encode())
        table = make(connection, "every", list(BOUNDARIES))
    undecodable = {
        name
        for name, kind in zip(BOUNDARIES, list(table.types.values())[1:], strict=True)
        if not binary_decodable(kind)
    }
    assert undecodable == TEXT_ONLY


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("numeric(5,1)", "NaN", "NaN in a numeric"),
        ("timestamp", "294247-01-10 04:00:54.775807", "beyond what 64 bits"),
        ("timestamptz", "294276-12-31 23:59:59+00", "beyond what 64 bits"),
        ("int4[]", "{{1,2},{3,4}}", "more than one dimension"),
        ("int4[]", "[0:1]={1,2}", "lower bound"),
        ("text[]", "[2:3]={a,b}", "lower bound"),
    ],
)
def test_values_that_cannot_be_carried(pg_database: str, kind: str, value: str, says: str) -> None:
    with session(pg_database) as connection:
        table = make(connection, "bad", [kind])
        slot = Slot(connection, f"bad_{abs(hash((kind, value)))}", "p_bad")
        fill(connection, table, [["{1}" if "[]" in kind else None], [value]])
        in_binary, in_text = slot.payloads(binary=True), slot.payloads(binary=False)
        reads: list[Callable[[], object]] = [
            lambda: copied(connection, table),
            lambda: Reader(table).decode(in_binary),
            lambda: Reader(table).decode(in_text),
        ]
        for read in reads:
            with pytest.raises(BadData, match=says) as caught:
                read()
            assert caught.value.where == "public.bad.c0"
            assert caught.value.hint


NUMERICS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=None).map(lambda d: f"{d:f}"),
    st.from_regex(r"-?[0-9]{1,60}(\.[0-9]{1,60})?", fullmatch=True),
)
RANDOM: dict[str, st.SearchStrategy[str]] = {
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "float8": st.floats().map(repr),
    "float4": st.floats(width=32).map(repr),
    "numeric": NUMERICS,
    "numeric(12,2)": st.decimals(-(10**9), 10**9, places=2).map(str),
    "numeric(38,13)": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda i: f"{i}e-13"),
    "text": st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])),
    "bytea": st.binary().map(lambda b: "\\x" + b.hex()),
    "timestamptz": st.datetimes().map(lambda d: d.replace(tzinfo=dt.UTC).isoformat()),
    "timestamp": st.datetimes().map(dt.datetime.isoformat),
    "date": st.dates().map(str),
    "time": st.times().map(str),
    "interval": st.tuples(
        st.integers(-5000, 5000), st.integers(-5000, 5000), st.integers(-(2**50), 2**50)
    ).map(lambda t: f"{t[0]} mons {t[1]} days {t[2]} microseconds"),
    "uuid": st.uuids().map(str),
    "text[]": st.lists(
        st.none() | st.text(st.sampled_from('ab"\\{}, NULé'), max_size=6), max_size=5
    ).map(lambda items: "{" + ",".join(map(quoted, items)) + "}"),
    "int4[]": st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=30).map(
        lambda items: "{" + ",".join("NULL" if i is None else str(i) for i in items) + "}"
    ),
}


def quoted(item: str | None) -> str:
    if item is None:
        return "NULL"
    escaped = item.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# Shrinking takes minutes against a server: the failing rows are short enough as they are.
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.data())
def _random_rows(connection: Connection, table: Table, slot: Slot, data: st.DataObject) -> None:
    row = st.tuples(*(st.none() | strategy for strategy in RANDOM.values())).map(list)
    rows = data.draw(st.lists(row, min_size=1, max_size=40))
    connection.execute(b"TRUNCATE noise")
    slot.payloads(binary=True, consume=True)
    fill(connection, table, rows)
    copy = require_equal(forms(connection, table, slot), table)
    for number, column in enumerate(table.schema.columns):
        require_meaning(connection, table, column.name, copy.column(number))


def test_random_values_in_every_form(pg_database: str) -> None:
    with session(pg_database) as connection:
        table = make(connection, "noise", list(RANDOM))
        slot = Slot(connection, "noise_slot", "p_noise")
        _random_rows(connection, table, slot)
        connection.execute(b"SELECT pg_drop_replication_slot('noise_slot')")
