"""Integers that stand as digits in a buffer: whole columns, eight digits at a time.

The eight bytes before a number's end are one word; bytes before the number count as zeros. Three
multiplications join neighbouring digits to pairs, these to fours, and these to the number (Lemire,
"Quickly parsing eight digits"). Longer numbers have a second and a third word.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cdc import ragged
from cdc.ragged import Bytes, Int64s

_Words: TypeAlias = npt.NDArray[np.uint64]

_WORD = 8
_DIGITS_MAX = 18
"""As many always fit 64 bits."""
_MINUS = ord("-")
_ZEROS = np.uint64(0x3030303030303030)
_TO_TOP = np.uint64(0x4646464646464646)
"""Added to a byte beyond '9', gives its top bit."""
_TOPS = np.uint64(0x8080808080808080)
_STEPS = [
    (np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(10 * 2**8 + 1), np.uint64(8)),
    (np.uint64(0x00FF00FF00FF00FF), np.uint64(100 * 2**16 + 1), np.uint64(16)),
    (np.uint64(0x0000FFFF0000FFFF), np.uint64(10_000 * 2**32 + 1), np.uint64(32)),
]
_BEFORE = np.array([(1 << 8 * (_WORD - count)) - 1 for count in range(_WORD + 1)], np.uint64)
"""Per number of digits in a word: which of its bits lie before them."""


def integers(data: Bytes, start: Int64s, stop: Int64s) -> Int64s | None:
    """The numbers in data[start:stop]; None: not each is an optional minus and 1 to 18 digits."""
    if not len(start) or len(data) < _WORD:
        return None
    negative = data[start] == _MINUS
    has_negative = ragged.some(negative)
    lengths = stop - start - negative if has_negative else stop - start
    longest = int(lengths.max())
    if longest > _DIGITS_MAX or int(lengths.min()) < 1:
        return None
    found = np.zeros(len(start), np.int64)
    for done in range(0, longest, _WORD):
        here = slice(None) if not done else np.flatnonzero(lengths > done)
        part = _word(data, stop[here] - done, np.minimum(lengths[here] - done, _WORD))
        if part is None:
            return None
        found[here] += part * 10**done
    if has_negative:
        np.negative(found, out=found, where=negative)
    return found


def _word(data: Bytes, stop: Int64s, count: Int64s) -> Int64s | None:
    """The numbers of up to eight digits that end there."""
    at = stop - _WORD
    if int(at.min()) < 0:
        return _word(np.concatenate([np.zeros(_WORD, np.uint8), data]), stop + _WORD, count)
    words: _Words = ragged.gather(data, at, "<u8").astype(np.uint64, copy=False)
    before = _BEFORE[count]
    words = (words & ~before) | (_ZEROS & before)
    if np.bitwise_or.reduce((words + _TO_TOP) | (words - _ZEROS)) & _TOPS:
        return None
    for mask, times, shift in _STEPS:
        words = (words & mask) * times >> shift
    return words.view(np.int64)
