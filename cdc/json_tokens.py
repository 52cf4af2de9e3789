"""Where the values of JSON objects and arrays stand: a tokenizer over a whole column at once.

After simdjson's first stage (Langdale, Lemire: "Parsing Gigabytes of JSON per Second", section 3),
with numpy instead of SIMD registers and positions instead of bitmaps:

1. The positions of all quotation marks, brackets, braces, colons and commas, without the escaped
   quotation marks.
2. Quotation marks open and close strings in turn; of the other characters those inside strings
   (between an odd and an even mark) are dropped.
3. Brackets and braces add up to a depth. What is deeper than the object's (array's) own members
   is dropped: a nested value is taken as it stands.
4. What remains of a row is, for an object, { " " : [" "] , " " : [" "] … }: a member begins with
   each brace or comma, and its value stands between the colon and the next comma or brace. An
   array has no names. Anything else is BadData.

It finds places and checks this structure; it does not check that a number is one (the casts do),
nor what is nested. Rows that are null have no members.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.json_strings import characters, lead_backslashes
from cdc.ragged import Bools, Bytes, Int64s, Slices

_QUOTE, _COMMA, _COLON = ord('"'), ord(","), ord(":")
_STEP = np.zeros(256, np.int8)
_STEP[np.frombuffer(b"{[", np.uint8)] = 1
_STEP[np.frombuffer(b"}]", np.uint8)] = -1
BLANK = np.zeros(256, np.bool_)
BLANK[np.frombuffer(b" \t\r\n", np.uint8)] = True
_NULL = b"null"
_WHAT = {b"{": "an object", b"[": "an array"}


@dataclass(frozen=True, eq=False)
class Values:
    """Values of one kind of place, in order: value i is data[start[i] : stop[i]], without blanks
    around and, if it `is_string`, without its quotation marks; `is_null`: JSON's null. `row` is
    the text that has it, `colon` the position before the value and its blanks."""

    data: Bytes
    row: Int64s
    colon: Int64s
    start: Int64s
    stop: Int64s
    is_string: Bools
    is_null: Bools

    def take(self, index: Int64s) -> Values:
        return Values(
            self.data,
            self.row[index],
            self.colon[index],
            self.start[index],
            self.stop[index],
            self.is_string[index],
            self.is_null[index],
        )

    def slices(self, *, marks: bool) -> Slices:
        """The texts, null where JSON's null; strings with their quotation marks if `marks`."""
        start, length = self.start, self.stop - self.start
        if marks:
            start, length = start - self.is_string, length + 2 * self.is_string
        if not ragged.some(self.is_null):
            return Slices(self.data, start, length)
        valid = ~self.is_null
        return Slices(self.data, start, length * valid, valid)


@dataclass(frozen=True, eq=False)
class Members:
    """All members of all objects, and their names' places, without quotation marks."""

    rows: int
    values: Values
    name_start: Int64s
    name_stop: Int64s

    def named(self, name: str) -> Values:
        """The members of that name, at most one per row: the last, as JSON parsers do."""
        first, *others = _spellings(name)
        here = self._spelled(first)
        for other in others:
            here = np.union1d(here, self._spelled(other))
        found = self.values.take(here)
        twice = found.row[:-1] == found.row[1:]
        return found.take(np.flatnonzero(np.append(~twice, True))) if ragged.some(twice) else found

    def _spelled(self, name: bytes) -> Int64s:
        here = np.flatnonzero(self.name_stop - self.name_start == len(name))
        if not name or not len(here):
            return here
        found = ragged.gather(self.values.data, self.name_start[here], f"S{len(name)}")
        same: Bools = np.asarray(found == name)
        return here if ragged.every(same) else here[same]


@lru_cache(maxsize=1024)
def _spellings(name: str) -> tuple[bytes, ...]:
    """The name inside quotation marks: escaped as little as possible; ASCII only."""
    least = json.dumps(name, ensure_ascii=False)[1:-1].encode()
    ascii_only = json.dumps(name)[1:-1].encode()
    return (least,) if least == ascii_only else (least, ascii_only)


def members(texts: pa.Array) -> Members:
    """The members of JSON objects, one per row of a binary or string array (offset 0)."""
    tokens = _outermost(texts, b"{")
    mark, at = tokens.mark, tokens.at
    begin = tokens.begin
    _require(tokens, ragged.every(mark[begin + 1] == _QUOTE), "a name")
    _require(tokens, ragged.every(mark[begin + 3] == _COLON), "a colon behind each name")
    for before in (begin, begin + 2):
        adjacent = at[before] + 1 == at[before + 1]
        if not ragged.every(adjacent):
            blank = _is_blank(tokens.data, at[before], at[before + 1])
            _require(tokens, ragged.every(blank), "a comma, a name or a colon")
    values = _values(tokens, begin + 3)
    return Members(len(texts), values, at[begin + 1] + 1, at[begin + 2])


