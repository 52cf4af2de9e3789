"""What the server and its information_schema say: who answers, the captured tables, where it is.

A few set-based queries per database. The key of a table is its primary key, else a unique index
whose columns are all NOT NULL and whole (no prefixes, no expressions): as good as a primary key to
tell rows apart. Of several it is the one that the server takes for a primary key (COLUMN_KEY is
'PRI'), in table maps and row images too; else the first by name. A table without such a key cannot
be captured.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import pymysql

from cdc.errors import SourceError
from cdc.mysql.columns import INFO_COLUMNS, InfoRow, column
from cdc.mysql.connection import Connection, Row, internals, is_mariadb, query
from cdc.mysql.tables import MyColumn, MyTable
from cdc.positions import BinlogPosition, GtidSet, MariaGtid, NativePosition

Flavour = Literal["mysql", "mariadb"]

OLDEST: Mapping[str, tuple[int, int]] = {"mysql": (8, 0), "mariadb": (10, 5)}
_PASSING = re.compile(r"[^.]+\._.+_(gho|ghc|del|old|new)")
SYSTEM_DATABASES = ("information_schema", "mysql", "performance_schema", "sys")


@dataclass(frozen=True)
class Server:
    """Who answers, and how its binlog is set. `version` is (8, 0, 33), `version_text` as printed.

    uuid             MySQL's server_uuid; MariaDB has none: empty
    gtid             whether its binlog can be read by GTID; `gtid_mode` as MySQL spells it
    row_image        FULL, NOBLOB, MINIMAL (MariaDB also FULL_NODUP)
    row_metadata     FULL, MINIMAL; MariaDB also NO_LOG
    row_value_options  PARTIAL_JSON or empty
    compression      binlog_transaction_compression, or MariaDB's log_bin_compress
    expire_s         after how long binlog files are removed; 0: never by age
    log_replica_updates  whether it logs what it replicates
    settings         every global variable of the binlog and of GTIDs, by lower-case name
    """

    version: tuple[int, int, int]
    version_text: str
    flavour: Flavour
    uuid: str
    server_id: int
    gtid: bool
    gtid_mode: str
    log_bin: bool
    binlog_format: str
    row_image: str
    row_metadata: str
    row_value_options: str
    compression: bool
    checksum: str
    expire_s: int
    read_only: bool
    log_replica_updates: bool
    database: str
    settings: Mapping[str, str]

    @property
    def mariadb(self) -> bool:
        return self.flavour == "mariadb"

    @property
    def product(self) -> str:
        return f"{'MariaDB' if self.mariadb else 'MySQL'} {'.'.join(map(str, self.version))}"


@dataclass(frozen=True)
class BinlogPoint:
    """A point of the binlog as the server prints it: `gtids` is MySQL's gtid_executed (without
    blanks) or MariaDB's position per domain, empty where there are none."""

    file: str
    offset: int
    gtids: str

    def position(self, server: Server) -> NativePosition:
        """By GTID where the server has them, else by file."""
        if not server.gtid:
            return BinlogPosition(self.file, self.offset)
        return (MariaGtid if server.mariadb else GtidSet).parse(self.gtids)


def server(connection: Connection) -> Server:
    """Who answers. Raises SourceError when it is too old. Needs no rights."""
    settings = _settings(connection)
    ((text, database),) = query(connection, "SELECT version(), database()")
    version = parse_version(text)
    mariadb = "mariadb" in text.lower() or "gtid_binlog_pos" in settings
    gtid_mode = settings.get("gtid_mode", "ON" if mariadb else "OFF").upper()
    found = Server(
        version=version,
        version_text=text,
        flavour="mariadb" if mariadb else "mysql",
        uuid=settings.get("server_uuid", ""),
        server_id=int(settings.get("server_id", "0")),
        gtid=gtid_mode == "ON",
        gtid_mode=gtid_mode,
        log_bin=_on(settings, "log_bin"),
        binlog_format=settings.get("binlog_format", "ROW").upper(),
        row_image=settings.get("binlog_row_image", "FULL").upper(),
        row_metadata=settings.get("binlog_row_metadata", "MINIMAL").upper(),
        row_value_options=settings.get("binlog_row_value_options", "").upper(),
        compression=_on(settings, "binlog_transaction_compression")
        or _on(settings, "log_bin_compress"),
        checksum=settings.get("binlog_checksum", "NONE").upper(),
        expire_s=_expire_s(settings),
        read_only=_on(settings, "read_only"),
        log_replica_updates=_on(settings, "log_replica_updates")
        or _on(settings, "log_slave_updates"),
        database=database or "",
        settings=settings,
    )
    oldest = OLDEST[found.flavour]
    if version[:2] < oldest:
        raise SourceError(
            f"{found.product} is too old",
            where=found.database,
            hint="capture needs MySQL 8.0 or newer, or MariaDB 10.5 or newer",
        )
    return found


