"""The replication slot's rules (SEMANTICS 9): when streaming may go on, and when it must not.

Behind the newest frontier is normal. Ahead of it, missing, invalidated, of another database or of
another server: Postgres would skip the gap silently, so we stop and say what to do.
`verdict` is pure; the rest asks the server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg.pq.abc import PGconn

from cdc.errors import SlotError
from cdc.positions import Lsn
from cdc.postgres.catalog import Server
from cdc.postgres.connection import Connection, execute

PLUGIN = "pgoutput"


@dataclass(frozen=True)
class Slot:
    """One row of pg_replication_slots. `confirmed` is what we acknowledged last."""

    name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    confirmed: Lsn | None
    wal_status: str | None
    invalidation: str | None


def read_slot(connection: Connection, name: str) -> Slot | None:
    """The slot, or None when there is none of that name."""
    row = connection.execute(
        "SELECT slot_name::text, plugin::text, database::text, active_pid, "
        "confirmed_flush_lsn::text, wal_status, to_jsonb(s) ->> 'invalidation_reason' "
        "FROM pg_catalog.pg_replication_slots s WHERE slot_name = %s",
        (name,),
    ).fetchone()
    if row is None:
        return None
    confirmed = None if row[4] is None else Lsn.parse(row[4])
    return Slot(row[0], row[1], row[2], row[3], confirmed, row[5], row[6])


def verdict(
    slot: Slot | None, name: str, database: str, frontier: Lsn, source: str
) -> SlotError | None:
    """Why `slot` cannot continue after `frontier` without losing changes; None: it can."""
    again = f"to start again: cdc remove {source}, then cdc run takes a new snapshot"
    if slot is None:
        return SlotError(
            "the replication slot is gone, and the changes since the last frontier with it",
            where=f"slot {name}, frontier {frontier}",
            hint=again,
        )
    if slot.plugin != PLUGIN or slot.database != database:
        return SlotError(
            f"the slot belongs to database '{slot.database}', plugin '{slot.plugin}', "
            f"not to '{database}', '{PLUGIN}'",
            where=f"slot {name}",
            hint="give `slot:` another name in connectors.yaml",
        )
    if slot.wal_status == "lost" or slot.invalidation:
        reason = slot.invalidation or "its WAL was removed"
        return SlotError(
            f"the slot was invalidated ({reason}): changes after {frontier} are lost",
            where=f"slot {name}",
            hint=f"raise max_slot_wal_keep_size; {again}",
        )
    if slot.confirmed is not None and not frontier.covers(slot.confirmed):
        return SlotError(
            f"the slot is at {slot.confirmed}, ahead of the log's frontier {frontier}: "
            "the changes between were acknowledged by somebody else, or the log was restored",
            where=f"slot {name}",
            hint=again,
        )
    return None


def check_identity(
    server: Server, identity: str, frontier: Lsn, walsender: PGconn, source: str
) -> SlotError | None:
    """Whether the server's history contains the frontier: the same system, and a timeline that
    left the frontier's at or after it."""
    system, _, timeline = identity.partition("/")
    if system != server.system:
        return SlotError(
            f"another server: system identifier {server.system}, the log's changes come from "
            f"{system}",
            where=f"frontier {frontier}",
            hint=f"point the url at the server that was captured, or cdc remove {source}",
        )
    if int(timeline) == server.timeline:
        return None
    switch = _switch_point(walsender, server.timeline, int(timeline))
    if switch is not None and switch.covers(frontier):
        return None
    return SlotError(
        f"the server's timeline {server.timeline} does not contain our position on timeline "
        f"{timeline}",
        where=f"frontier {frontier}",
        hint="the server lost changes that we have (failover or restore): "
        f"cdc remove {source}, then cdc run takes a new snapshot",
    )


def _switch_point(walsender: PGconn, now: int, then: int) -> Lsn | None:
    """Where timeline `now`'s history left timeline `then`."""
    for row in execute(walsender, f"TIMELINE_HISTORY {now}", "timeline history"):
        for found in re.finditer(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", row[1] or "", re.M):
            if int(found[1]) == then:
                return Lsn.parse(found[2])
    return None


def end_holder(connection: Connection, slot: Slot | None) -> None:
    """End the walsender of a predecessor that was fenced in the log but still holds the slot."""
    if slot is not None and slot.active_pid is not None:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (slot.active_pid,))


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop the slot, ending whoever reads it; whether it was there."""
    slot = read_slot(connection, name)
    if slot is None:
        return False
    end_holder(connection, slot)
    connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    return True
