"""From an input's columns to the mapping of an index, and what has changed since it was made.

    text, varchar, citext            text, with `.keyword` for exact matches (up to 256 characters)
    uuid, enum, char(n), inet,       keyword
    interval, time, every other
    type that travels as text
    smallint, integer, bigint, oid   short, integer, long
    real, double precision           float, double; NaN and ±Infinity are not indexed
    numeric up to 15 digits          double, which tells all of them apart
    any other numeric                keyword, with `.number` (double) for ranges and sums
    boolean                          boolean
    date, timestamp, timestamptz     date, in milliseconds; not ±infinity, nor years beyond 9999
    bytea                            binary
    json, jsonb                      kept, not indexed (object, enabled: false): the only mapping
                                     that takes every JSON value. `flattened` takes objects alone
    T[]                              as T: every field may hold several values

Whatever the index rounds or leaves out, `_source` has every value exactly. Fields that the mapping
does not name are not indexed (dynamic: false). The user's `mappings` go over this: a field with a
`type` of its own replaces ours, else what it says is added to ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cdc.errors import SinkError
from cdc.schema import TableSchema

_DOUBLE_DIGITS = 15
_EXACT_CHARACTERS = 256
# Lucene's terms have 32,766 bytes at most; a character has four at most.
_KEYWORD_CHARACTERS = 8191
_TEXTS = ("text", "character varying", "citext")
_JSON = frozenset({"json", "jsonb"})
_PLAIN: Mapping[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.uint64(): "unsigned_long",
    pa.binary(): "binary",
}
_RESERVED = frozenset(
    [
        "_id",
        "_index",
        "_source",
        "_routing",
        "_type",
        "_version",
        "_seq_no",
        "_primary_term",
        "_field_names",
        "_ignored",
        "_ignored_source",
        "_nested_path",
        "_doc_count",
        "_tier",
        "_data_stream_timestamp",
        "_feature",
        "_tsid",
        "_routing_hash",
        "_inference_fields",
    ]
)
# Settings that Elasticsearch changes on a live index, so that no rebuild is needed.
_LIVE_SETTINGS = frozenset({"index.refresh_interval", "index.number_of_replicas"})


def mapping_of(schema: TableSchema, user: Mapping[str, Any]) -> dict[str, Any]:
    """The whole mapping of an index for rows of `schema`."""
    properties = {column.name: _field(column.type, column.sql_type) for column in schema.columns}
    chosen = user.get("properties") or {}
    merged = {name: _over(properties.get(name, {}), given) for name, given in chosen.items()}
    return {"dynamic": False, **user, "properties": {**properties, **merged}}


def _field(kind: pa.DataType, sql_type: str) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return _field(kind.value_type, sql_type.removesuffix("[]"))
    if sql_type in _JSON:
        return {"type": "object", "enabled": False}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if pa.types.is_floating(kind):
        return _number("float" if kind == pa.float32() else "double")
    if pa.types.is_decimal(kind) and kind.precision <= _DOUBLE_DIGITS:
        return _number("double")
    if pa.types.is_decimal(kind) or isinstance(kind, pa.ExtensionType):
        return {**_keyword(), "fields": {"number": _number("double")}}
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return {"type": "date", "format": "strict_date_optional_time", "ignore_malformed": True}
    if sql_type.partition("(")[0] in _TEXTS:
        exact = {"type": "keyword", "ignore_above": _EXACT_CHARACTERS}
        return {"type": "text", "fields": {"keyword": exact}}
    return _keyword()


def _number(kind: str) -> dict[str, Any]:
    return {"type": kind, "ignore_malformed": True}


def _keyword() -> dict[str, Any]:
    return {"type": "keyword", "ignore_above": _KEYWORD_CHARACTERS}


def _over(derived: Mapping[str, Any], given: Any) -> Any:
    """The user's field over the derived one."""
    if not isinstance(given, Mapping) or "type" in given or "properties" in given:
        return given
    merged = dict(derived)
    for name, value in given.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = {**old, **value} if both else value  # type: ignore[dict-item]
    return merged


def require_names(schema: TableSchema, where: str) -> None:
    """Raise SinkError for a column whose name a document cannot have."""
    for column in schema.columns:
        parts = column.name.split(".")
        if column.name in _RESERVED or not all(part.strip() for part in parts):
            raise SinkError(
                f"a document cannot have a field called '{column.name}'",
                where=where,
                hint="read a view that gives the column another name",
            )


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as people write them (nested or dotted, with or without `index.`), dotted."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat_settings(value, f"{path}.")
        else:
            found[path if path.startswith("index.") else f"index.{path}"] = value
    return found


def live_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of flat settings that are set on a live index."""
    return {name: value for name, value in settings.items() if name in _LIVE_SETTINGS}


def shape_of(
    name: str, schema: TableSchema, mappings: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What documents of an input are like, stored beside the position: all that only a rebuild
    changes. `settings` are flat."""
    fixed = {k: v for k, v in sorted(settings.items()) if k not in _LIVE_SETTINGS}
    return {
        "input": name,
        "key": list(schema.key),
        "mappings": mapping_of(schema, mappings),
        "settings": fixed,
    }


def changes_of(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs so that only a rebuild would apply it; new fields do not count."""
    old, new = stored["mappings"], now["mappings"]
    found = [part for part in ("input", "key", "settings") if stored[part] != now[part]]
    found += [
        f"mappings.{name}"
        for name in sorted({*old, *new} - {"properties"})
        if old.get(name) != new.get(name)
    ]
    found += [
        f"mapping of {name}"
        for name, field in new["properties"].items()
        if name in old["properties"] and old["properties"][name] != field
    ]
    return found
