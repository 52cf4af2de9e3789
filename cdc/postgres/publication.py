"""The publication: what the server sends. Made and kept equal to the configuration by the agent."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from cdc.postgres.catalog import PgTable
from cdc.postgres.connection import Connection

_PUBLISHED = """
SELECT p.prrelid::int8 FROM pg_catalog.pg_publication_rel p
JOIN pg_catalog.pg_publication b ON b.oid = p.prpubid WHERE b.pubname = %s
"""


def published(connection: Connection, name: str) -> set[int] | None:
    """The oids of the publication's tables; None when there is no such publication."""
    found = connection.execute(
        "SELECT puballtables FROM pg_catalog.pg_publication WHERE pubname = %s", (name,)
    ).fetchone()
    if found is None:
        return None
    return {oid for (oid,) in connection.execute(_PUBLISHED, (name,))}


def ensure_publication(connection: Connection, name: str, tables: Mapping[str, PgTable]) -> None:
    """Create the publication, or make its tables those of the configuration."""
    there = published(connection, name)
    wanted = {table.oid for table in tables.values()}
    if there == wanted:
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
