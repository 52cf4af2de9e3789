"""`cdc check` of a MySQL or MariaDB source: everything that capture needs, one finding each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pymysql

from cdc.config import MySqlConfig, SourceConfig
from cdc.errors import CdcError
from cdc.mysql import catalog, rights
from cdc.mysql.catalog import Server
from cdc.mysql.connection import Connection, close, connect, query, source_errors
from cdc.mysql.dump import replica_name
from cdc.mysql.foreign_keys import unlogged_actions
from cdc.mysql.tables import BINARY_COLLATION, MyTable
from cdc.mysql.types import MAY_BE_ZERO, refusal
from cdc.source import Finding

DAY_S = 86400
SHORT_S = DAY_S
"""A binlog kept for less does not outlast a capture that stands still over a night."""


def check_source(config: SourceConfig) -> list[Finding]:
    """All findings; never raises for what the server says."""
    findings: list[Finding] = []
    try:
        connection = connect(config.url)
        try:
            with source_errors(config.url):
                for finding in _findings(config, connection):
                    findings.append(finding)
        finally:
            close(connection)
    except CdcError as error:
        where = error.where or config.name
        findings.append(Finding("error", f"{config.name}: {where}", error.what, error.hint))
    return findings


def _findings(config: SourceConfig, connection: Connection) -> Iterator[Finding]:
    server = catalog.server(connection)
    assert config.mysql is not None
    in_database = f", database {server.database}" if server.database else ""
    yield Finding("ok", config.name, f"{server.product}{in_database}")
    yield from _binlog(config.name, server)
    yield from _images(config.name, server, config.mysql)
    yield from _gtids(config.name, server)
    yield from _rights(config, connection, server)
    yield from _replicas(config.name, connection, server, config.mysql)
    yield from _tables(config, connection, server)


def _binlog(name: str, server: Server) -> Iterator[Finding]:
    if not server.log_bin:
        yield Finding(
            "error", name, "the server writes no binlog", "start it with log_bin and a server_id"
        )
        return
    if server.server_id == 0:
        yield Finding(
            "error",
            name,
            "server_id is 0: the server refuses replicas",
            "set server_id in its configuration, and restart",
        )
    if server.binlog_format != "ROW":
        yield Finding(
            "error",
            name,
            f"binlog_format is {server.binlog_format}: the binlog has statements instead of rows",
            f"{_set(server, 'binlog_format', 'ROW')}; sessions keep theirs until they reconnect",
        )
    if 0 < server.expire_s < SHORT_S:
        setting = (
            "binlog_expire_logs_seconds"
            if "binlog_expire_logs_seconds" in (server.settings)
            else "expire_logs_days"
        )
        yield Finding(
            "warning",
            name,
            f"the binlog is kept for {server.expire_s / 3600:.3g} hours: a capture that stands "
            "still for longer has to take a new snapshot",
            f"raise {setting}",
        )


def _images(name: str, server: Server, options: MySqlConfig) -> Iterator[Finding]:
    image, full = server.row_image, _set(server, "binlog_row_image", "FULL")
    if image == "NOBLOB":
        yield Finding(
            "warning",
            name,
            "binlog_row_image is NOBLOB: unchanged texts and blobs are not in the binlog",
            "they are completed from a store of their last values, which takes disk and time; "
            + full,
        )
    elif image == "MINIMAL" and options.minimal_row_image:
        yield Finding(
            "warning",
            name,
            "binlog_row_image is MINIMAL: a store of all rows completes what is not in the binlog",
            f"it takes the tables' size on disk, and time; {full}",
        )
    elif image != "FULL":
        accept = ", or set `minimal_row_image: true` in the source" if image == "MINIMAL" else ""
        yield Finding(
            "error",
            name,
            f"binlog_row_image is {image}: values that did not change are not in the binlog",
            f"{full}{accept}",
        )
    if server.row_metadata != "FULL":
        yield Finding(
            "warning",
            name,
            f"binlog_row_metadata is {server.row_metadata}: the binlog does not name columns; when "
            "a captured table is altered while nobody captures, capture stops there",
            _set(server, "binlog_row_metadata", "FULL"),
        )
    if "PARTIAL_JSON" in server.row_value_options:
        yield Finding(
            "error",
            name,
            "binlog_row_value_options is PARTIAL_JSON: the binlog has parts of JSON values",
            _set(server, "binlog_row_value_options", "''"),
        )


def _gtids(name: str, server: Server) -> Iterator[Finding]:
    if server.mariadb:
        if server.settings.get("gtid_strict_mode", "ON").upper() not in ("ON", "1"):
            yield Finding(
                "warning",
                name,
                "gtid_strict_mode is OFF: after writes to a replica a position can mean two states",
                _set(server, "gtid_strict_mode", "ON"),
            )
        return
    if not server.gtid:
        yield Finding(
            "warning",
            name,
            f"gtid_mode is {server.gtid_mode}: positions are those of this server's files, and "
            "capture cannot go on with another server after a failover",
            "set enforce_gtid_consistency = ON, then gtid_mode to OFF_PERMISSIVE, ON_PERMISSIVE "
            "and ON, one after the other",
        )


def _rights(config: SourceConfig, connection: Connection, server: Server) -> Iterator[Finding]:
    name = config.name
    if not server.log_bin:
        return
    if not rights.may_stream(config.url):
        yield Finding(
            "error",
            name,
            "the user may not read the binlog",
            "GRANT REPLICATION SLAVE ON *.* to it",
        )
    if not rights.may_see_position(connection, server.flavour):
        wanted = "BINLOG MONITOR" if server.mariadb else "REPLICATION CLIENT"
        yield Finding(
            "error",
            name,
            "the user may not see where the binlog ends, which a snapshot begins with",
            f"GRANT {wanted} ON *.* to it",
        )
    if server.mariadb or config.snapshot == "never" or rights.may_lock(connection):
        return
    if server.gtid:
        yield Finding("ok", name, "a snapshot of a busy server takes no lock: the user may not")
    else:
        yield Finding(
            "warning",
            name,
            "the user may not lock: a snapshot begins only when nobody commits for a moment",
            "GRANT RELOAD (or FLUSH_TABLES) ON *.* to it: the lock is held for milliseconds",
        )


def _replicas(
    name: str, connection: Connection, server: Server, options: MySqlConfig
) -> Iterator[Finding]:
    mine = options.server_id
    if mine == server.server_id:
        yield Finding(
            "error",
            name,
            f"server_id {mine} is the server's own",
            "give the source a `server_id` that no server and no replica has",
        )
    for number, host in _registered(connection):
        if number == mine and host != replica_name(name):
            yield Finding(
                "error",
                name,
                f"server_id {mine} is that of another replica{f' ({host})' if host else ''}: the "
                "server ends the one's connection when the other's begins",
                "give the source a `server_id` of its own",
            )
    if not server.log_replica_updates and _is_replica(connection, server):
        yield Finding(
            "error",
            name,
            "the server is a replica, and does not log what it replicates",
            "start it with log_replica_updates (log_slave_updates), or capture its primary",
        )
    if not server.mariadb and server.compression:
        yield Finding("ok", name, "transactions are compressed in the binlog")


def _registered(connection: Connection) -> list[tuple[int, str]]:
    """(server_id, host) of who reads the binlog; nothing for a user who may not see it."""
    for statement in ("SHOW REPLICAS", "SHOW SLAVE HOSTS"):
        try:
            return [(int(row[0]), str(row[1])) for row in query(connection, statement)]
        except pymysql.Error:
            continue
    return []


def _is_replica(connection: Connection, server: Server) -> bool:
    older = "SHOW ALL SLAVES STATUS" if server.mariadb else "SHOW SLAVE STATUS"
    renamed = not server.mariadb and server.version >= (8, 0, 22)
    try:
        return bool(query(connection, "SHOW REPLICA STATUS" if renamed else older))
    except pymysql.Error:  # not for this user: then it is not known
        return False


def _tables(config: SourceConfig, connection: Connection, server: Server) -> Iterator[Finding]:
    tables = catalog.read_tables(connection, config.tables)
    yield from _filtered(config.name, connection, server, tables.values())
    for table in tables.values():
        where = f"{config.name}.{table.name}"
        problems = list(_problems(connection, table))
        if problems:
            for what, remedy in problems:
                yield Finding("error", where, what, remedy)
            continue
        yield Finding("ok", where, f"key ({', '.join(table.key)}), about {table.rows} rows")
        yield from _notes(connection, where, table)


def _problems(connection: Connection, table: MyTable) -> Iterator[tuple[str, str]]:
    problem = catalog.table_problem(table)
    if problem is not None:
        yield problem
    refused = [f"{c.name} ({why})" for c in table.columns if (why := refusal(c.kind)) is not None]
    if refused:
        yield (
            f"columns of types that are not understood: {', '.join(refused)}",
            "alter their types, or leave the table out",
        )
    if not rights.may_read(connection, table):
        grant = f"GRANT SELECT ON {table.quoted} to the user of the url, on the whole table"
        yield "the user may not read it", grant
        return
    actions = unlogged_actions(connection, table)
    if actions:
        yield (
            f"rows change by a foreign key's {', '.join(actions)}, which the binlog does not have: "
            "the copies would keep what the table no longer has",
            "drop the action, and delete or update the rows by the application or by a trigger of "
            "the referenced table; both are in the binlog",
        )


def _notes(connection: Connection, where: str, table: MyTable) -> Iterator[Finding]:
    of_key = [column for column in table.columns if column.name in table.key]
    dates = [column.name for column in of_key if column.kind.code in MAY_BE_ZERO]
    if dates:
        yield Finding(
            "warning",
            where,
            f"dates in the key: {', '.join(dates)}",
            "a zero or invalid date in them stops capture, whatever `zero_dates` says",
        )
    numbers = {c.kind.collation for c in of_key if c.kind.collation not in (0, BINARY_COLLATION)}
    folded = _folding(connection, numbers)
    names = [column.name for column in of_key if column.kind.collation in folded]
    if names:
        yield Finding(
            "warning",
            where,
            f"the key's {', '.join(names)} compares without case or accents here, and exactly "
            "downstream: in views 'A' does not join 'a'",
            "join on lower(…) of both sides, or give the columns a _bin collation",
        )


def _folding(connection: Connection, numbers: Iterable[int]) -> set[int]:
    """Those of the collations that take different letters for equal."""
    exact = ("_bin", "_cs")
    ids = catalog.collation_ids(connection)
    sensitive = {number for name, number in ids.items() if name.endswith(exact)}
    return set(numbers) - sensitive


def _filtered(
    name: str, connection: Connection, server: Server, tables: Iterable[MyTable]
) -> Iterator[Finding]:
    """binlog_do_db and binlog_ignore_db: what the server leaves out, nobody can capture."""
    if not server.log_bin or not rights.may_see_position(connection, server.flavour):
        return
    _, _, *filters = catalog.master_status(connection)
    only, never = _names(filters[0]), _names(filters[1])
    for database in sorted({table.name.partition(".")[0] for table in tables}):
        if (only and database not in only) or database in never:
            yield Finding(
                "error",
                f"{name}.{database}",
                "the server leaves this database out of its binlog",
                "correct binlog_do_db and binlog_ignore_db in its configuration, and restart",
            )


def _names(text: object) -> set[str]:
    return {part.strip() for part in str(text or "").split(",") if part.strip()}


def _set(server: Server, name: str, value: str) -> str:
    """How to change a global setting so that it stays."""
    if server.mariadb:
        return f"SET GLOBAL {name} = {value}, and in the server's configuration"
    return f"SET PERSIST {name} = {value}"
