"""Rows of Connect values as Avro's binary encoding, whole columns at once.

The schema is Connect's; the bytes fit its Avro form (connect_schema.avro_json): a struct is its
fields, an optional value a branch of [null, T] and the value, a text or bytes its length and
itself, an array one block of its elements and the block that ends it.

1. The schema is walked once. Every field adds pieces: constants, *small* pieces (integers, floats,
   lengths, branches: bytes in the first length[i] places of row i of a matrix) and Arrow arrays of
   bytes, which stay where they are.
2. Small pieces and constants that follow each other are put side by side in one matrix, and what
   is not used of its rows is compressed away: one Arrow array for all of them. Pieces that are
   equally long in all rows (numbers that are alike, such as times) leave nothing unused.
3. All arrays are joined element by element (Arrow's binary_join_element_wise): one memcpy each.

Confluent's wire format puts a zero byte and the schema's id before the value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.errors import BadData
from cdc.formats import avro_few, varint
from cdc.formats.connect_schema import Schema
from cdc.formats.connect_values import Composed, Constant, Lists, Structs, Values
from cdc.ragged import Bools, Bytes, Int64s

MAGIC = 0
FEW = 4
"""Up to here one row after the other costs less than all together."""
_LONG_BYTES = 24
"""From here on joining one more piece costs less than copying a constant into every row first."""
_EMPTY = pa.scalar(b"", pa.binary())
_NULLS_ARE_EMPTY = pc.JoinOptions("replace", "")
_FLOATS = {"float": "<f4", "double": "<f8"}


def confluent_header(schema_id: int) -> bytes:
    """What stands before a value of that schema."""
    return struct.pack(">bI", MAGIC, schema_id)


def encode(schema: Schema, values: Values, num_rows: int, header: bytes = b"") -> pa.Array:
    """The bytes of every row, as a binary array, `header` before each. BadData for a null in a
    field that is not optional."""
    if num_rows <= FEW:
        return pa.array(avro_few.encoded(schema, values, num_rows, header), pa.binary())
    pieces = _Pieces(num_rows)
    pieces.constant(header)
    _write(pieces, schema, values, None)
    return pieces.joined()


@dataclass(frozen=True)
class _Small:
    """Row i has bytes[i, :lengths[i]]; all of it when lengths is None."""

    bytes: Bytes
    lengths: Int64s | None


@dataclass
class _Pieces:
    """What every row consists of, in order."""

    num_rows: int
    arrays: list[pa.Array | pa.Scalar] = field(default_factory=list)
    pending: list[bytes | _Small] = field(default_factory=list)

    def constant(self, data: bytes) -> None:
        if not data:
            return
        if self.pending and isinstance(self.pending[-1], bytes):
            self.pending[-1] += data
        else:
            self.pending.append(data)

    def small(self, data: Bytes, lengths: Int64s | None) -> None:
        if lengths is not None and ragged.same(lengths):
            data, lengths = data[:, : int(lengths[0])], None
        self.pending.append(_Small(data, lengths))

    def array(self, data: pa.Array) -> None:
        self._flush()
        self.arrays.append(data)

    def joined(self) -> pa.Array:
        self._flush()
        if not any(isinstance(array, pa.Array) for array in self.arrays):
            whole = b"".join(scalar.as_py() for scalar in self.arrays)
            return pa.array([whole] * self.num_rows, pa.binary())
        if len(self.arrays) == 1:
            return self.arrays[0]
        try:
            return pc.call_function(
                "binary_join_element_wise", [*self.arrays, _EMPTY], _NULLS_ARE_EMPTY
            )
        except pa.ArrowCapacityError as error:
            raise BadData(
                "the records of one batch have more than 2 GiB", hint="lower the batch's size"
            ) from error

    def _flush(self) -> None:
        """Step 2. Long constants stay constants."""
        parts, self.pending = self.pending, []
        for _, group in groupby(parts, _is_long):
            some = list(group)
            if len(some) == 1 and isinstance(some[0], bytes):
                self.arrays.append(pa.scalar(some[0], pa.binary()))
            else:
                self.arrays.append(_compressed(some, self.num_rows))


def _is_long(part: bytes | _Small) -> bool:
    return isinstance(part, bytes) and len(part) >= _LONG_BYTES


def _compressed(parts: Sequence[bytes | _Small], num_rows: int) -> pa.Array:
    widths = [len(p) if isinstance(p, bytes) else p.bytes.shape[1] for p in parts]
    blank = [p if isinstance(p, bytes) else bytes(p.bytes.shape[1]) for p in parts]
    laid = np.empty((num_rows, sum(widths)), np.uint8)
    laid[:] = np.frombuffer(b"".join(blank), np.uint8)
    used: Bools | None = None
    total = np.zeros(num_rows, np.int64)
    place = 0
    for part, width in zip(parts, widths, strict=True):
        here = slice(place, place + width)
        place += width
        if isinstance(part, bytes):
            total += width
            continue
        laid[:, here] = part.bytes
        if part.lengths is None:
            total += width
            continue
        if used is None:
            used = np.ones(laid.shape, np.bool_)
        np.less(np.arange(width), part.lengths[:, None], out=used[:, here])
        total += part.lengths
    data = laid.ravel() if used is None else laid[used]
    offsets = pa.py_buffer(ragged.offsets_of(total))
    return pa.Array.from_buffers(pa.binary(), num_rows, [None, offsets, pa.py_buffer(data)])


def _write(pieces: _Pieces, schema: Schema, values: Values, within: Bools | None) -> None:
    """Add what the rows have for one field; rows outside `within` have nothing."""
    if isinstance(values, Constant):
        _write_constant(pieces, schema, values, within)
        return
    if isinstance(values, Composed):
        values = values.whole()
    here = _both(within, _validity(values))
    if schema.optional:
        _write_branch(pieces, here, within, null_first=schema.default is None)
    elif here is not None and not np.array_equal(
        here, np.ones(len(here), np.bool_) if within is None else within
    ):
        raise BadData("NULL in a field that is not optional", hint=avro_few.REQUIRED_HINT)
    if here is not None and not ragged.some(here):
        return
    if isinstance(values, Structs):
        for name, inner in schema.fields:
            _placed(pieces, name, inner, values.fields[name], here)
    elif isinstance(values, Lists):
        _write_lists(pieces, schema, values, here)
    else:
        _write_array(pieces, schema, values, here)


def _placed(
    pieces: _Pieces, name: str, schema: Schema, values: Values, within: Bools | None
) -> None:
    try:
        _write(pieces, schema, values, within)
    except BadData as error:
        where = f"{name}.{error.where}" if error.where else name
        raise BadData(error.what, where=where, hint=error.hint) from error


def _validity(values: pa.Array | Lists | Structs) -> Bools | None:
    if isinstance(values, Lists | Structs):
        return values.valid
    return np.asarray(values.is_valid()) if values.null_count else None


def _both(one: Bools | None, other: Bools | None) -> Bools | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _write_branch(
    pieces: _Pieces, here: Bools | None, within: Bools | None, *, null_first: bool
) -> None:
    """The union's branch: which of [null, T] (or [T, null]) it is."""
    if here is None:
        pieces.constant(b"\2" if null_first else b"\0")
        return
    branch = (here if null_first else ~here).astype(np.uint8) * 2
    pieces.small(branch[:, None], None if within is None else within.astype(np.int64))


