"""COPY … TO STDOUT (FORMAT binary) → record batches.

Source: PostgreSQL documentation, COPY, "Binary Format". libpq hands out one tuple per CopyData
message; the header (signature, flags int32, extension length int32) stands before the first tuple
in its message, and the trailer, a field count of −1, is a message of its own. `copy_expression`
(types.py) says what to select, so that every column is binary or text that reads the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.postgres.tuples import Misfit, malformed, walk_copy
from cdc.postgres.types import PgType, binary_decodable
from cdc.postgres.values import BINARY, TEXT, ColumnDecoder, compile_column
from cdc.schema import TableSchema

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
TRAILER = b"\xff\xff"
_WITH_OIDS = 1 << 16


@dataclass(frozen=True, eq=False)
class CopyDecoder:
    """How the tuples of one table's COPY become rows of `schema`."""

    schema: TableSchema
    columns: tuple[ColumnDecoder, ...]
    kinds: tuple[int, ...]
    """Per column BINARY, or TEXT where `copy_expression` selects the text."""


def compile_copy(schema: TableSchema, types: Mapping[str, PgType]) -> CopyDecoder:
    """The decoder of a COPY that selects the schema's columns in order; `types` by name."""
    return CopyDecoder(
        schema,
        tuple(compile_column(f"{schema.name}.{c.name}", types[c.name]) for c in schema.columns),
        tuple(BINARY if binary_decodable(types[c.name]) else TEXT for c in schema.columns),
    )


def decode_copy(table: CopyDecoder, messages: Sequence[bytes]) -> pa.RecordBatch:
    """The rows of consecutive CopyData messages of one COPY, wherever the list was cut.

    The header and the trailer are recognised and left out. BadData for a malformed tuple, or a
    value that cannot be carried.
    """
    return decode_joined(table, bytearray().join(messages), [len(m) for m in messages])


def decode_joined(table: CopyDecoder, data: bytearray, lengths: Sequence[int]) -> pa.RecordBatch:
    """The same of messages that stand one behind the other in `data`, which is then not to be
    changed any more."""
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    if data.startswith(SIGNATURE):
        starts[0] = _header_bytes(data)
        if starts[0] == ends[0]:
            starts, ends = starts[1:], ends[1:]
    if len(ends) and ends[-1] - starts[-1] == len(TRAILER) and data.endswith(TRAILER):
        starts, ends = starts[:-1], ends[:-1]
    if not len(ends):
        empty = [pa.nulls(0, column.type) for column in table.schema.columns]
        return pa.RecordBatch.from_arrays(empty, schema=table.schema.arrow)
    data += ragged.PAD
    buffer = np.frombuffer(data, np.uint8)
    try:
        fields = walk_copy(buffer, starts, ends, len(table.columns))
    except Misfit as misfit:
        message = buffer[starts[misfit.row] : ends[misfit.row]].tobytes()
        what = f"a COPY tuple that does not fit {table.schema.name}"
        raise malformed(what, message, misfit.row) from misfit
    columns = [
        decoder.decode(field.slices, kind)
        for decoder, field, kind in zip(table.columns, fields, table.kinds, strict=True)
    ]
    if not columns:
        struct = pa.nulls(len(ends), pa.struct([]))
        return pa.RecordBatch.from_struct_array(struct)
    return pa.RecordBatch.from_arrays(columns, schema=table.schema.arrow)


def _header_bytes(data: bytearray) -> int:
    at = len(SIGNATURE)
    flags = int.from_bytes(data[at : at + 4], "big")
    extension = int.from_bytes(data[at + 4 : at + 8], "big")
    if flags & _WITH_OIDS:
        raise BadData("a COPY with oids, which only servers before Postgres 12 write")
    return at + 8 + extension
