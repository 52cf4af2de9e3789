"""One topic's changes as its records, and back; bytes only, no broker.

The form of a topic (format, schemas, Debezium's settings) is pinned when the topic is made: other
key bytes for the same key would be another key to compaction (SEMANTICS 10). Topics of tables hold
envelopes and tombstones, topics of views plain rows.

Which version of the table's columns a record was written with:

    Avro                 the value schema's id; every version has an id of its own, because the
                         schema that is registered carries the version as a property
    JSON envelopes       `source.sequence`
    JSON rows (views)    the offset: a version begins where the topic ended when it was registered
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch
from cdc.config import Decimals, Format, LogConfig, Times
from cdc.errors import BadData
from cdc.formats import json_envelope
from cdc.formats.debezium_schema import Options
from cdc.formats.envelope import NO_DETAILS, Details, Origin
from cdc.formats.envelope_read import Decoded
from cdc.formats.records import (
    Avro,
    AvroWriter,
    Form,
    Json,
    Records,
    avro_runs,
    avro_schemas,
    envelope_records,
    read_avro_envelopes,
    read_avro_rows,
    row_records,
)
from cdc.ragged import Int64s
from cdc.schema import TableSchema

VERSION_PROPERTY = "cdc.version"


@dataclass(frozen=True)
class TopicForm:
    """How a topic's records are written."""

    format: Format
    schemas: bool = False
    decimal_handling_mode: Decimals = "precise"
    time_precision_mode: Times = "adaptive"

    @classmethod
    def of(cls, config: LogConfig) -> TopicForm:
        schemas = config.schemas and config.format == "json"
        return cls(config.format, schemas, config.decimal_handling_mode, config.time_precision_mode)

    @cached_property
    def options(self) -> Options:
        return Options(decimal=self.decimal_handling_mode, time=self.time_precision_mode)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "schemas": self.schemas,
            "decimal_handling_mode": self.decimal_handling_mode,
            "time_precision_mode": self.time_precision_mode,
        }


@dataclass(frozen=True)
class Version:
    """A registered version of a topic's columns. `key_id` and `value_id` are -1 for JSON; `starts`
    is where each partition ended when it was registered."""

    schema: TableSchema
    starts: tuple[int, ...]
    key_id: int = -1
    value_id: int = -1


@dataclass(frozen=True, eq=False)
class TopicEntry:
    """What `cdc.schemas` says of a topic. `name` is without the log's prefix."""

    name: str
    topic_id: str
    producer: str
    form: TopicForm
    origin: Origin
    versions: Mapping[int, Version] = field(default_factory=dict)

    @property
    def is_view(self) -> bool:
        return self.name.startswith("view.")

    @property
    def newest(self) -> Version:
        return self.versions[max(self.versions)]

    @cached_property
    def by_value_id(self) -> Mapping[int, Version]:
        return {version.value_id: version for version in self.versions.values()}


def writers(name: str, table: TableSchema, entry: TopicEntry) -> AvroWriter:
    """The schemas to register for the topic's subjects; `name` is with the log's prefix."""
    found = avro_schemas(
        name,
        table,
        entry.form.options,
        plain_rows=entry.is_view,
        connector=entry.origin.connector,
    )
    value = {**json.loads(found.value), VERSION_PROPERTY: table.version}
    return AvroWriter(found.key, json.dumps(value))


def encoded(
    entry: TopicEntry, name: str, changes: ChangeBatch, now_us: int, details: Details = NO_DETAILS
) -> Records:
    """The records of changes of a registered version; `name` is with the log's prefix.

    Raises BadData for a value that the form cannot carry exactly."""
    version = entry.versions[changes.schema.version]
    form: Form = (
        Avro(version.key_id, version.value_id)
        if entry.form.format == "avro"
        else Json(entry.form.schemas)
    )
    options = entry.form.options
    try:
        if entry.is_view:
            return row_records(changes, name, form, options)
        return envelope_records(changes, name, form, options, entry.origin, now_us, details)
    except BadData as error:
        place = ", ".join(filter(None, (entry.name, error.where)))
        raise BadData(error.what, where=place, hint=error.hint) from error


