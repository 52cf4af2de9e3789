"""Where a binlog stream is, and which servers may go on from a frontier: pure rules."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.changes import C, ChangeBatch
from cdc.errors import SlotError, SnapshotNeeded, SourceError, SourceUnavailable
from cdc.frontiers import Frontier
from cdc.mysql.continuity import Kept, verdict
from cdc.mysql.events import Kind
from cdc.mysql.overlap import caught_up
from cdc.mysql.reached import reached
from cdc.positions import BinlogPosition, GtidSet, MariaGtid, NativePosition, Vector
from cdc.schema import Column, TableSchema
from cdc.source import Piece

ONE, TWO = (UUID(int=n + 2**120) for n in (1, 2))


def event(kind: int, body: bytes, end: int = 0, server_id: int = 1) -> bytes:
    size = 19 + len(body) + 4
    return struct.pack("<IBIIIH", 0, kind, server_id, size, end, 0) + body


def gtid(uuid: UUID, number: int) -> bytes:
    return event(Kind.GTID, b"\1" + uuid.bytes + struct.pack("<q", number) + bytes(24))


def maria(domain: int, server: int, number: int) -> bytes:
    return event(Kind.MARIA_GTID, struct.pack("<qIB", number, domain, 0), server_id=server)


XID = event(Kind.XID, bytes(8))
numbered = st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.integers(1, 30)), max_size=40)


@given(numbered, st.lists(st.integers(1, 8)))
def test_gtids_that_ended_are_the_set(gtids: list[tuple[UUID, int]], cuts: list[int]) -> None:
    now = reached(GtidSet())
    rest: Sequence[tuple[UUID, int]] = gtids
    for cut in [*cuts, len(gtids)]:
        part, rest = rest[:cut], rest[cut:]
        if part:
            now.ended([gtid(*each) for each in part], XID)
    single = GtidSet()
    for uuid, number in gtids:
        single = single.union(GtidSet.of({str(uuid): [(number, number)]}))
    assert now.position() == single


def test_gaps_stay_and_are_filled_later() -> None:
    now = reached(GtidSet.parse(f"{ONE}:1-5:9-9"))
    now.ended([gtid(ONE, 10), gtid(ONE, 11)], XID)
    assert str(now.position()) == f"{ONE}:1-5:9-11"
    now.ended([gtid(ONE, 7)], XID)
    now.ended([gtid(ONE, 6), gtid(ONE, 8), gtid(TWO, 1)], XID)
    assert str(now.position()) == f"{ONE}:1-11+{TWO}:1-1"


def test_a_transaction_without_a_gtid_stops() -> None:
    with pytest.raises(SourceError, match="without a GTID"):
        reached(GtidSet()).ended([event(Kind.ANONYMOUS_GTID, bytes(49))], XID)


def test_the_newest_of_each_domain() -> None:
    now = reached(MariaGtid.parse("0-1-5"))
    now.ended([maria(0, 1, 6), maria(7, 2, 1), maria(0, 3, 7)], XID)
    assert str(now.position()) == "0-3-7+7-2-1"
    assert now.name(maria(7, 2, 9)) == "7-2-9"


def test_offsets_in_a_file_of_more_than_4_gib() -> None:
    now = reached(BinlogPosition("binlog.000001", 100))
    for end in (2**31, 2**32 - 10, 2**32 + 2**31):
        now.ended([], event(Kind.XID, bytes(8), end % 2**32))
        assert now.position() == BinlogPosition("binlog.000001", end)
    begun = event(Kind.ANONYMOUS_GTID, bytes(49), (2**32 + 2**31 + 72) % 2**32)
    assert now.name(begun) == f"binlog.000001/{2**32 + 2**31}"
    now.rotated("binlog.000002", 4)
    assert str(now.position()) == "binlog.000002/4"


class _Server:
    def __init__(self, gtid: bool, uuid: str = "u", flavour: str = "mysql") -> None:
        self.gtid, self.uuid, self.flavour = gtid, uuid, flavour


def refused(
    position: str, now: NativePosition, server: _Server, identity: str = "mysql", **kept: Any
) -> SlotError | None:
    frontier = Frontier("shop", Vector.parse(f"shop@{position}"), identity=identity)
    found = Kept(now, kept.get("purged", GtidSet()), kept.get("files", {}))
    return verdict(server, found, frontier, "shop")  # type: ignore[arg-type]


def test_any_server_may_go_on_that_has_all_our_gtids_and_has_not_purged_others() -> None:
    executed = GtidSet.parse(f"{ONE}:1-20,{TWO}:1-3")
    with_gtids = _Server(True)
    assert refused(f"{ONE}:1-9", executed, with_gtids) is None
    few = GtidSet.parse(f"{ONE}:1-9")
    assert refused(f"{ONE}:1-9", executed, with_gtids, purged=few) is None
    more = GtidSet.parse(f"{ONE}:1-10")
    assert "cannot send" in str(refused(f"{ONE}:1-9", executed, with_gtids, purged=more))
    assert "lacks" in str(refused(f"{ONE}:1-21", executed, with_gtids))
    assert "lacks" in str(refused(f"{ONE}:1-9+{TWO}:4-4", executed, with_gtids))


def test_by_file_it_is_the_very_server() -> None:
    now, files = BinlogPosition("binlog.000007", 500), {"binlog.000006": 9, "binlog.000007": 500}
    server = _Server(False)
    here: dict[str, Any] = {"identity": "mysql/u", "files": files}
    assert refused("binlog.000006/9", now, server, **here) is None
    assert "oldest binlog" in str(refused("binlog.000005/9", now, server, **here))
    assert "lacks" in str(refused("binlog.000007/501", now, server, **here))
    assert "another server" in str(refused("binlog.000006/9", now, _Server(False, "v"), **here))
    assert "another server" in str(refused("0-1-5", now, server, **here))


SCHEMA = TableSchema("d.t", (Column("id", pa.int64(), "bigint", attnum=1),), ("id",))


def changes(txn: list[int], ordinal: list[int]) -> ChangeBatch:
    count = len(txn)
    rows = pa.record_batch([pa.array(range(count), pa.int64())], schema=SCHEMA.arrow)
    numbers = np.array(txn, np.int64), np.array(ordinal, np.int64)
    return ChangeBatch(
        SCHEMA, np.full(count, C, np.uint8), *numbers, np.zeros(count, np.int64), rows
    )


def at(number: int) -> GtidSet:
    return GtidSet.of({str(ONE): [(1, number)]})


def test_what_overlaps_a_snapshot_is_numbered_on() -> None:
    first = Piece((("d.a", changes([0, 1], [0, 0])), ("d.b", changes([0], [1]))), 2, at(2), 0)
    rest = [Piece((), 0, at(2), 0), Piece((("d.a", changes([0], [0])),), 1, at(3), 0)]
    found = list(caught_up(iter([first, *rest, Piece((), 0, at(4), 0)]), at(3), 100))
    assert [p.whole for p in found] == [False, False, False]
    assert [c.ordinal.tolist() for p in found for _, c in p.changes] == [[100, 102], [101], [103]]
    assert found[-1].position == at(3)


def test_a_table_emptied_under_a_snapshot_begins_it_again() -> None:
    emptied = Piece((), 0, at(2), 0, whole=False, truncated=("d.t",))
    with pytest.raises(SourceUnavailable, match="emptied"):
        list(caught_up(iter([emptied]), at(3), 0))

    def altered() -> Iterator[Piece]:
        yield Piece((), 0, at(1), 0)
        raise SnapshotNeeded("it was altered", where="d.t")

    with pytest.raises(SourceUnavailable, match="it was altered"):
        list(caught_up(altered(), at(3), 0))
