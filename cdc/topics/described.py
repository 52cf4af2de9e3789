"""What is known of a topic before its records are read: its table.

    Avro                     the newest record's schemas
    JSON with schemas        the newest record's own
    JSON without             `columns:` of the configuration; the key from the newest record's key

The newest record stands for the topic: those before it are read as its table, too, whatever their
schemas are; those that come later extend it (cdc/topics/evolution.py). A column that `columns:`
names has that type in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cdc.config import TopicsConfig
from cdc.errors import BadData, ConfigError, SourceError
from cdc.formats import avro_read
from cdc.formats.avro_schema import compiled
from cdc.formats.connect_schema import Schema, adjusted
from cdc.formats.debezium_schema import Options
from cdc.formats.json_read import schema_of
from cdc.schema import TableSchema
from cdc.topics.columns import Row, avro_defaults, table_of_row
from cdc.topics.sql_types import column_declared, guessed

SchemaOf = Callable[[int], str]
_ROWS = ("after", "before")
_EXAMPLE_COLUMNS_MAX = 40


@dataclass(frozen=True)
class Settings:
    """What the configuration says of one topic."""

    topic: str
    table: str
    source: str
    config: TopicsConfig

    @property
    def options(self) -> Options:
        return Options(
            decimal=self.config.decimal_handling_mode, time=self.config.time_precision_mode
        )

    @property
    def columns(self) -> Mapping[str, str]:
        return self.config.columns.get(self.topic, {})

    @property
    def keys(self) -> tuple[str, ...] | None:
        return self.config.keys.get(self.topic)


@dataclass(frozen=True)
class Described:
    """A topic's table; `enveloped`: its records are Debezium's envelopes, not plain rows. Records
    before `ends`, per partition, are no newer than the one that was looked at."""

    table: TableSchema
    enveloped: bool
    ends: tuple[int, ...] = ()


def described(
    settings: Settings, key: bytes | None, value: bytes | None, schema_of_id: SchemaOf
) -> Described | None:
    """What the newest record that has a value says; None: the topic has none (`value` is None) and
    the configuration does not say enough. Raises SourceError or ConfigError when nothing does."""
    if value is None:
        if settings.columns and settings.keys:
            return Described(declared(settings, settings.keys), True)
        return None
    try:
        if settings.config.format == "avro":
            return _of_avro(settings, key, value, schema_of_id)
        return _of_json(settings, key, value)
    except BadData as error:
        raise SourceError(error.what, where=settings.topic, hint=error.hint) from error


def _of_avro(
    settings: Settings, key: bytes | None, value: bytes, schema_of_id: SchemaOf
) -> Described:
    ids = avro_read.schema_ids(pa.array([key, value], pa.binary()))
    names = () if key is None else avro_names(schema_of_id(int(ids[0])))
    row, enveloped = avro_row(schema_of_id(int(ids[1])))
    return Described(table_of(settings, row, names), enveloped)


def avro_names(writer: str) -> tuple[str, ...]:
    """The names of a key's fields in an Avro schema's JSON; none where it is no record."""
    return tuple(name for name, _ in compiled(writer).schema.fields)


def avro_row(writer: str) -> tuple[Row, bool]:
    """The row in a value's Avro schema (its JSON), and whether the value is an envelope."""
    schema = compiled(writer).schema
    inner = _envelope_row(schema)
    if inner is None:
        return Row(schema, avro_defaults(writer, ())), False
    return Row(inner, avro_defaults(writer, ("before", "after"))), True


def json_row(text: str) -> tuple[Row, bool]:
    """The same for the schema in a JSON record."""
    schema = schema_of(text)
    inner = _envelope_row(schema)
    body: Any = json.loads(text)
    if inner is not None:
        fields = {one["field"]: one for one in body["fields"]}
        body = next(fields[name] for name in _ROWS if name in fields)
    defaults = {one["field"]: one["default"] for one in body["fields"] if "default" in one}
    return Row(schema if inner is None else inner, defaults, "base64"), inner is not None


def _envelope_row(schema: Schema) -> Schema | None:
    """The row of an envelope; None: it is none."""
    fields = dict(schema.fields)
    if "op" not in fields:
        return None
    rows = [fields[name] for name in _ROWS if name in fields and fields[name].fields]
    return rows[0] if rows else None


