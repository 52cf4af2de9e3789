"""The publication: what the server sends. Made and kept equal to the configuration by the agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from cdc.errors import SlotError, SourceError
from cdc.postgres.catalog import PgTable
from cdc.postgres.connection import Connection

_PUBLICATION = """
SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate
FROM pg_catalog.pg_publication WHERE pubname = %s
"""
# As JSON, because Postgres 14 has neither row filters nor column lists nor schemas.
_PARTS = """
SELECT r.prrelid::int8, coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
WHERE b.pubname = %s
"""


@dataclass(frozen=True)
class Published:
    """What a publication sends. `tables` are oids; `partly` those with a row filter or a column
    list; `listed` whether it names its tables one by one."""

    tables: frozenset[int]
    partly: frozenset[int]
    listed: bool
    every_change: bool


def published(connection: Connection, name: str) -> Published | None:
    """The publication; None when there is none of that name."""
    found = connection.execute(_PUBLICATION, (name,)).fetchone()
    if found is None:
        return None
    rows = connection.execute("SELECT relid::int8 FROM pg_get_publication_tables(%s)", (name,))
    tables = frozenset(oid for (oid,) in rows.fetchall())
    parts: dict[int, bool] = dict(connection.execute(_PARTS, (name,)).fetchall())
    return Published(
        tables,
        frozenset(oid for oid, partly in parts.items() if partly),
        not found[0] and tables == set(parts),
        found[1],
    )


def problem(
    there: Published | None,
    name: str,
    tables: Mapping[str, PgTable],
    resuming: bool,
    source: str,
) -> SourceError | None:
    """Why changes would be missed, or were missed since the last frontier (`resuming`): the
    server leaves out what its publication does not name, and does not say so."""
    where = f"publication {name}"
    again = f"cdc remove {source}, then cdc run takes a new snapshot"
    if there is None:
        what = "it is gone, and changes since the last frontier are not sent"
        return SlotError(what, where=where, hint=again) if resuming else None
    if not there.every_change:
        return SourceError(
            "it does not publish every kind of change",
            where=where,
            hint=f'ALTER PUBLICATION "{name}" SET (publish = '
            f"'insert, update, delete, truncate'), and, if it was captured before, {again}",
        )
    partly = sorted(n for n, t in tables.items() if t.oid in there.partly)
    if partly:
        return SourceError(
            f"it publishes only some rows or columns of {', '.join(partly)}",
            where=where,
            hint="take the row filter or column list away, or give `publication:` another name",
        )
    missing = sorted(n for n, t in tables.items() if t.oid not in there.tables)
    if missing and resuming:
        return SlotError(
            f"it does not publish {', '.join(missing)}: changes may have been left out",
            where=where,
            hint=f"leave the table out, or {again}",
        )
    if missing and not there.listed:
        return SourceError(
            f"it does not publish {', '.join(missing)}",
            where=where,
            hint="add the table to it, or give `publication:` another name",
        )
    return None


def ensure_publication(
    connection: Connection,
    name: str,
    tables: Mapping[str, PgTable],
    resuming: bool,
    source: str,
) -> None:
    """Create the publication, or make its tables those of the configuration. Raises SourceError
    where it would leave changes out."""
    there = published(connection, name)
    wrong = problem(there, name, tables, resuming, source)
    if wrong is not None:
        raise wrong
    wanted = {table.oid for table in tables.values()}
    if there is not None and (not there.listed or there.tables == wanted):
        return
    listed = sql.SQL(", ").join(sql.SQL("ONLY ") + sql.SQL(t.quoted) for t in tables.values())
    statement = (
        "CREATE PUBLICATION {} FOR TABLE {}"
        if there is None
        else "ALTER PUBLICATION {} SET TABLE {}"
    )
    connection.execute(sql.SQL(statement).format(sql.Identifier(name), listed))


def drop_publication(connection: Connection, name: str) -> bool:
    """Drop it; whether it was there."""
    if published(connection, name) is None:
        return False
    connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
    return True
