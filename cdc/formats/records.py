"""Change batches as the records of a Kafka topic.

A table's topic has envelopes, and behind each delete its tombstone; a view's has plain rows, and
a delete is its tombstone alone (the contract's table of topics).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.changes import ChangeBatch, D
from cdc.formats import avro_read, avro_write, json_write
from cdc.formats.avro_few import Selection
from cdc.formats.connect_schema import Schema, adjusted, avro_json
from cdc.formats.connect_values import Structs
from cdc.formats.debezium_schema import POSTGRES, Options, TopicSchemas, topic_schemas
from cdc.formats.envelope import (
    NO_DETAILS,
    Details,
    Origin,
    envelope_values,
    key_values,
    row_values,
)
from cdc.formats.envelope_read import Decoded, Read, decoded_envelopes, decoded_rows
from cdc.ragged import Bools, Int64s
from cdc.schema import TableSchema


@dataclass(frozen=True)
class Avro:
    """Confluent's wire format, with the ids under which the two schemas are registered."""

    key_id: int
    value_id: int


@dataclass(frozen=True)
class Json:
    """JsonConverter's JSON, the schema in every record or (the default) in none."""

    schemas: bool = False


Form = Avro | Json


@dataclass(frozen=True, eq=False)
class Records:
    """Records in order: `values` is null for a tombstone; `change` is the change of each."""

    keys: pa.Array
    values: pa.Array
    change: Int64s

    def __len__(self) -> int:
        return len(self.change)


def envelope_records(
    changes: ChangeBatch,
    topic: str,
    form: Form,
    options: Options,
    origin: Origin,
    now_us: int,
    details: Details = NO_DETAILS,
) -> Records:
    """The records of a table's topic: envelopes and tombstones.

    `topic` gives the schemas their names; `now_us` is the envelopes' own time. BadData for a value
    that the format cannot carry exactly.
    """
    options = _named_for(form, options)
    schemas = topic_schemas(topic, changes.schema, options, origin.connector)
    values = envelope_values(changes, schemas, options, origin, now_us, details)
    keys = _keys(changes, schemas, form, options)
    texts = encoded(schemas.envelope, values, changes.num_rows, form, key=False)
    return _with_tombstones(keys, texts, changes.op == D)


def row_records(changes: ChangeBatch, topic: str, form: Form, options: Options) -> Records:
    """The records of a view's topic: plain rows, and tombstones."""
    options = _named_for(form, options)
    schemas = topic_schemas(topic, changes.schema, options)
    keys = _keys(changes, schemas, form, options)
    kept = np.flatnonzero(changes.op != D)
    rows = changes.rows if len(kept) == changes.num_rows else changes.rows.take(pa.array(kept))
    values = Structs(row_values(rows, changes.schema, schemas, options))
    texts = encoded(schemas.row, values, len(kept), form, key=False)
    change = np.arange(changes.num_rows)
    if len(kept) < changes.num_rows:
        place = np.full(changes.num_rows, -1)
        place[kept] = np.arange(len(kept))
        texts = texts.take(pa.array(place, mask=place < 0))
    return Records(keys, texts, change)


def _named_for(form: Form, options: Options) -> Options:
    """Avro has no other names than its own."""
    return replace(options, names="avro") if isinstance(form, Avro) else options


def _keys(changes: ChangeBatch, schemas: TopicSchemas, form: Form, options: Options) -> pa.Array:
    values = key_values(changes, schemas, options)
    return encoded(schemas.key, values, changes.num_rows, form, key=True)


def encoded(schema: Schema, values: Structs, num_rows: int, form: Form, *, key: bool) -> pa.Array:
    """A struct's values as the keys or values of records in that form."""
    if isinstance(form, Json):
        return json_write.encode(schema, values, num_rows, schemas=form.schemas)
    header = avro_write.confluent_header(form.key_id if key else form.value_id)
    return avro_write.encode(schema, values, num_rows, header)