def table_of(settings: Settings, row: Row, key_names: Sequence[str]) -> TableSchema:
    """The table of a row's schema. Raises SourceError."""
    if not row.schema.fields:
        raise SourceError(
            "the records are no rows", where=settings.topic, hint="is this a table's topic?"
        )
    key = settings.keys
    if key is None:
        key = tuple(_column_named(name, row.schema.by_name) for name in key_names)
    if not key:
        raise _without_key(settings)
    try:
        table = table_of_row(settings.table, row, key)
    except SourceError as error:
        raise SourceError(
            error.what, where=f"{settings.topic}, {error.where}", hint=error.hint
        ) from error
    return _retyped(table, settings)


def _retyped(table: TableSchema, settings: Settings) -> TableSchema:
    """With the types that the configuration names."""
    wanted = settings.columns
    if not wanted:
        return table
    columns = tuple(
        replace(column_declared(c.name, wanted[c.name], nullable=c.nullable), missing=c.missing)
        if c.name in wanted
        else c
        for c in table.columns
    )
    return replace(table, columns=columns)


def _column_named(name: str, columns: Mapping[str, Any]) -> str:
    """The column that a key's field is; Avro may spell both in its own way."""
    if name in columns:
        return name
    return next((column for column in columns if adjusted(column) == name), name)


def _of_json(settings: Settings, key: bytes | None, value: bytes) -> Described:
    body, own_key = _parsed(value, settings), None if key is None else _parsed(key, settings)
    names = _key_names(own_key)
    if set(body) == {"schema", "payload"} and body["schema"] is not None:
        row, enveloped = json_row(json.dumps(body["schema"]))
        return Described(table_of(settings, row, names), enveloped)
    payload = body["payload"] if set(body) == {"schema", "payload"} else body
    enveloped = "op" in payload and any(name in payload for name in _ROWS)
    found = next((payload[n] for n in _ROWS if payload.get(n)), {}) if enveloped else payload
    if not settings.columns:
        raise _without_columns(settings, found)
    return Described(declared(settings, settings.keys or names), enveloped)


def declared(settings: Settings, key: Sequence[str]) -> TableSchema:
    """The table that `columns:` declares."""
    if not key:
        raise _without_key(settings)
    unknown = [name for name in key if name not in settings.columns]
    if unknown:
        raise ConfigError(
            f"`columns` of {settings.topic} has no '{unknown[0]}', which is of the key",
            where=settings.source,
            hint="add it, or name other columns under `keys:`",
        )
    columns = tuple(
        column_declared(name, text, nullable=name not in key)
        for name, text in settings.columns.items()
    )
    return TableSchema(settings.table, columns, tuple(key))


def _parsed(text: bytes, settings: Settings) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise SourceError(
            f"the newest record is not JSON: {error}",
            where=settings.topic,
            hint="set `format: avro` if the topic's records are Avro",
        ) from error
    return body if isinstance(body, dict) else {}


def _key_names(key: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names in a key, with its schema or without."""
    if not key:
        return ()
    if set(key) == {"schema", "payload"}:
        payload = key["payload"]
        return tuple(payload) if isinstance(payload, dict) else ()
    return tuple(key)


def _without_key(settings: Settings) -> SourceError:
    return SourceError(
        "the records have no key, so that nobody can tell which row each is of",
        where=settings.topic,
        hint=f"name its columns in the source: keys: {{{settings.topic}: [id]}}",
    )


def _without_columns(settings: Settings, row: Mapping[str, Any]) -> ConfigError:
    """Shows what to write, as far as one record can tell."""
    shown = list(row.items())[:_EXAMPLE_COLUMNS_MAX]
    example = ", ".join(f"{name}: {guessed(value)}" for name, value in shown)
    return ConfigError(
        "the records are JSON without schemas, which does not say what its columns' types are",
        where=f"source {settings.source}, topic {settings.topic}",
        hint="name them as the database has them, for example (guessed from one record)\n"
        f"       columns: {{{settings.topic}: {{{example}}}}}",
    )
