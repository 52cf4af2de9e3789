"""One spelling per key: a JSON array of the key columns (SEMANTICS 28).

The same text is the topic's key, Elasticsearch's `_id` and a SQL sink's `_key` column:

    integers                JSON numbers                    [17]
    booleans                true, false
    NULL                    null
    no key columns          the empty array                 []
    text and every type     a JSON string, escaped only     ["Zürich","a\\"b"]
    that travels as text    where JSON demands it
    decimals, numeric       a string without trailing zeros ["12.5"], ["NaN"], ["Infinity"]
    floats                  a string: the shortest digits   ["0.1"], ["1e+300"], ["-Infinity"]
                            that read back equal; -0 is 0
    bytea                   a string of hexadecimal         ["\\\\x00ff"]
    date, time, timestamp   ISO 8601, proleptic Gregorian,  ["2024-02-29"], ["infinity"],
                            microseconds always shown       ["2024-02-29 12:00:00.000000"]
    timestamptz             the same in UTC, with a Z       ["2024-02-29 12:00:00.000000Z"]
    lists                   a string holding such an array  ["[1,null]"]

Values that are equal as keys have equal texts, and different ones different texts, within a topic,
whose schema says the types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import BadData
from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY, Column, TableSchema

_CONTROLS = r"[\x00-\x1f]"
_ESCAPES = {chr(code): json.dumps(chr(code))[1:-1] for code in range(32)}
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_FEW = 16
_BEFORE = "-infinity"
_AFTER = "infinity"


def row_keys(schema: TableSchema, rows: pa.RecordBatch) -> pa.Array:
    """The canonical key of every row of a table, as strings."""
    return encode_keys([rows.column(name) for name in schema.key], rows.num_rows)


def encode_keys(columns: Sequence[pa.Array], num_rows: int) -> pa.Array:
    """The canonical key of every row of the key columns, in key order, as strings."""
    if not columns:
        return pa.array(["[]"] * num_rows, pa.string())
    if num_rows <= _FEW and all(_is_plain(column.type) for column in columns):
        return _few(columns)
    parts = [pc.fill_null(_json(column), "null") for column in columns]
    joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, ",")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _is_plain(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind)


def _few(columns: Sequence[pa.Array]) -> pa.Array:
    """The same for a few rows of plain columns, where kernels cost more than Python does."""
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return pa.array([_ENCODER.encode(row) for row in rows], pa.string())


def _json(column: pa.Array) -> pa.Array:
    """Every value as JSON text; null where the value is."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    if pa.types.is_string(kind):
        return _quoted(_escaped(column))
    return _quoted(_text(column))


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _escaped(texts: pa.Array) -> pa.Array:
    texts = pc.replace_substring(texts, "\\", "\\\\")
    texts = pc.replace_substring(texts, '"', '\\"')
    if pc.any(pc.match_substring_regex(texts, _CONTROLS)).as_py():
        for character, escape in _ESCAPES.items():
            texts = pc.replace_substring(texts, character, escape)
    return texts


def _text(column: pa.Array) -> pa.Array:
    """The JSON string's contents, already escaped, for types that are not text."""
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        return _numbers(column.storage)
    if pa.types.is_decimal(kind):
        return _numbers(column.cast(pa.string()))
    if pa.types.is_floating(kind):
        return _floats(column)
    if pa.types.is_binary(kind):
        hexed = [None if v is None else "\\\\x" + v.hex() for v in column.to_pylist()]
        return pa.array(hexed, pa.string())
    if pa.types.is_date(kind):
        return _infinities(column, column.cast(pa.int32()), DATE_INFINITY)
    if pa.types.is_timestamp(kind):
        naive = column.view(pa.timestamp("us"))
        texts = _infinities(naive, column.cast(pa.int64()), TIMESTAMP_INFINITY)
        return _with_zone(texts) if kind.tz else texts
    if pa.types.is_list(kind):
        return _lists(column)
    return _escaped(column.cast(pa.string()))


