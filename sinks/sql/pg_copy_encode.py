"""Arrow batches as Postgres COPY BINARY, without touching single rows.

Layout (PostgreSQL documentation, COPY, "Binary Format"): a header of 19 bytes; per row the number
of fields (int16), per field its length (int32, -1 for NULL) and its bytes in network order; at the
end the field count -1.

1. Every column becomes one binary array: length and value of each field.
2. Arrow joins the columns row by row; the data buffer of the result is the message.

A column whose type has no simple binary form travels as text and is cast by the server
(`as_text`): numerics beyond 18 digits or without a scale, lists, intervals, network addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY, Column
from sinks.sql.pg_literals import array_literals

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_NULL_FIELD = b"\xff\xff\xff\xff"
_EPOCH_DAYS = 10_957
_EPOCH_US = _EPOCH_DAYS * 86_400_000_000
_JOIN_BYTES_MAX = 2**30
_TEXT_TYPES = ("text", "json", "uuid", "jsonb")
_TEXT_PREFIXES = ("character", "character varying")

Fields = npt.NDArray[np.uint8]


def as_text(column: Column) -> bool:
    """Whether the column is staged as text and cast by the server."""
    kind = column.type
    if pa.types.is_decimal128(kind):
        return bool(kind.precision > 18)
    if isinstance(kind, pa.ExtensionType) or pa.types.is_list(kind) or kind == pa.uint64():
        return True
    if pa.types.is_string(kind):
        return not (
            column.sql_type in _TEXT_TYPES or column.sql_type.split("(")[0] in _TEXT_PREFIXES
        )
    return False


def encode(rows: pa.RecordBatch, columns: tuple[Column, ...]) -> Iterator[bytes | memoryview]:
    """The whole COPY message of `rows` (columns as in `columns`), in pieces below 1 GiB."""
    yield HEADER
    step = max(1, int(rows.num_rows * _JOIN_BYTES_MAX // max(2 * rows.nbytes, 1)))
    for start in range(0, rows.num_rows, step):
        yield from _encode_slice(rows.slice(start, step), columns)
    yield TRAILER


def _encode_slice(
    rows: pa.RecordBatch, columns: tuple[Column, ...]
) -> Iterator[bytes | memoryview]:
    parts: list[Any] = [pa.scalar(len(columns).to_bytes(2, "big"), pa.large_binary())]
    for array, column in zip(rows.columns, columns, strict=True):
        parts += _fields(array, column)
    joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
    joined = pa.array(joined) if not isinstance(joined, pa.Array) else joined
    offsets = np.frombuffer(joined.buffers()[1], np.int64, len(joined) + 1, joined.offset * 8)
    data = joined.buffers()[2]
    if data is not None:
        yield memoryview(data)[int(offsets[0]) : int(offsets[-1])]


def _fields(array: pa.Array, column: Column) -> list[pa.Array]:
    """One or two large binary arrays: the fields' lengths and bytes."""
    if as_text(column):
        return _variable(texts_of(array), b"")
    kind = column.type
    if pa.types.is_string(kind) and column.sql_type == "uuid":
        return [_fixed(_uuids(array), array)]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _variable(array, b"\x01" if column.sql_type == "jsonb" else b"")
    return [_fixed(_words(array), array)]


def _variable(array: pa.Array, prefix: bytes) -> list[pa.Array]:
    lengths = pc.binary_length(array)
    wire = np.asarray(pc.fill_null(lengths, 0)).astype(np.int64) + len(prefix)
    head = _large_binary(_with_prefix(wire, prefix))
    if array.null_count:
        head = pc.if_else(array.is_valid(), head, pa.scalar(_NULL_FIELD, pa.large_binary()))
        array = pc.fill_null(array, "" if pa.types.is_string(array.type) else b"")
    return [head, array.cast(pa.binary()).cast(pa.large_binary())]


def _with_prefix(lengths: npt.NDArray[np.int64], prefix: bytes) -> Fields:
    heads = lengths.astype(">i4").view(np.uint8).reshape(-1, 4)
    if not prefix:
        return heads
    tail = np.broadcast_to(np.frombuffer(prefix, np.uint8), (len(lengths), len(prefix)))
    return np.hstack([heads, tail])


def _fixed(values: Fields, array: pa.Array) -> pa.Array:
    """Fields of one width: every row of `values` behind its length."""
    width = values.shape[1]
    head = np.broadcast_to(np.frombuffer(width.to_bytes(4, "big"), np.uint8), (len(values), 4))
    fields = _large_binary(np.hstack([head, values]))
    if array.null_count:
        return pc.if_else(array.is_valid(), fields, pa.scalar(_NULL_FIELD, pa.large_binary()))
    return fields


