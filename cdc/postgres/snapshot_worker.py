"""One worker process of a snapshot: COPY BINARY in, finished Arrow rows out.

Run as `python -m cdc.postgres.snapshot_worker IN,OUT...` (cdc/worker_processes.py). Commands are an
`Assignment`, then one `Range` after another. The answers:

    R  ready: snapshot imported, all tables locked        empty
    L  not ready: a table's lock was not to be had        empty
    B  rows of the range                                  an Arrow IPC record batch message
    D  the range is done                                  empty

A full pipe stops COPY.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import psycopg
import pyarrow as pa
from psycopg import pq, sql

from cdc.postgres.connection import Connection, connect, result_error, source_errors
from cdc.postgres.copy_binary import compile_copy, decode_joined
from cdc.postgres.types import PgType, copy_expression
from cdc.schema import TableSchema
from cdc.worker_processes import Send, main, next_command

READY, LOCKED_OUT, ROWS, DONE = b"R", b"L", b"B", b"D"
LOCK_TIMEOUT_S = 3
DECODE_BYTES = 4 * 2**20
"""COPY data decoded at once: large enough for vectors, small enough for the caches."""


@dataclass(frozen=True)
class CopyTable:
    """A table to copy. `quoted` is its SQL name; `types` by column name."""

    schema: TableSchema
    quoted: str
    types: Mapping[str, PgType]


@dataclass(frozen=True)
class Assignment:
    url: str
    snapshot: str
    tables: Mapping[str, CopyTable]


@dataclass(frozen=True)
class Range:
    """Pages first .. last (excluded; None: to the end) of a table."""

    table: str
    first_page: int
    last_page: int | None

    @property
    def whole(self) -> bool:
        return self.first_page == 0 and self.last_page is None


def copy_statement(table: CopyTable, part: Range) -> str:
    """The COPY of a range: TID range scans from Postgres 14 on."""
    columns = ", ".join(
        copy_expression(_quoted(c.name), table.types[c.name]) for c in table.schema.columns
    )
    query = f"SELECT {columns} FROM ONLY {table.quoted}"
    if not part.whole:
        query += f" WHERE ctid >= '({part.first_page},0)'::tid"
        if part.last_page is not None:
            query += f" AND ctid < '({part.last_page},0)'::tid"
    return f"COPY ({query}) TO STDOUT (FORMAT binary)"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def copy_rows(connection: Connection, table: CopyTable, part: Range) -> Iterator[pa.RecordBatch]:
    """The rows of a range, in batches of about DECODE_BYTES of COPY data; none without rows."""
    decoder = compile_copy(table.schema, table.types)
    wire = connection.pgconn
    result = wire.exec_(copy_statement(table, part).encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise result_error(result, table.schema.name)
    held, lengths = bytearray(), list[int]()
    receive = wire.get_copy_data
    while True:
        count, data = receive(0)
        if count < 0:
            break
        held += data
        lengths.append(count)
        if len(held) >= DECODE_BYTES:
            yield decode_joined(decoder, held, lengths)
            held, lengths = bytearray(), []
    result = wire.get_result() or result
    if count == -2 or result.status != pq.ExecStatus.COMMAND_OK:
        raise result_error(result, table.schema.name)
    while wire.get_result() is not None:
        pass
    last = decode_joined(decoder, held, lengths)
    if last.num_rows:
        yield last


def import_snapshot(connection: Connection, snapshot: str) -> None:
    """Begin a transaction that sees exactly what the slot's consistent point saw."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))


def serve(commands: BinaryIO, send: Send) -> None:
    """Work off the assignment and its ranges."""
    assignment: Assignment = next_command(commands)
    connection = connect(assignment.url)
    with source_errors(assignment.url):
        import_snapshot(connection, assignment.snapshot)
        if not _locked(connection, assignment.tables.values()):
            send(LOCKED_OUT, b"")
            return
        send(READY, b"")
        while (part := next_command(commands)) is not None:
            for rows in copy_rows(connection, assignment.tables[part.table], part):
                send(ROWS, rows.serialize())
            send(DONE, b"")
    connection.close()


def _locked(connection: Connection, tables: Iterable[CopyTable]) -> bool:
    """Lock all tables now. Later it could be for ever: a TRUNCATE that waits for the snapshot's
    other sessions would stand before us in the queue, and wait for us too."""
    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'".encode())
    try:
        for table in tables:
            connection.execute(f"LOCK TABLE ONLY {table.quoted} IN ACCESS SHARE MODE".encode())
    except psycopg.errors.LockNotAvailable:
        return False
    return True


if __name__ == "__main__":
    main(serve, sys.argv[1:])
