"""Values of one column of row images → one Arrow array: the decoders of every type, by MyType.

`compile_column` picks the decoder once per table; a `ColumnDecoder` then reads thousands of values
at once. Its `width` is what the walk (lanes.py) needs to know to find them. The type table is
types.py's; decimals, times and text have modules of their own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.mysql import values_decimal, values_older, values_text, values_time
from cdc.mysql.charsets import text_charset
from cdc.mysql.json_binary import json_text
from cdc.mysql.lanes import Width
from cdc.mysql.tables import MyType
from cdc.mysql.types import (
    BLOBS,
    DATES,
    INTEGER_BYTES,
    MAX_PRECISION,
    STRINGS,
    FieldType,
    ZeroDates,
    arrow_type,
    bits,
    is_binary,
)
from cdc.mysql.values_text import ValueDecoder
from cdc.ragged import Int64s, Slices


@dataclass(frozen=True)
class ColumnDecoder:
    """How one column is read. `place` names it in errors: database.table.column."""

    place: str
    type: pa.DataType
    width: Width
    read: ValueDecoder

    def decode(self, slices: Slices) -> pa.Array:
        """n values, null where the slice is. BadData, naming the column, when one cannot be
        carried."""
        return values_text.decoded(self.place, self.read, slices)


def compile_column(place: str, kind: MyType, zero_dates: ZeroDates) -> ColumnDecoder:
    """The decoder of a column of that type. SourceError when the type is refused."""
    return ColumnDecoder(place, arrow_type(kind), width(kind), _decoder(kind, zero_dates))


def width(kind: MyType) -> Width:
    """How the type's values are laid out in a row image, refused types included. BadData for a
    type that no row image has."""
    code, meta = kind.code, kind.meta
    if code in _FIXED:
        return Width(_FIXED[code])
    if code in STRINGS:
        # Of a compressed column, a byte more than of the plain one belongs to the length.
        return Width(0, 1 if meta + (code == FieldType.VARCHAR_COMPRESSED) <= 255 else 2)
    if code in BLOBS or code in (FieldType.JSON, FieldType.GEOMETRY, FieldType.VECTOR):
        return Width(0, meta)
    if code == FieldType.NEWDECIMAL:
        return Width(values_decimal.size_bytes(meta >> 8, meta & 0xFF))
    if code == FieldType.BIT:
        return Width((bits(kind) + 7) // 8)
    if code in (FieldType.ENUM, FieldType.SET):
        return Width(meta)
    if code in _FRACTIONAL:
        return Width(_FRACTIONAL[code] + values_time.fraction_bytes(meta))
    if code in _OLDER:
        return Width(values_older.size_bytes(code, meta))
    raise BadData(f"a column of type {code}, whose size is not known")


_FIXED: Mapping[int, int] = {
    **INTEGER_BYTES,
    FieldType.FLOAT: 4,
    FieldType.DOUBLE: 8,
    FieldType.YEAR: 1,
    FieldType.DATE: 3,
    FieldType.NEWDATE: 3,
}
_FRACTIONAL: Mapping[int, int] = {
    FieldType.TIME2: 3,
    FieldType.DATETIME2: 5,
    FieldType.TIMESTAMP2: 4,
}
_OLDER = (FieldType.TIME, FieldType.DATETIME, FieldType.TIMESTAMP)


def _decoder(kind: MyType, zero_dates: ZeroDates) -> ValueDecoder:
    if kind.native:
        return _NATIVE[kind.native]
    if kind.code in INTEGER_BYTES:
        return _integer(kind)
    if kind.code in STRINGS or kind.code in BLOBS:
        return _string(kind)
    dated: Mapping[int, Callable[..., pa.Array]] = {
        **dict.fromkeys(DATES, values_time.date),
        FieldType.DATETIME2: partial(values_time.datetime, digits=kind.meta),
        FieldType.TIMESTAMP2: partial(values_time.timestamp, digits=kind.meta),
        FieldType.DATETIME: partial(values_older.datetime, digits=kind.meta),
        FieldType.TIMESTAMP: partial(values_older.timestamp, digits=kind.meta),
    }
    if kind.code in dated:
        return partial(dated[kind.code], zero_dates=zero_dates)
    return _OTHERS[FieldType(kind.code)](kind)


def _integer(kind: MyType) -> ValueDecoder:
    size = INTEGER_BYTES[kind.code]
    if size == 8 and kind.unsigned:
        return _unsigned_bigint
    travels = arrow_type(kind)
    native = np.dtype(travels.to_pandas_dtype())
    if size == 3:
        return partial(_mediumint, unsigned=kind.unsigned)
    wire = f"<{'u' if kind.unsigned else 'i'}{size}"

    def decode(slices: Slices) -> pa.Array:
        values = ragged.gather(slices.buffer, slices.start, wire)
        return ragged.fixed(travels, values.astype(native, copy=False), slices.valid)

    return decode


def _mediumint(slices: Slices, unsigned: bool) -> pa.Array:
    values = ragged.gather_int64(slices.buffer, slices.start, "<u4") & 0xFFFFFF
    if not unsigned:
        values -= (values & 0x800000) << 1
    return ragged.fixed(pa.int32(), values.astype(np.int32), slices.valid)


def _unsigned_bigint(slices: Slices) -> pa.Array:
    both = np.zeros((len(slices), 2), np.int64)
    both[:, 0] = ragged.gather_int64(slices.buffer, slices.start, "<i8")
    return ragged.fixed(pa.decimal128(20, 0), both, slices.valid)


def _float(kind: MyType) -> ValueDecoder:
    travels = arrow_type(kind)
    wire = "<f4" if kind.code == FieldType.FLOAT else "<f8"
    return lambda slices: ragged.fixed(
        travels, ragged.gather(slices.buffer, slices.start, wire), slices.valid
    )


def _year(kind: MyType) -> ValueDecoder:
    def decode(slices: Slices) -> pa.Array:
        stored = slices.buffer[slices.start].astype(np.int32)
        stored[stored > 0] += 1900
        return ragged.fixed(pa.int32(), stored, slices.valid)

    return decode


def _bit(kind: MyType) -> ValueDecoder:
    if bits(kind) == 1:
        return lambda slices: ragged.booleans(slices.buffer[slices.start] != 0, slices.valid)
    return ragged.binary


def _decimal(kind: MyType) -> ValueDecoder:
    precision, scale = kind.meta >> 8, kind.meta & 0xFF
    if precision > MAX_PRECISION:
        return partial(values_decimal.text, precision=precision, scale=scale)
    return partial(values_decimal.decimal, kind=arrow_type(kind))


def _time(kind: MyType) -> ValueDecoder:
    return partial(values_time.time, digits=kind.meta)


def _old_time(kind: MyType) -> ValueDecoder:
    return partial(values_older.time, digits=kind.meta)


def _string(kind: MyType) -> ValueDecoder:
    if not is_binary(kind):
        decode = values_text.text(text_charset(kind.collation))
    elif kind.code == FieldType.STRING:
        decode = values_text.fixed_binary(kind.meta)
    else:
        decode = ragged.binary
    if kind.code in (FieldType.VARCHAR_COMPRESSED, FieldType.BLOB_COMPRESSED):
        return values_text.uncompressed(decode)
    return decode


def _enum(kind: MyType) -> ValueDecoder:
    # 0 is the empty string that stands for a value which was not allowed.
    labels = pa.array(["", *kind.labels], pa.string())

    def decode(slices: Slices) -> pa.Array:
        numbers = _small_number(slices, kind.meta)
        if len(numbers) and int(numbers.max()) >= len(labels):
            raise BadData(f"value {int(numbers.max())} of an enum with {len(labels) - 1} labels")
        return labels.take(pa.array(numbers, mask=_mask(slices)))

    return decode


def _set(kind: MyType) -> ValueDecoder:
    labels = kind.labels

    def decode(slices: Slices) -> pa.Array:
        numbers = _small_number(slices, kind.meta).view(np.uint64)
        distinct, place = np.unique(numbers, return_inverse=True)
        if len(distinct) and int(distinct[-1]) >> len(labels):
            raise BadData(f"value {int(distinct[-1])} of a set with {len(labels)} labels")
        texts = [_members(number, labels) for number in distinct.tolist()]
        return pa.array(texts, pa.string()).take(pa.array(place, mask=_mask(slices)))

    return decode


def _members(number: int, labels: tuple[str, ...]) -> str:
    return ",".join(label for place, label in enumerate(labels) if number >> place & 1)


def _small_number(slices: Slices, size: int) -> Int64s:
    """Little-endian numbers of 1 to 8 bytes, 0 where null; 8 bytes wrap to negative."""
    found = ragged.gather_int64(slices.buffer, slices.start, "<i8")
    if size < 8:
        found &= (1 << 8 * size) - 1
    return found if slices.valid is None else found * slices.valid


def _mask(slices: Slices) -> ragged.Bools | None:
    return None if slices.valid is None else ~slices.valid


_SRID_BYTES, _HEAD_BYTES = 4, 9
_HAS_SRID = 0x20


def geometry(slices: Slices) -> pa.Array:
    """WKB where the SRID, the four bytes before it, is 0; else PostGIS's EWKB: order byte, type
    with the flag 0x20000000, SRID, the rest. Both are as the server stores them: little endian,
    and for geographic systems longitude first."""
    full = slices.length > 0
    if ragged.some(full & (slices.length < _HEAD_BYTES)):
        raise BadData("a geometry that is shorter than its head")
    srid = ragged.gather_int64(slices.buffer, slices.start, "<u4") * full
    extended = srid != 0
    plain = np.int64(_SRID_BYTES) * (full & ~extended)
    found = ragged.binary(
        Slices(slices.buffer, slices.start + plain, slices.length - plain, slices.valid)
    )
    if not ragged.some(extended):
        return found
    data, places = ragged.contents(found)
    data = data.copy()
    at = places[:-1][extended][:, None]
    head = data[at + np.arange(_HEAD_BYTES)]
    little = head[:, _SRID_BYTES] == 1
    if not ragged.every(little):
        raise BadData("a geometry that is not little endian")
    moved = np.hstack([head[:, _SRID_BYTES:], head[:, :_SRID_BYTES]])
    moved[:, 4] |= _HAS_SRID
    data[at + np.arange(_HEAD_BYTES)] = moved
    validity, offsets, _ = found.buffers()
    return pa.Array.from_buffers(pa.binary(), len(found), [validity, offsets, pa.py_buffer(data)])


def _inet6(value: bytes) -> str:
    """As MariaDB prints it (Inet6::to_string in sql_type_inet.cc): unlike inet_ntop, which follows
    RFC 5952, it also leaves out a group of zeros that stands alone."""
    text = socket.inet_ntop(socket.AF_INET6, value)
    groups = text.split(":")
    if "::" in text or "0" not in groups:
        return text
    alone = groups.index("0")
    return f"{':'.join(groups[:alone])}::{':'.join(groups[alone + 1 :])}"


_NATIVE: Mapping[str, ValueDecoder] = {
    "uuid": values_text.uuid,
    "inet4": values_text.per_distinct(4, socket.inet_ntoa),
    "inet6": values_text.per_distinct(16, _inet6),
}

_OTHERS: Mapping[FieldType, Callable[[MyType], ValueDecoder]] = {
    FieldType.NEWDECIMAL: _decimal,
    FieldType.FLOAT: _float,
    FieldType.DOUBLE: _float,
    FieldType.YEAR: _year,
    FieldType.BIT: _bit,
    FieldType.TIME2: _time,
    FieldType.TIME: _old_time,
    FieldType.ENUM: _enum,
    FieldType.SET: _set,
    FieldType.JSON: lambda kind: json_text,
    FieldType.GEOMETRY: lambda kind: geometry,
}
