"""What `cdc verify` compares with: a source's rows at one exact position.

postgres    a snapshot, in which any SELECT can be run
mysql       a snapshot of its tables; a view's SELECT is Postgres's SQL, which it cannot run
topics      their newest record per key, read anew; they cannot run a SELECT
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from cdc.cli.context import opened_source
from cdc.config import Config
from cdc.errors import Unsupported
from cdc.positions import NativePosition
from cdc.postgres.select import ReadAt, snapshot_at_now
from cdc.schema import TableSchema


class SourceRead(Protocol):
    """A source that was read at one position."""

    @property
    def position(self) -> NativePosition: ...

    def table(self, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        """The rows of the table that `schema` names, with its columns."""
        ...

    def select(self, query: str, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        """The rows of a SELECT. Raises Unsupported where the source cannot run one."""
        ...


@dataclass(frozen=True)
class PostgresRead:
    read: ReadAt

    @property
    def position(self) -> NativePosition:
        return self.read.position

    def table(self, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        return self.read.rows(select_all(schema), schema)

    def select(self, query: str, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        return self.read.rows(query, schema)


class Tables(Protocol):
    """What cdc.mysql.select.ReadAt offers, named here without its client library."""

    @property
    def position(self) -> NativePosition: ...

    def table(self, schema: TableSchema) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True)
class MySqlRead:
    read: Tables

    @property
    def position(self) -> NativePosition:
        return self.read.position

    def table(self, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        return self.read.table(schema)

    def select(self, query: str, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        raise Unsupported("MySQL cannot run a view's SELECT", where=schema.name)


@contextmanager
def opened_read(config: Config, name: str) -> Iterator[SourceRead]:
    """The source of that name as it is now. Raises SourceError."""
    if config.sources[name].type == "postgres":
        with snapshot_at_now(config.sources[name].url) as read:
            yield PostgresRead(read)
        return
    mysql = config.sources[name].mysql
    if mysql is not None:
        # reason: an extra, which not everybody has installed
        from cdc.mysql.select import snapshot_at_now as mysql_at_now  # noqa: PLC0415

        with mysql_at_now(config.sources[name].url, mysql.zero_dates) as tables:
            yield MySqlRead(tables)
        return
    # reason: an extra, which not everybody has installed
    from cdc.topics.newest import TopicsAt  # noqa: PLC0415
    from cdc.topics.source import TopicsSource  # noqa: PLC0415 # reason: the same

    with opened_source(config, name) as source:
        assert isinstance(source, TopicsSource)
        yield TopicsAt(source)


def can_select(config: Config, source: str) -> bool:
    """Whether the source can compute a view's SELECT itself."""
    return config.sources[source].type == "postgres"


def select_all(schema: TableSchema) -> str:
    """The rows of a table as it is captured: without those of tables that inherit from it."""
    columns = ", ".join(_quoted(column.name) for column in schema.columns)
    table = ".".join(_quoted(part) for part in schema.name.split(".", 1))
    return f"SELECT {columns} FROM ONLY {table}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