def parse_version(text: str) -> tuple[int, int, int]:
    """`10.11.19-MariaDB-log` → (10, 11, 19)."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text.removeprefix("5.5.5-"))
    if match is None:
        raise SourceError(f"'{text}' is no version of MySQL or MariaDB")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _settings(connection: Connection) -> dict[str, str]:
    rows = query(
        connection,
        "SHOW GLOBAL VARIABLES WHERE Variable_name LIKE %s OR Variable_name LIKE %s "
        "OR Variable_name LIKE %s OR Variable_name IN "
        "('server_id', 'server_uuid', 'expire_logs_days', 'read_only', 'super_read_only', "
        "'log_slave_updates', 'log_replica_updates', 'lower_case_table_names', "
        "'max_allowed_packet', 'enforce_gtid_consistency')",
        ("%binlog%", "log_bin%", "gtid%"),
    )
    return {name.lower(): value for name, value in rows}


def _on(settings: Mapping[str, str], name: str) -> bool:
    return settings.get(name, "OFF").upper() in ("ON", "1")


def _expire_s(settings: Mapping[str, str]) -> int:
    seconds = int(settings.get("binlog_expire_logs_seconds", "0"))
    if seconds or "expire_logs_days" not in settings:
        return seconds
    return int(float(settings["expire_logs_days"]) * 86400)


def current_point(connection: Connection, flavour: Flavour) -> BinlogPoint:
    """The newest point of the binlog: all that was committed before the call lies at or before it.
    Needs REPLICATION CLIENT (MariaDB: BINLOG MONITOR). SourceError when there is no binlog."""
    row = master_status(connection)
    if flavour == "mariadb":
        ((gtids,),) = query(connection, "SELECT @@GLOBAL.gtid_binlog_pos")
        # The file's position is read first: the GTIDs may be newer, never older.
        return BinlogPoint(row[0], int(row[1]), gtids or "")
    return BinlogPoint(row[0], int(row[1]), _compact(row[4]) if len(row) > 4 else "")


def read_view_point(connection: Connection) -> BinlogPoint:
    """MariaDB: the point that belongs to the read view of this connection's transaction, begun WITH
    CONSISTENT SNAPSHOT, without its GTIDs (`with_gtids`). Needs no rights."""
    rows = query(connection, "SHOW STATUS LIKE 'binlog_snapshot_%'")
    status: dict[str, str] = dict(rows)
    return BinlogPoint(status["Binlog_snapshot_file"], int(status["Binlog_snapshot_position"]), "")


def with_gtids(connection: Connection, point: BinlogPoint) -> BinlogPoint | None:
    """MariaDB: the point with its GTIDs. None when the server cannot say: BINLOG_GTID_POS reads the
    file from its beginning, and gives up at an event above max_allowed_packet."""
    before = current_point(connection, "mariadb")
    after = current_point(connection, "mariadb")
    place = (point.file, point.offset)
    # The GTIDs of `before` were read between the two looks at the binlog's end.
    if (before.file, before.offset) == (after.file, after.offset) == place:
        return before
    ((gtids,),) = query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", place)
    return None if gtids is None else BinlogPoint(point.file, point.offset, gtids)


def master_status(connection: Connection) -> Row:
    """Where the binlog ends. The statement's name since MySQL 8.2; 8.4 has no other."""
    version = parse_version(str(internals(connection).server_version))
    renamed = not is_mariadb(connection) and version >= (8, 2, 0)
    rows = query(connection, "SHOW BINARY LOG STATUS" if renamed else "SHOW MASTER STATUS")
    if not rows:
        raise SourceError("the server has no binlog", hint="start it with log_bin, and restart")
    return rows[0]


