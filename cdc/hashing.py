"""A stable 64-bit hash of key columns, by value and across types (SEMANTICS 22).

Equal values hash equally whatever type carries them, so that runs, joins and partitions agree:

    integers, booleans-as-is        the value's two's complement word, mixed
    decimals, numeric text          trailing zeros stripped; an integral value as that integer,
                                    others by unscaled integer and scale
    floats                          widened to 64 bits; an integral value as that integer, others
                                    by their bits; -0.0 is 0, every NaN is one value
    strings, binary                 words of 8 bytes, little endian, zero padded, then the length
    dates, times, timestamps        the underlying integer
    lists                           the children's hashes folded in order, then the length
    NULL                            a constant of its own

Columns are folded in order: h = mix(h ^ column hash, round constant). Mixing is the finaliser of
MurmurHash3 (public domain, A. Appleby), a bijection of 64-bit words: two integers never collide
within one column. A hash match is never proof of equality: callers compare the values.
A fractional float and an equal decimal hash differently: Postgres compares the two as floats, so
the planner casts before anybody hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]

_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0x6E756C6C6E756C6C)
_NAN = np.uint64(0x7FF8000000000000)
_FLOAT = np.uint64(0x8EBC6AF09C88C6E3)
_LENGTH = np.uint64(0xA0761D6478BD642F)


def hash_columns(columns: Sequence[pa.Array], bits: int = 64) -> Hashes:
    """One hash per row of equally long columns (no columns: raises ValueError).

    `bits` < 64 keeps only that many low bits: tests run with 4, where everything collides.
    """
    if not columns:
        raise ValueError("no columns to hash")
    folded = _column(columns[0])
    for column in columns[1:]:
        folded = _mix((folded * _SEED) ^ _column(column))
    return folded if bits == 64 else folded & np.uint64((1 << bits) - 1)


def _mix(words: Hashes) -> Hashes:
    words = words ^ (words >> _S33)
    words *= _M1
    words ^= words >> _S33
    words *= _M2
    words ^= words >> _S33
    return words


def _column(column: pa.Array) -> Hashes:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    hashes = _values(column)
    if column.null_count:
        hashes = np.where(np.asarray(column.is_null()), _NULL, hashes)
    return hashes


def _values(column: pa.Array) -> Hashes:
    """Hashes of the values; anything where null."""
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        return _numeric_texts(column.storage)
    if pa.types.is_integer(kind):
        return _mix(_words(column, kind.bit_width, not pa.types.is_unsigned_integer(kind)))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _bytes(column)
    if pa.types.is_floating(kind):
        return _floats(column)
    if pa.types.is_decimal(kind):
        return _decimals(column)
    if pa.types.is_boolean(kind):
        return _mix(np.asarray(column.fill_null(False).cast(pa.uint8())).astype(np.uint64))
    if pa.types.is_temporal(kind):
        return _mix(_words(column, kind.bit_width, True))
    if pa.types.is_list(kind):
        return _lists(column)
    if pa.types.is_null(kind):
        return np.full(len(column), _NULL, np.uint64)
    return _bytes(column.cast(pa.binary()))


def _words(column: pa.Array, bit_width: int, signed: bool) -> Hashes:
    """The column's integers, sign-extended to 64 bits; anything where null."""
    buffer = column.buffers()[1]
    kind = np.dtype(f"{'i' if signed else 'u'}{bit_width // 8}")
    if buffer is None:
        return np.zeros(len(column), np.uint64)
    found = np.frombuffer(buffer, kind, len(column), column.offset * kind.itemsize)
    return found.astype(np.int64).view(np.uint64) if bit_width < 64 else found.view(np.uint64)


def _bytes(column: pa.Array) -> Hashes:
    """Strings or binaries: fold words of 8 bytes, all rows at once per word."""
    count = len(column)
    _, offsets_buffer, data_buffer = column.buffers()
    if offsets_buffer is None:
        return np.zeros(count, np.uint64)
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    width = np.int64 if wide else np.int32
    offsets = np.frombuffer(
        offsets_buffer, width, count + 1, column.offset * np.dtype(width).itemsize
    )
    if count == 1:
        return _one(data_buffer, int(offsets[0]), int(offsets[1]))
    starts = offsets[:-1].astype(np.int64)
    lengths = np.diff(offsets).astype(np.int64)
    return _fold_words(_padded(data_buffer), starts, lengths)


def _one(data: pa.Buffer | None, start: int, stop: int) -> Hashes:
    """The same fold for one row, in Python integers: numpy's calls would cost more."""
    text = bytes(data[start:stop]) if data is not None and stop > start else b""
    folded = (len(text) * int(_LENGTH)) & _ALL
    for at in range(0, len(text), 8):
        word = int.from_bytes(text[at : at + 8], "little")
        folded = _mix_one(folded ^ word)
    return np.array([_mix_one(folded)], np.uint64)


_ALL = 2**64 - 1


def _mix_one(word: int) -> int:
    word ^= word >> 33
    word = word * int(_M1) & _ALL
    word ^= word >> 33
    word = word * int(_M2) & _ALL
    return word ^ word >> 33


def _padded(data: pa.Buffer | None) -> npt.NDArray[np.uint8]:
    """The bytes, readable 8 beyond their end."""
    size = data.size if data is not None else 0
    padded = np.zeros(size + 8, np.uint8)
    if data is not None:
        padded[:size] = np.frombuffer(data, np.uint8)
    return padded


