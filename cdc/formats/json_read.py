"""JSON records as columns of Connect values: Debezium's, with or without schemas.

Every record is one object, found by cdc/json_tokens.py: members in any order, unknown ones ignored.
What a member holds is said by a Connect schema: the one beside the payload
(`schemas.enable=true`), or what Debezium makes of the column (debezium_schema.column_schema).

    integers, boolean       numbers, true, false
    float, double           numbers, or the names of what is none: "NaN", "Infinity"
    bytes, also decimals    base64; a decimal may also be a number (decimal.format=NUMERIC)
    string                  strings
    array, struct           arrays, objects
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from cdc import json_scalars, ragged
from cdc.errors import BadData
from cdc.formats.connect_schema import DECIMAL, Schema
from cdc.formats.connect_values import Composed, Constant, Lists, Structs, Values
from cdc.formats.json_few import FEW, PLAIN_DECIMAL, Parsed, parsed
from cdc.formats.json_shape import Irregular, Path
from cdc.formats.json_template import Aligned, aligned
from cdc.json_integers import integers
from cdc.json_strings import unescaped
from cdc.json_tokens import Members, elements, members
from cdc.json_tokens import Values as Places
from cdc.ragged import Bools, Bytes, Int64s, Slices

_ARROW: dict[str, pa.DataType] = {
    "int8": pa.int32(), "int16": pa.int32(), "int32": pa.int32(), "int64": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(),
}  # fmt: skip


ESCAPED = Schema("string", name="escaped")
"""A string whose escapes do not matter, which may stay."""

Objects = Members | Aligned | Parsed
_MANY = 16


def objects(
    texts: pa.Array,
    wanted: Callable[[Path], bool],
    in_tail: Callable[[str], bool] = lambda _: False,
) -> Objects:
    """The members of JSON objects: binary or string, offset 0, none null. If there are many and
    they are alike, only those whose path is `wanted`; `in_tail`: members that hardly differ."""
    if len(texts) <= FEW:
        return parsed(texts.to_pylist())
    if len(texts) > _MANY:
        try:
            return aligned(texts, wanted, in_tail)
        except Irregular:
            pass
    return members(texts)


def field(found: Objects, name: str, kind: Schema) -> tuple[Values, Schema] | None:
    """The values of one member and what they are; None where no object has it."""
    if isinstance(found, Parsed):
        return found.field(name, kind)
    if isinstance(found, Aligned) and kind.type == "struct":
        return _aligned_structs(found, name, kind)
    places = found.named(name)
    if not len(places.row):
        return None
    try:
        values, kind = _values(places, kind)
    except BadData as error:
        where = f"{name}.{error.where}" if error.where else name
        raise BadData(error.what, where=where, hint=error.hint) from error
    return _spread(values, places, found.rows), kind


def nested(found: Objects, name: str) -> tuple[Objects, Bools] | None:
    """The members of the objects that stand under a name, and in which rows; None: in no row."""
    if not isinstance(found, Members):
        return found.nested(name)
    places = found.named(name)
    here = ~places.is_null
    if not ragged.some(here):
        return None
    valid = np.zeros(found.rows, np.bool_)
    valid[places.row[here]] = True
    texts = ragged.binary(places.slices(marks=True))
    if len(places.row) < found.rows:
        place = np.full(found.rows, -1, np.int64)
        place[places.row] = np.arange(len(places.row))
        texts = texts.take(pa.array(place, mask=place < 0))
    return members(texts), valid


def schema_of(text: str) -> Schema:
    """The Connect schema of JsonConverter's JSON."""
    try:
        return _schema(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"not a Connect schema: {error}") from error


@lru_cache(maxsize=64)
def cached_schema_of(text: str) -> Schema:
    return schema_of(text)


def _schema(body: Mapping[str, Any]) -> Schema:
    default = body.get("default")
    return Schema(
        body["type"],
        body.get("optional", False),
        body.get("name", ""),
        body.get("version"),
        tuple(body.get("parameters", {}).items()),
        body.get("doc", ""),
        default if isinstance(default, str) else None,
        fields=tuple((inner["field"], _schema(inner)) for inner in body.get("fields", ())),
        items=_schema(body["items"]) if "items" in body else None,
    )


