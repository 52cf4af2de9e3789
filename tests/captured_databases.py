"""What a test of capture needs of a database, whichever it is: one adapter per database.

Statements are in a common SQL as far as there is one; `series`, `name` and `off_line` are what
differs. An adapter is chosen by its URL, so that a process that is told a URL knows it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from cdc.config import MySqlConfig, Place, SourceConfig
from cdc.config_mysql import derived_server_id
from cdc.mysql import catalog as my_catalog
from cdc.mysql import connection as my
from cdc.mysql.source import MySqlSource
from cdc.mysql.table_reader import ReadTable, read_rows
from cdc.mysql.types import table_schema
from cdc.positions import Lsn, NativePosition
from cdc.postgres import catalog as pg_catalog
from cdc.postgres.connection import connect as pg_connect
from cdc.postgres.snapshot_worker import CopyTable, Range, copy_rows
from cdc.postgres.source import PostgresSource
from cdc.schema import TableSchema
from cdc.source import Source

PLACE = Place("connectors.yaml", 1, 1)


class Database(Protocol):
    """One database, reached by `url`."""

    @property
    def url(self) -> str: ...

    @property
    def every_table(self) -> str:
        """The pattern of all its tables."""
        ...

    def config(self, name: str, tables: tuple[str, ...], **settings: Any) -> SourceConfig: ...

    def source(self, config: SourceConfig, folder: Path) -> Source: ...

    def name(self, table: str) -> str:
        """A table's full name."""
        ...

    def series(self, first: int, last: int) -> str:
        """A table expression with the column g, counting from first to last."""
        ...

    def off_line(self, table: str, column: str) -> list[str]:
        """Statements after which the column's large values may be left out of updates."""
        ...

    def sql(self, *statements: str) -> None:
        """Each statement in a transaction of its own."""
        ...

    def transaction(self, *statements: str) -> None: ...

    def barrier(self) -> NativePosition:
        """A position at or after all that was committed, which a stream comes past."""
        ...

    def selected(self, table: str) -> tuple[TableSchema, list[pa.RecordBatch]]:
        """The rows now, in the types that a topic has."""
        ...


@dataclass(frozen=True)
class PgDatabase:
    url: str

    @property
    def every_table(self) -> str:
        return "public.*"

    def config(self, name: str, tables: tuple[str, ...], **settings: Any) -> SourceConfig:
        slot = f"cdc_{self.url.rsplit('/', 1)[1]}"
        snapshot = settings.pop("snapshot", "initial")
        return SourceConfig(
            name, "postgres", self.url, tables, snapshot, slot, slot, PLACE, **settings
        )

    def source(self, config: SourceConfig, folder: Path) -> PostgresSource:
        return PostgresSource(config, folder)

    def name(self, table: str) -> str:
        return f"public.{table}"

    def series(self, first: int, last: int) -> str:
        return f"generate_series({first}, {last}) g"

    def off_line(self, table: str, column: str) -> list[str]:
        return [f"ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL"]

    def sql(self, *statements: str) -> None:
        with pg_connect(self.url) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def transaction(self, *statements: str) -> None:
        with pg_connect(self.url) as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement.encode())

    def barrier(self) -> Lsn:
        with pg_connect(self.url) as connection:
            row = connection.execute(
                "SELECT pg_logical_emit_message(true, 'cdc', '')::text"
            ).fetchone()
        assert row is not None
        return Lsn.parse(row[0])

    def selected(self, table: str) -> tuple[TableSchema, list[pa.RecordBatch]]:
        with pg_connect(self.url) as connection:
            found = pg_catalog.read_named(connection, [table])[table]
            schema = found.schema()
            copied = CopyTable(schema, found.quoted, {c.name: c.kind for c in found.columns})
            return schema, list(copy_rows(connection, copied, Range(table, 0, None)))


@dataclass(frozen=True)
class MyDatabaseAt:
    """MySQL or MariaDB."""

    url: str

    @property
    def database(self) -> str:
        return unquote(urlsplit(self.url).path.removeprefix("/"))

    @property
    def every_table(self) -> str:
        return f"{self.database}.*"

    def config(self, name: str, tables: tuple[str, ...], **settings: Any) -> SourceConfig:
        mine = MySqlConfig(derived_server_id(self.database), heartbeat_s=1.0)
        snapshot = settings.pop("snapshot", "initial")
        return SourceConfig(
            name, "mysql", self.url, tables, snapshot, "", "", PLACE, mysql=mine, **settings
        )

    def source(self, config: SourceConfig, folder: Path) -> MySqlSource:
        return MySqlSource(config, folder)

    def name(self, table: str) -> str:
        return f"{self.database}.{table}"

    def series(self, first: int, last: int) -> str:
        return (
            f"(WITH RECURSIVE s AS (SELECT {first} AS g UNION ALL SELECT g + 1 FROM s "
            f"WHERE g < {last}) SELECT g FROM s) numbers"
        )

    def off_line(self, table: str, column: str) -> list[str]:
        return []

    def sql(self, *statements: str) -> None:
        with closing(self._session()) as connection:
            for statement in statements:
                my.execute(connection, statement)

    def transaction(self, *statements: str) -> None:
        self.sql("BEGIN", *statements, "COMMIT")

    def barrier(self) -> NativePosition:
        with closing(self._session()) as connection:
            server = my_catalog.server(connection)
            return my_catalog.current_point(connection, server.flavour).position(server)

    def selected(self, table: str) -> tuple[TableSchema, list[pa.RecordBatch]]:
        with closing(self._session()) as connection:
            found = my_catalog.read_named(connection, [table])[table]
            schema = table_schema(found, "null")
            return schema, list(read_rows(connection, ReadTable(found, schema, "null"), ""))

    def _session(self) -> my.Connection:
        connection = my.connect(self.url)
        limit = (
            "max_recursive_iterations" if my.is_mariadb(connection) else "cte_max_recursion_depth"
        )
        my.execute(connection, f"SET SESSION {limit} = 10000000")
        return connection


def database_at(url: str) -> Database:
    return MyDatabaseAt(url) if url.startswith("mysql:") else PgDatabase(url)


def joined(schema: TableSchema, parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    rows = pa.Table.from_batches(parts, schema.arrow).combine_chunks().to_batches()
    if rows:
        return rows[0]
    nothing = [pa.nulls(0, field.type) for field in schema.arrow]
    return pa.RecordBatch.from_arrays(nothing, schema=schema.arrow)
