"""Reading whole tables, or ranges of them, in a transaction of a snapshot; and what the coordinator
tells its workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pymysql

from cdc.errors import SourceUnavailable
from cdc.mysql.connection import Connection, error_number, execute, query
from cdc.mysql.prepared import binary_rows
from cdc.mysql.ranges import forced, quoted
from cdc.mysql.result_rows import compile_result, decode_result, types_of
from cdc.mysql.tables import MyTable
from cdc.mysql.types import ZeroDates
from cdc.schema import TableSchema

BEGIN = "begin"
"""The command to begin the read view, again if there is one."""
LOCK_WAIT_S = 10
_ALTERED = 1412


@dataclass(frozen=True)
class Assignment:
    """The server to connect to."""

    url: str
    mariadb: bool


@dataclass(frozen=True)
class ReadTable:
    """A table to read, and as what."""

    table: MyTable
    schema: TableSchema
    zero_dates: ZeroDates


@dataclass(frozen=True)
class Tables:
    """All tables of the snapshot, by name."""

    tables: Mapping[str, ReadTable]


class TableAltered(SourceUnavailable):
    """A table was altered after the read view began: another one must be."""


@contextmanager
def altered(table: str) -> Iterator[None]:
    """The server's refusal to read an altered table in an older read view, as TableAltered."""
    try:
        yield
    except pymysql.Error as error:
        if error_number(error) != _ALTERED:
            raise
        raise TableAltered(
            "the table was altered or truncated before its rows were read",
            where=table,
            hint="they are read anew",
        ) from error


def select_statement(read: ReadTable, condition: str) -> str:
    """The SELECT of the schema's columns."""
    columns = ", ".join(quoted(column.name) for column in read.schema.columns)
    if not condition:
        return f"SELECT {columns} FROM {read.table.quoted}"
    return f"SELECT {columns} FROM {forced(read.table)} WHERE {condition}"


def read_rows(
    connection: Connection, read: ReadTable, condition: str = ""
) -> Iterator[pa.RecordBatch]:
    """The rows for which the condition holds, in batches of a few megabytes; none without rows."""
    schema = read.schema
    decoder = compile_result(schema, types_of(read.table, schema), read.zero_dates)
    with altered(read.table.name):
        for packets in binary_rows(connection, select_statement(read, condition)):
            yield decode_result(decoder, packets)


def touch(connection: Connection, tables: Iterable[MyTable]) -> None:
    """Lock the tables against DDL until the transaction ends, by reading them. Now: later it could
    be for ever, because an ALTER TABLE that waits for another session would stand before us.
    TableAltered when one was altered since the read view began."""
    execute(connection, f"SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")
    for table in tables:
        with altered(table.name):
            query(connection, f"SELECT 1 FROM {table.quoted} LIMIT 1")
