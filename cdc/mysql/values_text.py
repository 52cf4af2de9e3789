"""Text and bytes of row images: from a column's character set to UTF-8.

UTF-8 and ASCII stay as they are, validated. Text of the single-byte character sets that is ASCII
only is copied as well; otherwise each byte becomes the one to four bytes of its character, by a
table. The others are decoded by Python's codecs, once per distinct value.

MariaDB's COMPRESSED columns (sql/field.cc, compress_zlib): a first byte 0 means that the value
follows as it is; otherwise its high half is the method (8: zlib), then a bit that says raw deflate,
and three bits how many bytes the length takes; these and the compressed value follow.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa

from cdc import ragged, uuids
from cdc.errors import BadData
from cdc.mysql.charset_tables import LOWER_CHANGES, UPPER_HALVES
from cdc.mysql.charsets import Charset
from cdc.ragged import Bytes, Int64s, Slices

ValueDecoder = Callable[[Slices], pa.Array]
"""Where n values are → n values, null where the slice is. BadData when one cannot be carried."""


def decoded(place: str, read: ValueDecoder, slices: Slices) -> pa.Array:
    """The values of the column that is called `place`. BadData names it."""
    try:
        return read(slices)
    except BadData as error:
        raise BadData(error.what, where=place, hint=error.hint) from error
    except (pa.ArrowInvalid, IndexError) as error:
        raise BadData(f"a value that is not of its type: {error}", where=place) from error


_UTF8 = ("utf8mb3", "utf8mb4")
_SHOWN_BYTES = 40


def text(charset: Charset) -> ValueDecoder:
    """The decoder of text in that character set, which is decodable."""
    if charset.name in _UTF8:
        return utf8
    if charset.width == 1:
        return lambda slices: _single_byte(slices, charset)
    return lambda slices: _by_codec(slices, charset)


def utf8(slices: Slices) -> pa.Array:
    """Text that is UTF-8. BadData names the first that is not."""
    try:
        return ragged.text(slices)
    except BadData as error:
        for row in range(len(slices)):
            _decoded(slices.first(row), "utf-8", "utf8mb4")
        raise BadData(error.what) from error


def _decoded(value: bytes, codec: str, charset: str) -> str:
    try:
        return value.decode(codec)
    except UnicodeDecodeError as error:
        shown = value[error.start :][:_SHOWN_BYTES].hex(" ")
        raise BadData(
            f"text that is not {charset}: from byte {error.start} of the value on: {shown}",
            hint="correct the row: SELECT … WHERE CONVERT(CONVERT(column USING binary) USING "
            f"{charset}) IS NULL finds such rows",
        ) from error


def _single_byte(slices: Slices, charset: Charset) -> pa.Array:
    found = ragged.binary(slices)
    if charset.name not in LOWER_CHANGES and ragged.is_ascii(found):
        return found.view(pa.string())
    characters, sizes = _table(charset)
    data, places = ragged.contents(found)
    own = sizes[data]
    spelled = characters[data][np.arange(characters.shape[1]) < own[:, None]]
    before = np.zeros(len(data) + 1, np.int64)
    own.cumsum(out=before[1:])
    return ragged.strings_of(spelled, np.diff(before[places]), slices.valid)


@cache
def _table(charset: Charset) -> tuple[Bytes, Int64s]:
    """The UTF-8 of every byte's character, filled up to the longest, and its length."""
    lower = LOWER_CHANGES.get(charset.name, {})
    characters = [lower.get(byte, chr(byte)) for byte in range(128)]
    characters += UPPER_HALVES.get(charset.name) or bytes(range(128, 256)).decode(charset.codec)
    spelled = [character.encode() for character in characters]
    sizes = np.array([len(each) for each in spelled], np.int64)
    width = int(sizes.max())
    filled = b"".join(each.ljust(width, b"\0") for each in spelled)
    return np.frombuffer(filled, np.uint8).reshape(256, width), sizes


def _by_codec(slices: Slices, charset: Charset) -> pa.Array:
    coded = ragged.binary(slices).dictionary_encode()
    texts = [_decoded(value, charset.codec, charset.name) for value in coded.dictionary.to_pylist()]
    for python, server in charset.changes:
        texts = [value.replace(python, server) for value in texts]
    try:
        return pa.array(texts, pa.string()).take(coded.indices)
    except UnicodeEncodeError as error:
        raise BadData(f"text in {charset.name} with half a surrogate pair: {error}") from error


def fixed_binary(width: int) -> ValueDecoder:
    """BINARY(n), from whose end the binlog leaves out zeros."""

    def decode(slices: Slices) -> pa.Array:
        data = padded(slices, width)
        if slices.valid is not None:
            data = data[slices.valid]
        lengths = np.full(len(slices), width) if slices.valid is None else slices.valid * width
        offsets = pa.py_buffer(ragged.offsets_of(lengths))
        buffers = [ragged.bitmap(slices.valid), offsets, pa.py_buffer(data.ravel())]
        return pa.Array.from_buffers(pa.binary(), len(slices), buffers)

    return decode


def padded(slices: Slices, width: int) -> Bytes:
    """A row of `width` bytes per value, with zeros behind it."""
    if ragged.some(slices.length > width):
        raise BadData(f"a value of more than {width} bytes")
    found = np.zeros((len(slices), width), np.uint8)
    data, _ = ragged.contents(ragged.binary(slices))
    found[np.arange(width) < slices.length[:, None]] = data
    return found


def uncompressed(decode: ValueDecoder) -> ValueDecoder:
    """The decoder of a COMPRESSED column, from that of its values."""

    def inflate(slices: Slices) -> pa.Array:
        values = [None if value is None else _inflated(value) for value in _bytes(slices)]
        lengths = np.array([len(value or b"") for value in values], np.int64)
        buffer, starts, _ = ragged.join([value or b"" for value in values])
        return decode(Slices(buffer, starts, lengths, slices.valid))

    return inflate


def _bytes(slices: Slices) -> list[bytes | None]:
    found: list[bytes | None] = ragged.binary(slices).to_pylist()
    return found


_ZLIB, _RAW = 0x80, 0x08


def _inflated(value: bytes) -> bytes:
    if not value or value[0] == 0:
        return value[1:]
    if value[0] & 0xF0 != _ZLIB:
        raise BadData(f"a compressed value of an unknown method: {value[:8].hex(' ')}")
    window_bits = -zlib.MAX_WBITS if value[0] & _RAW else zlib.MAX_WBITS
    try:
        return zlib.decompress(value[1 + (value[0] & 7) :], window_bits)
    except zlib.error as error:
        raise BadData(f"a compressed value that is damaged: {error}") from error


def uuid(slices: Slices) -> pa.Array:
    """MariaDB's UUID: 16 bytes."""
    return uuids.printed(padded(slices, 16), slices.valid)


def per_distinct(width: int, spell: Callable[[bytes], str]) -> ValueDecoder:
    """The decoder of a type whose values, `width` bytes, are printed by `spell`."""
    whole = fixed_binary(width)

    def decode(slices: Slices) -> pa.Array:
        coded = whole(slices).dictionary_encode()
        texts = [spell(value) for value in coded.dictionary.to_pylist()]
        return pa.array(texts, pa.string()).take(coded.indices)

    return decode
