"""Debezium's JSON records as change batches.

Schemaless JSON says nothing of its types: a column's are those of the table that it is read as,
with the options that the writer had. Records with schemas are read by their own.

Which version of the table a record of ours was written with stands in `source.sequence`, so the
records are cut where it changes. They are also cut into pieces that fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.formats import json_read, sequence
from cdc.formats.connect_schema import Schema, adjusted
from cdc.formats.connect_values import Constant, Structs, Values
from cdc.formats.debezium_schema import SOURCE, Options, column_schema
from cdc.formats.envelope_read import Decoded, Read, decoded_envelopes, decoded_rows
from cdc.formats.json_read import Objects
from cdc.formats.json_shape import Path
from cdc.ragged import Bools, Int64s
from cdc.schema import TableSchema

_CHUNK_BYTES = 6 << 20
_STRING, _LONG = Schema("string"), Schema("int64")
_SOURCE_FIELDS = {"sequence": json_read.ESCAPED, "ts_us": _LONG, "ts_ms": _LONG}
"""In the order of reading; ts_ms only where ts_us, which is younger, is not there."""
_NO_SCHEMA = Schema("struct")


def read_envelopes(
    keys: pa.Array,
    values: pa.Array,
    table_of: Callable[[int], TableSchema],
    options: Options,
    timestamps_us: Int64s | None = None,
) -> list[Decoded]:
    """The changes in consecutive records of one partition, cut where the table's version changes.

    `keys` and `values` are binary arrays; a null value is a tombstone. `table_of` gives the table
    for a version, 0 for records that we did not write. Columns and members that are not in both
    are ignored, or filled with the column's `missing` value. BadData for what is no envelope.
    """
    stamps = np.zeros(len(values), np.int64) if timestamps_us is None else timestamps_us
    found = []
    for start, stop in _chunks(values):
        found += _read_piece(keys, values, table_of, options, stamps, start, stop)
    return found


def read_rows(
    keys: pa.Array,
    values: pa.Array,
    table: TableSchema,
    options: Options,
    timestamps_us: Int64s | None = None,
) -> Decoded:
    """The changes of plain rows (a view's topic), all of one version of the table."""
    here = np.asarray(values.is_valid())
    rows = _plain_rows(_present(values, here), table, options)
    read_keys = partial(_read_keys, keys, table, options)
    return decoded_rows(here, rows, read_keys, table, timestamps_us)


def _chunks(values: pa.Array) -> Iterator[tuple[int, int]]:
    """Equal pieces of about _CHUNK_BYTES that do not begin with a tombstone; those that carry a
    schema carry one."""
    _, places = ragged.contents(values)
    pieces = max(1, round(int(places[-1] - places[0]) / _CHUNK_BYTES))
    ends = np.linspace(places[0], places[-1], pieces + 1)[1:-1]
    cuts = np.unique(np.searchsorted(places, ends))
    here = np.asarray(values.is_valid())
    changes = json_read.schema_changes(_present(values, here))
    if len(cuts) or changes:
        starts = np.flatnonzero(here)
        at = np.searchsorted(starts, cuts)
        cuts = np.union1d(starts[at[at < len(starts)]], starts[changes])
    yield from pairwise([0, *(c for c in cuts.tolist() if 0 < c < len(values)), len(values)])


def _read_piece(
    keys: pa.Array,
    values: pa.Array,
    table_of: Callable[[int], TableSchema],
    options: Options,
    stamps: Int64s,
    start: int,
    stop: int,
) -> list[Decoded]:
    piece = values.slice(start, stop - start)
    here = np.asarray(piece.is_valid())
    payload, kind = _payload(_present(piece, here), _in_envelope, _beside_rows)
    source = _source(payload)
    positions = sequence.read(source.fields.get("sequence"), payload.rows)
    versions = positions.version
    changes = np.flatnonzero(np.diff(versions)) + 1
    if len(changes):
        cuts = [start, *(start + np.flatnonzero(here)[changes]).tolist(), stop]
        return [
            decoded
            for a, b in pairwise(cuts)
            for decoded in _read_piece(keys, values, table_of, options, stamps, a, b)
        ]
    table = table_of(int(versions[0]) if len(versions) else 0)
    envelopes = _envelopes(payload, kind, source, table, options)
    own_keys = keys.slice(start, stop - start)
    read_keys = partial(_read_keys, own_keys, table, options)
    found = decoded_envelopes(
        own_keys, here, envelopes, read_keys, table, stamps[start:stop], positions
    )
    return [replace(found, record=found.record + start)]


def _present(values: pa.Array, here: Bools) -> pa.Array:
    """The values that are there, as an array with offset 0."""
    if not ragged.every(here):
        return values.filter(pa.array(here))
    return pa.concat_arrays([values, values.slice(0, 0)]) if values.offset else values


def _payload(
    texts: pa.Array,
    wanted: Callable[[Path], bool],
    in_tail: Callable[[str], bool] = lambda _: False,
) -> tuple[Objects, Schema]:
    """The records' members, and their own schema where they carry one."""
    if len(texts):
        found = json_read.without_schemas(texts)
        if found is not None:
            return json_read.objects(found[0], wanted, in_tail), found[1]
    return json_read.objects(texts, wanted, in_tail), _NO_SCHEMA


def _in_envelope(path: Path) -> bool:
    if path[0] == "source":
        return path[-1] in _SOURCE_FIELDS
    return path[0] in ("before", "after", "op", "ts_ms")


def _beside_rows(name: str) -> bool:
    return name not in ("before", "after")


def _everything(path: Path) -> bool:
    return bool(path)


def _envelopes(
    payload: Objects, kind: Schema, source: Structs, table: TableSchema, options: Options
) -> Read:
    fields: dict[str, Values] = {"source": source}
    kinds: list[tuple[str, Schema]] = [("source", SOURCE)]
    members = {"op": _STRING}
    if not any(_is_everywhere(source.fields.get(name)) for name in ("ts_us", "ts_ms")):
        members["ts_ms"] = _LONG
    for name, schema in members.items():
        found = json_read.field(payload, name, schema)
        if found is not None:
            fields[name] = found[0]
            kinds.append((name, schema))
    for name in ("before", "after"):
        inner = json_read.nested(payload, name)
        if inner is not None:
            read = _row(inner[0], _of(kind, name), table, options, inner[1])
            fields[name] = read.values
            kinds.append((name, read.schema))
    return Read(Structs(fields), Schema("struct", fields=tuple(kinds)))


def _of(kind: Schema, name: str) -> Schema:
    return kind.field(name) if kind.fields else _NO_SCHEMA


def _source(payload: Objects) -> Structs:
    inner = json_read.nested(payload, "source")
    fields: dict[str, Values] = {}
    if inner is not None:
        for name, kind in _SOURCE_FIELDS.items():
            found = json_read.field(inner[0], name, kind)
            fields[name] = Constant(None) if found is None else found[0]
            if name == "ts_us" and _is_everywhere(fields[name]):
                break
    return Structs(fields)


def _is_everywhere(values: Values | None) -> bool:
    return isinstance(values, pa.Array) and not values.null_count


def _row(
    found: Objects, kind: Schema, table: TableSchema, options: Options, valid: Bools | None
) -> Read:
    """The table's columns of row objects, by their own schema or by the table's."""
    fields: dict[str, Values] = {}
    kinds: list[tuple[str, Schema]] = []
    own = dict(kind.fields)
    for column in table.columns:
        for name in dict.fromkeys((column.name, adjusted(column.name))):
            expected = own.get(name) or column_schema(column, options)
            values = json_read.field(found, name, expected)
            if values is not None:
                fields[name] = values[0]
                kinds.append((name, values[1]))
                break
    everywhere = valid is None or ragged.every(valid)
    return Read(
        Structs(fields, None if everywhere else valid), Schema("struct", fields=tuple(kinds))
    )


def _read_keys(keys: pa.Array, table: TableSchema, options: Options, index: Int64s) -> Read:
    chosen = keys.take(pa.array(index))
    if chosen.null_count:
        return Read(Structs({}), _NO_SCHEMA)
    key = replace(table, columns=table.key_columns)
    return _plain_rows(chosen, key, options)


def _plain_rows(texts: pa.Array, table: TableSchema, options: Options) -> Read:
    payload, kind = _payload(texts, _everything)
    return _row(payload, kind, table, options, None)