def _numbers(texts: pa.Array) -> pa.Array:
    """Plain decimal digits without trailing zeros."""
    if pc.any(pc.match_substring_regex(texts, "[eE][+-]?[0-9]")).as_py():
        plain = [None if t is None else format(Decimal(t), "f") for t in texts.to_pylist()]
        texts = pa.array(plain, pa.string())
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, "^-0$", "0")


def _floats(column: pa.Array) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    valid = np.asarray(column.is_valid())
    return pa.array(
        [_float(v) if here else None for v, here in zip(values, valid, strict=True)], pa.string()
    )


def _float(value: np.floating) -> str:
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return str(value + 0.0).removesuffix(".0") if value else "0"


def _infinities(column: pa.Array, counts: pa.Array, infinity: int) -> pa.Array:
    """The column printed, its two extreme values as Postgres names them."""
    extreme = pc.or_(pc.equal(counts, infinity), pc.equal(counts, -infinity))
    if not pc.any(extreme).as_py():
        return column.cast(pa.string())
    finite = pc.if_else(extreme, pa.scalar(None, column.type), column).cast(pa.string())
    names = pc.if_else(pc.greater(counts, 0), _AFTER, _BEFORE)
    return pc.if_else(extreme, names, finite)


def _with_zone(texts: pa.Array) -> pa.Array:
    infinite = pc.match_substring(texts, _AFTER)
    return pc.if_else(infinite, texts, pc.binary_join_element_wise(texts, "Z", ""))


def _lists(column: pa.Array) -> pa.Array:
    offsets = np.asarray(column.offsets)
    texts = pc.fill_null(_json(column.values), "null").to_pylist()
    valid = np.asarray(column.is_valid())
    arrays = [
        json.dumps("[" + ",".join(texts[a:b]) + "]", ensure_ascii=False)[1:-1] if here else None
        for a, b, here in zip(offsets[:-1], offsets[1:], valid, strict=True)
    ]
    return pa.array(arrays, pa.string())


def decode_keys(columns: Sequence[Column], texts: Sequence[str]) -> list[pa.Array]:
    """The key columns of canonical keys. Raises BadData for text that is no key of these."""
    try:
        rows = [json.loads(text) for text in texts]
        values = list(zip(*rows, strict=True)) if columns else []
        return [_decoded(c.type, list(v)) for c, v in zip(columns, values, strict=True)]
    except (ValueError, TypeError, pa.ArrowInvalid) as error:
        raise BadData(f"not a key of ({', '.join(c.name for c in columns)}): {error}") from error


def _decoded(kind: pa.DataType, values: list[object]) -> pa.Array:
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(pa.array(values, kind.storage_type))
    if _is_plain(kind):
        return pa.array(values, kind)
    if pa.types.is_list(kind):
        lists = [None if v is None else json.loads(str(v)) for v in values]
        children = [_decoded(kind.value_type, v).to_pylist() if v else v for v in lists]
        return pa.array(children, kind)
    texts = [None if v is None else str(v) for v in values]
    if pa.types.is_floating(kind):
        return pa.array([None if t is None else float(t) for t in texts], kind)
    if pa.types.is_binary(kind):
        return pa.array([None if t is None else bytes.fromhex(t[2:]) for t in texts], kind)
    if pa.types.is_date(kind):
        return _finite_or_not(texts, kind, pa.int32(), DATE_INFINITY)
    if pa.types.is_timestamp(kind):
        plain = [None if t is None else t.removesuffix("Z") for t in texts]
        return _finite_or_not(plain, pa.timestamp("us"), pa.int64(), TIMESTAMP_INFINITY).view(kind)
    return pa.array(texts, pa.string()).cast(kind)


def _finite_or_not(
    texts: list[str | None], kind: pa.DataType, counts: pa.DataType, infinity: int
) -> pa.Array:
    named = {_AFTER: infinity, _BEFORE: -infinity}
    finite = pa.array([None if t in named else t for t in texts], pa.string()).cast(kind)
    if not any(t in named for t in texts):
        return finite
    numbers = finite.view(counts).to_pylist()
    joined = [named.get(t or "", n) for t, n in zip(texts, numbers, strict=True)]
    return pa.array(joined, counts).view(kind)
