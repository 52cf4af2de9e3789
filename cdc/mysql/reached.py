"""Where a binlog stream is: the position behind the transactions that have ended.

A GTID set grows by one number per transaction, nearly always the next of the newest interval; it is
printed once per piece. Every transaction counts, also those without a captured row: the server's
executed set has them all. Gaps stay gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import numpy as np

from cdc.changes import Int64s
from cdc.errors import SourceError
from cdc.mysql import events
from cdc.positions import BinlogPosition, GtidSet, MariaGtid, NativePosition

_UUID, _NUMBER = slice(20, 36), slice(36, 44)
_END = slice(13, 17)
_ANONYMOUS = bytes(16)


class Reached(Protocol):
    """Told of transactions in order. A transaction's `name` is the same whenever it is streamed."""

    def position(self) -> NativePosition: ...

    def ended(self, gtids: Sequence[bytes], last: bytes) -> None:
        """Transactions ended, which began with `gtids`; the last event of the last is `last`."""
        ...

    def rotated(self, file: str, offset: int) -> None:
        """What follows stands from `offset` of `file` on."""
        ...

    def name(self, gtid: bytes) -> str: ...


def reached(position: NativePosition) -> Reached:
    """The kind that goes on from `position`."""
    if isinstance(position, GtidSet):
        return MySqlGtids(position)
    if isinstance(position, MariaGtid):
        return MariaGtids(position)
    assert isinstance(position, BinlogPosition)
    return FileOffsets(position)


class MySqlGtids:
    def __init__(self, position: GtidSet) -> None:
        self._sets = {name: list(intervals) for name, intervals in position.servers}

    def position(self) -> GtidSet:
        return GtidSet.of(self._sets)

    def ended(self, gtids: Sequence[bytes], last: bytes) -> None:
        uuids = {gtid[_UUID] for gtid in gtids}
        if _ANONYMOUS in uuids:
            raise _without_gtid(last)
        for uuid in uuids:
            own = gtids if len(uuids) == 1 else [g for g in gtids if g[_UUID] == uuid]
            numbers = np.frombuffer(b"".join([g[_NUMBER] for g in own]), np.dtype("<i8"))
            self._add(str(UUID(bytes=uuid)), numbers)

    def _add(self, uuid: str, numbers: Int64s) -> None:
        found = self._sets.setdefault(uuid, [])
        first, last = int(numbers[0]), int(numbers[-1])
        # Ascending without a gap, and behind all others: as a server writes its own.
        if last - first + 1 == len(numbers) and bool((np.diff(numbers) == 1).all()):
            if found and found[-1][1] == first - 1:
                found[-1] = (found[-1][0], last)
                return
            if not found or found[-1][1] < first:
                found.append((first, last))
                return
        every = [*found, *((int(n), int(n)) for n in numbers)]
        self._sets[uuid] = list(dict(GtidSet.of({uuid: every}).servers)[uuid])

    def rotated(self, file: str, offset: int) -> None:
        return

    def name(self, gtid: bytes) -> str:
        if gtid[_UUID] == _ANONYMOUS:
            raise _without_gtid(gtid)
        return f"{UUID(bytes=gtid[_UUID])}:{int.from_bytes(gtid[_NUMBER], 'little')}"


def _without_gtid(event: bytes) -> SourceError:
    return SourceError(
        "a transaction without a GTID, where positions are GTIDs",
        where=f"log position {events.header(event).end_position}",
        hint="set gtid_mode=ON: the permissive modes let both kinds into the binlog",
    )


class MariaGtids:
    def __init__(self, position: MariaGtid) -> None:
        self._newest = {domain: (server, number) for domain, server, number in position.domains}

    def position(self) -> MariaGtid:
        return MariaGtid.of(self._newest)

    def ended(self, gtids: Sequence[bytes], last: bytes) -> None:
        newest: dict[bytes, bytes] = {gtid[27:31]: gtid for gtid in gtids}
        for gtid in newest.values():
            found = events.maria_gtid(gtid)
            self._newest[found.domain] = (found.server_id, found.sequence)

    def rotated(self, file: str, offset: int) -> None:
        return

    def name(self, gtid: bytes) -> str:
        found = events.maria_gtid(gtid)
        return f"{found.domain}-{found.server_id}-{found.sequence}"


class FileOffsets:
    """Headers have positions modulo 2^32; a file is larger only by one transaction."""

    def __init__(self, position: BinlogPosition) -> None:
        self._file, self._offset = position.file, position.offset
        self._ended = position

    def position(self) -> BinlogPosition:
        return self._ended

    def ended(self, gtids: Sequence[bytes], last: bytes) -> None:
        self._offset = self._end(last)
        self._ended = BinlogPosition(self._file, self._offset)

    def rotated(self, file: str, offset: int) -> None:
        self._file, self._offset = file, offset
        self._ended = BinlogPosition(file, offset)

    def name(self, gtid: bytes) -> str:
        return str(BinlogPosition(self._file, self._end(gtid) - events.header(gtid).size_bytes))

    def _end(self, event: bytes) -> int:
        """The first end from where we are that fits."""
        end = int.from_bytes(event[_END], "little")
        return end + max(0, self._offset - end + 2**32 - 1) // 2**32 * 2**32
