"""Avro schemas compiled: from the JSON that a registry keeps to a tree that a reader walks.

Names are resolved as the specification says (section "Names"): a name without dots is of the
enclosing namespace, and a named type may be used again by its name. What the annotations of
Confluent's AvroConverter (`connect.name`, `connect.parameters`, `connect.type`), or Avro's own
logical types, say of the values becomes a Connect schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from cdc.errors import BadData
from cdc.formats.connect_schema import DECIMAL, Schema

WRONG_SCHEMA = "the topic's messages are not of the schema that their id names"


@dataclass(frozen=True, eq=False)
class Node:
    """A compiled Avro type: `kind` is its primitive or complex type's name, `schema` what it is in
    Connect's terms."""

    kind: str
    schema: Schema
    fields: tuple[tuple[str, Node], ...] = ()
    branches: tuple[Node, ...] = ()
    symbols: tuple[str, ...] = ()
    size: int = 0


@lru_cache(maxsize=256)
def compiled(writer: str) -> Node:
    """The reader of an Avro schema's JSON. BadData for a schema that is none."""
    try:
        return _compile(json.loads(writer), "", {})
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"not an Avro schema: {error}") from error


_CONNECT = {
    "int": "int32", "long": "int64", "float": "float", "double": "double", "boolean": "boolean",
    "string": "string", "bytes": "bytes", "null": "null", "enum": "string", "fixed": "bytes",
    "record": "struct", "array": "array", "map": "map",
}  # fmt: skip


def _compile(avro: Any, namespace: str, named: dict[str, Node]) -> Node:
    if isinstance(avro, list):
        branches = tuple(_compile(branch, namespace, named) for branch in avro)
        values = [branch for branch in branches if branch.kind != "null"]
        inner = values[0].schema if len(values) == 1 else Schema("union")
        return Node(
            "union", replace(inner, optional=len(values) < len(branches)), branches=branches
        )
    if isinstance(avro, str):
        if avro in _CONNECT:
            return Node(avro, Schema(_CONNECT[avro]))
        return named[
            avro if "." in avro or f"{namespace}.{avro}" not in named else f"{namespace}.{avro}"
        ]
    kind = avro["type"]
    if not isinstance(kind, str):
        return _compile(kind, namespace, named)
    if kind not in _CONNECT:
        return _compile(kind, namespace, named)
    name, namespace = _full_name(avro, namespace)
    if kind == "record":
        return _compile_record(avro, name, namespace, named)
    node = Node(kind, _annotated(avro, kind), size=int(avro.get("size", 0)))
    if kind in ("array", "map"):
        items = _compile(avro["items" if kind == "array" else "values"], namespace, named)
        return replace(node, schema=replace(node.schema, items=items.schema), branches=(items,))
    if kind == "enum":
        node = replace(node, symbols=tuple(avro["symbols"]))
    if name:
        named[name] = node
    return node


def _full_name(avro: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    """A named type's full name, and the namespace inside it."""
    name = avro.get("name", "")
    if "." in name:
        return name, name.rpartition(".")[0]
    inside = avro.get("namespace", namespace)
    return (f"{inside}.{name}" if inside and name else name), inside


def _compile_record(
    avro: Mapping[str, Any], name: str, namespace: str, named: dict[str, Node]
) -> Node:
    fields = tuple(
        (inner["name"], _compile(inner["type"], namespace, named)) for inner in avro["fields"]
    )
    schema = Schema(
        "struct",
        name=avro.get("connect.name", name),
        fields=tuple((n, node.schema) for n, node in fields),
    )
    node = Node("record", schema, fields)
    named[name] = node
    return node


def _annotated(avro: Mapping[str, Any], kind: str) -> Schema:
    """The semantic type: Connect's name, or Avro's logical type as Connect would name it."""
    logical = avro.get("logicalType", "")
    name = avro.get("connect.name", logical)
    parameters = dict(avro.get("connect.parameters", {}))
    if logical == "decimal":
        name = DECIMAL
        parameters.setdefault("scale", str(avro.get("scale", 0)))
    return Schema(
        avro.get("connect.type", _CONNECT[kind]), name=name, parameters=tuple(parameters.items())
    )
