"""Whether a server's history contains a frontier and what came after it (SEMANTICS 9).

By GTID any server will do: its executed set must contain ours, and what it has purged must be in
ours. By file and byte it must be the very server, and the file must still be there.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc.errors import SlotError
from cdc.frontiers import Frontier
from cdc.mysql.catalog import Server, current_point
from cdc.mysql.connection import Connection, query
from cdc.mysql.dump import purged
from cdc.positions import BinlogPosition, GtidSet, NativePosition


@dataclass(frozen=True)
class Kept:
    """What a server still has: `now` is its position; `purged` are the transactions whose binlog is
    gone (MySQL with GTIDs), `files` its binlogs with their sizes (without GTIDs)."""

    now: NativePosition
    purged: GtidSet
    files: dict[str, int]


def identity(server: Server) -> str:
    """What positions belong to. GTIDs mean the same on every server of a flavour."""
    return server.flavour if server.gtid else f"{server.flavour}/{server.uuid}"


def kept(connection: Connection, server: Server) -> Kept:
    """What the server says of its binlogs. PyMySQL's errors."""
    now = current_point(connection, server.flavour).position(server)
    gone, files = GtidSet(), {}
    if isinstance(now, GtidSet):
        ((text,),) = query(connection, "SELECT @@GLOBAL.gtid_purged")
        gone = GtidSet.parse(text or "")
    elif isinstance(now, BinlogPosition):
        files = {row[0]: int(row[1]) for row in query(connection, "SHOW BINARY LOGS")}
    return Kept(now, gone, files)


def verdict(server: Server, kept: Kept, frontier: Frontier, source: str) -> SlotError | None:
    """Why streaming cannot go on after the frontier without losing changes; None: it can."""
    position = frontier.positions[source]
    again = f"cdc remove {source}, then cdc run takes a new snapshot"
    here = identity(server)
    if (frontier.identity and here != frontier.identity) or type(position) is not type(kept.now):
        return SlotError(
            f"another server: it is {here}, the log's changes come from {frontier.identity}",
            where=f"{source}, frontier {position}",
            hint="point the url at the server that was captured (one with GTIDs as before may be "
            f"any that has them all), or {again}",
        )
    if not kept.now.covers(position):
        return SlotError(
            f"the server is at {kept.now}, and lacks transactions that the log has: {position}",
            where=source,
            hint="it was restored or reset, or is a replica that lags behind or was split off: "
            f"{again}",
        )
    if isinstance(position, GtidSet) and not position.covers(kept.purged):
        return purged(source, position, f"it has purged {kept.purged}")
    if isinstance(position, BinlogPosition) and position.file not in kept.files:
        first = next(iter(kept.files), "none")
        return purged(source, position, f"its oldest binlog is {first}")
    return None
