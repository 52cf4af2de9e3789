"""Decoding Postgres's wire formats, one core, bytes already in memory.

The table is that of the peers' measurements: 8 columns, about 150 bytes a row. The bytes are
encoded here; tests/unit/test_pg_decode_values.py proves the decoders on a real server's.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Sequence

from bench.measure import Figure
from cdc.postgres.changed_keys import to_changes
from cdc.postgres.copy_binary import SIGNATURE, compile_copy, decode_copy
from cdc.postgres.messages import Relation, RelationColumn
from cdc.postgres.pgoutput import decode
from cdc.postgres.rows import TableDecoder, compile_table
from cdc.postgres.types import BUILT_IN, PgType, column
from cdc.schema import TableSchema

ROWS = 20_000
REPEAT = 10
TYPES = {
    "id": PgType(BUILT_IN["int8"], "int8", "bigint"),
    "customer_id": PgType(BUILT_IN["int4"], "int4", "integer"),
    "amount": PgType(BUILT_IN["numeric"], "numeric", "numeric(12,2)", (12 << 16 | 2) + 4),
    "sku": PgType(BUILT_IN["text"], "text", "text"),
    "email": PgType(BUILT_IN["text"], "text", "text"),
    "note": PgType(BUILT_IN["text"], "text", "text"),
    "created_at": PgType(BUILT_IN["timestamptz"], "timestamptz", "timestamp with time zone"),
    "paid": PgType(BUILT_IN["bool"], "bool", "boolean"),
}
SCHEMA = TableSchema(
    "public.bench_orders", tuple(column(name, kind) for name, kind in TYPES.items()), ("id",)
)
RELATION = Relation(
    1, "public", "bench_orders", "d",
    tuple(RelationColumn(n, k.oid, k.typmod, n == "id") for n, k in TYPES.items()),
)  # fmt: skip


def main() -> None:
    rows = [fields(number, binary=True) for number in range(1, ROWS + 1)]
    printed = [fields(number, binary=False) for number in range(1, ROWS + 1)]
    measure("pgoutput binary inserts → changes", streaming(inserts(rows, b"b")), "≥ 1.7M")
    measure("pgoutput text inserts → changes", streaming(inserts(printed, b"t")))
    measure("pgoutput binary, 2 rows a commit", streaming(inserts(rows, b"b", in_commit=2)))
    measure("COPY BINARY → record batch", copying(rows), "≥ 2M")
    for count in (1, 5):
        small(count, rows)


def measure(name: str, run: Callable[[], None], target: str = "") -> None:
    run()
    print(
        Figure(name, "rows/s", tuple(ROWS * REPEAT / timed(run, REPEAT) for _ in range(3)), target)
    )


def small(count: int, rows: Sequence[Sequence[bytes | None]]) -> None:
    run = streaming(inserts(rows[:count], b"b"))
    times = 1000
    runs = tuple(timed(run, times) / times * 1e6 for _ in range(3))
    print(Figure(f"one transaction of {count} row(s)", "µs", runs, "≤ 300 µs"))


def timed(run: Callable[[], None], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - began


def streaming(payloads: list[bytes]) -> Callable[[], None]:
    tables: dict[int, TableDecoder | None] = {1: compile_table(RELATION, SCHEMA, TYPES)}

    def run() -> None:
        for rows in decode(payloads, tables, lambda _: None).rows:
            to_changes(rows)

    return run


def copying(rows: Sequence[Sequence[bytes | None]]) -> Callable[[], None]:
    messages = [struct.pack(">h", len(row)) + b"".join(map(copy_field, row)) for row in rows]
    messages[0] = SIGNATURE + bytes(8) + messages[0]
    decoder = compile_copy(SCHEMA, TYPES)
    return lambda: void(decode_copy(decoder, messages))


def void(_: object) -> None: ...


def inserts(
    rows: Sequence[Sequence[bytes | None]], kind: bytes, in_commit: int = 1000
) -> list[bytes]:
    found = []
    for number, row in enumerate(rows):
        if number % in_commit == 0:
            found.append(payload(struct.pack(">cqqI", b"B", number, number, number)))
        values = b"".join(tuple_field(kind, value) for value in row)
        found.append(payload(struct.pack(">cIch", b"I", 1, b"N", len(row)) + values))
        if number % in_commit == in_commit - 1 or number == len(rows) - 1:
            found.append(payload(struct.pack(">cbqqq", b"C", 0, number, number, number)))
    return found


def payload(body: bytes) -> bytes:
    return b"w" + bytes(24) + body


def tuple_field(kind: bytes, value: bytes | None) -> bytes:
    return b"n" if value is None else kind + struct.pack(">i", len(value)) + value


def copy_field(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def fields(g: int, *, binary: bool) -> list[bytes | None]:
    """Row g as the peers' load.sql makes it."""
    customer, cents = g * 7919 % 100_000, g * 37 % 10_000_000
    digest = hashlib.md5(str(g).encode()).hexdigest()
    note = None if g % 10 == 0 else f"note {digest} {digest[:20]}".encode()
    texts = (f"SKU-{g * 31 % 50_000:08}".encode(), f"customer{customer}@mail.example.com".encode())
    micros = (8766 * 86_400 + g) * 1_000_000 + g % 1000 * 1000
    if binary:
        return [
            struct.pack(">q", g), struct.pack(">i", customer), numeric(cents), *texts, note,
            struct.pack(">q", micros), bytes([g % 3 == 0]),
        ]  # fmt: skip
    clock = f"2024-01-01 {g // 3600 % 24:02}:{g // 60 % 60:02}:{g % 60:02}.{g % 1000:03}+00"
    return [
        str(g).encode(), str(customer).encode(), f"{cents / 100:.2f}".encode(), *texts, note,
        clock.encode(), b"t" if g % 3 == 0 else b"f",
    ]  # fmt: skip


def numeric(cents: int) -> bytes:
    """numeric_send of cents / 100."""
    whole, behind = divmod(cents, 100)
    digits, weight = [behind * 100], -1
    while whole:
        whole, digit = divmod(whole, 10_000)
        digits.insert(0, digit)
        weight += 1
    while digits and digits[0] == 0:
        del digits[0]
        weight -= 1
    while digits and digits[-1] == 0:
        del digits[-1]
    head = (len(digits), weight if digits else 0, 0, 2)
    return struct.pack(f">4h{len(digits)}h", *head, *digits)


if __name__ == "__main__":
    main()
