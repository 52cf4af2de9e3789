"""Values of one column → one Arrow array: the decoders of every type, by PgType.

`compile_column` picks the decoders once per relation; a `ColumnDecoder` then reads thousands of
values at once. Both decoders of a type give identical arrays. A type without a binary decoder
(types.binary_decodable) is only read in text: COPY selects its text, and a stream that has it is
in text. Even in a binary stream some columns are text: those whose type has no send function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged, uuids
from cdc.errors import BadData
from cdc.postgres import values_array, values_numeric, values_time
from cdc.postgres.types import BUILT_IN, PgType, arrow_type, binary_decodable, undomained
from cdc.ragged import Int64s, Slices
from cdc.schema import NUMERIC_TEXT

ValueDecoder = Callable[[Slices], pa.Array]
"""Where n values are → n values, null where the slice is. BadData when one cannot be carried."""

TEXT, BINARY, NULL, UNCHANGED = (ord(letter) for letter in "tbnu")
"""The kind byte before each value of a pgoutput tuple."""


@dataclass(frozen=True)
class ColumnDecoder:
    """How one column is read. `place` names it in errors: schema.table.column."""

    place: str
    type: pa.DataType
    binary: ValueDecoder
    text: ValueDecoder

    def decode(self, slices: Slices, kinds: int | ragged.Bytes) -> pa.Array:
        """n values: `kinds` is the one kind of all values that are not null, or one per row."""
        try:
            if isinstance(kinds, int):
                return self._of_kind(kinds)(slices)
            return self._mixed(slices, kinds)
        except BadData as error:
            raise BadData(error.what, where=self.place, hint=error.hint) from error
        except pa.ArrowInvalid as error:
            raise BadData(f"a value that is not of its type: {error}", where=self.place) from error

    def _of_kind(self, kind: int) -> ValueDecoder:
        return self.binary if kind == BINARY else self.text

    def _mixed(self, slices: Slices, kinds: ragged.Bytes) -> pa.Array:
        is_binary = kinds == BINARY
        is_text = kinds == TEXT
        if not ragged.some(is_binary):
            return self.text(slices)
        if not ragged.some(is_text):
            return self.binary(slices)
        in_binary, others = np.flatnonzero(is_binary), np.flatnonzero(~is_binary)
        both = [self.binary(slices.take(in_binary)), self.text(slices.take(others))]
        place = np.empty(len(kinds), np.int64)
        place[np.concatenate([in_binary, others])] = np.arange(len(kinds))
        return pa.concat_arrays(both).take(pa.array(place))


def compile_column(place: str, kind: PgType) -> ColumnDecoder:
    """The decoders of a column of that type."""
    kind = undomained(kind)
    text = text_decoder(kind)
    binary = binary_decoder(kind) if binary_decodable(kind) else _undecodable(kind)
    return ColumnDecoder(place, arrow_type(kind), binary, text)


def _undecodable(kind: PgType) -> ValueDecoder:
    def refuse(slices: Slices) -> pa.Array:
        if slices.valid is not None and not ragged.some(slices.valid):
            return pa.nulls(len(slices), arrow_type(kind))
        raise BadData(
            f"{kind.spelling} arrived in binary, which is not understood",
            hint="a stream that has such a column runs with binary 'false'",
        )

    return refuse


def binary_decoder(kind: PgType) -> ValueDecoder:
    """The decoder of the type's binary form; the type is `binary_decodable`."""
    kind = undomained(kind)
    if kind.element is not None:
        return values_array.binary_lists(arrow_type(kind), binary_decoder(kind.element))
    if kind.oid == BUILT_IN["numeric"]:
        return _numeric(kind, values_numeric.decimal, values_numeric.canonical)
    return _BINARY.get(kind.oid, ragged.text)


def text_decoder(kind: PgType) -> ValueDecoder:
    """The decoder of the type's text."""
    kind = undomained(kind)
    travels = arrow_type(kind)
    if kind.element is not None and pa.types.is_list(travels):
        return values_array.text_lists(travels, text_decoder(kind.element), kind.delimiter)
    if kind.oid == BUILT_IN["numeric"]:
        return _numeric(kind, values_numeric.from_text, values_numeric.canonical_from_text)
    return _TEXT.get(kind.oid, ragged.text)


def _numeric(
    kind: PgType,
    exact: Callable[[Slices, pa.DataType], pa.Array],
    canonical: ValueDecoder,
) -> ValueDecoder:
    travels = arrow_type(kind)
    if travels == NUMERIC_TEXT:
        return canonical
    return lambda slices: exact(slices, travels)


def _fixed(wire: str, travels: pa.DataType) -> ValueDecoder:
    width = np.dtype(wire).itemsize

    def decode(slices: Slices) -> pa.Array:
        _require_width(slices, width)
        values = ragged.gather(slices.buffer, slices.start, wire)
        return ragged.fixed(travels, values, slices.valid)

    return decode


def _of_width(width: int, decode: ValueDecoder) -> ValueDecoder:
    def checked(slices: Slices) -> pa.Array:
        _require_width(slices, width)
        return decode(slices)

    return checked


