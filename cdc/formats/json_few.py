"""JSON for a handful of records: one by one in Python, where whole columns cost more.

Written, the bytes are those of json_write, which keys rely on; read, the columns those of
json_read. The tests compare both.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cdc import json_scalars
from cdc.errors import BadData
from cdc.formats.connect_schema import DECIMAL, Schema
from cdc.formats.connect_values import Composed, Constant, Lists, Structs, Values
from cdc.ragged import Bools

FEW = 4
PLAIN_DECIMAL = Schema("string")
"""What a decimal is that stands as a number."""

_spelled = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ARROW: dict[str, pa.DataType] = {
    "int8": pa.int32(), "int16": pa.int32(), "int32": pa.int32(), "int64": pa.int64(),
}  # fmt: skip
_FLOATS = {"float": pa.float32(), "double": pa.float64()}


def texts(schema: Schema, values: Values, num_rows: int) -> list[str]:
    """Every row's JSON text; null is `null`."""
    if isinstance(values, Constant):
        return [_spelled(values.value)] * num_rows
    if isinstance(values, Structs):
        return _masked(_objects(schema, values, num_rows), values.valid)
    if isinstance(values, Lists):
        if schema.items is None:
            raise BadData("an array without the type of its elements")
        ends = values.lengths.cumsum().tolist()
        items = texts(schema.items, values.items, ends[-1] if ends else 0)
        lengths = values.lengths.tolist()
        lists = [f"[{','.join(items[e - n : e])}]" for e, n in zip(ends, lengths, strict=True)]
        return _masked(lists, values.valid)
    if isinstance(values, Composed):
        values = values.whole()
    if schema.type in _FLOATS:
        values = json_scalars.printed(values) if len(values) else values
        return [_float(value) for value in values.to_pylist()]
    rows = values.to_pylist()
    if schema.type == "bytes":
        rows = [None if row is None else base64.b64encode(row).decode() for row in rows]
    return [_spelled(row) for row in rows]


def _masked(found: list[str], valid: Bools | None) -> list[str]:
    if valid is None:
        return found
    return [text if here else "null" for text, here in zip(found, valid.tolist(), strict=True)]


def _objects(schema: Schema, values: Structs, num_rows: int) -> list[str]:
    columns = [texts(inner, values.fields[name], num_rows) for name, inner in schema.fields]
    names = [f"{_spelled(name)}:" for name, _ in schema.fields]
    if not columns:
        return ["{}"] * num_rows
    return [
        "{" + ",".join([n + text for n, text in zip(names, row, strict=True)]) + "}"
        for row in zip(*columns, strict=True)
    ]


def _float(text: str | None) -> str:
    if text is None:
        return "null"
    if text == "-0":
        return "-0.0"  # an integer has no -0
    return f'"{text}"' if "n" in text.lower() else text


class _Number(str):
    """A number with a fraction or an exponent, as it is spelled."""


@dataclass(frozen=True, eq=False)
class Parsed:
    """Objects, one per row, or None."""

    objects: list[dict[str, Any] | None]

    @property
    def rows(self) -> int:
        return len(self.objects)

    def field(self, name: str, kind: Schema) -> tuple[Values, Schema] | None:
        """The values of one member and what they are; None where no object has it."""
        if not any(row is not None and name in row for row in self.objects):
            return None
        found = [None if row is None else row.get(name) for row in self.objects]
        try:
            return _column(found, kind)
        except BadData as error:
            where = f"{name}.{error.where}" if error.where else name
            raise BadData(error.what, where=where, hint=error.hint) from error

    def nested(self, name: str) -> tuple[Parsed, Bools] | None:
        """The objects that stand under a name, and in which rows; None: in no row."""
        found = [None if row is None else row.get(name) for row in self.objects]
        if all(row is None for row in found):
            return None
        if not all(row is None or isinstance(row, dict) for row in found):
            raise BadData(f"'{name}' is not an object")
        return Parsed(found), np.array([row is not None for row in found])


def parsed(messages: list[bytes]) -> Parsed:
    """The objects in texts. BadData for what is none."""
    found: list[dict[str, Any] | None] = []
    for message in messages:
        try:
            value = json.loads(message, parse_float=_Number, parse_constant=_Number)
        except ValueError as error:
            raise BadData(f"a JSON text that is not an object: {error}") from error
        if not isinstance(value, dict):
            raise BadData("a JSON text that is not an object")
        found.append(value)
    return Parsed(found)


def _column(rows: list[Any], kind: Schema) -> tuple[Values, Schema]:
    if all(row is None for row in rows):
        return Constant(None), kind
    if kind.type == "struct":
        return _structs(rows, kind), kind
    if kind.items is not None:
        return _lists(rows, kind)
    try:
        return _leaf(rows, kind)
    except (TypeError, ValueError, OverflowError, binascii.Error, pa.ArrowException) as error:
        raise BadData(f"not of type {kind.name or kind.type}: {error}") from error


def _leaf(rows: list[Any], kind: Schema) -> tuple[pa.Array, Schema]:
    if kind.type in _FLOATS:
        numbers = [None if row is None else float(row) for row in rows]
        return pa.array(numbers, _FLOATS[kind.type]), kind
    if kind.type in _ARROW:
        return pa.array(
            [None if row is None else int(row) for row in rows], _ARROW[kind.type]
        ), kind
    if kind.type == "boolean":
        return pa.array(rows, pa.bool_()), kind
    numeric = [isinstance(row, int | _Number) for row in rows]
    if kind.name == DECIMAL and sum(numeric) == len(rows) - rows.count(None):
        spelled = [None if row is None else str(row) for row in rows]
        return pa.array(spelled, pa.string()), PLAIN_DECIMAL
    if any(numeric):
        raise BadData(f"not a string: {rows[numeric.index(True)]}")
    if kind.type == "string":
        return pa.array(rows, pa.string()), kind
    if kind.type != "bytes":
        raise BadData(f"a {kind.type} cannot be read as a column", hint="exclude the column")
    decoded = [None if row is None else base64.b64decode(row, validate=True) for row in rows]
    return pa.array(decoded, pa.binary()), kind


def _structs(rows: list[Any], kind: Schema) -> Structs:
    if not all(row is None or isinstance(row, dict) for row in rows):
        raise BadData("not an object")
    inner = Parsed(rows)
    fields: dict[str, Values] = {}
    for name, schema in kind.fields:
        found = inner.field(name, schema)
        fields[name] = Constant(None) if found is None else found[0]
    valid = [row is not None for row in rows]
    return Structs(fields, None if all(valid) else np.array(valid))


def _lists(rows: list[Any], kind: Schema) -> tuple[Lists, Schema]:
    if kind.items is None or not all(row is None or isinstance(row, list) for row in rows):
        raise BadData("not an array")
    lengths = np.array([len(row or ()) for row in rows], np.int64)
    items, item_kind = _column([item for row in rows if row for item in row], kind.items)
    valid = [row is not None for row in rows]
    mask = None if all(valid) else np.array(valid)
    return Lists(items, lengths, mask), Schema(kind.type, kind.optional, items=item_kind)
