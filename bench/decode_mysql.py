"""Decoding MySQL's row events, one core, bytes already in memory.

The table is that of the streaming measurement: 8 columns, about 150 bytes a row, some 60 rows an
event, as the server cuts them (binlog_row_event_max_size). The bytes are encoded here, by the
servers' documents; tests/unit/test_mysql_rows.py compares decoder and encoder.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Sequence

from bench.decode import timed
from bench.measure import Figure
from cdc.mysql.events import Kind
from cdc.mysql.rows import TableDecoder, compile_table, decode_rows
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import FieldType, table_schema

ROWS = 60_000
REPEAT = 10
ROWS_PER_EVENT = 60
EVENTS_PER_CALL = 256
UTF8MB4 = 255
TABLE = MyTable(
    "shop.bench_orders",
    (
        MyColumn("id", MyType(FieldType.LONGLONG), False),
        MyColumn("qty", MyType(FieldType.LONG), True),
        MyColumn("amount", MyType(FieldType.NEWDECIMAL, 12 << 8 | 2), True),
        MyColumn("status", MyType(FieldType.VARCHAR, 80, collation=UTF8MB4), True),
        MyColumn("city", MyType(FieldType.VARCHAR, 160, collation=UTF8MB4), True),
        MyColumn("note", MyType(FieldType.VARCHAR, 800, collation=UTF8MB4), True),
        MyColumn("created", MyType(FieldType.DATETIME2, 6), True),
        MyColumn("paid", MyType(FieldType.TINY), True),
    ),
    ("id",),
)


def main() -> None:
    images = [image(fields(number)) for number in range(ROWS)]
    nulls = [image(fields(number, note=number % 10 > 0)) for number in range(ROWS)]
    inserts = events(Kind.WRITE_ROWS, 8, images, ROWS_PER_EVENT)
    measure("MySQL inserts, 60 rows an event → batch", inserts, EVENTS_PER_CALL, "≥ 1.5M")
    measure("… a tenth of the notes NULL", events(Kind.WRITE_ROWS, 8, nulls, ROWS_PER_EVENT))
    pairs = [old + new for old, new in zip(images, images[1:] + images[:1], strict=True)]
    measure("MySQL updates, old and new row", events(Kind.UPDATE_ROWS, 8, pairs, ROWS_PER_EVENT))
    measure("MySQL inserts, 1 row an event", events(Kind.WRITE_ROWS, 8, images, 1), 4096)
    measure("… one transaction of 1,000 rows a call", inserts, 17)
    table = decoder()
    for count in (1, 5):
        own = events(Kind.WRITE_ROWS, 8, images[:count], 1)
        calls = 2000
        spent_s = timed(calling([own], table), calls) / calls
        print(Figure(f"one call, {count} events of 1 row", "µs", (spent_s * 1e6,), ""))


def decoder() -> TableDecoder:
    return compile_table(TABLE, table_schema(TABLE, "null"), "null")


def measure(
    name: str, found: Sequence[bytes], per_call: int = EVENTS_PER_CALL, target: str = ""
) -> None:
    table = decoder()
    run = calling([found[at : at + per_call] for at in range(0, len(found), per_call)], table)
    run()
    rates = tuple(ROWS * REPEAT / timed(run, REPEAT) for _ in range(3))
    print(Figure(name, "rows/s", rates, target))


def calling(calls: Sequence[Sequence[bytes]], table: TableDecoder) -> Callable[[], None]:
    def run() -> None:
        for each in calls:
            decode_rows(each, table)

    return run


def events(kind: Kind, columns: int, rows: Sequence[bytes], per_event: int) -> list[bytes]:
    """The rows, each its image or images, as row events of a table with so many columns."""
    cuts = range(0, len(rows), per_event)
    return [event(kind, columns, b"".join(rows[cut : cut + per_event])) for cut in cuts]


def event(kind: Kind, columns: int, rows: bytes, present: Sequence[int] | None = None) -> bytes:
    """One row event. `present`: bits of the columns that its images have, per image."""
    images = 2 if kind in (Kind.UPDATE_ROWS, Kind.UPDATE_ROWS_V1) else 1
    bits = present or [(1 << columns) - 1] * images
    bitmaps = b"".join(own.to_bytes((columns + 7) // 8, "little") for own in bits)
    extra = b"\x02\x00" if kind >= Kind.WRITE_ROWS else b""
    count = bytes([columns]) if columns < 251 else b"\xfc" + columns.to_bytes(2, "little")
    body = (7).to_bytes(6, "little") + b"\x01\x00" + extra + count + bitmaps + rows
    return struct.pack("<IBIIIH", 1_700_000_000, kind, 1, 19 + len(body), 4711, 0) + body


def image(values: Sequence[bytes | None]) -> bytes:
    """A row image of the values as they are laid out, None for NULL. The bits of the bitmap that
    have no column are set, as the servers set them."""
    size = (len(values) + 7) // 8
    nulls = (1 << 8 * size) - (1 << len(values))
    for number, value in enumerate(values):
        nulls |= (value is None) << number
    return nulls.to_bytes(size, "little") + b"".join(value or b"" for value in values)


def prefixed(value: bytes, width: int) -> bytes:
    """A value behind its length."""
    return len(value).to_bytes(width, "little") + value


def decimal(unscaled: int, precision: int, scale: int) -> bytes:
    """decimal2bin (strings/decimal.cc), digit by digit."""
    digits = str(abs(unscaled)).rjust(precision, "0")
    whole, behind = digits[: precision - scale], digits[precision - scale :]
    first = len(whole) % 9
    groups = [whole[:first]] + [whole[at : at + 9] for at in range(first, len(whole), 9)]
    groups += [behind[at : at + 9] for at in range(0, len(behind), 9)]
    sizes = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
    found = bytearray(
        b"".join(int(group).to_bytes(sizes[len(group)], "big") for group in groups if group)
    )
    if unscaled < 0:
        found = bytearray(byte ^ 0xFF for byte in found)
    found[0] ^= 0x80
    return bytes(found)


def datetime(moment: dt.datetime) -> bytes:
    """DATETIME(6): my_datetime_packed_to_binary."""
    day = (moment.year * 13 + moment.month) << 5 | moment.day
    clock = moment.hour << 12 | moment.minute << 6 | moment.second
    packed = (1 << 39) | day << 17 | clock
    return packed.to_bytes(5, "big") + moment.microsecond.to_bytes(3, "big")


_START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
_STATUS = (b"new", b"paid", b"shipped", b"cancelled")
_CITIES = ("Berlin", "Hamburg", "München", "Köln")


def fields(number: int, *, note: bool = True) -> list[bytes | None]:
    """The columns of row `number`."""
    text = f"note number {number} ".encode() * (2 + number % 5)
    return [
        struct.pack("<q", number),
        struct.pack("<i", number % 100),
        decimal(number * 7919 % 10_000_000 - 1000, 12, 2),
        prefixed(_STATUS[number % 4], 1),
        prefixed(_CITIES[number % 3].encode(), 1),
        prefixed(text, 2) if note else None,
        datetime(_START + dt.timedelta(seconds=number, microseconds=number * 37 % 1_000_000)),
        bytes([number % 2]),
    ]


if __name__ == "__main__":
    main()
