"""Row events on bytes: what real servers wrote, and what an encoder of the documents makes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.decode_mysql import TABLE, decimal, event, fields, image, prefixed
from cdc.changes import C, D, U
from cdc.errors import BadData, SchemaChanged
from cdc.mysql import payload, table_maps
from cdc.mysql.events import COMPRESSED_ROWS, ROWS, Kind
from cdc.mysql.rows import RowsOfTable, TableDecoder, compile_table, decode_rows
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import FieldType, ZeroDates, table_schema
from tests.unit import mysql_captured

CAPTURED = {
    "mysql": mysql_captured.events(mysql_captured.MYSQL),
    "mariadb": mysql_captured.events(mysql_captured.MARIADB),
}

POINTS = {"mysql": (2, 1), "mariadb": (1, 2)}
"""POINT(1 2) in EPSG:4326: MySQL stores longitude first, MariaDB what the text says."""


def decoder(table: MyTable, zero_dates: ZeroDates = "null") -> TableDecoder:
    return compile_table(table, table_schema(table, zero_dates), zero_dates)


def captured_rows(flavour: str, name: str) -> tuple[list[bytes], MyTable]:
    """The row events of one table, and the table as its first table map describes it."""
    found: list[bytes] = []
    table, current = None, ""
    for outer in CAPTURED[flavour]:
        inner = payload.payload_events(outer) if outer[4] == Kind.TRANSACTION_PAYLOAD else [outer]
        for each in inner:
            if each[4] == Kind.TABLE_MAP:
                described = table_maps.table_map(each, mariadb=flavour == "mariadb")
                current = described.name
                if current == f"a_cap.{name}":
                    table = table or table_maps.resolve(described, None)
            elif current == f"a_cap.{name}" and each[4] in COMPRESSED_ROWS:
                found.append(payload.inflated(each))
            elif current == f"a_cap.{name}" and each[4] in ROWS:
                found.append(each)
    assert table is not None
    return found, table


def decoded(flavour: str, name: str, zero_dates: ZeroDates = "null") -> RowsOfTable:
    found, table = captured_rows(flavour, name)
    return decode_rows(found, decoder(table, zero_dates))


@pytest.mark.parametrize("flavour", CAPTURED)
def test_rows_as_the_servers_wrote_them(flavour: str) -> None:
    found = decoded(flavour, "t")
    first = {
        "id": 1, "u": 255, "d": Decimal("-12.34"), "dw": "-1." + "5".ljust(30, "0"),
        "f": 1.5, "dd": 2.5, "b1": True, "b9": b"\1\1", "y": 1999, "dt": date(2020, 2, 29),
        "ti": "-01:02:03.5", "dtt": datetime(2020, 1, 1, 1, 2, 3, 123456),  # noqa: DTZ001
        "ts": datetime(2020, 1, 1, 0, 0, 0, 250000, UTC), "c": "abü", "cb": b"a\0\0\0",
        "vb": b"b\0", "v": "lä€", "tx": "ucs€", "bl": b"bl", "e": "ü", "s": "x,z",
        "j": '{"a": 1}' if flavour == "mysql" else '{"a":1}', "vc": "vc",
        "g": struct.pack("<BII2d", 1, 0x20000001, 4326, *POINTS[flavour]),
        "bu": Decimal(2**64 - 1), "m": -(2**23),
    }  # fmt: skip
    empty = dict.fromkeys(first) | {"id": 2}
    assert found.op.tolist() == [C, C, U, D]
    assert found.event.tolist() == [0, 1, 2, 3]
    assert found.rows.to_pylist() == [first, empty, first | {"u": 7}, empty]
    assert found.before is not None
    assert found.before.to_pylist()[2:] == [first, empty]
    assert found.before.column("id").to_pylist() == [None, None, 1, 2]
    assert found.has_before.tolist() == [False, False, True, True]
    assert not found.missing_rows and not found.missing_before


@pytest.mark.parametrize("flavour", CAPTURED)
def test_columns_that_an_image_lacks_are_told(flavour: str) -> None:
    """NOBLOB: insert, update v, update b, delete; then the same with MINIMAL; then two compressed
    rows. Columns are id, v, b, n."""
    found = decoded(flavour, "c")
    assert found.op.tolist() == [C, U, U, D, C, U, U, D, C, C]
    missing = {number: np.flatnonzero(mask).tolist() for number, mask in found.missing_rows.items()}
    assert missing == {0: [5, 6], 1: [6, 7], 2: [0, 1, 3, 4, 5, 7], 3: [4, 5, 6, 7]}
    before = {number: np.flatnonzero(m).tolist() for number, m in found.missing_before.items()}
    assert before == {1: [5, 6, 7], 2: [1, 2, 3, 5, 6, 7], 3: [5, 6, 7]}
    assert found.rows.column("v").to_pylist()[:6] == ["x", "y", "y", "y", "x", "y"]
    assert found.rows.column("b").to_pylist()[2] == found.rows.column("b").to_pylist()[6] == b"blob"
    assert found.rows.column("n").to_pylist()[8:] == [1, 2]


@pytest.mark.parametrize("flavour", CAPTURED)
def test_dates_that_are_none_become_what_is_configured(flavour: str) -> None:
    epoch, epoch_utc = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)  # noqa: DTZ001
    last = (date(2024, 1, 31), datetime(2024, 2, 29, 0, 0, 0, 125000))  # noqa: DTZ001
    modes: list[tuple[ZeroDates, date | None, datetime | None, datetime | None]] = [
        ("null", None, None, None),
        ("epoch", date(1970, 1, 1), epoch, epoch_utc),
    ]
    for zero_dates, day, moment, utc in modes:
        rows = decoded(flavour, "z", zero_dates).rows.to_pydict()
        assert rows["d"] == [day, day, last[0]]
        assert rows["dt"] == [moment, moment, last[1]]
        assert rows["ts"][0] == utc
    with pytest.raises(BadData, match="zero_dates") as failed:
        decoded(flavour, "z", "stop")
    assert "a_cap.z.d" in failed.value.where


def test_the_types_of_mariadb_alone() -> None:
    found, table = captured_rows("mariadb", "u")
    natives = {"u": "uuid", "i4": "inet4", "i6": "inet6"}
    columns = tuple(
        MyColumn(c.name, MyType(254, c.kind.meta, False, 63, native=natives[c.name]), True)
        if c.name in natives
        else c
        for c in table.columns
    )
    rows = decode_rows(found, decoder(MyTable(table.name, columns, table.key))).rows
    assert rows.drop_columns(["id"]).to_pylist() == [
        {
            "u": "123e4567-e89b-12d3-a456-426655440000",
            "i4": "1.2.3.0",
            "i6": "2001:db8::ff00:42:8329",
            "vcc": "abc" * 100,
            "j": "[1]",
        },
        {"u": None, "i4": None, "i6": "::", "vcc": "", "j": "{}"},
    ]


def expected(numbers: Sequence[int], notes: bool = True) -> list[dict[str, object]]:
    start = datetime(2024, 1, 1)  # noqa: DTZ001
    return [
        {
            "id": n,
            "qty": n % 100,
            "amount": Decimal(n * 7919 % 10_000_000 - 1000).scaleb(-2),
            "note": f"note number {n} " * (2 + n % 5) if notes else None,
            "city": ("Berlin", "Hamburg", "München")[n % 3],
            "created": start + timedelta(seconds=n, microseconds=n * 37 % 1_000_000),
        }
        for n in numbers
    ]


@pytest.mark.parametrize("per_event", [[1], [1] * 9, [1] * 40, [60, 1, 3] * 7, [200], [0, 5, 0]])
def test_lanes_of_any_number_and_length_give_the_same_rows(per_event: list[int]) -> None:
    images = [image(fields(n, note=n % 7 != 3)) for n in range(sum(per_event))]
    cuts = np.cumsum([0, *per_event]).tolist()
    found = [
        event(Kind.WRITE_ROWS_V1, 8, b"".join(images[first:last])) for first, last in pairwise(cuts)
    ]
    rows = decode_rows(found, decoder(TABLE))
    assert rows.event.tolist() == np.repeat(np.arange(len(per_event)), per_event).tolist()
    wanted = [
        row | ({"note": None} if n % 7 == 3 else {})
        for n, row in enumerate(expected(range(cuts[-1])))
    ]
    names = list(wanted[0])
    assert rows.rows.select(names).to_pylist() == wanted
    rows.rows.validate(full=True)


def test_updates_and_deletes_among_inserts_keep_the_order() -> None:
    images = [image(fields(n)) for n in range(8)]
    found = [
        event(Kind.DELETE_ROWS, 8, images[0] + images[1]),
        event(Kind.WRITE_ROWS, 8, images[2]),
        event(Kind.UPDATE_ROWS, 8, images[2] + images[3] + images[4] + images[5]),
        event(Kind.WRITE_ROWS, 8, images[6] + images[7]),
    ]
    rows = decode_rows(found, decoder(TABLE))
    assert rows.op.tolist() == [D, D, C, U, U, C, C]
    assert rows.rows.column("id").to_pylist() == [0, 1, 2, 3, 5, 6, 7]
    assert rows.before is not None
    assert rows.before.column("id").to_pylist() == [0, 1, None, 2, 4, None, None]


def test_a_schema_may_have_fewer_columns_and_no_others() -> None:
    schema = table_schema(TABLE, "null")
    one = compile_table(TABLE, schema.only({"id", "note"}), "null")
    rows = decode_rows([event(Kind.WRITE_ROWS, 8, image(fields(5)))], one).rows
    assert rows.to_pylist() == [{"id": 5, "note": "note number 5 " * 2}]
    fewer = MyTable(TABLE.name, TABLE.columns[:-1], TABLE.key)
    with pytest.raises(SchemaChanged, match="paid"):
        compile_table(fewer, schema, "null")


KINDS = (
    (MyType(FieldType.LONGLONG), lambda v: struct.pack("<q", v)),
    (MyType(FieldType.INT24), lambda v: struct.pack("<i", v % 2**23)[:3]),
    (MyType(FieldType.TINY, unsigned=True), lambda v: bytes([v % 256])),
    (MyType(FieldType.VARCHAR, 200, collation=63), lambda v: prefixed(b"v" * (v % 200), 1)),
    (MyType(FieldType.VARCHAR, 2000, collation=63), lambda v: prefixed(b"w" * (v % 300), 2)),
    (MyType(FieldType.BLOB, 3, collation=63), lambda v: prefixed(b"b" * (v % 70), 3)),
    (MyType(FieldType.BLOB, 4, collation=63), lambda v: prefixed(b"c" * (v % 70), 4)),
    (MyType(FieldType.NEWDECIMAL, 30 << 8 | 11), lambda v: decimal(v * 10**9, 30, 11)),
)
VALUES = (
    lambda v: v, lambda v: v % 2**23, lambda v: v % 256, lambda v: b"v" * (v % 200),
    lambda v: b"w" * (v % 300), lambda v: b"b" * (v % 70), lambda v: b"c" * (v % 70),
    lambda v: Decimal(v * 10**9).scaleb(-11),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_tables_are_read_as_they_were_laid_out(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(range(len(KINDS))), min_size=1, max_size=140))
    per_event = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=24))
    null_share = data.draw(st.sampled_from([0.0, 0.02, 0.5]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    numbers = random.integers(0, 2**31, (sum(per_event), len(kinds)))
    absent = random.random(numbers.shape) < null_share
    rows = [
        image([
            None if null else KINDS[kind][1](int(number))
            for kind, number, null in zip(kinds, own, nulls, strict=True)
        ])
        for own, nulls in zip(numbers, absent, strict=True)
    ]  # fmt: skip
    cuts = np.cumsum([0, *per_event]).tolist()
    found = [
        event(Kind.WRITE_ROWS, len(kinds), b"".join(rows[first:last]))
        for first, last in pairwise(cuts)
    ]
    columns = tuple(MyColumn(f"c{n}", KINDS[kind][0], True) for n, kind in enumerate(kinds))
    result = decode_rows(found, decoder(MyTable("shop.t", columns, ()))).rows
    for n, kind in enumerate(kinds):
        wanted = [
            None if null else VALUES[kind](int(number))
            for number, null in zip(numbers[:, n], absent[:, n], strict=True)
        ]
        assert result.column(n).to_pylist() == wanted


@pytest.mark.parametrize("lanes", [1, 30])
def test_a_damaged_event_is_named_and_never_read_wrong(lanes: int) -> None:
    good = event(Kind.WRITE_ROWS, 8, b"".join(image(fields(n)) for n in range(5)))
    table = decoder(TABLE)
    whole = len(image(fields(0)))
    for cut in (*range(19, 40), 31 + whole - 1, 31 + whole + 3, len(good) - 1):
        damaged = [good] * (lanes - 1) + [good[:cut]]
        if cut == 31:
            continue  # an event without rows
        with pytest.raises(BadData) as failed:
            decode_rows(damaged, table)
        assert "log position 4711" in failed.value.where
        assert good[:19].hex(" ") in failed.value.what
    huge = bytearray(good)
    huge[31 + 1 + 8 + 4 + 6] = 0xFF  # the length of `status`
    with pytest.raises(BadData):
        decode_rows([good] * (lanes - 1) + [bytes(huge)], table)


@settings(max_examples=60, deadline=None)
@given(st.integers(23, 400), st.integers(0, 255), st.integers(1, 12))
def test_flipped_bytes_raise_bad_data_or_change_values_only(
    place: int, byte: int, lanes: int
) -> None:
    good = event(Kind.WRITE_ROWS, 8, b"".join(image(fields(n)) for n in range(4)))
    flipped = bytearray(good)
    flipped[place % len(good)] = byte
    table = decoder(TABLE)
    try:
        rows = decode_rows([good] * (lanes - 1) + [bytes(flipped)], table).rows
    except BadData:
        return
    rows.validate(full=True)


def test_events_of_other_kinds_or_tables_are_refused() -> None:
    table = decoder(TABLE)
    rows = image(fields(1))
    with pytest.raises(BadData, match="no row event"):
        decode_rows([event(Kind.PARTIAL_UPDATE_ROWS, 8, rows)], table)
    with pytest.raises(BadData, match=r"does not fit shop\.bench_orders"):
        decode_rows([event(Kind.WRITE_ROWS, 7, rows)], table)


def test_text_that_is_not_of_its_character_set_names_column_value_and_position() -> None:
    row = fields(1)
    row[4] = prefixed(b"M\xfcnchen", 1)
    with pytest.raises(BadData, match="not utf8mb4: from byte 1 of the value on: fc 6e") as failed:
        decode_rows([event(Kind.WRITE_ROWS, 8, image(row))], decoder(TABLE))
    assert failed.value.where.startswith("shop.bench_orders.city, in the events that end at")


def test_images_without_any_column_are_refused() -> None:
    with pytest.raises(BadData, match="do not fill"):
        decode_rows([event(Kind.WRITE_ROWS, 8, b"", [0])], decoder(TABLE))


def test_fixed_rows_are_found_without_a_walk_and_with_nulls() -> None:
    columns = (
        MyColumn("id", MyType(FieldType.LONGLONG), False),
        MyColumn("n", MyType(FieldType.SHORT), True),
    )
    table = decoder(MyTable("shop.n", columns, ("id",)))
    for absent in (set[int](), {3, 17}):
        rows = [
            image([struct.pack("<q", n), None if n in absent else struct.pack("<h", -n)])
            for n in range(40)
        ]
        found = [event(Kind.WRITE_ROWS, 2, b"".join(rows[at : at + 7])) for at in range(0, 40, 7)]
        result = decode_rows(found, table).rows.to_pydict()
        assert result["id"] == list(range(40))
        assert result["n"] == [None if n in absent else -n for n in range(40)]


def test_the_arrow_types_are_the_schemas() -> None:
    rows = decode_rows([event(Kind.WRITE_ROWS, 8, image(fields(1)))], decoder(TABLE)).rows
    assert rows.schema.types == [
        pa.int64(), pa.int32(), pa.decimal128(12, 2), pa.string(), pa.string(), pa.string(),
        pa.timestamp("us"), pa.int16(),
    ]  # fmt: skip


def test_extra_data_before_the_columns_may_differ_from_event_to_event() -> None:
    """MySQL notes the partition of each event's rows there (Rows_log_event::Extra_row_info)."""
    found = []
    for n in range(12):
        whole = event(Kind.WRITE_ROWS, 8, image(fields(n)))
        extra = b"\x02\0" if n == 5 else bytes([5, 0, 1, n % 4, 0])
        found.append(whole[:27] + extra + whole[29:])
    rows = decode_rows(found, decoder(TABLE))
    assert rows.rows.column("id").to_pylist() == rows.event.tolist() == list(range(12))