def _values(places: Places, kind: Schema) -> tuple[Values, Schema]:
    """The values at these places, one each."""
    if ragged.every(places.is_null):
        return Constant(None), kind
    if kind.type == "struct":
        return _structs(places, kind), kind
    if kind.items is not None:
        return _lists(places, kind)
    read = _PLAINLY.get(kind.type)
    if read is not None and (found := read(places)) is not None:
        return found, kind
    texts = ragged.text(places.slices(marks=False))
    if kind.type == "string":
        _require(places, places.is_string | places.is_null, texts, "a string")
        return (texts if kind is ESCAPED else unescaped(texts)), kind
    if kind.type == "bytes":
        if kind.name == DECIMAL and not ragged.some(places.is_string):
            return texts, PLAIN_DECIMAL
        _require(places, places.is_string | places.is_null, texts, "base64")
        return json_scalars.parsed(texts, pa.binary()), kind
    arrow = _ARROW.get(kind.type)
    if arrow is None:
        raise BadData(f"a {kind.type} cannot be read as a column", hint="exclude the column")
    return json_scalars.parsed(texts, arrow), kind


def _integers(places: Places, kind: pa.DataType) -> pa.Array | None:
    """Plain digits, if there is nothing else that the type does not hold."""
    if ragged.some(places.is_string):
        return None
    valid = ~places.is_null if ragged.some(places.is_null) else None
    here: Any = slice(None) if valid is None else valid
    numbers = integers(places.data, places.start[here], places.stop[here])
    if numbers is None:
        return None
    limits = np.iinfo(kind.to_pandas_dtype())
    if int(numbers.min()) < limits.min or int(numbers.max()) > limits.max:
        return None
    column = np.zeros(len(places.start), limits.dtype)
    column[here] = numbers
    return ragged.fixed(kind, column, valid)


def _booleans(places: Places) -> pa.Array | None:
    """The words, if there is nothing else."""
    length = places.stop - places.start
    if ragged.some(places.is_string | (length < 4)):
        return None
    words = ragged.gather(places.data, places.start, "S4")
    true = (length == 4) & (words == b"true")
    false = (length == 5) & (words == b"fals") & (places.data[places.stop - 1] == ord("e"))
    if not ragged.every(true | false | places.is_null):
        return None
    return ragged.booleans(true, ~places.is_null if ragged.some(places.is_null) else None)


_PLAINLY: dict[str, Callable[[Places], pa.Array | None]] = {
    "boolean": _booleans,
    **{name: partial(_integers, kind=_ARROW[name]) for name in ("int8", "int16", "int32", "int64")},
}


def _require(places: Places, good: Bools, texts: pa.Array, what: str) -> None:
    if not ragged.every(good):
        raise BadData(f"not {what}: {texts.filter(pa.array(~good))[0]}")


def _structs(places: Places, kind: Schema) -> Structs:
    inner = members(ragged.binary(places.slices(marks=True)))
    fields: dict[str, Values] = {}
    for name, schema in kind.fields:
        found = field(inner, name, schema)
        fields[name] = Constant(None) if found is None else found[0]
    valid = ~places.is_null
    return Structs(fields, None if ragged.every(valid) else valid)


def _aligned_structs(found: Aligned, name: str, kind: Schema) -> tuple[Values, Schema] | None:
    inner = found.nested(name)
    if inner is None:
        return (Constant(None), kind) if len(found.named(name).row) else None
    fields: dict[str, Values] = {}
    for part, schema in kind.fields:
        values = field(inner[0], part, schema)
        fields[part] = Constant(None) if values is None else values[0]
    return Structs(fields, None if ragged.every(inner[1]) else inner[1]), kind


def _lists(places: Places, kind: Schema) -> tuple[Values, Schema]:
    if kind.items is None:
        raise BadData("an array without the type of its elements")
    found = elements(ragged.text(places.slices(marks=True)))
    lengths = np.bincount(found.row, minlength=len(places.row)).astype(np.int64)
    valid = None if not ragged.some(places.is_null) else ~places.is_null
    if not len(found.row):
        return Lists(Constant(None), lengths, valid), kind
    items, item_kind = _values(found, kind.items)
    return Lists(items, lengths, valid), Schema(kind.type, kind.optional, items=item_kind)


