"""A stored batch: Arrow IPC record batch messages without their schema.

The schema stands once per version in `schemas`; a row of `batches` holds the encapsulated message
alone (LZ4 bodies for large batches). Because an IPC stream is one schema message followed by such
messages, many small rows are decoded in one go, by putting them behind their schema's message.
The crc32 covers the row's offsets and data and binds them to their place.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from cdc.changes import Bytes, ChangeBatch, Int64s
from cdc.errors import LogDamaged, LogError
from cdc.schema import TableSchema

COMPRESS_ABOVE_BYTES = 16 * 1024
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
_PLACE = struct.Struct("<qqqqq?")


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One row of `batches`, as read."""

    id: int
    base: int
    next: int
    count: int
    version: int
    with_before: bool
    appended_us: int
    crc: int
    offsets: bytes | None
    data: bytes

    def offset_array(self) -> Int64s:
        if self.offsets is None:
            return np.arange(self.base, self.next, dtype=np.int64)
        return np.frombuffer(self.offsets, np.int64)


def encode(changes: ChangeBatch) -> bytes | pa.Buffer:
    """The batch's message. Raises LogError when its columns are not those of its schema."""
    stored = changes.to_arrow()
    message = schema_message(changes.schema, changes.before is not None)
    if not stored.schema.equals(message.schema):
        raise LogError(
            "a batch's columns do not fit its schema",
            where=f"{changes.schema.name} version {changes.schema.version}",
        )
    if stored.nbytes < COMPRESS_ABOVE_BYTES:
        return stored.serialize()
    # Made large enough at once: a stream that grows copies itself again and again.
    size = pa.ipc.get_record_batch_size(stored)
    whole = pa.allocate_buffer(len(message.prefix) + size + size // 128 + _SLACK)
    out = pa.FixedSizeBufferWriter(whole)
    with pa.ipc.new_stream(out, stored.schema, options=_LZ4) as writer:
        writer.write_batch(stored)
        end = out.tell()
    return whole.slice(len(message.prefix), end - len(message.prefix))


_SLACK = 64 * 1024
"""For LZ4 frames of what does not compress, and the end of the stream."""


@dataclass(frozen=True)
class SchemaMessage:
    schema: pa.Schema
    prefix: bytes


@lru_cache(maxsize=4096)
def _message(schema: TableSchema, with_before: bool) -> SchemaMessage:
    fields = [pa.field("op", pa.uint8())]
    fields += [pa.field(name, pa.int64()) for name in ("txn_seq", "ordinal", "commit_us")]
    fields += [pa.field(f"r{i}", c.type) for i, c in enumerate(schema.columns)]
    if with_before:
        fields.append(pa.field("has_before", pa.bool_()))
        fields += [pa.field(f"b{i}", c.type) for i, c in enumerate(schema.columns)]
    arrow = pa.schema(fields)
    return SchemaMessage(arrow, arrow.serialize().to_pybytes())


_recent: dict[int, tuple[TableSchema, SchemaMessage, SchemaMessage]] = {}


def schema_message(schema: TableSchema, with_before: bool) -> SchemaMessage:
    """The message that precedes batches of `schema`. Hashing a wide schema costs more than
    encoding one row, so the objects in use are found by identity first."""
    found = _recent.get(id(schema))
    if found is None or found[0] is not schema:
        if len(_recent) > 1024:
            _recent.clear()
        found = _recent[id(schema)] = (schema, _message(schema, False), _message(schema, True))
    return found[2] if with_before else found[1]


def checksum(
    base: int,
    end: int,
    count: int,
    version: int,
    appended_us: int,
    with_before: bool,
    offsets: bytes | None,
    data: bytes | pa.Buffer,
) -> int:
    """crc32 of a row with its place."""
    crc = zlib.crc32(_PLACE.pack(base, end, count, version, appended_us, with_before))
    if offsets is not None:
        crc = zlib.crc32(offsets, crc)
    return zlib.crc32(data, crc)


def verify(row: StoredBatch, place: str) -> None:
    """Raise LogDamaged unless the row is as it was written. `place` is topic/partition."""
    expected = checksum(
        row.base,
        row.next,
        row.count,
        row.version,
        row.appended_us,
        row.with_before,
        row.offsets,
        row.data,
    )
    if expected != row.crc:
        raise damaged("a batch does not match its checksum", place, row.base)


def damaged(what: str, place: str, offset: int) -> LogDamaged:
    return LogDamaged(
        what,
        where=f"{place}/{offset}",
        hint="restore the log from a backup, or `cdc remove` the connector and capture again",
    )


def decode(schema: TableSchema, rows: Sequence[StoredBatch], place: str) -> ChangeBatch:
    """The changes of verified rows of one version and form, joined. Raises LogDamaged."""
    message = schema_message(schema, rows[0].with_before)
    try:
        batch = _decode_arrow(message, rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(f"a batch cannot be decoded: {error}", place, rows[0].base) from error
    if batch.num_rows != sum(row.count for row in rows):
        raise damaged("a batch has not as many rows as it says", place, rows[0].base)
    return ChangeBatch.from_arrow(schema, batch)


def decode_keys_only(
    schema: TableSchema, row: StoredBatch, place: str
) -> tuple[Bytes, list[pa.Array]]:
    """The operations and key columns of a verified row, without decompressing the others."""
    names = [column.name for column in schema.columns]
    wanted = {0, *(names.index(name) + _META_COLUMNS for name in schema.key)}
    message = schema_message(schema, row.with_before)
    options = pa.ipc.IpcReadOptions(included_fields=sorted(wanted))
    stream = pa.py_buffer(message.prefix + row.data)
    try:
        batch = pa.ipc.open_stream(stream, options=options).read_next_batch()
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(f"a batch cannot be decoded: {error}", place, row.base) from error
    op = batch.column("op").to_numpy(zero_copy_only=False)
    return op, [batch.column(f"r{names.index(name)}") for name in schema.key]


_META_COLUMNS = 4


def _decode_arrow(message: SchemaMessage, rows: Sequence[StoredBatch]) -> pa.RecordBatch:
    if len(rows) == 1:
        return pa.ipc.read_record_batch(pa.py_buffer(rows[0].data), message.schema)
    stream = b"".join([message.prefix, *(row.data for row in rows)])
    table = pa.ipc.open_stream(pa.py_buffer(stream)).read_all().combine_chunks()
    batches = table.to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_arrays(
        [pa.nulls(0, f.type) for f in message.schema], names=[f.name for f in message.schema]
    )
