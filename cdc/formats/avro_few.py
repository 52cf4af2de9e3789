"""Avro for a handful of rows: value by value in Python, where numpy's fixed costs would be higher.

The same bytes and the same columns as avro_write and avro_read, which the tests compare; a commit
of one row goes through here. Avro specification, section "Binary encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from cdc.errors import BadData
from cdc.formats.avro_schema import WRONG_SCHEMA, Node
from cdc.formats.connect_schema import Schema
from cdc.formats.connect_values import Composed, Constant, Lists, Structs, Values

Selection: TypeAlias = "Mapping[str, Selection | None]"

_FLOATS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}
_ARROW: dict[str, pa.DataType] = {
    "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(),
    "string": pa.string(), "enum": pa.string(), "bytes": pa.binary(), "fixed": pa.binary(),
}  # fmt: skip
_INT32 = {"int8", "int16", "int32"}
_LONGEST_SHIFT = 63


def encoded(schema: Schema, values: Values, num_rows: int, header: bytes) -> list[bytes]:
    """The bytes of every row, `header` before each."""
    found = []
    for row in _rows(values, num_rows):
        out = bytearray(header)
        _put(out, schema, row)
        found.append(bytes(out))
    return found


def _rows(values: Values, num_rows: int) -> list[Any]:
    """Every row's value as Python has it; a struct as a dict."""
    if isinstance(values, Constant):
        return [values.value] * num_rows
    if isinstance(values, Lists):
        ends = values.lengths.cumsum().tolist()
        items = _rows(values.items, ends[-1] if ends else 0)
        lists = [items[e - n : e] for e, n in zip(ends, values.lengths.tolist(), strict=True)]
        return _masked(lists, values.valid)
    if isinstance(values, Structs):
        columns = [_rows(inner, num_rows) for inner in values.fields.values()]
        if not columns:
            return [{} for _ in range(num_rows)]
        rows = [dict(zip(values.fields, row, strict=True)) for row in zip(*columns, strict=True)]
        return _masked(rows, values.valid)
    whole = values.whole() if isinstance(values, Composed) else values
    found: list[Any] = whole.to_pylist()
    return found


def _masked(rows: list[Any], valid: Any) -> list[Any]:
    if valid is None:
        return rows
    return [row if here else None for row, here in zip(rows, valid.tolist(), strict=True)]


def _put(out: bytearray, schema: Schema, value: Any) -> None:
    if schema.optional:
        # [null, T], or [T, null] where there is a default.
        out.append(2 if (value is None) == (schema.default is not None) else 0)
        if value is None:
            return
    elif value is None:
        raise BadData("NULL in a field that is not optional", hint=REQUIRED_HINT)
    kind = schema.type
    if kind == "struct":
        _put_fields(out, schema, value)
    elif kind == "string":
        data = value.encode()
        _put_integer(out, len(data))
        out += data
    elif kind == "bytes":
        _put_integer(out, len(value))
        out += value
    elif kind == "boolean":
        out.append(value)
    elif kind in _FLOATS:
        out += _FLOATS[kind].pack(value)
    elif schema.items is not None:
        _put_items(out, schema.items, value)
    else:
        _put_integer(out, value)


def _put_fields(out: bytearray, schema: Schema, row: dict[str, Any]) -> None:
    for name, inner in schema.fields:
        try:
            _put(out, inner, row[name])
        except BadData as error:
            where = f"{name}.{error.where}" if error.where else name
            raise BadData(error.what, where=where, hint=error.hint) from error


def _put_items(out: bytearray, schema: Schema, items: list[Any]) -> None:
    """One block, if there are any, and the empty block."""
    if items:
        _put_integer(out, len(items))
        for item in items:
            _put(out, schema, item)
    out.append(0)


REQUIRED_HINT = "the column is NOT NULL in the schema, but not in the row; see `required`"


def _put_integer(out: bytearray, value: int) -> None:
    value = value << 1 if value >= 0 else ~(value << 1)
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def read(messages: list[bytes], node: Node, start: int, selection: Selection | None) -> Values:
    """The records behind the first `start` bytes of every message."""
    rows = []
    for number, message in enumerate(messages):
        try:
            value, behind = _get(node, message, start, selection)
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            where = f"message {number} of the batch"
            raise BadData(f"damaged Avro: {error}", where=where, hint=WRONG_SCHEMA) from error
        if behind != len(message):
            raise BadData(
                "Avro with another length than its schema says",
                where=f"message {number} of the batch",
                hint=WRONG_SCHEMA,
            )
        rows.append(value)
    return _column(node, rows, selection)


