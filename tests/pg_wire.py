"""One table read from a real Postgres in every form that the decoders know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from cdc.postgres.copy_binary import compile_copy, decode_copy
from cdc.postgres.messages import Relation
from cdc.postgres.pgoutput import Decoded, Open, decode
from cdc.postgres.rows import TableDecoder, compile_table
from cdc.postgres.types import (
    SESSION_SETTINGS,
    TYPES_QUERY,
    PgType,
    TypeRow,
    column,
    copy_expression,
    resolve,
)
from cdc.schema import TableSchema

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Table:
    schema: TableSchema
    types: Mapping[str, PgType]


@contextmanager
def session(url: str) -> Iterator[Connection]:
    """A connection with the settings that the decoders rely on."""
    options = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        yield connection


def described(connection: Connection, name: str, key: Sequence[str] = ("id",)) -> Table:
    rows = connection.execute(TYPES_QUERY.encode()).fetchall()
    known = {row[0]: TypeRow(*row) for row in rows}
    attributes = connection.execute(
        "SELECT attname, atttypid::int8, atttypmod, attndims, format_type(atttypid, atttypmod),"
        " attnum FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [name],
    ).fetchall()
    types = {a[0]: resolve(known, a[1], a[2], a[3], a[4]) for a in attributes}
    columns = tuple(column(a[0], types[a[0]], attnum=a[5]) for a in attributes)
    return Table(TableSchema(name, columns, tuple(key)), types)


def copied(connection: Connection, table: Table, order: str = "id") -> pa.RecordBatch:
    """The table through COPY BINARY."""
    return decode_copy(
        compile_copy(table.schema, table.types), copy_messages(connection, table, order)
    )


def copy_messages(connection: Connection, table: Table, order: str = "id") -> list[bytes]:
    wanted = ", ".join(copy_expression(f'"{name}"', kind) for name, kind in table.types.items())
    statement = f"COPY (SELECT {wanted} FROM {table.schema.name} ORDER BY {order}) TO STDOUT BINARY"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        return [bytes(message) for message in copy]


class Slot:
    """A logical slot read through SQL, peeked so that both formats see the same changes."""

    def __init__(self, connection: Connection, name: str, publication: str) -> None:
        self.connection, self.name, self.publication = connection, name, publication
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])

    def payloads(self, *, binary: bool, consume: bool = False) -> list[bytes]:
        """All changes as XLogData messages."""
        how = "get" if consume else "peek"
        rows = self.connection.execute(
            sql.SQL(
                "SELECT lsn, data FROM {}(%s, NULL, NULL, 'proto_version', '1',"
                " 'publication_names', %s, 'binary', %s, 'messages', 'true')"
            ).format(sql.Identifier(f"pg_logical_slot_{how}_binary_changes")),
            [self.name, self.publication, "true" if binary else "false"],
        ).fetchall()
        return [xlog_data(bytes(data), lsn_value(lsn)) for lsn, data in rows]


def lsn_value(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def xlog_data(body: bytes, lsn: int = 0) -> bytes:
    """A pgoutput message in the header that replication puts before it."""
    return b"w" + lsn.to_bytes(8, "big") + bytes(16) + body


class Reader:
    """Decodes payloads of known tables, keeping what must be kept between calls."""

    def __init__(self, *tables: Table) -> None:
        self.known = {table.schema.name: table for table in tables}
        self.tables: dict[int, TableDecoder | None] = {}
        self.relations: list[Relation] = []
        self.open: Open | None = None

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        found = decode(payloads, self.tables, self._on_relation, self.open)
        self.open = found.open
        return found

    def _on_relation(self, relation: Relation) -> TableDecoder | None:
        self.relations.append(relation)
        table = self.known.get(relation.table)
        return compile_table(relation, table.schema, table.types) if table else None
