"""Rows of any SELECT as record batches, by binary COPY; and a view of the database at one position.

`snapshot_at_now` makes a temporary replication slot for the exported snapshot that comes with it:
the only way to know a snapshot's place in the WAL exactly. The slot ends with its connection, and
nothing is ever read from it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import pq, sql

from cdc.errors import SourceError
from cdc.positions import Lsn
from cdc.postgres.connection import (
    Connection,
    connect,
    connect_replication,
    execute,
    result_error,
    source_errors,
)
from cdc.postgres.copy_binary import CopyDecoder, compile_copy, decode_joined
from cdc.postgres.snapshot_worker import import_snapshot
from cdc.postgres.types import TYPES_QUERY, PgType, TypeRow, column, copy_expression, resolve
from cdc.schema import TableSchema

BATCH_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ReadAt:
    """A transaction that sees exactly what was committed up to `position`."""

    url: str
    position: Lsn
    connection: Connection

    def rows(self, query: str, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        """The rows of `query` with the schema's columns, in that order and in those types."""
        return select(self.connection, self.url, query, schema)


@contextmanager
def snapshot_at_now(url: str) -> Iterator[ReadAt]:
    """The database as it is now, and the position that this is. Raises SourceError."""
    name = f"cdc_read_{uuid.uuid4().hex[:16]}"
    with closing(connect(url)) as connection:
        walsender = connect_replication(url)
        try:
            command = f"CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
            ((_, position, snapshot, _),) = execute(walsender, command, name)
            assert position is not None and snapshot is not None
            with source_errors(url):
                import_snapshot(connection, snapshot)
        finally:
            walsender.finish()
        yield ReadAt(url, Lsn.parse(position), connection)


def select_once(url: str, query: str, schema: TableSchema) -> Iterator[pa.RecordBatch]:
    """The rows of `query` now, on a connection of its own, reading only."""
    with closing(connect(url)) as connection:
        with source_errors(url):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield from select(connection, url, query, schema)


def select(
    connection: Connection, url: str, query: str, schema: TableSchema
) -> Iterator[pa.RecordBatch]:
    """COPY the rows of `query` and give them the schema's types. Raises SourceError, BadData."""
    with source_errors(url):
        types = _types_of(connection, query, schema)
    names = [sql.Identifier(c.name).as_string(None) for c in schema.columns]
    picked = ", ".join(
        copy_expression(name, types[c.name]) for name, c in zip(names, schema.columns, strict=True)
    )
    listed = ", ".join(names)
    statement = f"COPY (SELECT {picked} FROM ({query}) AS q({listed})) TO STDOUT (FORMAT binary)"
    sent = TableSchema(schema.name, tuple(column(n, t) for n, t in types.items()), ())
    with source_errors(url):
        for batch in _copied(connection.pgconn, statement, compile_copy(sent, types), schema.name):
            if batch.num_rows:
                yield _conformed(batch, schema)


def _types_of(connection: Connection, query: str, schema: TableSchema) -> dict[str, PgType]:
    """The type of each of the query's columns, by the schema's names."""
    rows = connection.execute(TYPES_QUERY.encode()).fetchall()
    known = {row[0]: TypeRow(*row) for row in rows}
    result = connection.execute(f"SELECT * FROM ({query}) AS q LIMIT 0".encode()).pgresult
    assert result is not None
    if result.nfields != len(schema.columns):
        raise SourceError(f"{result.nfields} columns came for {len(schema.columns)}", where=query)
    found = {}
    for i, wanted in enumerate(schema.columns):
        oid, typmod = result.ftype(i), result.fmod(i)
        spelled = connection.execute("SELECT format_type(%s::oid, %s)", (oid, typmod)).fetchone()
        assert spelled is not None
        found[wanted.name] = resolve(known, oid, typmod, 0, spelled[0])
    return found


def _copied(
    wire: pq.abc.PGconn, statement: str, decoder: CopyDecoder, where: str
) -> Iterator[pa.RecordBatch]:
    result = wire.exec_(statement.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise result_error(result, where)
    held, lengths = bytearray(), list[int]()
    while True:
        count, data = wire.get_copy_data(0)
        if count < 0:
            break
        held += data
        lengths.append(count)
        if len(held) >= BATCH_BYTES:
            yield decode_joined(decoder, held, lengths)
            held, lengths = bytearray(), []
    ended = wire.get_result()
    while wire.get_result() is not None:
        pass
    if count == -2 or ended is None or ended.status != pq.ExecStatus.COMMAND_OK:
        raise result_error(ended, where)
    yield decode_joined(decoder, held, lengths)


def _conformed(batch: pa.RecordBatch, schema: TableSchema) -> pa.RecordBatch:
    columns = [_retyped(batch.column(i), wanted.type) for i, wanted in enumerate(schema.columns)]
    return pa.RecordBatch.from_arrays(columns, schema=schema.arrow)


def _retyped(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values in another travelling type. pyarrow raises where one does not fit."""
    if values.type == kind:
        return values
    plain = values.storage if isinstance(values.type, pa.ExtensionType) else values
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(pc.cast(plain, kind.storage_type))
    return pc.cast(plain, kind)
