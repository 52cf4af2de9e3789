"""Debezium's envelopes, and plain rows, as change batches: ours, Debezium's own, other programs'.

The records of a partition come as two arrays, keys and values; null values are tombstones. A format
reads the values that are there as one struct of columns (`Read`) and, on request, the keys of some
records; from that the changes are put together here:

* a tombstone right behind a delete of the same key says nothing new; one that stands alone (its
  delete was compacted away) is a delete;
* a delete's row is its key, from the record's key, or from `before` where the topic has no keys;
* a delete's `before` that holds nothing but the key is none;
* what Debezium could not know (unchanged TOAST, for which it writes a placeholder) is BadData;
* position and schema version stand in `source.sequence` if we wrote it; otherwise txn_seq is -1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import C, ChangeBatch, D, R, U, column_value
from cdc.errors import BadData
from cdc.formats import sequence
from cdc.formats.connect_schema import Schema, adjusted
from cdc.formats.connect_values import Structs, Values, from_connect
from cdc.ragged import Bools, Bytes, Int64s
from cdc.schema import Column, TableSchema

_KNOWN = np.zeros(256, np.bool_)
_KNOWN[[C, U, D, R]] = True

_UNAVAILABLE = b"__debezium_unavailable_value"

ReadKeys = Callable[[Int64s], "Read"]
"""Reads the keys of the records at some indices."""


@dataclass(frozen=True, eq=False)
class Read:
    """Records as read: their fields, and of which Connect type each is."""

    values: Structs
    schema: Schema

    def field(self, name: str) -> Read | None:
        """A field that is a struct; None: there is none, or it is null in all records."""
        values = self.values.fields.get(name)
        return Read(values, self.schema.field(name)) if isinstance(values, Structs) else None


@dataclass(frozen=True, eq=False)
class Decoded:
    """Changes, and the record that each came from (an index into what was decoded)."""

    changes: ChangeBatch
    record: Int64s


def decoded_envelopes(
    keys: pa.Array,
    here: Bools,
    envelopes: Read,
    read_keys: ReadKeys,
    table: TableSchema,
    timestamps_us: Int64s | None = None,
    positions: sequence.Sequences | None = None,
) -> Decoded:
    """The changes of records whose values (those where `here`) were read as `envelopes`.

    `timestamps_us` are the records' own, for tombstones that stand alone; `positions` those in the
    values' `source`, where they have been read.
    """
    present = np.flatnonzero(here)
    op = np.full(len(here), D, np.uint8)
    op[present] = _operations(envelopes, len(present))
    kept = here | ~_repeated(keys, here, op)
    record = np.flatnonzero(kept)
    place = np.full(len(here), -1, np.int64)
    place[present] = np.arange(len(present))
    place = place[record]
    after = envelopes.field("after")
    old = envelopes.field("before")
    op = op[record]
    deleted = np.flatnonzero(op == D)
    rows = _columns(after, table, len(present), place, op == D)
    if len(deleted) and table.key:
        _put_keys(rows, table, deleted, read_keys(record[deleted]), old, place)
    batch = pa.RecordBatch.from_arrays(rows, schema=table.arrow)
    before, has_before = _before(old, table, len(present), place, op == D)
    position = positions or _positions(envelopes, len(present))
    commit_us = _commit_us(envelopes, len(present))
    if not ragged.every(position.ours):
        _check_complete(batch)
    stamps = np.zeros(len(here), np.int64) if timestamps_us is None else timestamps_us
    alone = place < 0
    changes = ChangeBatch(
        table,
        op,
        np.where(alone, -1, position.txn_seq[place]) if len(present) else np.full(len(record), -1),
        np.where(alone, 0, position.ordinal[place]) if len(present) else np.zeros(len(record), int),
        np.where(alone, stamps[record], commit_us[place]) if len(present) else stamps[record],
        batch,
        before,
        has_before,
    )
    return Decoded(changes, record)


def decoded_rows(
    here: Bools,
    rows: Read,
    read_keys: ReadKeys,
    table: TableSchema,
    timestamps_us: Int64s | None = None,
) -> Decoded:
    """The changes of plain rows (a view's topic): each is an upsert, each tombstone a delete."""
    count = len(here)
    present, deleted = np.flatnonzero(here), np.flatnonzero(~here)
    place = np.full(count, -1, np.int64)
    place[present] = np.arange(len(present))
    columns = _columns(rows, table, len(present), place, ~here)
    if len(deleted) and table.key:
        _put_keys(columns, table, deleted, read_keys(deleted), None, place)
    changes = ChangeBatch(
        table,
        np.where(here, np.uint8(U), np.uint8(D)),
        np.full(count, -1, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64) if timestamps_us is None else timestamps_us,
        pa.RecordBatch.from_arrays(columns, schema=table.arrow),
    )
    return Decoded(changes, np.arange(count))


def _operations(envelopes: Read, count: int) -> Bytes:
    letters = envelopes.values.fields.get("op")
    if not isinstance(letters, pa.Array):
        if count:
            raise BadData("an envelope without `op`", hint="is this topic in Debezium's format?")
        return np.zeros(0, np.uint8)
    data, places = ragged.contents(letters)
    single = np.diff(places) == 1
    found = data[np.where(single, places[:-1], 0)]
    known = single & _KNOWN[found]
    if not ragged.every(known):
        row = int(np.flatnonzero(~known)[0])
        raise BadData(
            f"operation '{letters[row]}' in an envelope",
            where=f"value {row} of the batch",
            hint="truncates and messages: leave Debezium's skipped.operations at its default",
        )
    return found


def _repeated(keys: pa.Array, here: Bools, op: Bytes) -> Bools:
    """Tombstones that follow the delete of their key."""
    found = ~here
    if not ragged.some(found):
        return found
    found[0] = False
    found[1:] &= here[:-1] & (op[:-1] == D)
    index = np.flatnonzero(found)
    if len(index):
        same = pc.equal(keys.take(pa.array(index)), keys.take(pa.array(index - 1)))
        found[index] = np.asarray(pc.fill_null(same, True))
    return found


def _columns(
    rows: Read | None, table: TableSchema, count: int, place: Int64s, deleted: Bools
) -> list[pa.Array]:
    """The table's columns, of the records whose place among the `count` values is given (-1: no
    value); what the writer's schema lacks has the column's `missing` value."""
    in_order = len(place) == count and ragged.every(place >= 0)
    taken = None if in_order else pa.array(place, mask=place < 0)
    found = []
    for column in table.columns:
        values = None if rows is None else _named(rows, column)
        if values is None:
            found.append(
                _missing(column, deleted if rows is not None else np.ones(len(place), np.bool_))
            )
            continue
        array = from_connect(*values, column, count)
        found.append(array if taken is None else array.take(taken))
    return found


def _named(rows: Read, column: Column) -> tuple[Values, Schema] | None:
    for name in (column.name, adjusted(column.name)):
        if name in rows.values.fields:
            return rows.values.fields[name], rows.schema.field(name)
    return None


def _missing(column: Column, deleted: Bools) -> pa.Array:
    if column.missing is None:
        nulls = pa.nulls(len(deleted), _storage(column.type))
        return _typed(nulls, column.type)
    value = column_value(column, column.missing)
    plain = value.value if isinstance(column.type, pa.ExtensionType) else value
    filled = pc.if_else(pa.array(deleted), pa.scalar(None, plain.type), plain)
    return _typed(filled, column.type)


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.ExtensionType) else kind


