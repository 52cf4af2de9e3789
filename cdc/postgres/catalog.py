"""What the catalog says about the captured tables, read in a few set-based queries.

A `PgTable` is a TableSchema together with what only capture needs: oid, relfilenode, replica
identity, size, and each captured column's type in all detail.

The key of a table (SEMANTICS 10): REPLICA IDENTITY DEFAULT and FULL: the primary key; USING INDEX:
the columns of that index; NOTHING: none. A table without a key cannot be captured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cdc.errors import SourceError
from cdc.postgres.connection import Connection
from cdc.postgres.types import (
    TYPES_QUERY,
    PgType,
    TypeRow,
    binary_decodable,
    column,
    resolve,
)
from cdc.schema import TableSchema

SERVER_MIN = 140000


@dataclass(frozen=True)
class PgColumn:
    """`toastable`: its values may be stored out of line, and so be missing from an update."""

    name: str
    kind: PgType
    nullable: bool
    attnum: int
    missing: str | None
    generated: str
    toastable: bool


@dataclass(frozen=True)
class PgTable:
    """One table as it is now. `identity` is relreplident: d, n, f, i.

    `key` is empty where the table has no usable key. `rows` and `pages` are the server's
    estimates. `generated` names generated columns, which are not captured. `mark`: COLUMNS_MARK.
    """

    oid: int
    name: str
    quoted: str
    filenode: int
    identity: str
    key: tuple[str, ...]
    columns: tuple[PgColumn, ...]
    generated: tuple[str, ...]
    rows: int
    pages: int
    kind: str
    mark: str

    def schema(self, version: int = 1) -> TableSchema:
        """The table's schema; `missing` values are those of columns added with a default."""
        columns = tuple(
            column(c.name, c.kind, nullable=c.nullable, attnum=c.attnum, missing=c.missing)
            for c in self.columns
        )
        return TableSchema(self.name, columns, self.key, version)

    @property
    def binary(self) -> bool:
        return all(binary_decodable(c.kind) for c in self.columns)

    @property
    def toastable(self) -> tuple[str, ...]:
        """Columns whose unchanged values may be missing from an update: not those of the key."""
        return tuple(c.name for c in self.columns if c.toastable and c.name not in self.key)


@dataclass(frozen=True)
class Server:
    version: int
    system: str
    timeline: int
    database: str
    in_recovery: bool

    @property
    def identity(self) -> str:
        return f"{self.system}/{self.timeline}"


def server(connection: Connection) -> Server:
    """Who answers. Raises SourceError when it is too old."""
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, "
        "(pg_control_system()).system_identifier::text, "
        "(pg_control_checkpoint()).timeline_id, current_database()::text, pg_is_in_recovery()"
    ).fetchone()
    assert row is not None
    found = Server(*row)
    if found.version < SERVER_MIN:
        raise SourceError(
            f"Postgres {found.version // 10000} is too old",
            where=found.database,
            hint="capture needs Postgres 14 or newer",
        )
    return found


def tables_matching(connection: Connection, patterns: Sequence[str]) -> list[str]:
    """`schema.table` of every ordinary table that one of the patterns matches, sorted. A pattern is
    a name, or a glob; partitions are found by their names only."""
    rows = connection.execute(
        "SELECT n.nspname || '.' || c.relname, c.relispartition FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' "
        "AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1"
    ).fetchall()
    return [
        name
        for name, is_partition in rows
        if name in patterns or (not is_partition and any(fnmatchcase(name, p) for p in patterns))
    ]


def read_tables(connection: Connection, patterns: Sequence[str]) -> dict[str, PgTable]:
    """The tables that the patterns match, by name. A pattern that matches none is an error."""
    names = tables_matching(connection, patterns)
    for pattern in patterns:
        if not (pattern in names or any(fnmatchcase(name, pattern) for name in names)):
            raise SourceError(
                f"no table matches '{pattern}'", hint="write it as schema.table or schema.*"
            )
    return read_named(connection, names)


def read_named(connection: Connection, names: Sequence[str]) -> dict[str, PgTable]:
    """The tables of exactly these names, by name; those that are not there are left out."""
    relations = connection.execute(_RELATIONS, (list(names),)).fetchall()
    oids = [row[0] for row in relations]
    columns = _columns(connection, oids)
    keys = _keys(connection, oids)
    return {row[1]: _table(row, columns[row[0]], keys) for row in relations}


COLUMNS_MARK = """(
    SELECT coalesce(md5(string_agg(a.attnum || ':' || a.xmin::text, ',' ORDER BY a.attnum)), '')
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)"""
"""Another text whenever ALTER TABLE touched a column of pg_class `c`."""

