"""Reading a Postgres table back as Arrow batches: COPY BINARY and the capture's own decoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa

from cdc.postgres.copy_binary import CopyDecoder, compile_copy, decode_copy
from cdc.postgres.types import (
    TYPES_QUERY,
    PgType,
    TypeRow,
    arrow_type,
    copy_expression,
    resolve,
    sql_type,
)
from cdc.schema import Column, TableSchema

_BATCH_ROWS = 20_000
_BATCH_BYTES = 16 * 2**20

Connection = psycopg.Connection[tuple[Any, ...]]


def read_rows(
    connection: Connection, place: str, columns: tuple[Column, ...]
) -> Iterator[pa.RecordBatch]:
    """All rows of the table `place` (quoted), with the given columns, in no order."""
    schema = pa.schema([pa.field(c.name, c.type) for c in columns])
    kinds = _kinds(connection, place)
    decoder = _decoder(place, columns, kinds)
    selected = ", ".join(copy_expression(_quote(c.name), kinds[c.name]) for c in columns)
    statement = f"COPY (SELECT {selected} FROM {place}) TO STDOUT (FORMAT BINARY)"
    with connection.transaction(), connection.cursor().copy(statement.encode()) as copy:
        messages, size = [], 0
        for message in copy:
            messages.append(bytes(message))
            size += len(message)
            if len(messages) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                yield _cast(decode_copy(decoder, messages), schema)
                messages, size = [], 0
        yield _cast(decode_copy(decoder, messages), schema)


def _kinds(connection: Connection, place: str) -> dict[str, PgType]:
    types = {row[0]: TypeRow(*row) for row in connection.execute(TYPES_QUERY.encode())}
    found = connection.execute(
        "SELECT attname::text, atttypid::int8, atttypmod, attndims::int4, "
        "format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        (place,),
    )
    return {row[0]: resolve(types, *row[1:]) for row in found}


def _decoder(place: str, columns: tuple[Column, ...], kinds: dict[str, PgType]) -> CopyDecoder:
    stored = tuple(
        Column(c.name, arrow_type(kinds[c.name]), sql_type(kinds[c.name])) for c in columns
    )
    return compile_copy(TableSchema(place, stored, ()), kinds)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Columns whose type there is another than here (enums as text, …) as they are here."""
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
