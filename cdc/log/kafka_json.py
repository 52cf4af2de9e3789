"""Change batches as Kafka records and back: canonical JSON keys, envelopes in Debezium's shape.

    {"before": {…} | null, "after": {…} | null, "op": "c", "ts_ms": …,
     "source": {"txn_seq": …, "ordinal": …, "ts_us": …, "version": …}}

A delete has `after` null and is followed by a tombstone. `before` is there only where the source
sent an old row. Values round-trip exactly: integers and booleans as themselves; dates, times and
timestamps as Debezium's integers (days; microseconds), floats, decimals and numeric as strings of
their digits, bytea as hexadecimal, all else as the string that it is.

Reading, a tombstone right behind its own delete says nothing new; one that stands alone (the
delete before it was compacted away) is a delete, with no transaction (txn_seq -1).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D
from cdc.errors import BadData
from cdc.keys import decode_keys, row_keys
from cdc.schema import TableSchema

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a table or view topic, as fetched."""

    offset: int
    timestamp_us: int
    key: bytes
    value: bytes | None


def encode_records(changes: ChangeBatch) -> list[tuple[str, bytes | None]]:
    """(key, value) of every record that carries `changes`, tombstones included."""
    keys = row_keys(changes.schema, changes.rows).to_pylist()
    after = _row_dicts(changes.rows)
    before = [None] * changes.num_rows if changes.before is None else _row_dicts(changes.before)
    here = changes.has_before
    version = changes.schema.version
    columns = (changes.op.tolist(), changes.txn_seq.tolist(), changes.ordinal.tolist())
    records: list[tuple[str, bytes | None]] = []
    for i, (op, txn_seq, ordinal, us) in enumerate(
        zip(*columns, changes.commit_us.tolist(), strict=True)
    ):
        envelope = {
            "before": before[i] if here is not None and here[i] else None,
            "after": None if op == D else after[i],
            "op": chr(op),
            "ts_ms": us // 1000,
            "source": {"txn_seq": txn_seq, "ordinal": ordinal, "ts_us": us, "version": version},
        }
        records.append((keys[i], _dumps(envelope).encode()))
        if op == D:
            records.append((keys[i], None))
    return records


@dataclass(frozen=True, eq=False)
class Decoded:
    """Consecutive records of one schema version, tombstones folded."""

    offsets: list[int]
    changes: ChangeBatch


def decode_records(
    records: Sequence[Record], schema_of: Callable[[int], TableSchema], newest: int
) -> list[Decoded]:
    """The changes in `records` of one partition, in order, cut where the schema version changes.

    Raises BadData for a record that is not one of ours.
    """
    parsed: list[tuple[Record, dict[str, Any] | None]] = []
    for record in records:
        if record.value is not None:
            parsed.append((record, _parse(record)))
        elif not _repeats(parsed, record):
            parsed.append((record, None))
    runs: list[tuple[int, list[tuple[Record, dict[str, Any] | None]]]] = []
    for item in parsed:
        version = newest if item[1] is None else item[1]["source"]["version"]
        if not runs or runs[-1][0] != version:
            runs.append((version, []))
        runs[-1][1].append(item)
    return [_decode_run(schema_of(version), run) for version, run in runs]


def _repeats(parsed: list[tuple[Record, dict[str, Any] | None]], tombstone: Record) -> bool:
    """Whether the tombstone belongs to the delete before it."""
    if not parsed:
        return False
    record, envelope = parsed[-1]
    return envelope is not None and envelope["op"] == "d" and record.key == tombstone.key


def _parse(record: Record) -> dict[str, Any]:
    try:
        envelope: dict[str, Any] = json.loads(record.value or b"")
        _ = envelope["op"], envelope["after"], envelope["before"], envelope["source"]["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(
            f"not an envelope: {error}",
            where=f"offset {record.offset}",
            hint="only topics that cdc wrote can be read",
        ) from error
    return envelope