def elements(texts: pa.Array) -> Values:
    """The elements of JSON arrays, one per row of a string array (offset 0)."""
    tokens = _outermost(texts, b"[")
    return _values(tokens, tokens.begin)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The tokens of the outermost level; `begin`: the indices of those before a member."""

    data: Bytes
    what: str
    at: Int64s
    mark: Bytes
    begin: Int64s
    row: Int64s


def _outermost(texts: pa.Array, opening: bytes) -> _Tokens:
    """Steps 1 to 3. BadData unless every row is one object (array)."""
    what = _WHAT[opening]
    rows = np.arange(len(texts))
    if texts.null_count:
        rows = np.flatnonzero(np.asarray(texts.is_valid()))
        # Null rows may have bytes.
        texts = texts.fill_null(b"" if pa.types.is_binary(texts.type) else "")
    data = characters(texts)
    at, mark = _structure(data)
    step = _STEP.take(mark)
    depth = step.cumsum(dtype=np.int32)
    kept = depth <= 1
    kept &= (step >= 0) | (depth == 0)
    if not ragged.every(kept):
        index = np.flatnonzero(kept)
        at, mark, step = at.take(index), mark.take(index), step.take(index)
    opens, closes = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    _, places = ragged.contents(texts)
    if not _is_one_per_row(data, places[rows], places[rows + 1], at[opens], at[closes]):
        raise BadData(f"a JSON text that is not {what}")
    if not ragged.every(mark[opens] == ord(opening)):
        raise BadData(f"a JSON text that is not {what}")
    begins = (mark == _COMMA) | (step == 1)
    # Empty objects have nothing between their braces.
    empty = opens[closes == opens + 1]
    begins[empty[_is_blank(data, at[empty], at[empty + 1])]] = False
    begin = np.flatnonzero(begins)
    first = np.zeros(len(at), np.int64)
    first[opens] = 1
    row = rows[first.cumsum()[begin] - 1]
    # Reading a few tokens past the last of a broken text stays inside.
    return _Tokens(
        data, what, np.append(at, [len(data)] * 8), np.append(mark, np.zeros(8, np.uint8)),
        begin, row,
    )  # fmt: skip


def _structure(data: Bytes) -> tuple[Int64s, Bytes]:
    """Steps 1 and 2: positions and bytes of quotation marks and of what is structure outside."""
    where = _is_token(data)
    escapes = lead_backslashes(data)
    where[escapes[escapes < len(data) - 1] + 1] = False
    at = np.flatnonzero(where)
    mark = data.take(at)
    quotes = mark == _QUOTE
    outside = (quotes.cumsum(dtype=np.int32) & 1) == 0
    outside |= quotes
    if ragged.every(outside):
        return at, mark
    # Taking by index costs half of taking by mask.
    index = np.flatnonzero(outside)
    return at.take(index), mark.take(index)


def _is_token(data: Bytes) -> Bools:
    """Which bytes are structural. Five comparisons cost a third of a table's lookup."""
    found = data == _QUOTE
    found |= data == _COMMA
    found |= data == _COLON
    # The bit in which [ and {, ] and } differ is set.
    braces = data | 0x20
    found |= braces == ord("{")
    found |= braces == ord("}")
    return found


def _is_one_per_row(data: Bytes, begin: Int64s, end: Int64s, opens: Int64s, closes: Int64s) -> bool:
    """Whether each text, from `begin` to `end`, is one pair of opening and closing, and blanks."""
    if not len(begin) == len(opens) == len(closes):
        return False
    if ragged.every(begin == opens) and ragged.every(closes + 1 == end):
        return True
    if not ragged.every((begin <= opens) & (opens < closes) & (closes < end)):
        return False
    around = _is_blank(data, begin - 1, opens) & _is_blank(data, closes, end)
    return ragged.every(around)


def _values(tokens: _Tokens, colon: Int64s) -> Values:
    """Step 4: the values behind the colons (tokens at these indices)."""
    data, at, mark = tokens.data, tokens.at, tokens.mark
    is_string = mark[colon + 1] == _QUOTE
    closing = mark[colon + 1 + 2 * is_string]
    ends = (closing == _COMMA) | (_STEP[closing] == -1)
    _require(tokens, ragged.every(ends), "a comma between values")
    before, after = at[colon], at[colon + 1 + 2 * is_string]
    start, stop = _trimmed(data, before + 1, after)
    _require(tokens, ragged.every(start < stop), "a value")
    alone = ~is_string | ((start == at[colon + 1]) & (stop == at[colon + 2 * is_string] + 1))
    _require(tokens, ragged.every(alone), "one value")
    null = stop - start == len(_NULL)
    null &= ~is_string
    if ragged.some(null):
        null[null] = ragged.gather(data, start[null], "S4") == _NULL
    return Values(data, tokens.row, before, start + is_string, stop - is_string, is_string, null)


def _trimmed(data: Bytes, start: Int64s, stop: Int64s) -> tuple[Int64s, Int64s]:
    """Without the blanks at both ends."""
    if not len(start):
        return start, stop
    last = len(data) - 1
    while ragged.some(more := BLANK[data[np.minimum(start, last)]] & (start < stop)):
        start = start + more
    while ragged.some(more := BLANK[data[stop - 1]] & (start < stop)):
        stop = stop - more
    return start, stop


def _is_blank(data: Bytes, before: Int64s, after: Int64s) -> Bools:
    """Whether only blanks stand between the positions."""
    start, stop = _trimmed(data, before + 1, after)
    return start == stop


def _require(tokens: _Tokens, holds: bool, wanted: str) -> None:
    if not holds:
        raise BadData(f"a JSON text that is not {tokens.what}: {wanted} is missing")