def _fold_words(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Hashes:
    words = np.lib.stride_tricks.as_strided(
        data[: len(data) - 7].view(), (len(data) - 7, 8), (1, 1)
    )
    folded = lengths.astype(np.uint64) * _LENGTH
    longest = int(lengths.max(initial=0))
    for at in range(0, longest, 8):
        left = lengths - at
        rows = None if int(left.min()) > 0 else np.flatnonzero(left > 0)
        where, rest = (starts, left) if rows is None else (starts[rows], left[rows])
        word = words[where + at].view(np.uint64).reshape(-1)
        if int(rest.min()) < 8:
            word = word & _MASK_TABLE[np.minimum(rest, 8)]
        if rows is None:
            folded = _mix(folded ^ word)
        else:
            folded[rows] = _mix(folded[rows] ^ word)
    return _mix(folded)


_MASK_TABLE = np.array([(1 << (8 * k)) - 1 for k in range(9)], np.uint64)


def _floats(column: pa.Array) -> Hashes:
    buffer, width = column.buffers()[1], column.type.bit_width // 8
    found = np.frombuffer(buffer, f"f{width}", len(column), column.offset * width)
    values = found.astype(np.float64)
    integral = (np.floor(values) == values) & (np.abs(values) < 2.0**63)
    whole = np.where(integral, values, 0).astype(np.int64).view(np.uint64)
    hashes = _mix(whole)
    if integral.all():
        return hashes
    bits = np.where(np.isnan(values), _NAN, values.view(np.uint64))
    return np.where(integral, hashes, _mix(bits ^ _FLOAT))


def _decimals(column: pa.Array) -> Hashes:
    """Integral values by their integer; others by canonical digits, found without text: strip
    trailing zeros from the unscaled integer, then mix its two words with the scale left."""
    if column.type.bit_width != 128:
        return _numeric_texts(column.cast(pa.string()))
    return _hash_unscaled(*_unscaled(column), column.type.scale)


def _unscaled(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Low and high words of a decimal128 column's integers."""
    pairs = np.frombuffer(column.buffers()[1], np.int64, 2 * len(column), column.offset * 16)
    return pairs[0::2], pairs[1::2]


def _hash_unscaled(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], scale: int) -> Hashes:
    narrow = high == (low >> 63)
    values = np.where(narrow, low, 0)
    scales = np.full(len(values), scale, np.int64)
    for _ in range(scale):
        divisible = (values % 10 == 0) & (scales > 0)
        if not divisible.any():
            break
        values = np.where(divisible, values // 10, values)
        scales = np.where(divisible, scales - 1, scales)
    hashes = _mix(values.view(np.uint64))
    fractional = scales > 0
    if fractional.any():
        hashes = np.where(fractional, _fraction(values.view(np.uint64), scales), hashes)
    for row in np.flatnonzero(~narrow):
        value = (int(high[row]) << 64) | (int(low[row]) & _ALL)
        hashes[row] = _hash_number(Decimal(value).scaleb(-scale))
    return hashes


def _fraction(values: Hashes, scales: npt.NDArray[np.int64]) -> Hashes:
    return _mix(_mix(values) ^ (scales.astype(np.uint64) * _LENGTH))


def _lists(column: pa.Array) -> Hashes:
    """Children folded in order, all rows at once per place; then the length."""
    offsets = np.asarray(column.offsets).astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    if column.null_count:
        lengths = np.where(np.asarray(column.is_null()), 0, lengths)
    children = _column(column.values) if len(column.values) else np.zeros(1, np.uint64)
    folded = lengths.astype(np.uint64) * _LENGTH
    for place in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > place)
        folded[rows] = _mix((folded[rows] * _SEED) ^ children[starts[rows] + place])
    return _mix(folded)


def _numeric_texts(column: pa.Array) -> Hashes:
    """Canonical numeric texts (SEMANTICS 24): by value, so 5.0, 5.00 and the integer 5 agree."""
    texts = column.to_pylist()
    hashes = [0 if text is None else _hash_number(Decimal(text)) for text in texts]
    return np.array(hashes, np.uint64)


def _hash_number(value: Decimal) -> int:
    """One number, as the vectorised paths hash it."""
    if value.is_nan():
        return int(_NAN)
    if value.is_infinite():
        return int(_NAN) + (1 if value > 0 else 2)
    sign, digits, exponent = value.as_tuple()
    unscaled = int("".join(map(str, digits)) or "0")
    assert isinstance(exponent, int)
    while exponent < 0 and unscaled % 10 == 0 and unscaled:
        unscaled, exponent = unscaled // 10, exponent + 1
    if unscaled == 0:
        exponent = 0
    if exponent > 0:
        unscaled, exponent = unscaled * 10**exponent, 0
    unscaled = -unscaled if sign else unscaled
    if -(2**63) <= unscaled < 2**63:
        mixed = _mix_one(unscaled & _ALL)
        if exponent == 0:
            return mixed
        return _mix_one(mixed ^ (-exponent * int(_LENGTH) & _ALL))
    text = f"{unscaled}e{exponent}".encode()  # beyond 64 bits: by its digits
    return int(_one(pa.py_buffer(text), 0, len(text))[0])