_RELATIONS = f"""
SELECT c.oid::int8, n.nspname || '.' || c.relname, quote_ident(n.nspname) || '.' ||
       quote_ident(c.relname), coalesce(pg_relation_filenode(c.oid), 0)::int8,
       c.relreplident::text, greatest(c.reltuples, 0)::int8,
       (pg_relation_size(c.oid) / current_setting('block_size')::int8)::int8,
       CASE c.relpersistence WHEN 'u' THEN 'u' ELSE c.relkind::text END, {COLUMNS_MARK}
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY (%s) ORDER BY 2
"""

_COLUMNS = """
SELECT a.attrelid::int8, a.attname::text, a.atttypid::int8, a.atttypmod, a.attndims::int4,
       format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, a.attnum::int4,
       CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
       a.attgenerated::text, a.attstorage <> 'p' AND a.attlen = -1
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_KEYS = """
SELECT i.indrelid::int8, i.indisprimary, i.indisreplident, k.place::int4, a.attname::text
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = ANY (%s) AND k.place <= i.indnkeyatts AND i.indisvalid
  AND (i.indisprimary OR i.indisreplident)
ORDER BY 1, 4
"""


def _columns(connection: Connection, oids: Sequence[int]) -> Mapping[int, list[PgColumn]]:
    types = {row[0]: TypeRow(*row) for row in connection.execute(TYPES_QUERY)}
    found: dict[int, list[PgColumn]] = defaultdict(list)
    for row in connection.execute(_COLUMNS, (list(oids),)):
        relation, name, oid, typmod, dims, spelling, nullable, attnum, missing, generated = row[:10]
        kind = resolve(types, oid, typmod, dims, spelling)
        found[relation].append(PgColumn(name, kind, nullable, attnum, missing, generated, row[10]))
    return found


def _keys(connection: Connection, oids: Sequence[int]) -> Mapping[tuple[int, str], list[str]]:
    """Key columns by (relation, "primary" or "identity")."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for relation, primary, identity, _, name in connection.execute(_KEYS, (list(oids),)):
        if primary:
            found[relation, "primary"].append(name)
        if identity:
            found[relation, "identity"].append(name)
    return found


def _table(
    row: Sequence[Any],
    columns: Iterable[PgColumn],
    keys: Mapping[tuple[int, str], list[str]],
) -> PgTable:
    oid, name, quoted, filenode, identity, rows, pages, kind, mark = row
    which = {"d": "primary", "f": "primary", "i": "identity"}.get(identity, "")
    columns = tuple(columns)
    return PgTable(
        oid,
        name,
        quoted,
        filenode,
        identity,
        tuple(keys.get((oid, which), ())),
        tuple(c for c in columns if not c.generated),
        tuple(c.name for c in columns if c.generated),
        rows,
        pages,
        kind,
        mark,
    )


def types_of(
    connection: Connection, columns: Sequence[tuple[int, int, int]]
) -> list[PgType | None]:
    """The types with these (oid, typmod, number of dimensions); None: the type is gone."""
    types = {row[0]: TypeRow(*row) for row in connection.execute(TYPES_QUERY)}
    found: list[PgType | None] = []
    for oid, typmod, dims in columns:
        if oid not in types:
            found.append(None)
            continue
        row = connection.execute("SELECT format_type(%s::oid, %s)", (oid, typmod)).fetchone()
        assert row is not None
        found.append(resolve(types, oid, typmod, dims, row[0]))
    return found


def require_keys(tables: Mapping[str, PgTable]) -> None:
    """Raise SourceError for the first table that has no usable key, with the remedy."""
    for table in tables.values():
        problem = table_problem(table)
        if problem is not None:
            raise SourceError(problem[0], where=table.name, hint=problem[1])


def table_problem(table: PgTable) -> tuple[str, str] | None:
    """Why a table cannot be captured, and the remedy."""
    if table.kind == "p":
        return "partitioned tables cannot be captured yet", "list its partitions by name"
    if table.kind == "u":
        return "unlogged tables are not in the WAL", f"ALTER TABLE {table.quoted} SET LOGGED"
    if table.generated:
        names = ", ".join(table.generated)
        return (
            f"generated columns are not sent by the server: {names}",
            "compute them in a view instead, or leave the table out",
        )
    if table.key:
        return None
    if table.identity == "n":
        return (
            "REPLICA IDENTITY NOTHING: updates and deletes cannot be followed",
            f"ALTER TABLE {table.quoted} REPLICA IDENTITY DEFAULT",
        )
    return (
        "no primary key: rows cannot be told apart",
        f"ALTER TABLE {table.quoted} ADD PRIMARY KEY (…), or REPLICA IDENTITY USING INDEX with a "
        "unique index on NOT NULL columns",
    )
