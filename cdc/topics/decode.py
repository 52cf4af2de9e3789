"""One topic's records as change batches of its table, which grows as newer schemas come.

1.  `learn` looks at which schemas the records have; each is looked at once. A newer one extends the
    table, so all records of a poll are then read as one version of it.
2.  `decode` cuts the records where their schema changes, and reads each run by its own.

A TRUNCATE is a record of its own (Debezium's `skipped.operations=none`); `truncates` finds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.errors import BadData
from cdc.formats import avro_read, json_envelope
from cdc.formats.envelope_read import Decoded
from cdc.formats.json_read import without_schemas
from cdc.formats.records import (
    AvroRun,
    AvroWriter,
    avro_runs,
    read_avro_envelopes,
    read_avro_rows,
)
from cdc.json_tokens import members
from cdc.log.kafka_records import Fetched
from cdc.ragged import Int64s
from cdc.schema import TableSchema
from cdc.topics.described import (
    Described,
    SchemaOf,
    Settings,
    avro_names,
    avro_row,
    json_row,
    table_of,
)
from cdc.topics.evolution import extended

_TRUNCATE = b'"op":"t"'
_NO_RECORD = '{"type":"record","name":"none","fields":[]}'
_NONE: Int64s = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _JsonRun:
    """Records start ≤ i < stop have the same schema."""

    start: int
    stop: int


class TopicDecoder:
    """Reads one topic. `table` is its newest version."""

    def __init__(self, settings: Settings, found: Described, schema_of_id: SchemaOf) -> None:
        self.table: TableSchema = found.table
        self._settings, self._enveloped, self._old = settings, found.enveloped, found.ends
        self._schema_of_id = schema_of_id
        self._avro = settings.config.format == "avro"
        self._seen: set[object] = set()
        self._prefix = b""

    def learn(self, partition: int, records: Fetched) -> None:
        """Extend the table by what newer schemas of these records have. Raises SchemaChanged,
        SourceError."""
        if partition < len(self._old):
            first = int(np.searchsorted(records.offsets, self._old[partition]))
            records = records.slice(first, len(records))
        if not len(records):
            return
        if not self._avro:
            for part in self._json_runs(records.values):
                self._learn_json(records.values, part)
            return
        for run in self._avro_runs(records):
            if run.value_id not in self._seen and run.value_id >= 0:
                names = self.table.key
                if run.key_id >= 0 and self._settings.keys is None:
                    names = avro_names(self._schema_of_id(run.key_id))
                row, _ = avro_row(self._schema_of_id(run.value_id))
                self._extend(table_of(self._settings, row, names))
                self._seen.add(run.value_id)

    def _learn_json(self, values: pa.Array, run: _JsonRun) -> None:
        first = _first_value(values, run)
        if first is None:
            return
        schema = _schema_text(first)
        if schema is None or schema in self._seen:
            return
        row, _ = json_row(schema)
        self._extend(table_of(self._settings, row, self.table.key))
        self._seen.add(schema)

    def _extend(self, now: TableSchema) -> None:
        self.table = extended(self.table, now, self._settings.source)

    def decode(self, partition: int, records: Fetched) -> list[Decoded]:
        """The changes of consecutive records, none a TRUNCATE. Raises BadData with the place."""
        try:
            return list(self._decoded(records))
        except BadData as error:
            at, cause = self._culprit(records, error)
            where = f"{self._settings.topic}/{partition}/{records.offsets[at]}"
            place = ", ".join(filter(None, (where, cause.where)))
            raise BadData(cause.what, where=place, hint=cause.hint) from error

    def _culprit(self, records: Fetched, error: BadData) -> tuple[int, BadData]:
        """The first record that cannot be read by itself."""
        for at in range(len(records)):
            try:
                list(self._decoded(records.slice(at, at + 1)))
            except BadData as cause:
                return at, cause
        return 0, error

    def _decoded(self, records: Fetched) -> Iterator[Decoded]:
        for start, stop, read in self._readers(records):
            part = records.slice(start, stop)
            for found in read(part):
                _require_keys(found, self.table)
                yield replace(found, record=found.record + start)

    def _readers(
        self, records: Fetched
    ) -> Iterator[tuple[int, int, Callable[[Fetched], list[Decoded]]]]:
        if self._avro:
            for run in self._avro_runs(records):
                yield run.start, run.stop, self._avro_reader(run)
        else:
            for part in self._json_runs(records.values):
                yield part.start, part.stop, self._read_json

    def _avro_runs(self, records: Fetched) -> list[AvroRun]:
        return avro_runs(records.keys, records.values)

    def _avro_reader(self, run: AvroRun) -> Callable[[Fetched], list[Decoded]]:
        key = "" if run.key_id < 0 else self._schema_of_id(run.key_id)
        value = _NO_RECORD if run.value_id < 0 else self._schema_of_id(run.value_id)
        read = read_avro_envelopes if self._enveloped else read_avro_rows

        def reader(part: Fetched) -> list[Decoded]:
            form = AvroWriter(key, value)
            return [read(part.keys, part.values, form, self.table, part.stamps_us)]

        return reader

    def _read_json(self, part: Fetched) -> list[Decoded]:
        keys, values, stamps = part.keys, part.values, part.stamps_us
        options = self._settings.options
        if not self._enveloped:
            return [json_envelope.read_rows(keys, values, self.table, options, stamps)]
        return json_envelope.read_envelopes(keys, values, lambda _: self.table, options, stamps)

    def _json_runs(self, values: pa.Array) -> list[_JsonRun]:
        """Cut where the schema in the records changes. Most often it is the last one seen."""
        count = len(values)
        if not count:
            return []
        runs: list[_JsonRun] = []
        start = 0
        while start < count:
            rest = values.slice(start)
            if not self._prefix or not _has_prefix(rest, self._prefix, 0):
                first = _first_value(rest, _JsonRun(0, len(rest)))
                self._prefix = b"" if first is None else _head(first)
            stop = start + _alike(rest, self._prefix)
            runs.append(_JsonRun(start, stop))
            start = stop
        return runs

    def truncates(self, records: Fetched) -> Int64s:
        """Which of the records say TRUNCATE. They have no key."""
        found = np.asarray(pc.and_(records.keys.is_null(), records.values.is_valid()))
        candidates = np.flatnonzero(found)
        if not len(candidates) or not self._enveloped:
            return _NONE
        return candidates[self._says_truncate(records.values.take(pa.array(candidates)))]

    def _says_truncate(self, values: pa.Array) -> Int64s:
        if not self._avro:
            likely = np.flatnonzero(np.asarray(pc.match_substring(values, _TRUNCATE)))
            return np.array([i for i in likely if _operation(values[i].as_py()) == "t"], np.int64)
        nothing = pa.nulls(len(values), pa.binary())
        found = []
        for run in avro_runs(nothing, values):
            part = values.slice(run.start, run.stop - run.start)
            read = avro_read.read(part, self._schema_of_id(run.value_id), {"op": None})
            letters = read.values.fields.get("op")
            if isinstance(letters, pa.Array):
                same = np.flatnonzero(np.asarray(pc.equal(letters.cast(pa.string()), "t")))
                found.append(run.start + same)
        return np.concatenate(found) if found else _NONE


def _require_keys(found: Decoded, table: TableSchema) -> None:
    for name in table.key:
        column = found.changes.rows.column(name)
        if column.null_count:
            raise BadData(
                f"a record without a value in the key column '{name}'",
                hint="a delete's old row is complete only with REPLICA IDENTITY FULL: name columns "
                "that the records' keys have under `keys:`",
            )


def _first_value(values: pa.Array, run: _JsonRun) -> bytes | None:
    part = values.slice(run.start, run.stop - run.start)
    place = np.flatnonzero(np.asarray(part.is_valid()))
    return part[int(place[0])].as_py() if len(place) else None


def _head(text: bytes) -> bytes:
    """What all records with the schema of this one begin with; b"" for a record without."""
    if without_schemas(pa.array([text], pa.binary())) is None:
        return b""
    payload = members(pa.array([text], pa.binary())).named("payload")
    return text[: int(payload.start[0] - payload.is_string[0])]


def _has_prefix(values: pa.Array, prefix: bytes, at: int) -> bool:
    first = values[at].as_py()
    return first is None or first.startswith(prefix)


def _alike(values: pa.Array, prefix: bytes) -> int:
    """How many of the first records have this beginning (b"": have no schema), tombstones too."""
    wanted = prefix or b'{"schema"'
    same = pc.starts_with(values, wanted)
    alike = np.asarray(pc.fill_null(same if prefix else pc.invert(same), True))
    return len(alike) if ragged.every(alike) else max(1, int(np.argmin(alike)))


def _schema_text(record: bytes) -> str | None:
    """The schema in a record; None: it has none."""
    array = pa.array([record], pa.binary())
    if without_schemas(array) is None:
        return None
    schema = members(array).named("schema")
    return record[int(schema.start[0]) : int(schema.stop[0])].decode()


def _operation(record: bytes) -> str | None:
    body = json.loads(record)
    inner = body.get("payload") or body
    found: str | None = inner.get("op")
    return found
