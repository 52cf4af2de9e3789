"""Tables of MySQL and MariaDB at one exact position: what `cdc verify` compares with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from cdc.errors import SourceError, SourceUnavailable
from cdc.mysql.catalog import BinlogPoint, Server, read_named, server
from cdc.mysql.connection import Connection, close, connect, source_errors
from cdc.mysql.read_views import begin_view, pin
from cdc.mysql.table_reader import ReadTable, TableAltered, read_rows
from cdc.mysql.types import ZeroDates, arrow_type
from cdc.positions import NativePosition
from cdc.schema import TableSchema


@dataclass(frozen=True)
class ReadAt:
    """A transaction that sees exactly what was committed up to `position`."""

    url: str
    position: NativePosition
    connection: Connection
    catalog: Connection
    zero_dates: ZeroDates

    def table(self, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        """The rows of the table that `schema` names, with its columns. SourceError when the table
        is gone, or no longer has them in those types; SourceUnavailable when it was altered after
        `position`."""
        with source_errors(self.url):
            table = read_named(self.catalog, [schema.name]).get(schema.name)
            if table is None:
                raise SourceError("the table is gone", where=schema.name)
            kinds = {column.name: column.kind for column in table.columns}
            for column in schema.columns:
                if column.name not in kinds or arrow_type(kinds[column.name]) != column.type:
                    raise SourceError(
                        f"column {column.name} was altered since it was captured",
                        where=schema.name,
                        hint="let the capture come past that change",
                    )
            try:
                yield from read_rows(self.connection, ReadTable(table, schema, self.zero_dates))
            except TableAltered as error:
                raise SourceUnavailable(
                    f"the table was altered or emptied after {self.position}, where it was to be "
                    "read",
                    where=schema.name,
                    hint="run the command again: it reads the table as it is then",
                ) from error


@contextmanager
def snapshot_at_now(url: str, zero_dates: ZeroDates) -> Iterator[ReadAt]:
    """The database as it is now, and the position that this is. Raises SourceError."""
    reading, catalog = connect(url), connect(url)
    try:
        with source_errors(url):
            position = _pinned(reading, catalog, server(catalog))
        yield ReadAt(url, position, reading, catalog, zero_dates)
    finally:
        close(reading)
        close(catalog)


def _pinned(reading: Connection, other: Connection, answers: Server) -> NativePosition:
    def begin(_: int) -> Sequence[BinlogPoint | None]:
        return [begin_view(reading, answers.mariadb)]

    pinned = pin(other, answers, begin, 1)
    if pinned.high is not None:
        raise SourceUnavailable(
            "something is committed all the time: no exact position without a lock",
            where=answers.product,
            hint="GRANT RELOAD ON *.* to the user of the URL (the lock is held for milliseconds), "
            "or try again when the server is quieter",
        )
    return pinned.low
