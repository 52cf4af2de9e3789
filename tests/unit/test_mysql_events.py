"""Binlog events other than rows, on bytes that MySQL 8.0.33 and MariaDB 10.11 wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc.errors import BadData, SchemaChanged, SourceError
from cdc.mysql import events, payload, table_maps
from cdc.mysql.columns import InfoRow, column
from cdc.mysql.events import Kind
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import FieldType, refusal, table_schema
from tests.unit import mysql_captured

MYSQL = mysql_captured.events(mysql_captured.MYSQL)
MARIADB = mysql_captured.events(mysql_captured.MARIADB)


def of_kind(captured: list[bytes], kind: Kind) -> list[bytes]:
    return [event for event in captured if event[4] == kind]


def map_of(captured: list[bytes], table: str) -> table_maps.TableMap:
    maps = (
        table_maps.table_map(event, mariadb=captured is MARIADB)
        for event in of_kind(captured, Kind.TABLE_MAP)
    )
    return next(found for found in maps if found.name == f"a_cap.{table}")


def synthetic(kind: Kind, body: bytes, end_position: int = 0) -> bytes:
    head = b"\0\0\0\0" + bytes([kind]) + b"\1\0\0\0" + (19 + len(body)).to_bytes(4, "little")
    return head + end_position.to_bytes(4, "little") + b"\0\0" + body


def test_headers_say_where_the_event_ends() -> None:
    first, second = (events.header(event) for event in MYSQL[:2])
    assert first.kind == Kind.FORMAT_DESCRIPTION
    assert second.end_position == first.end_position + second.size_bytes
    assert not second.artificial


def test_gtids_of_mariadb_say_what_they_begin() -> None:
    found = [events.maria_gtid(event) for event in of_kind(MARIADB, Kind.MARIA_GTID)]
    first = found[0].sequence
    assert [gtid.sequence for gtid in found] == list(range(first, first + len(found)))
    assert {(gtid.domain, gtid.server_id) for gtid in found} == {(0, 1)}


def test_queries_and_rotations() -> None:
    begin = events.query(of_kind(MYSQL, Kind.QUERY)[0])
    assert (begin.sql, begin.error) == ("BEGIN", 0)
    assert events.rotate(MYSQL[-1]).file.startswith("binlog.0")
    assert events.rotate(MYSQL[-1]).position == 4


def test_a_statement_is_decoded_from_its_clients_character_set() -> None:
    status = bytes([0, 0, 0, 0, 0]) + bytes([4, 8, 0, 8, 0, 8, 0])
    head = bytes(8) + bytes([4]) + b"\0\0" + len(status).to_bytes(2, "little")
    body = head + status + b"shop\0" + "ALTER TABLE ä".encode("cp1252")
    found = events.query(synthetic(Kind.QUERY, body))
    assert (found.database, found.sql) == ("shop", "ALTER TABLE ä")


def test_an_incident_says_what_was_lost() -> None:
    assert events.incident(synthetic(Kind.INCIDENT, b"\1\0\4lost")) == "lost"


def test_events_that_end_too_early_name_position_and_bytes() -> None:
    with pytest.raises(BadData, match="log position 4242") as failed:
        events.maria_gtid(synthetic(Kind.MARIA_GTID, b"\1\2\3", 4242))
    assert "01 02 03" in str(failed.value)
    with pytest.raises(BadData, match="shorter than its header"):
        events.header(b"\1")


COMMON = {
    "id": MyType(FieldType.LONG),
    "u": MyType(FieldType.TINY, unsigned=True),
    "d": MyType(FieldType.NEWDECIMAL, 12 << 8 | 2),
    "dw": MyType(FieldType.NEWDECIMAL, 65 << 8 | 30),
    "f": MyType(FieldType.FLOAT, 4),
    "dd": MyType(FieldType.DOUBLE, 8),
    "b1": MyType(FieldType.BIT, 1),
    "b9": MyType(FieldType.BIT, 1 << 8 | 1),
    "y": MyType(FieldType.YEAR),
    "dt": MyType(FieldType.DATE),
    "ti": MyType(FieldType.TIME2, 3),
    "dtt": MyType(FieldType.DATETIME2, 6),
    "ts": MyType(FieldType.TIMESTAMP2, 2),
    "cb": MyType(FieldType.STRING, 4, collation=63),
    "vb": MyType(FieldType.VARCHAR, 10, collation=63),
    "v": MyType(FieldType.VARCHAR, 20, collation=8),
    "tx": MyType(FieldType.BLOB, 2, collation=35),
    "bl": MyType(FieldType.BLOB, 1, collation=63),
    "e": MyType(FieldType.ENUM, 1, collation=8, labels=("a", "ü", "c")),
    "s": MyType(FieldType.SET, 1, collation=8, labels=("x", "y", "z")),
    "g": MyType(FieldType.GEOMETRY, 4),
    "vc": MyType(FieldType.VARCHAR, 900, collation=33),
    "bu": MyType(FieldType.LONGLONG, unsigned=True),
    "m": MyType(FieldType.INT24),
}


@pytest.mark.parametrize(
    ("captured", "own"),
    [
        (
            MYSQL,
            {
                "c": MyType(FieldType.STRING, 40, collation=255),
                "j": MyType(FieldType.JSON, 4),
            },
        ),
        (
            MARIADB,
            {
                "c": MyType(FieldType.STRING, 40, collation=45),
                "j": MyType(FieldType.BLOB, 4, collation=46),
            },
        ),
    ],
    ids=["mysql", "mariadb"],
)
def test_a_full_table_map_tells_all_about_the_columns(
    captured: list[bytes], own: dict[str, MyType]
) -> None:
    found = map_of(captured, "t")
    assert {column.name: column.kind for column in found.columns} == COMMON | own
    assert (found.key, found.typed, found.named) == (("id",), True, True)
    assert [column.name for column in found.columns if not column.nullable] == ["id"]
    if captured is MYSQL:
        assert [column.name for column in found.columns if column.invisible] == ["vc"]


def test_equal_table_maps_are_one_object() -> None:
    maps = [
        table_maps.table_map(event, mariadb=False)
        for event in of_kind(MYSQL, Kind.TABLE_MAP)
        if b"a_cap\0\1t" in event
    ]
    assert len(maps) > 1 and all(found is maps[0] for found in maps)


def test_what_a_table_map_does_not_say_comes_from_the_catalog() -> None:
    found = map_of(MARIADB, "u")
    known = [
        MyColumn("j", MyType(FieldType.BLOB, 4, collation=46, json=True), True),
        MyColumn("u", MyType(FieldType.STRING, 16, collation=63, native="uuid"), True),
        MyColumn(
            "i4", MyType(FieldType.STRING, 4, collation=63, native="inet4"), False, "", False, "7"
        ),
    ]
    resolved = table_maps.resolve(found, MyTable("a_cap.u", tuple(known), ()))
    by_name = {column.name: column for column in resolved.columns}
    assert list(by_name) == ["id", "u", "i4", "i6", "vcc", "j"]
    assert by_name["j"].kind.json and by_name["u"].kind.native == "uuid"
    assert by_name["i4"] == MyColumn("i4", known[2].kind, True, default="7")
    schema = table_schema(resolved, "null")
    assert [c.sql_type for c in schema.columns] == [
        "integer", "uuid", "text", "bytea", "character varying(500)", "json",
    ]  # fmt: skip


def test_a_bare_table_map_takes_the_catalogs_table_only_when_it_fits() -> None:
    event = next(e for e in of_kind(MARIADB, Kind.TABLE_MAP) if b"a_cap\0\1c" in e)
    full = table_maps.table_map(event, mariadb=True)
    known = MyTable(full.name, full.columns, full.key)
    # The first optional field of this table: signedness of two numbers, 01 01 00.
    bare = table_maps.table_map(event[: event.rindex(b"\1\1\0")], mariadb=True)
    assert not (bare.typed or bare.named)
    assert table_maps.resolve(bare, known) == known
    narrower = MyTable(full.name, full.columns[:-1], full.key)
    for unfit in (None, narrower):
        with pytest.raises(SchemaChanged, match="binlog_row_metadata=FULL"):
            table_maps.resolve(bare, unfit)


def test_what_a_minimal_table_map_tells_is_compared() -> None:
    """Signs of integers, character sets of texts; those of labels only with the labels."""
    event = of_kind(MYSQL, Kind.TABLE_MAP)[0]
    full = table_maps.resolve(table_maps.table_map(event, mariadb=False), None)
    assert {"e", "s"} <= {column.name for column in full.columns if column.kind.labels}
    minimal = table_maps.table_map(_minimal(event), mariadb=False)
    assert minimal.typed and not minimal.named
    declared = _retyped(full, "d", unsigned=True)  # as older logs have it
    for known in (full, declared):
        assert table_maps.resolve(minimal, known) == known
    for other in (_retyped(full, "u", unsigned=False), _retyped(full, "v", collation=45)):
        with pytest.raises(SchemaChanged):
            table_maps.resolve(minimal, other)


def _retyped(table: MyTable, name: str, **facts: Any) -> MyTable:
    columns = tuple(
        replace(c, kind=replace(c.kind, **facts)) if c.name == name else c for c in table.columns
    )
    assert columns != table.columns
    return replace(table, columns=columns)


def _minimal(event: bytes) -> bytes:
    """The event with the fields that binlog_row_metadata=MINIMAL writes: 1, 2, 3 and 7."""
    reader = events.Reader(event, events.HEADER_BYTES + 8)
    for _ in range(2):
        reader.skip(reader.number(1) + 1)
    count = reader.packed()
    reader.skip(count)
    reader.skip(reader.packed())
    reader.skip((count + 7) // 8)
    kept = event[: reader.at]
    while reader.more():
        start = reader.at
        field = reader.number(1)
        reader.skip(reader.packed())
        kept += event[start : reader.at] if field in (1, 2, 3, 7) else b""
    return kept


def test_only_integers_have_a_sign() -> None:
    """A table map says it of decimals and floats too, whose values read the same."""
    rows = {
        name: InfoRow(name, name, f"{name} unsigned", None, 9, 2, None, None, "YES", "", None)
        for name in ("int", "decimal", "double")
    }
    kinds = {name: column(row, {}, False, False).kind for name, row in rows.items()}
    assert {name for name, kind in kinds.items() if kind.unsigned} == {"int"}


def test_a_damaged_table_map_is_no_table() -> None:
    event = of_kind(MYSQL, Kind.TABLE_MAP)[0]
    nulls = bytes.fromhex("feffff03")
    complete = event.index(nulls) + len(nulls)
    for length in range(27, complete):
        with pytest.raises(BadData) as failed:
            table_maps.table_map(event[:length], mariadb=False)
        assert "log position" in failed.value.where


def test_compressed_transactions_are_read_as_their_events() -> None:
    (compressed,) = of_kind(MYSQL, Kind.TRANSACTION_PAYLOAD)
    inner = list(payload.payload_events(compressed))
    assert [event[4] for event in inner] == [Kind.QUERY, Kind.TABLE_MAP, Kind.WRITE_ROWS, Kind.XID]
    assert all(events.header(event).size_bytes == len(event) for event in inner)
    for damaged in (compressed[:-9], compressed[:60] + b"\xff" + compressed[61:]):
        with pytest.raises(BadData, match="compressed transaction"):
            list(payload.payload_events(damaged))


def test_compressed_events_of_mariadb_are_read_as_plain_ones() -> None:
    (rows,) = of_kind(MARIADB, Kind.WRITE_ROWS_COMPRESSED_V1)
    plain = payload.inflated(rows)
    assert (plain[4], events.header(plain).size_bytes) == (Kind.WRITE_ROWS_V1, len(plain))
    (query,) = of_kind(MARIADB, Kind.QUERY_COMPRESSED)
    assert events.query(payload.inflated(query)).sql.startswith("alter table c comment 'ccc")
    with pytest.raises(BadData, match="damaged"):
        payload.inflated(rows[:-3])


def test_unknown_types_are_refused_by_name() -> None:
    table = MyTable("shop.t", (MyColumn("v", MyType(FieldType.VECTOR, 4), True),), ())
    with pytest.raises(SourceError, match=r"v \(vector\)") as failed:
        table_schema(table, "null")
    assert failed.value.where == "shop.t"
    assert refusal(MyType(222)) == "type 222"
    assert refusal(MyType(FieldType.BLOB, 2, collation=97)) == "text in eucjpms"


def test_dates_are_nullable_where_zero_dates_become_null() -> None:
    kind = MyType(FieldType.DATETIME2, 6)
    columns = (MyColumn("k", kind, False), MyColumn("v", kind, False))
    table = MyTable("shop.t", columns, ("k",))
    nullable = {z: [c.nullable for c in table_schema(table, z).columns] for z in ("null", "stop")}
    assert nullable == {"null": [False, True], "stop": [False, False]}


@pytest.mark.parametrize("named", [False, True])
def test_the_older_form_of_a_time_is_read_as_such_and_declared_as_today(named: bool) -> None:
    name = "at" if named else ""
    column = MyColumn(name, MyType(FieldType.DATETIME), True)
    found = table_maps.TableMap("shop.t", (column,), (), typed=named, named=named)

    for digits in (0, 3):
        kind = MyType(FieldType.DATETIME2, digits)
        known = MyTable("shop.t", (MyColumn("at", kind, True),), ())
        resolved = table_maps.resolve(found, known)
        older = MyColumn("at", MyType(FieldType.DATETIME, digits), True)
        assert resolved.columns == (older,)
        assert table_schema(resolved, "null") == table_schema(known, "null")


def test_labels_whose_character_set_is_not_told() -> None:
    """As by the first releases of MySQL 8.0."""
    (told, *_) = [e for e in of_kind(MYSQL, Kind.TABLE_MAP) if b"\x0a\x01\x08" in e]
    known = table_maps.resolve(table_maps.table_map(told, mariadb=False), None)
    assert "ü" in {label for column in known.columns for label in column.kind.labels}
    untold = table_maps.table_map(told.replace(b"\x0a\x01\x08", b""), mariadb=False)
    assert table_maps.resolve(untold, known) == known
