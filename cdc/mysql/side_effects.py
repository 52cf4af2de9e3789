"""MariaDB: what a change that was logged as a statement changes besides what it names.

A statement fires triggers, calls functions, and may write through a view. MySQL's binlog says the
databases of all tables that it changes (statements.updated_databases), MariaDB's does not. So:

1.  A statement is harmless if none of its words is the name of a table with triggers, of a function
    or of a view, wherever on the server. Every other one may have changed every captured table.
2.  A user sees all of these with SELECT and TRIGGER on everything; for any other user no statement
    is harmless.
3.  What the catalog says is kept until another statement makes or removes something.
4.  The catalog may be ahead of the stream, and no longer have what a statement met. So until the
    stream comes past the catalog's position, nothing that may have been such a thing may go: then
    the tables are read again. The position is noted in the frontier.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc.errors import SnapshotNeeded
from cdc.mysql import ddl
from cdc.mysql.catalog import SYSTEM_DATABASES, current_point
from cdc.mysql.connection import Connection, query
from cdc.mysql.rights import global_grants
from cdc.mysql.sql_tokens import names
from cdc.positions import MariaGtid, NativePosition

NOTE = "sql_until"
_REMOVING = frozenset(("DROP", "CREATE", "ALTER", "RENAME"))
_ACTING = frozenset(("TRIGGER", "FUNCTION", "VIEW", "PACKAGE"))
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Acting:
    """Names, without case and database, of what changes more than a statement names; the binlog's
    position behind which the catalog was read."""

    names: frozenset[str]
    until: MariaGtid


@dataclass
class SideEffects:
    """`look` reads the catalog now; None: this user does not see all of it."""

    look: Callable[[], Acting | None]
    _known: Acting | None = None
    _until: MariaGtid | None = field(default=None)

    def updated(
        self, sql: str, database: str, reached: NativePosition, *, escapes: bool = True
    ) -> Collection[str] | None:
        """As statements.updated_databases: databases in which the statement changes tables that it
        does not name; None: any. `reached`: where the stream is. SnapshotNeeded where it is no
        longer known of an earlier statement."""
        statement = ddl.read_statement(sql, database, escapes=escapes)
        if _changes_rows(statement):
            return () if self._is_harmless(sql, escapes) else None
        words = ddl.words(sql, escapes=escapes)
        if words[:1] and words[0] in _REMOVING:
            self._known = None
            if self._until is not None and not reached.covers(self._until):
                self._require_kept(statement, words)
        return ()

    def notes(self) -> dict[str, Any]:
        return {NOTE: str(self._until)} if self._until is not None else {}

    def resume(self, notes: Mapping[str, Any]) -> None:
        if NOTE in notes:
            self._until = MariaGtid.parse(notes[NOTE])

    def _is_harmless(self, sql: str, escapes: bool) -> bool:
        self._known = self._known or self.look()
        if self._known is None or _UNREADABLE in sql:
            return False
        if any(name.lower() in self._known.names for name in names(sql, escapes=escapes)):
            return False
        self._until = self._known.until
        return True

    def _require_kept(self, statement: Collection[ddl.Statement], words: tuple[str, ...]) -> None:
        gone = any(
            isinstance(found, ddl.Dropped | ddl.Renamed)
            or (isinstance(found, ddl.Created) and found.anew)
            for found in statement
        )
        replaced = words[0] == "DROP" or words[:3] == ("CREATE", "OR", "REPLACE")
        if gone or (replaced and _ACTING & set(words)):
            raise SnapshotNeeded(
                "a change was logged as a statement, and what it may have met is gone: "
                f"{' '.join(words[:4])} …",
                hint="the tables are read again; SET GLOBAL binlog_format = ROW",
            )


def _changes_rows(statement: Collection[ddl.Statement]) -> bool:
    return any(isinstance(found, ddl.RowsAsSql) for found in statement)


def acting(connection: Connection) -> Acting | None:
    """What the server has now; None: the user does not see all of it. PyMySQL's errors."""
    grants = global_grants(connection)
    if not (grants >= {"SELECT", "TRIGGER"} or "ALL PRIVILEGES" in grants):
        return None
    rows = query(
        connection,
        "SELECT EVENT_OBJECT_TABLE, EVENT_OBJECT_SCHEMA FROM information_schema.TRIGGERS "
        "UNION ALL SELECT TABLE_NAME, TABLE_SCHEMA FROM information_schema.TABLES "
        "WHERE TABLE_TYPE = 'VIEW' UNION ALL SELECT ROUTINE_NAME, ROUTINE_SCHEMA "
        "FROM information_schema.ROUTINES WHERE ROUTINE_TYPE <> 'PROCEDURE'",
    )
    names = frozenset(name.lower() for name, database in rows if database not in SYSTEM_DATABASES)
    return Acting(names, MariaGtid.parse(current_point(connection, "mariadb").gtids))