def _compact(gtids: str | None) -> str:
    return "".join((gtids or "").split())


def read_tables(connection: Connection, patterns: Sequence[str]) -> dict[str, MyTable]:
    """The tables that the patterns match, by name. A pattern is a name or a glob, of the URL's
    database where it names none; one that matches no table is an error."""
    wanted = qualified(connection, patterns)
    names = tables_matching(connection, wanted)
    for pattern in wanted:
        if not any(_matches(name, pattern) for name in names):
            raise SourceError(
                f"no table matches '{pattern}'",
                hint="write it as database.table or database.*; the user must see it (SELECT)",
            )
    return read_named(connection, names)


def qualified(connection: Connection, patterns: Sequence[str]) -> list[str]:
    """The patterns with their database. SourceError where there is none to take."""
    found = []
    for pattern in patterns:
        if "." not in pattern:
            ((database,),) = query(connection, "SELECT database()")
            if not database:
                raise SourceError(
                    f"'{pattern}' names no database",
                    hint="write it as database.table, or name the database in the URL",
                )
            found.append(f"{database}.{pattern}")
        else:
            found.append(pattern)
    return found


def tables_matching(connection: Connection, patterns: Sequence[str]) -> list[str]:
    """`database.table` of every table that one of the patterns matches, sorted; no views, and
    nothing of the system's databases."""
    names = []
    for database in _databases(connection, [p.split(".", 1)[0] for p in patterns]):
        rows = query(
            connection,
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s "
            "AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')",
            (database,),
        )
        names += [f"{database}.{name}" for (name,) in rows]
    return sorted(name for name in names if matches(name, patterns))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a table is captured by one of the patterns, which name their databases. A glob leaves
    out what gh-ost and pt-online-schema-change make beside a table while they alter it."""
    passing = _PASSING.fullmatch(name) is not None
    return name in patterns or (not passing and any(fnmatchcase(name, p) for p in patterns))


def _databases(connection: Connection, patterns: Sequence[str]) -> list[str]:
    rows = query(connection, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")
    return [
        name
        for (name,) in rows
        if name.lower() not in SYSTEM_DATABASES
        and any(_matches(name, pattern) for pattern in patterns)
    ]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def read_named(connection: Connection, names: Sequence[str]) -> dict[str, MyTable]:
    """The tables of exactly these names, by name; those that are not there are left out."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for name in names:
        database, _, table = name.partition(".")
        wanted[database].add(table)
    collations = collation_ids(connection) if wanted else {}
    found: dict[str, MyTable] = {}
    for database, tables in wanted.items():
        found |= _tables_of(connection, database, tables, collations)
    return {name: found[name] for name in names if name in found}


def collation_ids(connection: Connection) -> dict[str, int]:
    """The ids of all collations, by every name that information_schema.COLUMNS may show."""
    ids: dict[str, int] = {}
    try:  # MariaDB from 10.10 on: a collation is of several character sets, an id is of one
        rows = query(
            connection,
            "SELECT FULL_COLLATION_NAME, ID "
            "FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY",
        )
    except pymysql.Error:
        rows = query(connection, "SELECT COLLATION_NAME, ID FROM information_schema.COLLATIONS")
    for name, number in rows:
        if number is not None:
            ids[name] = int(number)
    return ids


_TABLES = """
SELECT t.TABLE_NAME, t.TABLE_TYPE, t.ENGINE, t.TABLE_ROWS, t.DATA_LENGTH, e.TRANSACTIONS
FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE
WHERE t.TABLE_SCHEMA = %s AND {table} AND t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')
"""

_COLUMNS = f"""
SELECT TABLE_NAME, COLUMN_KEY, {INFO_COLUMNS}
FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND {{table}}
ORDER BY TABLE_NAME, ORDINAL_POSITION
"""

_KEYS = """
SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART, NULLABLE, INDEX_TYPE
FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND {table} AND NON_UNIQUE = 0
ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX
"""

_JSON_CHECKS = """
SELECT TABLE_NAME, CONSTRAINT_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS
WHERE CONSTRAINT_SCHEMA = %s AND {table} AND CHECK_CLAUSE LIKE '%%json_valid%%'
"""