def _write_constant(
    pieces: _Pieces, schema: Schema, values: Constant, within: Bools | None
) -> None:
    data = _constant(schema, values.value)
    if within is None:
        pieces.constant(data)
    elif data:
        spread = np.broadcast_to(np.frombuffer(data, np.uint8), (len(within), len(data)))
        pieces.small(spread, within * np.int64(len(data)))


def _constant(schema: Schema, value: bool | int | str | None) -> bytes:
    null_first = schema.default is None
    if value is None:
        if not schema.optional:
            raise BadData("NULL in a field that is not optional", hint=avro_few.REQUIRED_HINT)
        return b"\0" if null_first else b"\2"
    branch = b"" if not schema.optional else b"\2" if null_first else b"\0"
    if isinstance(value, bool):
        return branch + bytes([value])
    if isinstance(value, int):
        return branch + _varint(value)
    data = value.encode()
    return branch + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found, lengths = varint.encoded(np.array([value]))
    return found[0, : lengths[0]].tobytes()


def _write_array(pieces: _Pieces, schema: Schema, values: pa.Array, here: Bools | None) -> None:
    kind = schema.type
    if kind in ("string", "bytes"):
        _write_bytes(pieces, values, here)
    elif kind == "boolean":
        bits = np.asarray(values.fill_null(False) if values.null_count else values).astype(np.uint8)
        pieces.small(bits[:, None], None if here is None else here.astype(np.int64))
    elif kind in _FLOATS:
        numbers = _numbers(values).astype(_FLOATS[kind], copy=False)
        data = numbers.view(np.uint8).reshape(len(values), -1)
        pieces.small(data, None if here is None else here * np.int64(data.shape[1]))
    else:
        integers = _numbers(values).astype(np.int64)
        if here is not None:
            integers *= here
        data, lengths = varint.encoded(integers)
        if here is not None:
            lengths = lengths * here
        pieces.small(data, None if here is None and data.shape[1] == 1 else lengths)


def _numbers(values: pa.Array) -> npt.NDArray[np.generic]:
    """The array's memory as numbers; anything where null."""
    kind = np.dtype(values.type.to_pandas_dtype())
    return np.frombuffer(values.buffers()[1], kind, len(values), values.offset * kind.itemsize)


def _write_bytes(pieces: _Pieces, values: pa.Array, here: Bools | None) -> None:
    _, places = ragged.contents(values)
    lengths = np.diff(places)
    if here is not None:
        lengths *= here
    data, sizes = varint.encoded(lengths)
    if here is not None:
        sizes = sizes * here
    pieces.small(data, None if here is None and data.shape[1] == 1 else sizes)
    if here is not None and int(here.sum()) < len(values) - values.null_count:
        values = pc.if_else(pa.array(here), values, pa.scalar(None, values.type))
    pieces.array(values.view(pa.binary()) if values.type != pa.binary() else values)


def _write_lists(pieces: _Pieces, schema: Schema, values: Lists, here: Bools | None) -> None:
    """One block of the row's elements, if it has any, then the empty block."""
    if schema.items is None:
        raise BadData("an array without the type of its elements")
    count = int(values.lengths.sum())
    elements = encode(schema.items, values.items, count)
    data, places = ragged.contents(elements)
    bounds = np.append(0, values.lengths.cumsum())
    offsets = pa.py_buffer(places[bounds].astype(np.int32))
    blocks = pa.Array.from_buffers(
        pa.binary(), len(values.lengths), [None, offsets, pa.py_buffer(data)]
    )
    lengths = values.lengths if here is None else values.lengths * here
    counts, sizes = varint.encoded(lengths)
    pieces.small(counts, sizes * (lengths > 0))
    if here is not None:
        blocks = pc.if_else(pa.array(here), blocks, pa.scalar(None, pa.binary()))
        pieces.array(blocks)
        pieces.small(np.zeros((len(here), 1), np.uint8), here.astype(np.int64))
    else:
        pieces.array(blocks)
        pieces.constant(b"\0")