def _with_tombstones(keys: pa.Array, values: pa.Array, deleted: Bools) -> Records:
    """Behind each deleted record another with its key and no value."""
    if not ragged.some(deleted):
        return Records(keys, values, np.arange(len(deleted)))
    change = np.repeat(np.arange(len(deleted)), 1 + deleted)
    tombstone = np.zeros(len(change), np.bool_)
    tombstone[1:] = change[1:] == change[:-1]
    return Records(
        keys.take(pa.array(change)), values.take(pa.array(change, mask=tombstone)), change
    )


@dataclass(frozen=True)
class AvroWriter:
    """The writer's schemas (JSON) of the records that are read; an empty key schema: no keys."""

    key: str
    value: str


def avro_schemas(
    topic: str,
    table: TableSchema,
    options: Options,
    *,
    plain_rows: bool = False,
    connector: str = POSTGRES,
) -> AvroWriter:
    """What a registry is given for the subjects `<topic>-key` and `<topic>-value`: the schemas of
    `envelope_records`, or of `row_records`."""
    schemas = topic_schemas(topic, table, replace(options, names="avro"), connector)
    value = schemas.row if plain_rows else schemas.envelope
    return AvroWriter(json.dumps(avro_json(schemas.key)), json.dumps(avro_json(value)))


@dataclass(frozen=True)
class AvroRun:
    """Records start ≤ i < stop have these schema ids; -1: no keys, or tombstones only."""

    start: int
    stop: int
    key_id: int
    value_id: int


def avro_runs(keys: pa.Array, values: pa.Array) -> list[AvroRun]:
    """Consecutive records cut where the id of either schema changes: what `read_avro_envelopes`
    reads at once. Tombstones belong to the records before them. BadData for what is not in
    Confluent's wire format."""
    key_ids, value_ids = avro_read.schema_ids(keys), avro_read.schema_ids(values)
    there = np.flatnonzero(np.asarray(values.is_valid()))
    if len(there):
        nearest = np.searchsorted(there, np.arange(len(values)), "right") - 1
        value_ids = value_ids[there[np.maximum(nearest, 0)]]
    cuts = np.flatnonzero((np.diff(key_ids) != 0) | (np.diff(value_ids) != 0)) + 1
    return [
        AvroRun(start, stop, int(key_ids[start]), int(value_ids[start]))
        for start, stop in pairwise([0, *cuts.tolist(), len(values)])
        if start < stop
    ]


def read_avro_envelopes(
    keys: pa.Array,
    values: pa.Array,
    form: AvroWriter,
    table: TableSchema,
    timestamps_us: Int64s | None = None,
) -> Decoded:
    """The changes in consecutive records of one partition, all written with the same schemas.

    `keys` and `values` are binary arrays; a null value is a tombstone. The rows have `table`'s
    columns: others are ignored, and a column that the writer did not have is filled with its
    `missing` value. BadData for what is no envelope, or a value that its column cannot hold.
    """
    here = np.asarray(values.is_valid())
    there = values.filter(pa.array(here)) if not ragged.every(here) else values
    envelopes = avro_read.read(there, form.value, _selection(table))
    return decoded_envelopes(
        keys, here, envelopes, partial(_read_keys, keys, form), table, timestamps_us
    )


@lru_cache(maxsize=256)
def _selection(table: TableSchema) -> Selection:
    wanted: Selection = {
        name: None for column in table.columns for name in (column.name, adjusted(column.name))
    }
    source: Selection = {"sequence": None, "ts_us": None, "ts_ms": None}
    return {"before": wanted, "after": wanted, "op": None, "source": source, "ts_ms": None}


def read_avro_rows(
    keys: pa.Array,
    values: pa.Array,
    form: AvroWriter,
    table: TableSchema,
    timestamps_us: Int64s | None = None,
) -> Decoded:
    """The same for a topic of plain rows."""
    here = np.asarray(values.is_valid())
    there = values.filter(pa.array(here)) if not ragged.every(here) else values
    rows = avro_read.read(there, form.value)
    return decoded_rows(here, rows, partial(_read_keys, keys, form), table, timestamps_us)


def _read_keys(keys: pa.Array, form: AvroWriter, index: Int64s) -> Read:
    if not form.key:
        return Read(Structs({}), Schema("struct"))
    return avro_read.read(keys.take(pa.array(index)), form.key)