def _tables_of(
    connection: Connection, database: str, names: set[str], collations: Mapping[str, int]
) -> dict[str, MyTable]:
    """The tables of one database. A constant name is what the servers' dictionaries can look up:
    the database, and if it is only one the table; several tables are picked here."""

    def rows_of(statement: str, column: str = "TABLE_NAME") -> list[Row]:
        (only, *others) = names
        arguments = (database,) if others else (database, only)
        return query(
            connection, statement.format(table="true" if others else f"{column} = %s"), arguments
        )

    tables = [row for row in rows_of(_TABLES, "t.TABLE_NAME") if row[0] in names]
    mariadb = is_mariadb(connection)
    json = _json_columns(rows_of(_JSON_CHECKS)) if mariadb else set()
    columns: dict[str, list[MyColumn]] = defaultdict(list)
    own: dict[str, set[str]] = defaultdict(set)
    for table, key, *facts in rows_of(_COLUMNS):
        if table in names:
            row = InfoRow(*facts)
            columns[table].append(column(row, collations, (table, row.name) in json, mariadb))
            own[table] |= {row.name} if key == "PRI" else set()
    indexes = rows_of(_KEYS)
    keys, hashes = _keys(indexes, own), {row[0]: row[1] for row in indexes if row[5] == "HASH"}
    found = {}
    for said in tables:
        name = said[0]
        index, key = keys.get(name, ("", ()))
        made = _table(database, said, columns[name], index, key, hashes.get(name, ""))
        found[made.name] = made
    return found


def _json_columns(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """MariaDB's JSON is text with a check of the server's own making, named as the column."""
    return {
        (table, name)
        for table, name, clause in rows
        if clause == f"json_valid(`{name.replace('`', '``')}`)"
    }


def _keys(
    rows: Sequence[Row], own: Mapping[str, set[str]]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The index and the columns of the key of every table that has one. `own`: the columns of the
    server's own key."""
    parts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        parts[row[0], row[1]].append(row)
    found: dict[str, tuple[str, tuple[str, ...]]] = {}

    def rank(part: tuple[tuple[str, str], list[Row]]) -> tuple[bool, bool]:
        (table, index), columns = part
        return index != "PRIMARY", {row[2] for row in columns} != own.get(table)

    # Where they rank the same, the names as the server sorts them.
    for (table, index), columns in sorted(parts.items(), key=rank):
        usable = index == "PRIMARY" or all(
            name is not None and prefix is None and nullable != "YES"
            for _, _, name, prefix, nullable, _ in columns
        )
        if usable and table not in found:
            found[table] = index, tuple(row[2] for row in columns)
    return found


def _table(
    database: str,
    row: Row,
    columns: Sequence[MyColumn],
    index: str,
    key: tuple[str, ...],
    hash_index: str,
) -> MyTable:
    name, kind, engine, rows, size, transactions = row
    return MyTable(
        f"{database}.{name}",
        tuple(columns),
        key,
        int(rows or 0),
        int(size or 0),
        index,
        str(engine or ""),
        transactions == "YES",
        kind == "SYSTEM VERSIONED",
        hash_index,
    )


def require_keys(tables: Mapping[str, MyTable]) -> None:
    """Raise SourceError for the first table that cannot be captured, with the remedy."""
    for table in tables.values():
        problem = table_problem(table)
        if problem is not None:
            raise SourceError(problem[0], where=table.name, hint=problem[1])


def table_problem(table: MyTable) -> tuple[str, str] | None:
    """Why a table cannot be captured, and the remedy. (Types are cdc/mysql/types.py's matter.)"""
    if table.versioned:
        return "system-versioned tables cannot be captured yet", "leave the table out"
    if not table.transactional:
        return (
            f"the engine {table.engine} has no transactions: no snapshot of it is consistent",
            f"ALTER TABLE {table.quoted} ENGINE = InnoDB",
        )
    if table.hash_index:
        return (
            f"the unique index {table.hash_index} is a hash, for which the binlog has a hidden "
            "column",
            "give the columns of the index a length of which InnoDB keeps all, or leave the table "
            "out",
        )
    if not table.key:
        return (
            "no primary key: rows cannot be told apart",
            f"ALTER TABLE {table.quoted} ADD PRIMARY KEY (…), or a unique index on NOT NULL "
            "columns",
        )
    return None
