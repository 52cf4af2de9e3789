"""What the user of a source may do, found out by doing it where that is harmless.

    reading the binlog   registering as a replica, on a connection of its own that ends at once
    its newest point     SHOW BINARY LOG STATUS, or what it was called
    the global lock      the grants, for which there is nothing harmless to do
    rows of a table      reading none of them

Grants alone would mislead: they may come with roles, and patterns of databases.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import closing

import pymysql

from cdc.mysql import catalog
from cdc.mysql.connection import Connection, connect, error_number, internals, query, source_errors
from cdc.mysql.tables import MyTable

_REGISTER_SLAVE = 0x15
_PROBE_SERVER_ID = 2**31 - 1
"""Of nobody: neither people's small numbers nor those that we derive."""
_REFUSED = frozenset((1044, 1045, 1142, 1143, 1227, 1290, 1370))
_GLOBAL_GRANT = re.compile(r"GRANT (.+) ON \*\.\* TO ", re.IGNORECASE)


def may_stream(url: str) -> bool:
    """REPLICATION SLAVE."""

    def register(connection: Connection) -> None:
        body = struct.pack("<IBBBHII", _PROBE_SERVER_ID, 0, 0, 0, 0, 0, 0)
        wire = internals(connection)
        wire._execute_command(_REGISTER_SLAVE, body)
        wire._read_packet()

    with closing(connect(url)) as connection, source_errors(url):
        return _allowed(lambda: register(connection))


def may_see_position(connection: Connection, flavour: catalog.Flavour) -> bool:
    """REPLICATION CLIENT; BINLOG MONITOR in MariaDB's words."""
    return _allowed(lambda: catalog.current_point(connection, flavour))


def may_lock(connection: Connection) -> bool:
    """FLUSH TABLES WITH READ LOCK: RELOAD, or MySQL's FLUSH_TABLES."""
    return bool(global_grants(connection) & {"RELOAD", "FLUSH_TABLES", "ALL PRIVILEGES", "SUPER"})


def may_read(connection: Connection, table: MyTable) -> bool:
    """SELECT on the whole table: with rights on some columns the others would not be known."""
    return _allowed(lambda: query(connection, f"SELECT * FROM {table.quoted} LIMIT 0"))


def global_grants(connection: Connection) -> set[str]:
    """The rights on everything, those of active roles among them, in capitals."""
    ((roles,),) = query(connection, "SELECT CURRENT_ROLE()")
    using = f" FOR CURRENT_USER() USING {roles}" if roles and "@" in roles else ""
    found: set[str] = set()
    for (line,) in query(connection, f"SHOW GRANTS{using}"):
        match = _GLOBAL_GRANT.match(line)
        if match is not None:
            found |= {right.strip().upper() for right in match[1].split(",")}
    return found


def _allowed(attempt: Callable[[], object]) -> bool:
    """Whether the server lets us. Raises pymysql's errors of any other kind."""
    try:
        attempt()
    except pymysql.Error as error:
        if error_number(error) in _REFUSED:
            return False
        raise
    return True