def _require_width(slices: Slices, width: int) -> None:
    wrong = slices.length != width
    if slices.valid is not None:
        wrong &= slices.valid
    if ragged.some(wrong):
        found = int(slices.length[int(wrong.argmax())])
        raise BadData(f"a binary value of {found} bytes where {width} were expected")


def _oid(slices: Slices) -> pa.Array:
    _require_width(slices, 4)
    stored = ragged.gather(slices.buffer, slices.start, ">u4").astype(np.int64)
    return ragged.fixed(pa.int64(), stored, slices.valid)


def _boolean(slices: Slices) -> pa.Array:
    return ragged.booleans(slices.buffer[slices.start] != 0, slices.valid)


def _boolean_from_text(slices: Slices) -> pa.Array:
    return ragged.booleans(slices.buffer[slices.start] == ord("t"), slices.valid)


# charout: byte 0 prints as nothing, the upper half in octal.
_CHARACTERS = pa.array(
    [""] + [chr(code) for code in range(1, 128)] + [f"\\{code:03o}" for code in range(128, 256)]
)


def _character(slices: Slices) -> pa.Array:
    codes = pa.array(slices.buffer[slices.start], mask=_mask(slices))
    return _CHARACTERS.take(codes)


def _mask(slices: Slices) -> ragged.Bools | None:
    return None if slices.valid is None else ~slices.valid


def _uuid(slices: Slices) -> pa.Array:
    raw = ragged.gather(slices.buffer, slices.start, "V16").view(np.uint8).reshape(-1, 16)
    return uuids.printed(raw, slices.valid)


def _jsonb(slices: Slices) -> pa.Array:
    versions = slices.buffer[slices.start]
    wrong = (versions != 1) if slices.valid is None else (versions != 1) & slices.valid
    if ragged.some(wrong):
        raise BadData("a binary jsonb of another version than 1")
    return ragged.text(slices.skip(1))


_NIBBLES = np.zeros(256, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def _bytea_from_text(slices: Slices) -> pa.Array:
    head = ragged.gather(slices.buffer, slices.start, "V2")
    wrong = head != np.frombuffer(b"\\x", "V2")[0]
    if ragged.some(wrong if slices.valid is None else wrong & slices.valid):
        raise BadData("bytea not in hex", hint="the session's bytea_output changed")
    digits, _ = ragged.contents(ragged.binary(slices.skip(2)))
    values = (_NIBBLES[digits[0::2]] << 4) | _NIBBLES[digits[1::2]]
    lengths: Int64s = np.maximum(slices.length - 2, 0) // 2
    offsets = ragged.offsets_of(lengths)
    buffers = [ragged.bitmap(slices.valid), pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(slices), buffers)


def _cast(travels: pa.DataType) -> ValueDecoder:
    return lambda slices: ragged.text(slices).cast(travels)


_TIMESTAMP, _TIMESTAMPTZ = pa.timestamp("us"), pa.timestamp("us", "UTC")

_BINARY: Mapping[int, ValueDecoder] = {
    BUILT_IN["int2"]: _fixed(">i2", pa.int16()),
    BUILT_IN["int4"]: _fixed(">i4", pa.int32()),
    BUILT_IN["int8"]: _fixed(">i8", pa.int64()),
    BUILT_IN["oid"]: _oid,
    BUILT_IN["float4"]: _fixed(">f4", pa.float32()),
    BUILT_IN["float8"]: _fixed(">f8", pa.float64()),
    BUILT_IN["bool"]: _of_width(1, _boolean),
    BUILT_IN["char"]: _of_width(1, _character),
    BUILT_IN["bytea"]: ragged.binary,
    BUILT_IN["uuid"]: _of_width(16, _uuid),
    BUILT_IN["jsonb"]: _jsonb,
    BUILT_IN["date"]: _of_width(4, values_time.date),
    BUILT_IN["time"]: _of_width(8, values_time.time),
    BUILT_IN["timestamp"]: _of_width(8, lambda s: values_time.timestamp(s, _TIMESTAMP)),
    BUILT_IN["timestamptz"]: _of_width(8, lambda s: values_time.timestamp(s, _TIMESTAMPTZ)),
    BUILT_IN["interval"]: _of_width(16, values_time.interval),
}

_TEXT: Mapping[int, ValueDecoder] = {
    BUILT_IN["int2"]: _cast(pa.int16()),
    BUILT_IN["int4"]: _cast(pa.int32()),
    BUILT_IN["int8"]: _cast(pa.int64()),
    BUILT_IN["oid"]: _cast(pa.int64()),
    BUILT_IN["float4"]: _cast(pa.float32()),
    BUILT_IN["float8"]: _cast(pa.float64()),
    BUILT_IN["bool"]: _boolean_from_text,
    BUILT_IN["bytea"]: _bytea_from_text,
    BUILT_IN["date"]: values_time.date_from_text,
    BUILT_IN["time"]: values_time.time_from_text,
    BUILT_IN["timestamp"]: lambda s: values_time.timestamp_from_text(s, _TIMESTAMP),
    BUILT_IN["timestamptz"]: lambda s: values_time.timestamp_from_text(s, _TIMESTAMPTZ),
}
