"""Kafka Connect's schemas, and the two ways in which they travel.

Debezium describes its records in Connect's terms (org.apache.kafka.connect.data.Schema): a type, a
semantic name such as `io.debezium.time.Date`, whether null is allowed. Converters turn that into

* Avro, as Confluent's AvroConverter does (AvroData.fromConnectSchema): structs are records, an
  optional type is a union with null (first, unless there is a default), and what Avro has no word
  for stands in `connect.name`, `connect.version`, `connect.parameters`, `connect.type`,
  `connect.doc`, `connect.default`. A record that was defined before is referred to by its name;
* JSON, as Connect's JsonConverter does with `schemas.enable=true`: beside each payload.

Both are compared in the tests with what Debezium 3.7 and these converters wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

DECIMAL = "org.apache.kafka.connect.data.Decimal"
DEFAULT_PRECISION = 64
"""What AvroConverter declares for a decimal that does not say."""

_AVRO_NAMES = {
    "int8": "int", "int16": "int", "int32": "int", "int64": "long", "float": "float",
    "double": "double", "boolean": "boolean", "string": "string", "bytes": "bytes",
}  # fmt: skip
_LOGICAL_NAMES = {
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time-millis",
    "org.apache.kafka.connect.data.Timestamp": "timestamp-millis",
}


@dataclass(frozen=True)
class Schema:
    """A Connect schema.

    type         int8 … int64, float, double, boolean, string, bytes, array, struct (the spelling
                 of JsonConverter)
    name         the semantic type, or a struct's full name
    fields       of a struct: (name, schema)
    items        of an array
    """

    type: str
    optional: bool = False
    name: str = ""
    version: int | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    doc: str = ""
    default: str | None = None
    fields: tuple[tuple[str, Schema], ...] = ()
    items: Schema | None = None

    def parameter(self, name: str) -> str | None:
        return dict(self.parameters).get(name)

    @cached_property
    def by_name(self) -> Mapping[str, Schema]:
        return dict(self.fields)

    def field(self, name: str) -> Schema:
        return self.by_name[name]


def optional(schema: Schema) -> Schema:
    return replace(schema, optional=True)


@lru_cache(maxsize=4096)
def adjusted(name: str) -> str:
    """A name as Avro allows it (Debezium's `field.name.adjustment.mode=avro`): other characters
    become underscores, and one stands before a leading digit."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return found if re.match(r"[A-Za-z_]", found) else f"_{found}"


def adjusted_path(name: str) -> str:
    """The same for a name with dots."""
    return ".".join(adjusted(part) for part in name.split("."))


def connect_json(schema: Schema, field: str = "") -> dict[str, Any]:
    """The schema as JsonConverter writes it."""
    found: dict[str, Any] = {"type": schema.type}
    if schema.type == "struct":
        found["fields"] = [connect_json(inner, name) for name, inner in schema.fields]
    if schema.items is not None:
        found["items"] = connect_json(schema.items)
    found["optional"] = schema.optional
    found |= _annotations(schema, "")
    if field:
        found["field"] = field
    return found


def avro_json(schema: Schema) -> Any:
    """The schema as AvroConverter registers it: JSON values."""
    return _avro(schema, "", set())


def _avro(schema: Schema, namespace: str, defined: set[str]) -> Any:
    base = _avro_base(schema, namespace, defined)
    if not schema.optional:
        return base
    return ["null", base] if schema.default is None else [base, "null"]


def _avro_base(schema: Schema, namespace: str, defined: set[str]) -> Any:
    if schema.type == "struct":
        return _avro_record(schema, namespace, defined)
    if schema.items is not None:
        return {"type": "array", "items": _avro(schema.items, namespace, defined)}
    found: dict[str, Any] = {"type": _AVRO_NAMES[schema.type]}
    if schema.name == DECIMAL:
        precision = int(schema.parameter("connect.decimal.precision") or DEFAULT_PRECISION)
        found |= {"scale": int(schema.parameter("scale") or 0), "precision": precision}
    found |= _annotations(schema, "connect.")
    if schema.type in ("int8", "int16"):
        found["connect.type"] = schema.type
    if schema.name == DECIMAL:
        found["logicalType"] = "decimal"
    elif schema.name in _LOGICAL_NAMES:
        found["logicalType"] = _LOGICAL_NAMES[schema.name]
    return found["type"] if len(found) == 1 else found


def _avro_record(schema: Schema, outer: str, defined: set[str]) -> Any:
    namespace, _, name = schema.name.rpartition(".")
    if schema.name in defined:
        return name if namespace == outer else schema.name
    defined.add(schema.name)
    found: dict[str, Any] = {"type": "record", "name": name}
    if namespace != outer:
        found["namespace"] = namespace
    found["fields"] = [_avro_field(n, inner, namespace, defined) for n, inner in schema.fields]
    return found | _annotations(schema, "connect.")


def _avro_field(name: str, schema: Schema, namespace: str, defined: set[str]) -> Mapping[str, Any]:
    found: dict[str, Any] = {"name": name, "type": _avro(schema, namespace, defined)}
    if schema.optional or schema.default is not None:
        found["default"] = schema.default
    return found


def _annotations(schema: Schema, prefix: str) -> dict[str, Any]:
    found = {
        "doc": schema.doc,
        "version": schema.version,
        "parameters": dict(schema.parameters),
        "default": schema.default,
        "name": schema.name,
    }
    return {f"{prefix}{key}": value for key, value in found.items() if value}
