"""Sorting a binlog's events by what is to be done with them, one letter per event.

Nearly all events are a few kinds that are decoded thousands at once (binlog.py). What is rare is
looked at by itself (stream.py), in its place. What says nothing about rows is left out here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from cdc.mysql import payload
from cdc.mysql.events import COMPRESSED_ROWS, HEADER_BYTES, ROWS, Kind

GTID, BEGIN, MAP, CHANGE, END, RARE = (ord(letter) for letter in "gbmcer")
_QUERY, _SKIP, _COMPRESSED = (ord(letter) for letter in "qsz")
_IGNORABLE_FLAG = 0x80
_MARIA_FLAGS, _PREPARED_XA = 31, 64

_kind = itemgetter(4)


def _table() -> bytes:
    table = bytearray([RARE]) * 256
    letters: Mapping[int, Collection[int]] = {
        GTID: (Kind.GTID, Kind.ANONYMOUS_GTID, Kind.MARIA_GTID),
        CHANGE: ROWS,
        MAP: (Kind.TABLE_MAP,),
        END: (Kind.XID,),
        _QUERY: (Kind.QUERY,),
        _COMPRESSED: (*COMPRESSED_ROWS, Kind.QUERY_COMPRESSED),
        _SKIP: _SKIPPED,
    }
    for letter, kinds in letters.items():
        for kind in kinds:
            table[kind] = letter
    return bytes(table)


_SKIPPED = (
    *(Kind.STOP, Kind.HEARTBEAT, Kind.HEARTBEAT_V2, Kind.PREVIOUS_GTIDS, Kind.IGNORABLE),
    *(Kind.ROWS_QUERY, Kind.ANNOTATE_ROWS, Kind.BINLOG_CHECKPOINT, Kind.MARIA_GTID_LIST),
    *(Kind.START_ENCRYPTION, Kind.TRANSACTION_CONTEXT, Kind.VIEW_CHANGE),
    *(Kind.INTVAR, Kind.RAND, Kind.USER_VAR),
)
_TABLE = _table()


@dataclass(frozen=True)
class Sorted:
    """Events and their letters: GTID, BEGIN, MAP, CHANGE, END (XID or COMMIT), RARE. MariaDB's GTID
    of an XA transaction is RARE."""

    events: list[bytes]
    letters: bytes

    def __len__(self) -> int:
        return len(self.events)

    def __add__(self, other: Sorted) -> Sorted:
        return Sorted(self.events + other.events, self.letters + other.letters)

    def slice(self, start: int, stop: int) -> Sorted:
        return Sorted(self.events[start:stop], self.letters[start:stop])

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.events))


NOTHING = Sorted([], b"")


def sort(events: Sequence[bytes]) -> Sorted:
    """The events with their letters. MariaDB's compressed events are inflated."""
    found = list(events)
    letters = bytearray(bytes(map(_kind, found)).translate(_TABLE))
    for at in _places(letters, _COMPRESSED):
        found[at] = payload.inflated(found[at])
        letters[at] = _TABLE[found[at][4]]
    for at in _places(letters, _QUERY):
        letters[at] = _letter_of_query(found[at])
    first = letters.find(GTID)
    if first >= 0 and found[first][4] == Kind.MARIA_GTID:
        for at in _places(letters, GTID):
            if found[at][_MARIA_FLAGS] & _PREPARED_XA:
                letters[at] = RARE
    for at in _places(letters, RARE):
        if found[at][17] & _IGNORABLE_FLAG:
            letters[at] = _SKIP
    if _SKIP in letters:
        kept = [at for at, letter in enumerate(letters) if letter != _SKIP]
        return Sorted([found[at] for at in kept], bytes(letters[at] for at in kept))
    return Sorted(found, bytes(letters))


def segments(found: Sorted) -> Iterator[Sorted]:
    """The events cut around each rare one, and behind the last END before it, so that each segment
    is one rare event, or whole transactions (the first may have begun before), or a part of one."""
    start = 0
    for at in _places(found.letters, RARE):
        yield from _cut(found.slice(start, at))
        yield found.slice(at, at + 1)
        start = at + 1
    yield from _cut(found.slice(start, len(found)))


def _cut(found: Sorted) -> Iterator[Sorted]:
    end = found.letters.rfind(bytes([END])) + 1
    if end:
        yield found.slice(0, end)
    if end < len(found):
        yield found.slice(end, len(found))


def _places(letters: bytes | bytearray, letter: int) -> list[int]:
    if letter not in letters:
        return []
    found: list[int] = (np.frombuffer(bytes(letters), np.uint8) == letter).nonzero()[0].tolist()
    return found


_STATEMENT = HEADER_BYTES + 13
"""Behind the fixed part of a QUERY: status variables, the database, a zero, the statement."""


def _letter_of_query(event: bytes) -> int:
    at = _STATEMENT + event[27] + (event[30] | event[31] << 8) + 1
    length = len(event) - at
    if length == 5 and event[at:] == b"BEGIN":
        return BEGIN
    if length == 6 and event.endswith(b"COMMIT"):
        return END
    if event.startswith((b"SAVEPOINT", b"savepoint"), at):
        return _SKIP
    return RARE
