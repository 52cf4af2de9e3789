"""Rows of Connect values as JSON, as Connect's JsonConverter writes it, whole columns at once.

    struct                  an object with every field, null ones too
    integers, boolean       themselves
    float, double           the shortest digits that read back; "NaN", "Infinity", "-Infinity"
    string                  a string
    bytes, also decimals    a string, base64 (decimal.format=BASE64)
    array                   an array

With `schemas` every record is {"schema": …, "payload": …}, the schema a constant of the batch.

A record is fragments, constants and columns in turn, joined by Arrow in one pass; structs that are
in every row are part of their parent's fragments, and where a column of strings has no null, so are
its quotation marks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import json_scalars, ragged
from cdc.errors import BadData
from cdc.formats import json_few
from cdc.formats.connect_schema import Schema, connect_json
from cdc.formats.connect_values import Composed, Constant, Lists, Structs, Values
from cdc.json_strings import escaped

_NULLS_AS_NULL = pc.JoinOptions("replace", "null")
_NULLS_STAY = pc.JoinOptions("emit_null")
_EMPTY = pa.scalar("", pa.string())
_IN_MARKS = ("string", "bytes")
"""The types whose values are JSON's strings."""


def encode(schema: Schema, values: Values, num_rows: int, *, schemas: bool = False) -> pa.Array:
    """The JSON text of every row, UTF-8, as a binary array."""
    before, behind = _wrapping(schema) if schemas else ("", "")
    if num_rows <= json_few.FEW:
        found = json_few.texts(schema, values, num_rows)
        return pa.array([f"{before}{text}{behind}".encode() for text in found], pa.binary())
    fragments = _Fragments(num_rows)
    fragments.constant(before)
    _write(fragments, schema, values)
    fragments.constant(behind)
    return fragments.joined(_NULLS_AS_NULL).view(pa.binary())


@lru_cache(maxsize=64)
def _wrapping(schema: Schema) -> tuple[str, str]:
    return f'{{"schema":{_compact(connect_json(schema))},"payload":', "}"


@lru_cache(maxsize=1024)
def _name(name: str) -> str:
    return _compact(name)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass
class _Fragments:
    """What every row consists of, in order."""

    num_rows: int
    parts: list[pa.Array | str] = field(default_factory=list)

    def constant(self, text: str) -> None:
        if self.parts and isinstance(self.parts[-1], str):
            self.parts[-1] += text
        else:
            self.parts.append(text)

    def array(self, texts: pa.Array) -> None:
        self.parts.append(texts)

    def joined(self, options: pc.JoinOptions) -> pa.Array:
        parts = [part for part in self.parts if not (isinstance(part, str) and not part)]
        if all(isinstance(part, str) for part in parts):
            return pa.array(["".join(parts)] * self.num_rows, pa.string())
        scalars = [pa.scalar(p, pa.string()) if isinstance(p, str) else p for p in parts]
        return _joined([*scalars, _EMPTY], options)


def _joined(pieces: list[object], options: pc.JoinOptions) -> pa.Array:
    try:
        return pc.call_function("binary_join_element_wise", pieces, options)
    except pa.ArrowCapacityError as error:
        raise BadData(
            "the records of one batch have more than 2 GiB", hint="lower the batch's size"
        ) from error


def _write(fragments: _Fragments, schema: Schema, values: Values) -> None:
    if isinstance(values, Constant):
        fragments.constant(_compact(values.value))
    elif isinstance(values, Structs):
        _write_struct(fragments, schema, values)
    elif isinstance(values, Lists):
        fragments.array(_lists(schema, values))
    elif isinstance(values, Composed):
        _write_composed(fragments, values)
    elif schema.type in _IN_MARKS and not values.null_count:
        fragments.constant('"')
        fragments.array(_unmarked(schema, _whole(values)))
        fragments.constant('"')
    else:
        fragments.array(_texts(schema, _whole(values)))


def _write_composed(fragments: _Fragments, values: Composed) -> None:
    fragments.constant('"')
    for part in values.parts:
        if isinstance(part, str):
            fragments.constant(_compact(part)[1:-1])
        else:
            fragments.array(part)
    fragments.constant('"')


def _write_struct(fragments: _Fragments, schema: Schema, values: Structs) -> None:
    if values.valid is not None and not ragged.every(values.valid):
        fragments.array(_nullable_struct(schema, values, fragments.num_rows))
        return
    lead = "{"
    for name, inner in schema.fields:
        fragments.constant(f"{lead}{_name(name)}:")
        _write(fragments, inner, values.fields[name])
        lead = ","
    fragments.constant("}" if schema.fields else "{}")


def _nullable_struct(schema: Schema, values: Structs, num_rows: int) -> pa.Array:
    if values.valid is None or not ragged.some(values.valid):
        return pa.nulls(num_rows, pa.string())
    inner = _Fragments(num_rows)
    _write_struct(inner, schema, Structs(values.fields))
    texts = inner.joined(_NULLS_AS_NULL)
    return pc.if_else(pa.array(values.valid), texts, pa.scalar(None, pa.string()))


def _whole(values: pa.Array) -> pa.Array:
    return pa.concat_arrays([values, values.slice(0, 0)]) if values.offset else values


def _texts(schema: Schema, values: pa.Array) -> pa.Array:
    """The JSON text of every value, null where null."""
    if not len(values):
        return pa.array([], pa.string())
    if schema.type in _IN_MARKS:
        return _in_marks(_unmarked(schema, values))
    if schema.type == "boolean":
        return pc.if_else(values, "true", "false")
    if schema.type not in ("float", "double"):
        return values.cast(pa.string())
    texts = json_scalars.printed(values)
    # An integer has no -0.
    texts = _replaced(texts, "-0", "-0.0")
    # The names of what is no number are the only texts with an n.
    named = pc.match_substring(texts, "n", ignore_case=True)
    return pc.if_else(named, _in_marks(texts), texts) if pc.any(named).as_py() else texts


def _replaced(texts: pa.Array, one: str, by: str) -> pa.Array:
    here = pc.equal(texts, one)
    return pc.if_else(here, by, texts) if here.true_count else texts


def _unmarked(schema: Schema, values: pa.Array) -> pa.Array:
    return escaped(values) if schema.type == "string" else json_scalars.printed(values)


def _in_marks(texts: pa.Array) -> pa.Array:
    return _joined(['"', texts, '"', ""], _NULLS_STAY)


def _lists(schema: Schema, values: Lists) -> pa.Array:
    if schema.items is None:
        raise BadData("an array without the type of its elements")
    count = int(values.lengths.sum())
    inner = _Fragments(count)
    _write(inner, schema.items, values.items)
    flat = inner.joined(_NULLS_AS_NULL) if count else pa.array([], pa.string())
    flat = pc.fill_null(flat, "null")
    lists = pa.ListArray.from_arrays(pa.array(ragged.offsets_of(values.lengths)), flat)
    texts = _joined(["[", pc.binary_join(lists, ","), "]", ""], _NULLS_STAY)
    if values.valid is None or ragged.every(values.valid):
        return texts
    return pc.if_else(pa.array(np.asarray(values.valid)), texts, pa.scalar(None, pa.string()))