def _decode_run(
    schema: TableSchema, run: Sequence[tuple[Record, dict[str, Any] | None]]
) -> Decoded:
    sources = [
        envelope["source"] if envelope else {"txn_seq": -1, "ordinal": 0, "ts_us": r.timestamp_us}
        for r, envelope in run
    ]
    op = np.array([ord(envelope["op"]) if envelope else D for _, envelope in run], np.uint8)
    before = [envelope["before"] if envelope else None for _, envelope in run]
    here = np.array([old is not None for old in before])
    after = [envelope["after"] if envelope else None for _, envelope in run]
    rows = _with_deleted_keys(schema, _rows(schema, after), [r.key.decode() for r, _ in run], op)
    meta = [
        np.array([source[name] for source in sources], np.int64)
        for name in ("txn_seq", "ordinal", "ts_us")
    ]
    old_rows, has_before = (_rows(schema, before), here) if here.any() else (None, None)
    changes = ChangeBatch(schema, op, meta[0], meta[1], meta[2], rows, old_rows, has_before)
    return Decoded([record.offset for record, _ in run], changes)


def _with_deleted_keys(
    schema: TableSchema, rows: pa.RecordBatch, keys: list[str], op: np.ndarray
) -> pa.RecordBatch:
    """Deletes have their key columns, from the record's key."""
    deleted = np.flatnonzero(op == D)
    if not len(deleted) or not schema.key:
        return rows
    found = decode_keys(schema.key_columns, [keys[i] for i in deleted])
    place = np.arange(len(op))
    place[deleted] = len(op) + np.arange(len(deleted))
    columns = list(rows.columns)
    for name, values in zip(schema.key, found, strict=True):
        at = rows.schema.get_field_index(name)
        columns[at] = pa.concat_arrays([columns[at], values]).take(pa.array(place))
    return pa.RecordBatch.from_arrays(columns, schema=schema.arrow)


def _row_dicts(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    names = rows.schema.names
    columns = [_values(column) for column in rows.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """The column's values as JSON values."""
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        return column.storage.to_pylist()
    if pa.types.is_date(kind):
        return column.view(pa.int32()).to_pylist()
    if pa.types.is_temporal(kind):
        return column.view(pa.int64()).to_pylist()
    if pa.types.is_decimal(kind):
        return [None if v is None else format(v, "f") for v in column.to_pylist()]
    if pa.types.is_floating(kind):
        return [None if v is None else repr(v) for v in column.to_pylist()]
    if pa.types.is_binary(kind):
        return [None if v is None else v.hex() for v in column.to_pylist()]
    if pa.types.is_list(kind):
        children, offsets = _values(column.values), column.offsets.to_pylist()
        valid = column.is_valid().to_pylist()
        return [
            children[offsets[i] : offsets[i + 1]] if here else None for i, here in enumerate(valid)
        ]
    return column.to_pylist()


def _rows(schema: TableSchema, rows: Sequence[dict[str, Any] | None]) -> pa.RecordBatch:
    columns = [
        _array(c.type, [None if row is None else row[c.name] for row in rows])
        for c in schema.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema.arrow)


def _array(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """The inverse of `_values`."""
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(pa.array(values, kind.storage_type))
    if pa.types.is_date(kind):
        return pa.array(values, pa.int32()).view(kind)
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.int64()).view(kind)
    if pa.types.is_decimal(kind):
        return pa.array(values, pa.string()).cast(kind)
    if pa.types.is_floating(kind):
        return pa.array([None if v is None else float(v) for v in values], kind)
    if pa.types.is_binary(kind):
        return pa.array([None if v is None else bytes.fromhex(v) for v in values], kind)
    if pa.types.is_list(kind):
        flat = _array(kind.value_type, [item for value in values if value for item in value])
        ends = np.cumsum([0, *(len(value) if value else 0 for value in values)])
        mask = pa.array([value is None for value in values])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, kind, mask=mask)
    return pa.array(values, kind)