def _get(node: Node, data: bytes, at: int, selection: Selection | None) -> tuple[Any, int]:
    """The value at `at`, and what is behind it."""
    kind = node.kind
    if kind == "union":
        branch, at = _get_integer(data, at)
        if not 0 <= branch < len(node.branches):
            raise BadData("a branch that the Avro union does not have", hint=WRONG_SCHEMA)
        return _get(node.branches[branch], data, at, selection)
    if kind in ("string", "bytes"):
        length, at = _get_integer(data, at)
        found, at = _get_bytes(data, at, length)
        return (found.decode() if kind == "string" else found), at
    if kind in ("int", "long"):
        return _get_integer(data, at)
    if kind == "record":
        row = {}
        for name, inner in node.fields:
            chosen = None if selection is None else selection.get(name)
            row[name], at = _get(inner, data, at, chosen)
        return row, at
    if kind == "null":
        return None, at
    if kind == "boolean":
        return data[at] != 0, at + 1
    if kind in _FLOATS:
        form = _FLOATS[kind]
        return form.unpack_from(data, at)[0], at + form.size
    if kind == "enum":
        symbol, at = _get_integer(data, at)
        if not 0 <= symbol < len(node.symbols):
            raise BadData("an Avro enum without this symbol", hint=WRONG_SCHEMA)
        return node.symbols[symbol], at
    if kind == "fixed":
        return _get_bytes(data, at, node.size)
    return _get_blocks(node, data, at)


def _get_integer(data: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > _LONGEST_SHIFT:
            raise BadData("an Avro integer of more than 64 bits", hint=WRONG_SCHEMA)
    if found >> 64:
        raise BadData("an Avro integer of more than 64 bits", hint=WRONG_SCHEMA)
    return (found >> 1) ^ -(found & 1), at


def _get_bytes(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if not 0 <= length <= len(data) - at:
        raise BadData("an Avro length that cannot be", hint=WRONG_SCHEMA)
    return data[at : at + length], at + length


def _get_blocks(node: Node, data: bytes, at: int) -> tuple[list[Any], int]:
    """An array's elements, or a map's values."""
    found: list[Any] = []
    while True:
        count, at = _get_integer(data, at)
        if not count:
            return found, at
        if count < 0:
            count = -count
            _, at = _get_integer(data, at)
        if count > len(data):
            raise BadData("an Avro array longer than its message", hint=WRONG_SCHEMA)
        for _ in range(count):
            if node.kind == "map":
                length, at = _get_integer(data, at)
                _, at = _get_bytes(data, at, length)
            item, at = _get(node.branches[0], data, at, None)
            found.append(item)


def _column(node: Node, rows: list[Any], selection: Selection | None) -> Values:
    """Python's values as columns."""
    if all(row is None for row in rows):
        return Constant(None)
    if node.kind == "union":
        values = [branch for branch in node.branches if branch.kind != "null"]
        if len(values) != 1:
            raise BadData(
                "an Avro union of several types cannot be read as a column",
                hint="exclude the column",
            )
        return _column(values[0], rows, selection)
    if node.kind == "record":
        return _structs(node, rows, selection)
    if node.kind == "array":
        return _lists(node, rows)
    if node.kind == "map":
        raise BadData("an Avro map cannot be read as a column", hint="exclude the column")
    kind = pa.int32() if node.schema.type in _INT32 else _ARROW[node.kind]
    try:
        return pa.array(rows, kind)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise BadData(f"a value that Avro's {node.kind} cannot hold: {error}") from error


def _structs(node: Node, rows: list[Any], selection: Selection | None) -> Structs:
    fields: dict[str, Values] = {}
    for name, inner in node.fields:
        if selection is None or name in selection:
            chosen = None if selection is None else selection[name]
            column = [None if row is None else row[name] for row in rows]
            fields[name] = _column(inner, column, chosen)
    valid = [row is not None for row in rows]
    return Structs(fields, None if all(valid) else np.array(valid))


def _lists(node: Node, rows: list[Any]) -> Lists:
    lengths = np.array([len(row or ()) for row in rows], np.int64)
    items = [item for row in rows if row for item in row]
    valid = [row is not None for row in rows]
    mask = None if all(valid) else np.array(valid)
    return Lists(_column(node.branches[0], items, None), lengths, mask)
