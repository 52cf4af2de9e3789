"""XA transactions: their rows stand in the binlog where they were prepared, and count only from
their XA COMMIT on, which may never come.

So they are held back in memory, up to HELD_BYTES. What was not held, because it was too large or
was prepared before the stream began, is noticed when it is committed: the tables are read again.
"""

from __future__ import annotations

from cdc.errors import SnapshotNeeded
from cdc.mysql.events import Reader
from cdc.mysql.grouping import NOTHING, Sorted

HELD_BYTES = 64 * 2**20


class Prepared:
    """The transactions that are prepared, by xid, and the one in which the stream is."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._held: dict[str, Sorted] = {}
        self._bytes = 0
        self._current: Sorted | None = None

    @property
    def is_open(self) -> bool:
        """Whether the stream is within an XA transaction: `hold` its events."""
        return self._current is not None

    @property
    def waiting(self) -> Sorted:
        """The events that are held of the open transaction."""
        return self._current or NOTHING

    def start(self) -> None:
        self._current = NOTHING

    def abandon(self) -> None:
        """The open transaction, if any, was never prepared: the server ended within it."""
        if self._current is not None:
            self._taken()

    def hold(self, found: Sorted) -> None:
        assert self._current is not None
        self._bytes += found.nbytes
        if self._bytes <= HELD_BYTES:
            self._current = self._current + found

    def prepared(self, xid: str) -> None:
        """The open transaction ends, undecided."""
        found, fits = self._taken()
        if fits:
            self._held[xid] = found
            self._bytes += found.nbytes

    def committed_at_once(self) -> Sorted:
        """The open transaction ends and is committed (ONE PHASE): its events. SnapshotNeeded
        when there are too many."""
        found, fits = self._taken()
        if not fits:
            raise SnapshotNeeded(
                f"an XA transaction changed more than {HELD_BYTES >> 20} MiB",
                where=self._source,
                hint="the tables are read again",
            )
        return found

    def _taken(self) -> tuple[Sorted, bool]:
        assert self._current is not None
        found, fits = self._current, self._bytes <= HELD_BYTES
        self._current = None
        self._bytes = sum(held.nbytes for held in self._held.values())
        return found, fits

    def committed(self, xid: str) -> Sorted:
        """The events of a prepared transaction. SnapshotNeeded when they were not held."""
        if xid not in self._held:
            raise SnapshotNeeded(
                f"an XA transaction was committed whose changes came before: {xid}",
                where=self._source,
                hint="it was prepared before the capture began, or changed more than "
                f"{HELD_BYTES >> 20} MiB; the tables are read again",
            )
        return self._forgotten(xid)

    def rolled_back(self, xid: str) -> None:
        if xid in self._held:
            self._forgotten(xid)

    def _forgotten(self, xid: str) -> Sorted:
        found = self._held.pop(xid)
        self._bytes -= found.nbytes
        return found


def xid_of(event: bytes) -> tuple[str, bool]:
    """Of an XA_PREPARE: the xid as XA COMMIT spells it, and whether it is committed at once."""
    reader = Reader(event)
    one_phase, form = bool(reader.number(1)), reader.number(4)
    lengths = reader.number(4), reader.number(4)
    branch, qualifier = (reader.take(length).hex() for length in lengths)
    return f"x'{branch}',x'{qualifier}',{form}", one_phase
