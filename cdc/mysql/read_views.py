"""Several transactions that see the same state, and where in the binlog that state is.

A transaction begun WITH CONSISTENT SNAPSHOT has a read view: what was committed in the engine then.
Several sessions' read views are equal when nothing was committed between the first and the last.
Three ways, the first that works:

1.  Without a lock. MySQL: a transaction is written to the binlog, then committed in the engine, and
    then its GTID goes from gtid_owned to gtid_executed. If the binlog's end is the same before and
    after the read views began, and nothing was owned in between, then all that was written is in
    all of them, and nothing else. MariaDB: each session is told its read view's own place in the
    binlog (Binlog_snapshot_position); all must be equal.
2.  FLUSH TABLES WITH READ LOCK, held only while the transactions begin and the position is read:
    it waits for commits that are under way, and lets none begin.
3.  MariaDB: one transaction alone; its place is exact without a lock. MySQL with GTIDs: the views
    lie between two positions, `low` (executed before they began: in all of them) and `high` (all
    that was written when they had begun: nothing beyond is in any). The snapshot is whole once the
    stream from `low` has passed `high`: applied in order, changes that a view already has make no
    difference to the last row of a key.

Sources: MySQL's sql/binlog.cc, MYSQL_BIN_LOG::process_commit_stage_queue (the engine's commit comes
before update_commit_group); MariaDB's documentation of START TRANSACTION WITH CONSISTENT SNAPSHOT.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pymysql

from cdc.errors import SourceError
from cdc.mysql.catalog import BinlogPoint, Server, current_point, read_view_point, with_gtids
from cdc.mysql.connection import Connection, error_number, execute, query
from cdc.positions import GtidSet, NativePosition

logger = logging.getLogger(__name__)

ATTEMPTS = 5
LOCK_WAIT_S = 3
"""Writers wait as long as we do for the lock, so that is not for long."""
_NO_LOCK = frozenset((1044, 1045, 1142, 1205, 1227, 1290, 1370))

Method = Literal["quiet", "lock", "single", "catch up"]
Begin = Callable[[int], Sequence[BinlogPoint | None]]
"""Begin (again) a read view in the first n sessions; MariaDB: each one's place in the binlog."""


@dataclass(frozen=True)
class Pinned:
    """Read views that have begun.

    low       everything up to here is in all of them
    high      None: and nothing else. Otherwise nothing beyond `high` is in any of them
    sessions  how many have begun
    locked_s  how long the server was locked
    """

    low: NativePosition
    high: NativePosition | None
    method: Method
    sessions: int
    locked_s: float = 0.0


def begin_view(connection: Connection, mariadb: bool) -> BinlogPoint | None:
    """Begin a read view in this session; MariaDB: its place in the binlog."""
    execute(connection, "ROLLBACK")
    execute(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    return read_view_point(connection) if mariadb else None


def pin(connection: Connection, server: Server, begin: Begin, sessions: int) -> Pinned:
    """Begin read views in all sessions. `connection` is another one, without a transaction.
    SourceError when neither the rights nor the server's settings allow it."""
    pinned = _without_lock(connection, server, begin, sessions)
    if pinned is None:
        pinned = _locked(connection, server, begin, sessions)
    if pinned is None:
        pinned = _unlocked(connection, server, begin)
        if pinned is None:
            pinned = _between(connection, server, begin, sessions)
    logger.info("snapshot at %s (%s, locked %.4f s)", pinned.low, pinned.method, pinned.locked_s)
    return pinned


def _without_lock(
    connection: Connection, server: Server, begin: Begin, sessions: int
) -> Pinned | None:
    for _ in range(ATTEMPTS):
        if server.mariadb:
            points = {point for point in begin(sessions) if point is not None}
            if len(points) == 1:
                exact = with_gtids(connection, points.pop())
                if exact is not None:
                    return Pinned(exact.position(server), None, "quiet", sessions)
        elif server.gtid:
            before = current_point(connection, server.flavour)
            owned = owned_gtids(connection)
            begin(sessions)
            after = current_point(connection, server.flavour)
            same_end = (before.file, before.offset) == (after.file, after.offset)
            if same_end and not owned.servers:
                return Pinned(after.position(server), None, "quiet", sessions)
    return None


def _locked(connection: Connection, server: Server, begin: Begin, sessions: int) -> Pinned | None:
    try:
        execute(connection, f"SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")
        execute(connection, "FLUSH TABLES WITH READ LOCK")
    except pymysql.Error as error:
        if error_number(error) not in _NO_LOCK:
            raise
        logger.warning("no FLUSH TABLES WITH READ LOCK (%s): a snapshot without lock", error)
        return None
    began = time.perf_counter()
    try:
        begin(sessions)
        point = current_point(connection, server.flavour)
    finally:
        execute(connection, "UNLOCK TABLES")
    locked_s = time.perf_counter() - began
    return Pinned(point.position(server), None, "lock", sessions, locked_s)


def _unlocked(connection: Connection, server: Server, begin: Begin) -> Pinned | None:
    if not server.mariadb:
        return None
    (point,) = begin(1)
    assert point is not None
    return Pinned(exact_position(connection, server, point), None, "single", 1)


def exact_position(connection: Connection, server: Server, point: BinlogPoint) -> NativePosition:
    """The position of a MariaDB read view's place. SourceError when the server cannot say."""
    exact = with_gtids(connection, point)
    if exact is None:
        raise SourceError(
            f"the server cannot say which GTIDs are up to {point.file}/{point.offset}",
            where=server.product,
            hint="FLUSH BINARY LOGS: an event of this file is larger than max_allowed_packet; or "
            "GRANT RELOAD ON *.* to the user of the URL",
        )
    return exact.position(server)


def _between(connection: Connection, server: Server, begin: Begin, sessions: int) -> Pinned:
    if not server.gtid:
        raise SourceError(
            "no snapshot at one position without GTIDs and without a lock",
            where=server.product,
            hint="GRANT RELOAD ON *.* to the user of the URL (the lock is held for milliseconds), "
            "or SET gtid_mode = ON",
        )
    low = executed_gtids(connection)
    begin(sessions)
    high = owned_gtids(connection).union(executed_gtids(connection))
    return Pinned(low, None if low == high else high, "catch up", sessions)


def executed_gtids(connection: Connection) -> GtidSet:
    """MySQL's transactions that are committed in the engines."""
    ((text,),) = query(connection, "SELECT @@GLOBAL.gtid_executed")
    return GtidSet.parse(text)


def owned_gtids(connection: Connection) -> GtidSet:
    """MySQL's transactions that have a GTID, and are perhaps written, but not yet committed."""
    ((text,),) = query(connection, "SELECT @@GLOBAL.gtid_owned")
    return GtidSet.parse(re.sub(r"#\d+", "", text or ""))
