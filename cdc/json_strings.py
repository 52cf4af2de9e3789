"""Text inside JSON strings, a whole column at once (RFC 8259, section 7).

Escaping: only what must be escaped is: the quotation mark, the backslash and the characters below
U+0020, of which \\b \\t \\n \\f \\r have a short form and the others are \\u00XX. A column without
any of them is handed back as it is.

Unescaping deletes the escapes' first bytes and writes the character over the last. What
\\uXXXX spells beyond ASCII (others write so, not we) goes row by row through Python's decoder.
"""

from __future__ import annotations

import json
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.errors import BadData
from cdc.ragged import Bytes, Int64s

_QUOTE, _BACKSLASH, _SPACE = ord('"'), ord("\\"), ord(" ")
_ESCAPED: Final = {
    code: json.dumps(chr(code))[1:-1].encode() for code in (*range(32), _QUOTE, _BACKSLASH)
}
_LONGEST = 6

# Per byte: how many bytes its escape adds, what stands before its last byte, and its last byte.
_ADDED = np.zeros(256, np.int64)
_BEFORE = np.zeros((256, _LONGEST - 1), np.uint8)
_LAST = np.arange(256, dtype=np.uint8)
for _code, _escape in _ESCAPED.items():
    _ADDED[_code] = len(_escape) - 1
    _BEFORE[_code, : len(_escape) - 1] = np.frombuffer(_escape[:-1], np.uint8)
    _LAST[_code] = _escape[-1]

# Per byte behind a backslash: the character that it stands for; 0: none.
_MEANT = np.zeros(256, np.uint8)
for _short, _character in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
    _MEANT[_short] = _character
_U = ord("u")

# Per byte: its value as a hexadecimal digit; 2^16: it is none.
_HEX = np.full(256, 1 << 16, np.int64)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)


def escaped(texts: pa.Array) -> pa.Array:
    """The contents of the JSON strings of a string array (offset 0)."""
    data = characters(texts)
    if _is_plain(data):
        return texts
    special = (data < _SPACE) | (data == _QUOTE) | (data == _BACKSLASH)
    places = np.flatnonzero(special)
    codes = data[places]
    added = _ADDED[codes]
    inserted = _BEFORE[codes][np.arange(_LONGEST - 1) < added[:, None]]
    changed = data.copy()
    changed[places] = _LAST[codes]
    longer = np.insert(changed, np.repeat(places, added), inserted)
    return _moved(texts, longer, places, added)


def _is_plain(data: Bytes) -> bool:
    """Whether nothing has to be escaped: a minimum and two searches, an eighth of comparing."""
    if not len(data):
        return True
    if int(data.min()) < _SPACE:
        return False
    copied = data.tobytes()
    return b'"' not in copied and b"\\" not in copied


def unescaped(texts: pa.Array) -> pa.Array:
    """The inverse of `escaped`, for every escape of JSON. BadData for what is none."""
    data = characters(texts)
    leads = lead_backslashes(data)
    if not len(leads):
        return texts
    padded = np.append(data, np.zeros(_LONGEST, np.uint8))
    kinds = padded[leads + 1]
    long = kinds == _U
    codes = _MEANT[kinds].astype(np.int64)
    for place in range(2, _LONGEST):
        digits = _HEX[padded[leads[long] + place]]
        codes[long] = 16 * codes[long] + digits if place > 2 else digits
    removed = np.where(long, _LONGEST - 1, 1)
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1)
    cut_off = leads + removed >= offsets[np.searchsorted(offsets, leads, "right")]
    if ragged.some((codes >= 1 << 16) | ((codes == 0) & ~long) | cut_off):
        raise BadData("a string with an escape that JSON does not have")
    keep = np.ones(len(data), np.bool_)
    keep[ragged.positions_within(removed)[1] + np.repeat(leads, removed)] = False
    changed = data.copy()
    changed[leads + removed] = codes
    found = _moved(texts, changed[keep], leads, -removed)
    wide = leads[codes >= 0x80]
    return _decoded_singly(texts, found, wide) if len(wide) else found


def lead_backslashes(data: Bytes) -> Int64s:
    """Where the escapes begin: every backslash that is not itself escaped."""
    places = np.flatnonzero(data == _BACKSLASH)
    if not len(places):
        return places
    begins = np.empty(len(places), np.bool_)
    begins[0] = True
    np.not_equal(places[1:], places[:-1] + 1, out=begins[1:])
    run = np.maximum.accumulate(np.where(begins, places, 0))
    return places[(places - run) % 2 == 0]


def characters(texts: pa.Array) -> Bytes:
    """The bytes of a string or binary array (offset 0), without what lies behind the last."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return np.zeros(0, np.uint8)
    end = int(np.frombuffer(offsets, np.int32, 1, 4 * len(texts))[0])
    return np.frombuffer(data, np.uint8, end)


def _moved(texts: pa.Array, data: Bytes, places: Int64s, change: Int64s) -> pa.Array:
    """`texts` with other bytes: `change[i]` more than before at place[i]."""
    _, old, _ = texts.buffers()
    offsets = np.frombuffer(old, np.int32, len(texts) + 1).astype(np.int64)
    total = np.append(0, change.cumsum())
    offsets += total[np.searchsorted(places, offsets)]
    return ragged.strings_of(data, np.diff(offsets), _valid(texts))


def _valid(texts: pa.Array) -> npt.NDArray[np.bool_] | None:
    return np.asarray(texts.is_valid()) if texts.null_count else None


def _decoded_singly(texts: pa.Array, found: pa.Array, places: Int64s) -> pa.Array:
    """`found` with the rows that have an escape at one of `places` decoded by Python."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1)
    rows = np.unique(np.searchsorted(offsets, places, "right") - 1)
    mask = np.zeros(len(texts), np.bool_)
    mask[rows] = True
    try:
        exact = [json.loads(f'"{text}"', strict=False) for text in texts.filter(mask).to_pylist()]
        return pc.replace_with_mask(found, mask, pa.array(exact, pa.string()))
    except ValueError as error:
        raise BadData(f"a string that is not JSON's: {error}") from error
