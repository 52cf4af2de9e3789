"""Two sets of rows compared by key, larger than memory if need be: what `cdc verify` stands on.

1. Both streams are spooled into a temporary DuckDB file, each row beside its canonical key.
2. Keys of one side only are missing or extra; a key that comes again on one side is extra there
   (missing, if the expected side repeats it).
3. Rows of equal keys are compared column by column, IS DISTINCT FROM: NULL equals NULL, NaN equals
   NaN, decimals and lists by value.
4. What still differs is looked at again where values have several spellings: json and jsonb as
   jsonb compares them (order and repetition of object keys, spelling of numbers), numerics by
   value; columns named `approximate` (float aggregates) within 4 units in the last place.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cdc.keys import row_keys
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

ULP_MAX = 4
SAMPLES_MAX = 5
_MEMORY_LIMIT = "512MB"
_FETCH_ROWS = 10_000


@dataclass(frozen=True)
class Sample:
    """One key that differs. `values`: per column (name, expected, actual), printed; for a missing
    or extra row empty."""

    kind: str
    key: str
    values: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        told = ", ".join(
            f"{name}: {want} expected, {have} found" for name, want, have in self.values
        )
        return f"{self.kind} {self.key}" + (f" ({told})" if told else "")


@dataclass(frozen=True)
class Difference:
    """How many keys are missing, extra, different; `compared` rows were expected."""

    compared: int
    missing: int
    extra: int
    different: int
    samples: tuple[Sample, ...]

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.different)


def compare(
    expected: Iterable[pa.RecordBatch],
    actual: Iterable[pa.RecordBatch],
    schema: TableSchema,
    approximate: Collection[str] = (),
) -> Difference:
    """Compare rows in `schema` by its key. `approximate`: columns that may differ by 4 ulp."""
    with (
        tempfile.TemporaryDirectory(prefix="cdc-compare-") as folder,
        duckdb.connect(Path(folder) / "rows.duckdb") as connection,
    ):
        connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET TimeZone = 'UTC'")
        _spool(connection, "expected", expected, schema)
        _spool(connection, "actual", actual, schema)
        return _difference(connection, schema, frozenset(approximate))


def _spool(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    batches: Iterable[pa.RecordBatch],
    schema: TableSchema,
) -> None:
    """The rows as a table k (canonical key), n (0 for a key's first row), c0, c1, …"""
    names = ["k", *(f"c{i}" for i in range(len(schema.columns)))]
    connection.register("_batch", _keyed(schema.arrow.empty_table().to_batches(), schema, names))
    connection.execute(f"CREATE TABLE raw_{table} AS SELECT * FROM _batch")
    for batch in batches:
        connection.register("_batch", _keyed([batch], schema, names))
        connection.execute(f"INSERT INTO raw_{table} SELECT * FROM _batch")
    connection.unregister("_batch")
    rows, keys = _one(connection, f"SELECT count(*), count(DISTINCT k) FROM raw_{table}")
    number = "0" if rows == keys else "row_number() OVER (PARTITION BY k) - 1"
    connection.execute(f"CREATE VIEW {table} AS SELECT *, {number} AS n FROM raw_{table}")


def _keyed(batches: list[pa.RecordBatch], schema: TableSchema, names: list[str]) -> pa.Table:
    if not batches:
        columns = [_storage(pa.nulls(0, c.type)) for c in schema.columns]
        return pa.Table.from_arrays([pa.array([], pa.string()), *columns], names=names)
    (batch,) = batches
    columns = [_storage(batch.column(c.name)) for c in schema.columns]
    return pa.Table.from_arrays([row_keys(schema, batch), *columns], names=names)


def _storage(column: pa.Array) -> pa.Array:
    if isinstance(column.type, pa.ExtensionType):
        return column.storage
    if pa.types.is_list(column.type) and isinstance(column.type.value_type, pa.ExtensionType):
        return column.cast(pa.list_(column.type.value_type.storage_type))
    return column


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


_SAME_KEY = "e.k = a.k AND e.n = a.n"


def _difference(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, approximate: frozenset[str]
) -> Difference:
    (compared,) = _one(connection, "SELECT count(*) FROM expected")
    missing, gone = _only_in(connection, "missing", "expected e ANTI JOIN actual a")
    extra, more = _only_in(connection, "extra", "actual a ANTI JOIN expected e")
    different = 0
    changed: list[Sample] = []
    for sample in _changed_rows(connection, schema, approximate):
        different += 1
        if len(changed) < SAMPLES_MAX:
            changed.append(sample)
    return Difference(compared, missing, extra, different, (*gone, *more, *changed))


def _only_in(
    connection: duckdb.DuckDBPyConnection, kind: str, joined: str
) -> tuple[int, tuple[Sample, ...]]:
    found = f"FROM {joined} ON {_SAME_KEY}"
    (count,) = _one(connection, f"SELECT count(*) {found}")
    if not count:
        return 0, ()
    keys = connection.execute(f"SELECT k {found} ORDER BY k LIMIT {SAMPLES_MAX}").fetchall()
    return count, tuple(Sample(kind, key) for (key,) in keys)


def _changed_rows(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, approximate: frozenset[str]
) -> Iterator[Sample]:
    """Rows of one key whose values differ, also on a closer look."""
    width = len(schema.columns)
    differs = " OR ".join(f"e.c{i} IS DISTINCT FROM a.c{i}" for i in range(width))
    pairs = ", ".join(f"{_printable(c, f'{s}.c{i}')}" for s in "ea" for i, c in _numbered(schema))
    found = connection.execute(
        f"SELECT e.k, {pairs} FROM expected e JOIN actual a ON {_SAME_KEY} WHERE {differs}"
    )
    while rows := found.fetchmany(_FETCH_ROWS):
        for key, *values in rows:
            told = tuple(
                (column.name, str(want), str(have))
                for column, want, have in zip(
                    schema.columns, values[:width], values[width:], strict=True
                )
                if not _equal(column, want, have, column.name in approximate)
            )
            if told:
                yield Sample("different", key, told)


def _numbered(schema: TableSchema) -> Iterator[tuple[int, Column]]:
    return iter(enumerate(schema.columns))


def _printable(column: Column, place: str) -> str:
    """Temporal values as text: Python's own types end at the year 9999."""
    kind = column.type.value_type if pa.types.is_list(column.type) else column.type
    return f"CAST({place} AS VARCHAR)" if pa.types.is_temporal(kind) else place


def _equal(column: Column, want: Any, have: Any, approximate: bool) -> bool:
    """Whether two values, unequal or not at first sight, are one value."""
    if want is None or have is None:
        return want is have
    if column.sql_type in {"json", "jsonb"}:
        return _jsonb(want) == _jsonb(have)
    if column.type == NUMERIC_TEXT:
        return _number(want) == _number(have)
    if pa.types.is_floating(column.type):
        limit = ULP_MAX if approximate else 0
        return abs(_place(want, column.type) - _place(have, column.type)) <= limit
    return bool(want == have)


def _jsonb(text: str) -> Any:
    """A value that is equal for two texts exactly when they are equal as jsonb."""
    try:
        return _typed(json.loads(text, parse_int=Decimal, parse_float=Decimal))
    except ValueError:
        return text


def _typed(value: Any) -> Any:
    """JSON's true is not its 1, which Python's equality would have."""
    if isinstance(value, dict):
        return {key: _typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_typed(inner) for inner in value]
    return (type(value).__name__, value)


def _number(text: str) -> tuple[bool, Decimal]:
    value = Decimal(text)
    return value.is_nan(), Decimal(0) if value.is_nan() else value


def _place(value: float, kind: pa.DataType) -> int:
    """The float's place among all floats of its width, 0.0 and -0.0 being one; NaN is last."""
    if value != value:  # noqa: PLR0124
        return 1 << 65
    narrow = kind == pa.float32()
    (bits,) = struct.unpack(">q", struct.pack(">d", value)) if not narrow else _float32_bits(value)
    sign = 1 << (31 if narrow else 63)
    magnitude: int = bits & (sign - 1)
    return -magnitude if value < 0 else magnitude


def _float32_bits(value: float) -> tuple[int]:
    (bits,) = struct.unpack(">i", struct.pack(">f", value))
    return (bits,)