def _spread(values: Values, places: Places, rows: int) -> Values:
    """The values as those of all rows; rows without the member are null."""
    if len(places.row) == rows or isinstance(values, Constant):
        return values
    place = np.full(rows, -1, np.int64)
    place[places.row] = np.arange(len(places.row))
    here = place >= 0
    if isinstance(values, Structs):
        fields = {name: _spread(inner, places, rows) for name, inner in values.fields.items()}
        valid = here if values.valid is None else here & values.valid[place]
        return Structs(fields, valid)
    if isinstance(values, Lists):
        lengths = np.zeros(rows, np.int64)
        lengths[places.row] = values.lengths
        valid = here if values.valid is None else here & values.valid[place]
        return Lists(values.items, lengths, valid)
    if isinstance(values, Composed):
        values = values.whole()
    return values.take(pa.array(place, mask=~here))


def schema_changes(texts: pa.Array) -> list[int]:
    """Where in consecutive records the schema that they carry is another than the record's
    before; empty also where they carry none."""
    data, places = ragged.contents(texts)
    which = np.zeros(len(texts), np.int64)
    left = np.arange(len(texts))
    while len(left):
        found = _head(data[places[left[0]] : places[left[0] + 1]].tobytes())
        if found is None:
            break
        same = np.diff(places)[left] > found
        same[same] = _alike(data, places[left[same]], found)
        left = left[~same]
        which[left] += 1
    return [int(at) + 1 for at in np.flatnonzero(np.diff(which))]


def _head(text: bytes) -> int | None:
    """How many bytes stand before a record's payload; None: it carries no schema there."""
    if not text.lstrip()[:10].startswith(b'{"schema"'):
        return None
    found = members(pa.array([text], pa.binary()))
    schema, payload = found.named("schema"), found.named("payload")
    if len(schema.row) != 1 or len(payload.row) != 1:
        return None
    return int(payload.start[0] - payload.is_string[0])


def without_schemas(texts: pa.Array) -> tuple[pa.Array, Schema] | None:
    """The payloads of records that carry their schema, and the schema, which must be the same in
    all. None: they carry none."""
    data, places = ragged.contents(texts)
    first = data[places[0] : places[1]].tobytes()
    if not first.lstrip()[:10].startswith(b'{"schema"'):
        return None
    found = members(texts[:1])
    schema, payload = found.named("schema"), found.named("payload")
    if len(schema.row) != 1 or len(payload.row) != 1:
        return None
    kind = cached_schema_of(first[schema.start[0] : schema.stop[0]].decode())
    ahead = int(payload.start[0] - payload.is_string[0])
    behind = len(first) - int(payload.stop[0] + payload.is_string[0])
    start, length = places[:-1] + ahead, np.diff(places) - ahead - behind
    if ragged.every(length > 0) and ragged.every(_alike(data, places[:-1], ahead)):
        return ragged.binary(Slices(data, start, length)), kind
    return _payloads_singly(texts, kind)


def _alike(data: Bytes, start: Int64s, length: int) -> Bools:
    """Which texts have the same first bytes as the first one."""
    head = data[start[0] : start[0] + length].tobytes() if len(start) else b""
    return ragged.has_text(data, start, head)


def _payloads_singly(texts: pa.Array, kind: Schema) -> tuple[pa.Array, Schema]:
    found = members(texts)
    schemas, inner = found.named("schema"), found.named("payload")
    if len(schemas.row) != found.rows or len(inner.row) != found.rows:
        raise BadData("a record without schema or payload among others that have them")
    spelled = ragged.binary(schemas.slices(marks=True)).unique()
    if any(cached_schema_of(text.decode()) != kind for text in spelled.to_pylist()):
        raise BadData(
            "records with different schemas in one batch",
            hint="read the records with each schema by themselves",
        )
    return ragged.binary(inner.slices(marks=True)), kind