def _large_binary(matrix: Fields) -> pa.Array:
    count, width = matrix.shape
    offsets = np.arange(count + 1, dtype=np.int64) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(matrix))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, buffers)


def _words(array: pa.Array) -> Fields:
    """Values of fixed width in network order, one row each; anything where null."""
    kind = array.type
    if pa.types.is_decimal128(kind):
        return _numerics(array)
    if pa.types.is_boolean(kind):
        return np.asarray(pc.fill_null(array, False).cast(pa.uint8())).reshape(-1, 1)
    if pa.types.is_date(kind):
        days = _integers(array, pa.int32()).astype(np.int64)
        return _shifted(days, _EPOCH_DAYS, DATE_INFINITY, np.dtype(np.int32))
    if pa.types.is_timestamp(kind):
        counts = _integers(array, pa.int64())
        return _shifted(counts, _EPOCH_US, TIMESTAMP_INFINITY, np.dtype(np.int64))
    if pa.types.is_time(kind):
        return _big_endian(_integers(array, pa.int64()))
    return _big_endian(np.asarray(pc.fill_null(array, 0)))


def _integers(array: pa.Array, kind: pa.DataType) -> npt.NDArray[Any]:
    return np.asarray(pc.fill_null(array.view(kind), 0))


def _shifted(
    counts: npt.NDArray[np.int64], epoch: int, infinity: int, wire: np.dtype[Any]
) -> Fields:
    """Counts since 1970 as counts since 2000; Postgres's infinities are the type's two ends."""
    limits = np.iinfo(wire)
    finite = (counts != infinity) & (counts != -infinity)
    moved = np.where(finite, counts, 0) - np.where(finite, epoch, 0)
    ends = np.where(counts > 0, limits.max, limits.min)
    return _big_endian(np.where(finite, moved, ends).astype(wire))


def _big_endian(values: npt.NDArray[Any]) -> Fields:
    wire: npt.NDArray[Any] = values.astype(values.dtype.newbyteorder(">"))
    return wire.view(np.uint8).reshape(len(values), values.dtype.itemsize)


def _uuids(array: pa.Array) -> Fields:
    """16 bytes of each canonical uuid text."""
    filled = pc.fill_null(array, "0" * 36)
    texts = np.frombuffer(pc.binary_join_element_wise(filled, "").buffers()[2] or b"", np.uint8)
    texts = texts[: 36 * len(array)].reshape(-1, 36)
    digits = _NIBBLES[texts[:, _UUID_DIGITS]]
    packed: Fields = digits[:, 0::2] * np.uint8(16) + digits[:, 1::2]
    return packed


_UUID_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])
_NIBBLES = np.zeros(256, np.uint8)
for _value, _digit in enumerate("0123456789abcdef"):
    _NIBBLES[[ord(_digit), ord(_digit.upper())]] = _value


def _numerics(array: pa.Array) -> Fields:
    """numeric(p <= 18, s): as many base-10000 digits for every value; the server strips zeros
    (backend/utils/adt/numeric.c, numeric_recv)."""
    kind = array.type
    low = np.frombuffer(array.buffers()[1], np.int64, 2 * len(array), array.offset * 16)[0::2]
    negative = low < 0
    rest = np.abs(low).astype(np.uint64)
    fraction_digits = -(-kind.scale // 4)
    whole_digits = -(-(kind.precision - kind.scale) // 4) or 1
    count = whole_digits + fraction_digits
    words = np.zeros((len(low), 4 + count), np.int64)
    words[:, 0], words[:, 1] = count, whole_digits - 1
    words[:, 2], words[:, 3] = np.where(negative, 0x4000, 0), kind.scale
    whole, part = np.divmod(rest, np.uint64(10**kind.scale))
    part = part * np.uint64(10 ** (4 * fraction_digits - kind.scale))
    for place in range(fraction_digits):
        part, digit = np.divmod(part, np.uint64(10_000))
        words[:, 3 + count - place] = digit
    for place in range(whole_digits):
        whole, digit = np.divmod(whole, np.uint64(10_000))
        words[:, 3 + whole_digits - place] = digit
    return words.astype(">i2").view(np.uint8).reshape(len(low), 2 * (4 + count))


def texts_of(array: pa.Array) -> pa.Array:
    """Values as text that the server reads: numerics, lists, and what is text already."""
    if isinstance(array.type, pa.ExtensionType):
        return array.storage
    if pa.types.is_list(array.type):
        return array_literals(array)
    return array.cast(pa.string())
