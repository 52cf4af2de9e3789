"""Avro's integers (specification, "Binary encoding"): zigzag, then 7 bits a byte, lowest first, the
top bit of a byte saying that another follows. All rows at once, without a loop over bytes.

Writing spreads a word's 7-bit groups to its 8 bytes in three steps, halves, quarters, eighths, as
bits are interleaved for Morton codes (Warren, "Hacker's Delight", 7-2). How many bytes it needs is
read from the exponent of the spread word as a double. Reading gathers 8 bytes at every cursor,
finds the first one without the top bit by isolating the lowest set bit, and contracts the groups
in the same three steps. Numbers of more than 56 bits take a second round for bytes 9 and 10.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cdc import ragged
from cdc.errors import BadData
from cdc.ragged import Bytes, Int64s

Words = npt.NDArray[np.uint64]

WORD_BYTES = 8
_LONGEST = 10


def _word(number: int) -> np.uint64:
    return np.uint64(number)


_56 = _word(2**56 - 1)
_SPREAD = (
    (_word(0x000000000FFFFFFF), _word(0x00FFFFFFF0000000), _word(4)),
    (_word(0x00003FFF00003FFF), _word(0x0FFFC0000FFFC000), _word(2)),
    (_word(0x007F007F007F007F), _word(0x3F803F803F803F80), _word(1)),
)
_CONTRACT = (
    (_word(0x007F007F007F007F), _word(0x7F007F007F007F00), _word(1)),
    (_word(0x00003FFF00003FFF), _word(0x3FFF00003FFF0000), _word(2)),
    (_word(0x000000000FFFFFFF), _word(0x0FFFFFFF00000000), _word(4)),
)
_TOPS = _word(0x8080808080808080)
# Per length: the top bits of all bytes but the last.
_CONTINUED = np.array(
    [0x8080808080808080 & (1 << 8 * max(n - 1, 0)) - 1 for n in range(9)], np.uint64
)
_ONE = _word(1)


def encoded(values: Int64s) -> tuple[Bytes, Int64s]:
    """The bytes of every number, row i in the first length[i] bytes of row i of a matrix."""
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    widest = int(zigzag.max(initial=0))
    if widest < 1 << 7:
        return zigzag.astype(np.uint8)[:, None], np.ones(len(values), np.int64)
    if widest >= 1 << 56:
        return _encoded_wide(zigzag)
    words, lengths = _spread(zigzag)
    words |= _CONTINUED[lengths]
    width = (widest.bit_length() + 6) // 7
    return words.view(np.uint8).reshape(-1, WORD_BYTES)[:, :width], lengths


def _encoded_wide(zigzag: Words) -> tuple[Bytes, Int64s]:
    high = zigzag >> _word(56)
    low, lengths = _spread(zigzag & _56)
    more, more_lengths = _spread(high)
    lengths = np.where(high != 0, 8 + more_lengths, lengths)
    low |= np.where(high != 0, _TOPS, _CONTINUED[np.minimum(lengths, 8)])
    more |= _CONTINUED[more_lengths]
    found = np.empty((len(zigzag), _LONGEST), np.uint8)
    found[:, :8] = low.view(np.uint8).reshape(-1, WORD_BYTES)
    found[:, 8:] = more.view(np.uint8).reshape(-1, WORD_BYTES)[:, :2]
    return found, lengths


def _spread(words: Words) -> tuple[Words, Int64s]:
    """Seven bits a byte, and how many bytes hold them, at least one."""
    for low, high, shift in _SPREAD:
        words = (words & low) | ((words & high) << shift)
    # No byte has its top bit set, so rounding to a double cannot carry into the next byte.
    exponent = (words.view(np.int64).astype(np.float64).view(np.int64) >> 52) - 1023
    return words, (np.maximum(exponent, 0) >> 3) + 1


def decoded(buffer: Bytes, at: Int64s) -> tuple[Int64s, Int64s]:
    """The number at every position, and the position behind it. `buffer` is padded (ragged.PAD).

    BadData for more than ten bytes, or positions outside.
    """
    try:
        first = buffer[at]
    except IndexError as error:
        raise BadData("Avro that ends before its last field") from error
    if not ragged.some(first >= 0x80):
        values = first.astype(np.int64)
        return (values >> 1) ^ -(values & 1), at + 1
    words = ragged.gather(buffer, at, "<u8").astype(np.uint64, copy=False)
    stop = ~words & _TOPS
    if not ragged.every(stop != 0):
        return _decoded_wide(buffer, at, words, stop)
    stop &= -stop
    words &= stop + stop - _ONE
    return _unzigzag(_contracted(words)), at + ((np.bitwise_count(stop - _ONE) >> 3) + 1)


def _decoded_wide(buffer: Bytes, at: Int64s, words: Words, stop: Words) -> tuple[Int64s, Int64s]:
    long = stop == 0
    stop &= -stop
    words = np.where(long, words, words & (stop + stop - _ONE))
    values = _contracted(words & ~_TOPS)
    behind = at + np.where(long, 8, (np.bitwise_count(stop - _ONE) >> 3) + np.int64(1))
    here = np.flatnonzero(long)
    more = ragged.gather(buffer, behind[here], "<u2").astype(np.uint64)
    ninth, tenth = more & _word(0xFF), more >> _word(8)
    longest = ninth >= 0x80
    if ragged.some(longest & (tenth > 1)):
        raise BadData("an Avro integer of more than 64 bits")
    values[here] |= (ninth & _word(0x7F)) << _word(56)
    values[here] |= np.where(longest, tenth << _word(63), _word(0))
    behind[here] += 1 + longest
    return _unzigzag(values), behind


def _contracted(words: Words) -> Words:
    words = words & ~_TOPS
    for low, high, shift in _CONTRACT:
        words = (words & low) | ((words & high) >> shift)
    return words


def _unzigzag(words: Words) -> Int64s:
    return ((words >> _ONE) ^ -(words & _ONE)).view(np.int64)
