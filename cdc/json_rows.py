"""Rows as JSON texts and back, whole batches at once, exact both ways.

For document stores, caches and topics that carry JSON. One text per row, compact, without a line
break (so that joined lines are NDJSON), members in the columns' order, NULL as null:

    integers, booleans            17, true
    decimals, numeric             all their digits: 12.50; "NaN", "Infinity", "-Infinity"
    floats                        the shortest digits that read back equal: 0.1, 1e+300; or names
    text and all that travels     a string, escaped only where JSON demands it
    as text
    json, jsonb                   the value itself, its text untouched, except that line breaks
                                  between tokens become spaces
    bytea, date, time, timestamp  strings: cdc/json_scalars.py
    lists                         arrays of these

Reading takes members in any order, ignores others, and fills what is missing with NULL. No number
passes through a float: its digits go from the text to the column's type.

JSON's null inside a json column is not SQL's NULL: it is written behind a tab, which readers of
JSON skip, and read back as what it was. Where a store reformats its JSON, it comes back as NULL.
Of `json` (not jsonb) the blanks around the value are lost.

A plain text is the same value as people write it: without quotation marks, text and json as they
are.

Joining is Arrow's binary_join_element_wise over fragments; where a column has no NULL, its
quotation marks are part of the constant fragments between the columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import json_scalars, ragged
from cdc.errors import BadData
from cdc.json_strings import characters, escaped, unescaped
from cdc.json_tokens import Members, Values, elements, members
from cdc.schema import Column, TableSchema

_JSON = frozenset({"json", "jsonb"})
_MARKED_NULL = "\tnull"
_WITH_NULLS = pc.JoinOptions("replace", "null")
_NULL_IF_ANY = pc.JoinOptions("emit_null")
_LINE_BREAKS = np.arange(256, dtype=np.uint8)
_LINE_BREAKS[[ord("\n"), ord("\r")]] = ord(" ")
_CHUNK_BYTES = 2 << 20
"""Texts are tokenized in pieces of this size, whose positions stay in the processor's cache."""


def json_objects(
    rows: pa.RecordBatch, schema: TableSchema, names: Sequence[str] | None = None
) -> pa.BinaryArray:
    """One JSON object per row, UTF-8, with the named columns (None: all of the schema).

    The result's data buffer holds the texts one behind the other. BadData above 2 GiB.
    """
    chosen = [c.name for c in schema.columns] if names is None else list(names)
    if not chosen or not rows.num_rows:
        return pa.array([b"{}"] * rows.num_rows, pa.binary())
    values = [_value(_whole(rows.column(name)), schema.column(name)) for name in chosen]
    *before, last = _constants(tuple(chosen), tuple(marked for _, marked in values))
    pairs = zip(before, (texts for texts, _ in values), strict=True)
    joined = _joined([*chain.from_iterable(pairs), last, _scalar("")], _WITH_NULLS)
    return joined.view(pa.binary())


def json_values(column: pa.Array, of: Column) -> pa.StringArray:
    """One JSON value per row, as in `json_objects`; null where the value is NULL."""
    if not len(column):
        return pa.array([], pa.string())
    texts, marked = _value(_whole(column), of)
    return _in_marks(texts) if marked else texts


def plain_texts(column: pa.Array, of: Column) -> pa.StringArray:
    """The values as people write them, without quotation marks; null where the value is NULL."""
    column = _whole(column)
    kind = column.type
    if not len(column):
        return pa.array([], pa.string())
    if pa.types.is_string(kind):
        return column
    return _arrays(column, of) if pa.types.is_list(kind) else json_scalars.printed(column)


def rows_from_json(
    texts: pa.Array, schema: TableSchema, names: Sequence[str] | None = None
) -> pa.RecordBatch:
    """The rows of JSON objects (binary or string), with the named columns (None: all).

    A text that is null gives a row of NULLs. Raises BadData for what is no object, and for a
    value that its column's type does not have.
    """
    columns = schema.columns if names is None else tuple(schema.column(n) for n in names)
    fields = pa.schema([pa.field(c.name, c.type) for c in columns])
    pieces = [_read(piece, columns, fields) for piece in _chunks(_whole(texts.cast(pa.binary())))]
    return pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)


def values_from_plain(texts: pa.StringArray, of: Column) -> pa.Array:
    """The inverse of `plain_texts`. Raises BadData for text that is not of the type."""
    kind = of.type
    texts = _whole(texts)
    if not len(texts):
        return pa.array([], kind)
    if pa.types.is_string(kind):
        return texts
    return _lists(texts, of) if pa.types.is_list(kind) else json_scalars.parsed(texts, kind)


def _whole(column: pa.Array) -> pa.Array:
    """The array with offset 0 and buffers of its own length, as reading its bytes needs."""
    if not column.offset:
        return column
    return pa.concat_arrays([column, column.slice(0, 0)])


def _value(column: pa.Array, of: Column) -> tuple[pa.Array, bool]:
    """Every value's JSON text, null where NULL; and whether quotation marks have to be put
    around it still. A column with NULLs has them."""
    kind = column.type
    texts = plain_texts(column, of)
    if _is_number(kind):
        return _named_in_marks(texts, kind), False
    if pa.types.is_list(kind):
        return texts, False
    if of.sql_type in _JSON:
        return _one_line(texts), False
    if pa.types.is_string(kind):
        texts = escaped(texts)
    return (_in_marks(texts), False) if column.null_count else (texts, True)