def _typed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return kind.wrap_array(array) if isinstance(kind, pa.ExtensionType) else array


def _put_keys(
    rows: list[pa.Array],
    table: TableSchema,
    deleted: Int64s,
    keys: Read,
    old: Read | None,
    place: Int64s,
) -> None:
    """The key columns of the deletes, into `rows`."""
    index = np.arange(len(place))
    index[deleted] = len(place) + np.arange(len(deleted))
    for column in table.key_columns:
        at = table.columns.index(column)
        values = _named(keys, column)
        if values is not None:
            found = from_connect(*values, column, len(deleted))
        elif old is not None and (values := _named(old, column)) is not None:
            count = int(place.max()) + 1
            found = from_connect(*values, column, count)
            found = found.take(pa.array(place[deleted], mask=place[deleted] < 0))
        else:
            raise BadData(
                f"a delete without the key column '{column.name}'",
                hint="the topic needs keys: see message.key.columns or the table's primary key",
            )
        rows[at] = pa.concat_arrays([rows[at], found]).take(pa.array(index))


def _before(
    old: Read | None, table: TableSchema, count: int, place: Int64s, deleted: Bools
) -> tuple[pa.RecordBatch | None, Bools | None]:
    if old is None:
        return None, None
    valid = old.values.valid
    there = np.ones(count, np.bool_) if valid is None else valid
    here: Bools = (place >= 0) & there[place]
    columns = _columns(old, table, count, place, ~here)
    rest = [a for a, c in zip(columns, table.columns, strict=True) if c.name not in table.key]
    informative = np.zeros(len(place), np.bool_)
    for array in rest:
        informative |= np.asarray(array.is_valid())
    here &= ~deleted | informative
    if not ragged.some(here):
        return None, None
    return pa.RecordBatch.from_arrays(columns, schema=table.arrow), here


def _check_complete(rows: pa.RecordBatch) -> None:
    """Debezium writes a placeholder for a value that was not in the WAL (SEMANTICS 11)."""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        values = column.flatten() if pa.types.is_list(column.type) else column
        if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
            missing = pc.equal(values.cast(pa.binary()), _UNAVAILABLE)
            if missing.true_count:
                raise BadData(
                    "a value that Debezium did not have (unchanged TOAST)",
                    where=f"column {name}",
                    hint="ALTER TABLE … REPLICA IDENTITY FULL makes Debezium write it",
                )


def _source_fields(envelopes: Read) -> dict[str, Values]:
    source = envelopes.field("source")
    return {} if source is None else source.values.fields


def _positions(envelopes: Read, count: int) -> sequence.Sequences:
    return sequence.read(_source_fields(envelopes).get("sequence"), count)


def _commit_us(envelopes: Read, count: int) -> Int64s:
    """The commit times in microseconds."""
    fields = _source_fields(envelopes)
    for values, factor in (
        (fields.get("ts_us"), 1),
        (fields.get("ts_ms"), 1000),
        (envelopes.values.fields.get("ts_ms"), 1000),
    ):
        if isinstance(values, pa.Array) and not values.null_count:
            return np.asarray(values).astype(np.int64) * factor
    return np.zeros(count, np.int64)