@dataclass(frozen=True, eq=False)
class Fetched:
    """Consecutive records of a partition, as the broker gave them; a null value is a tombstone."""

    offsets: Int64s
    stamps_us: Int64s
    keys: pa.Array
    values: pa.Array

    def __len__(self) -> int:
        return len(self.offsets)

    def slice(self, start: int, stop: int) -> Fetched:
        count = stop - start
        return Fetched(
            self.offsets[start:stop],
            self.stamps_us[start:stop],
            self.keys.slice(start, count),
            self.values.slice(start, count),
        )

    @property
    def nbytes(self) -> int:
        """Of the values."""
        return int(self.values.nbytes)


def together(parts: Sequence[Fetched]) -> Fetched:
    """Records that follow each other, as one."""
    if len(parts) == 1:
        return parts[0]
    return Fetched(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.stamps_us for part in parts]),
        pa.concat_arrays([part.keys for part in parts]),
        pa.concat_arrays([part.values for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Placed:
    """Changes, and the offset of the record that each came from."""

    offsets: Int64s
    changes: ChangeBatch


def decoded(
    entry: TopicEntry, partition: int, records: Fetched, schema_of: Callable[[int], str]
) -> list[Placed]:
    """The changes in `records`, cut where the version changes, tombstones folded into their
    deletes. `schema_of` gives the Avro schema with an id. Raises BadData with the offset."""
    try:
        found = list(_decoded(entry, partition, records, schema_of))
    except BadData as error:
        offset, cause = _culprit(entry, partition, records, schema_of, error)
        raise BadData(
            cause.what, where=f"{entry.name}/{partition}/{offset}", hint=cause.hint
        ) from error
    return [Placed(records.offsets[one.record], one.changes) for one in found]


def _culprit(
    entry: TopicEntry,
    partition: int,
    records: Fetched,
    schema_of: Callable[[int], str],
    error: BadData,
) -> tuple[int, BadData]:
    """The first record that cannot be read by itself."""
    for at in range(len(records)):
        try:
            list(_decoded(entry, partition, records.slice(at, at + 1), schema_of))
        except BadData as cause:
            return int(records.offsets[at]), cause
    return int(records.offsets[0]), error


def _decoded(
    entry: TopicEntry, partition: int, records: Fetched, schema_of: Callable[[int], str]
) -> Iterator[Decoded]:
    if entry.form.format == "avro":
        yield from _decoded_avro(entry, records, schema_of)
    elif entry.is_view:
        yield from _decoded_rows(entry, partition, records)
    else:
        yield from json_envelope.read_envelopes(
            records.keys,
            records.values,
            lambda version: _version(entry, version).schema,
            entry.form.options,
            records.stamps_us,
        )


def _version(entry: TopicEntry, version: int) -> Version:
    """0 stands for a tombstone that is alone."""
    found = entry.versions.get(version) if version else entry.newest
    if found is None:
        raise BadData(
            f"version {version} of the columns is not in cdc.schemas",
            hint="the topic cdc.schemas was removed or made anew: cdc remove, then cdc run",
        )
    return found


def _decoded_avro(
    entry: TopicEntry, records: Fetched, schema_of: Callable[[int], str]
) -> Iterator[Decoded]:
    read = read_avro_rows if entry.is_view else read_avro_envelopes
    for run in avro_runs(records.keys, records.values):
        part = records.slice(run.start, run.stop)
        writer = AvroWriter(_text(run.key_id, schema_of), _text(run.value_id, schema_of))
        version = entry.newest if run.value_id < 0 else entry.by_value_id.get(run.value_id)
        if version is None:
            raise BadData(
                f"the schema id {run.value_id} is not one of this topic's",
                hint="somebody else writes to the topic: only its own connector may",
            )
        if run.value_id < 0:
            writer = AvroWriter(writer.key, _text(version.value_id, schema_of))
        found = read(part.keys, part.values, writer, version.schema, part.stamps_us)
        yield replace(found, record=found.record + run.start)


def _text(schema_id: int, schema_of: Callable[[int], str]) -> str:
    return "" if schema_id < 0 else schema_of(schema_id)


def _decoded_rows(entry: TopicEntry, partition: int, records: Fetched) -> Iterator[Decoded]:
    versions = [entry.versions[number] for number in sorted(entry.versions)]
    begins = [version.starts[partition] for version in versions[1:]]
    cuts = np.searchsorted(records.offsets, begins).tolist()
    for version, (start, stop) in zip(versions, pairwise([0, *cuts, len(records)]), strict=True):
        if start < stop:
            part = records.slice(start, stop)
            found = json_envelope.read_rows(
                part.keys, part.values, version.schema, entry.form.options, part.stamps_us
            )
            yield replace(found, record=found.record + start)