def _is_number(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or isinstance(kind, pa.ExtensionType)
    )


def _named_in_marks(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Numbers as they are, NaN and the infinities, which JSON lacks, as strings."""
    if not (pa.types.is_floating(kind) or isinstance(kind, pa.ExtensionType)):
        return texts
    # Both names have an n, large or small.
    if not ragged.some((characters(texts) | 0x20) == ord("n")):
        return texts
    named = pc.match_substring(texts, "n", ignore_case=True)
    return pc.if_else(named, _in_marks(texts), texts)


def _one_line(texts: pa.Array) -> pa.Array:
    """json without line breaks: inside its strings they are escaped already."""
    data = characters(texts)
    if ragged.some((data == ord("\n")) | (data == ord("\r"))):
        _, places = ragged.contents(texts)
        valid = np.asarray(texts.is_valid()) if texts.null_count else None
        texts = ragged.strings_of(_LINE_BREAKS[data], np.diff(places), valid)
    nulls = pc.equal(pc.ascii_trim_whitespace(texts), _scalar("null"))
    return pc.if_else(nulls, _MARKED_NULL, texts) if nulls.true_count else texts


def _arrays(column: pa.Array, of: Column) -> pa.Array:
    """Lists as JSON arrays."""
    flat = pc.fill_null(json_values(column.flatten(), _element(of)), "null")
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = ragged.offsets_of(np.asarray(lengths).astype(np.int64))
    lists = pa.ListArray.from_arrays(pa.array(offsets), flat)
    joined = _joined([_scalar("["), pc.binary_join(lists, ","), _scalar("]"), _scalar("")])
    if not column.null_count:
        return joined
    return pc.if_else(column.is_valid(), joined, pa.scalar(None, pa.string()))


def _element(of: Column) -> Column:
    return Column(of.name, of.type.value_type, of.sql_type.removesuffix("[]"))


def _in_marks(texts: pa.Array) -> pa.Array:
    return _joined([_scalar('"'), texts, _scalar('"'), _scalar("")])


def _joined(pieces: list[object], options: pc.JoinOptions = _NULL_IF_ANY) -> pa.Array:
    """The pieces of every row joined; the last is what stands between them."""
    try:
        return pc.call_function("binary_join_element_wise", pieces, options)
    except pa.ArrowCapacityError as error:
        raise BadData(
            "the JSON texts of one batch have more than 2 GiB", hint="lower the batch's size"
        ) from error


@lru_cache(maxsize=256)
def _constants(names: tuple[str, ...], marked: tuple[bool, ...]) -> list[pa.Scalar]:
    """What stands before each column's texts, and behind the last."""
    texts = []
    close, lead = "", "{"
    for name, in_marks in zip(names, marked, strict=True):
        mark = '"' if in_marks else ""
        texts.append(f"{close}{lead}{json.dumps(name, ensure_ascii=False)}:{mark}")
        close, lead = mark, ","
    return [pa.scalar(text, pa.string()) for text in (*texts, close + "}")]


@lru_cache(maxsize=16)
def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.string())


def _chunks(texts: pa.Array) -> list[pa.Array]:
    """The texts in pieces of about _CHUNK_BYTES, each with offset 0."""
    _, places = ragged.contents(texts)
    ends = np.arange(_CHUNK_BYTES, int(places[-1]), _CHUNK_BYTES)
    cuts = np.unique([0, *np.searchsorted(places, ends).tolist(), len(texts)])
    if len(cuts) <= 2:
        return [texts]
    return [_whole(texts.slice(a, b - a)) for a, b in pairwise(cuts.tolist())]


def _read(texts: pa.Array, columns: Sequence[Column], fields: pa.Schema) -> pa.RecordBatch:
    found = members(texts)
    arrays = [_column(found, column) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=fields)


def _column(found: Members, column: Column) -> pa.Array:
    here = found.named(column.name)
    try:
        values = _typed(here, column)
    except BadData as error:
        raise BadData(error.what, where=f"column {column.name}", hint=error.hint) from error
    if len(values) == found.rows:
        return values
    place = np.full(found.rows, -1, np.int64)
    place[here.row] = np.arange(len(values))
    return values.take(pa.array(place, mask=place < 0))


def _typed(values: Values, of: Column) -> pa.Array:
    """The values of a column, from where they stand."""
    kind = of.type
    if of.sql_type in _JSON:
        return _json_texts(values)
    texts = ragged.text(values.slices(marks=False))
    if pa.types.is_string(kind):
        as_expected = values.is_string | values.is_null
        if not ragged.every(as_expected):
            raise BadData(f"not a JSON string: {texts.filter(pa.array(~as_expected))[0]}")
        return unescaped(texts)
    return values_from_plain(texts, of)


def _json_texts(values: Values) -> pa.Array:
    """json as it stands, a null behind a tab as JSON's null."""
    texts = ragged.text(values.slices(marks=True))
    inner = values.is_null & (values.data[values.colon + 1] == ord("\t"))
    return pc.if_else(pa.array(inner), "null", texts) if ragged.some(inner) else texts


def _lists(texts: pa.Array, of: Column) -> pa.Array:
    found = elements(texts)
    lengths = np.bincount(found.row, minlength=len(texts))
    valid = np.asarray(texts.is_valid()) if texts.null_count else None
    offsets = pa.array(ragged.offsets_of(lengths))
    mask = None if valid is None else pa.array(~valid)
    return pa.ListArray.from_arrays(offsets, _typed(found, _element(of)), of.type, mask=mask)
