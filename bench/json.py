"""Rows as JSON and back (cdc/json_rows.py), one core, everything in memory.

The table is that of bench/decode.py: 8 columns, about 150 bytes a row in Postgres, 226 to 250 as
JSON. "Costly types" is another of 8 columns: text to be escaped, jsonb, bytea, list, date, numeric,
double precision, nullable timestamp. Beside them stand Python's json.loads, and DuckDB's to_json:
not the same texts (other times), but the speed of a native writer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import duckdb
import pyarrow as pa

from bench.decode import SCHEMA, TYPES, copy_field, fields, timed, void
from bench.measure import Figure
from cdc.json_rows import json_objects, plain_texts, rows_from_json
from cdc.postgres.copy_binary import SIGNATURE, compile_copy, decode_copy
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

ROWS = 100_000
REPEAT = 5
COSTLY = TableSchema(
    "public.costly",
    (
        Column("note", pa.string(), "text"),
        Column("attributes", pa.string(), "jsonb"),
        Column("digest", pa.binary(), "bytea"),
        Column("scores", pa.list_(pa.int32()), "integer[]"),
        Column("born", pa.date32(), "date"),
        Column("price", NUMERIC_TEXT, "numeric"),
        Column("ratio", pa.float64(), "double precision"),
        Column("seen_at", pa.timestamp("us", "UTC"), "timestamp with time zone"),
    ),
    (),
)


def main() -> None:
    pa.set_cpu_count(1)
    rows = table(ROWS)
    texts = json_objects(rows, SCHEMA)
    print(f"one row, {len(texts[0].as_py())} bytes: {texts[0].as_py().decode()}")
    assert rows_from_json(texts, SCHEMA).equals(rows)
    measure("rows → JSON objects", lambda: json_objects(rows, SCHEMA), "≥ 1M")
    measure("every column → plain texts", lambda: plain(rows))
    measure("JSON objects → rows", lambda: rows_from_json(texts, SCHEMA), "≥ 300k")
    other = costly(ROWS)
    print(json_objects(other, COSTLY)[1].as_py().decode())
    measure("costly types: rows → JSON objects", lambda: json_objects(other, COSTLY))
    back = json_objects(other, COSTLY)
    assert rows_from_json(back, COSTLY).equals(other)
    measure("costly types: JSON objects → rows", lambda: rows_from_json(back, COSTLY))
    bodies = texts.to_pylist()
    measure("the peers: json.loads, without types", lambda: [json.loads(body) for body in bodies])
    measure("the peers: DuckDB's to_json", duckdb_writer(rows))
    for count in (1, 10, 100):
        small(rows.slice(0, count))


def table(count: int) -> pa.RecordBatch:
    """The first rows of the bench table, as a snapshot decodes them."""
    encoded = [fields(number, binary=True) for number in range(1, count + 1)]
    messages = [struct.pack(">h", len(row)) + b"".join(map(copy_field, row)) for row in encoded]
    messages[0] = SIGNATURE + bytes(8) + messages[0]
    return decode_copy(compile_copy(SCHEMA, TYPES), messages)


def costly(count: int) -> pa.RecordBatch:
    numbers = range(count)
    price = pa.array([f"{n}.{n % 1000:03}" for n in numbers])
    day = pa.array([n % 20_000 for n in numbers], pa.int32()).view(pa.date32())
    moments = [None if n % 3 == 0 else 1_700_000_000_000_000 + n * 1_001 for n in numbers]
    columns = [
        pa.array([f'say "{n}"\nand go' for n in numbers]),
        pa.array([f'{{"a": {n}, "b": ["x", null], "c": {{"d": "e,f"}}}}' for n in numbers]),
        pa.array([n.to_bytes(16, "big") for n in numbers]),
        pa.array([[n] * (n % 4) for n in numbers], pa.list_(pa.int32())),
        day,
        NUMERIC_TEXT.wrap_array(price),
        pa.array([n / 7 for n in numbers]),
        pa.array(moments, pa.int64()).view(pa.timestamp("us", "UTC")),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=COSTLY.arrow)


def plain(rows: pa.RecordBatch) -> None:
    for column in SCHEMA.columns:
        plain_texts(rows.column(column.name), column)


def duckdb_writer(rows: pa.RecordBatch) -> Callable[[], object]:
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("rows", rows)
    return connection.sql("SELECT to_json(rows) FROM rows").to_arrow_table


def measure(name: str, run: Callable[[], object], target: str = "") -> None:
    run()
    rates = tuple(ROWS * REPEAT / timed(lambda: void(run()), REPEAT) for _ in range(3))
    print(Figure(name, "rows/s", rates, target))


def small(rows: pa.RecordBatch) -> None:
    texts = json_objects(rows, SCHEMA)
    count = rows.num_rows
    each(f"{count} row(s) → JSON", lambda: json_objects(rows, SCHEMA), "< 200 µs" * (count == 1))
    each(f"{count} row(s) ← JSON", lambda: rows_from_json(texts, SCHEMA))


def each(name: str, run: Callable[[], object], target: str = "") -> None:
    times = 500
    runs = tuple(timed(lambda: void(run()), times) / times * 1e6 for _ in range(3))
    print(Figure(name, "µs", runs, target))


if __name__ == "__main__":
    main()
