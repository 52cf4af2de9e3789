"""Events within events: compressed transactions of MySQL, compressed events of MariaDB.

TRANSACTION_PAYLOAD (binlog_transaction_compression=ON; libbinlogevents' codecs): fields of type,
length and value, all length-encoded, up to field 0; then the rest of the transaction's events,
back to back without checksums, as one zstd stream. They are read as a stream, so a transaction
of any size costs a chunk of memory beside its compressed form.

MariaDB's compressed events (log_bin_compress=ON; binlog_buf_uncompress in sql/log_event.cc): of a
QUERY the statement, of row events the rows are replaced by a byte 0x80 | length's bytes, the
length (big endian), and a zlib stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import pack_into

import pyarrow as pa

from cdc.errors import SourceError
from cdc.mysql.events import COMPRESSED_ROWS, HEADER_BYTES, Kind, Reader, header, malformed

_END, _COMPRESSION, _ZSTD, _NONE = 0, 2, 0, 255
_CHUNK_BYTES = 1 << 20
_SIZE_AT = 9


def payload_events(event: bytes) -> Iterator[bytes]:
    """The events in a TRANSACTION_PAYLOAD, in order: TABLE_MAPs, rows, … up to XID. BadData when
    it is malformed, SourceError for a method of compression that is not known."""
    reader, method = Reader(event), _ZSTD
    while (field := reader.packed()) != _END:
        value = reader.take(reader.packed())
        if field == _COMPRESSION:
            method = Reader(value, 0).packed()
    stream: pa.NativeFile = pa.BufferReader(reader.rest())
    if method == _ZSTD:
        stream = pa.CompressedInputStream(stream, "zstd")
    elif method != _NONE:
        raise SourceError(
            f"a transaction compressed by the unknown method {method}",
            where=f"log position {header(event).end_position}",
            hint="set binlog_transaction_compression=OFF",
        )
    try:
        yield from _split(stream, event)
    except OSError as error:
        raise malformed(f"a compressed transaction that is damaged ({error})", event) from error


def _split(stream: pa.NativeFile, event: bytes) -> Iterator[bytes]:
    """The stream cut into events, by the sizes in their headers."""
    pending = b""
    while chunk := stream.read(_CHUNK_BYTES):
        pending += chunk
        at = 0
        while at + HEADER_BYTES <= len(pending):
            size = int.from_bytes(pending[at + _SIZE_AT : at + _SIZE_AT + 4], "little")
            if size < HEADER_BYTES:
                raise malformed("a compressed transaction whose events do not follow", event)
            if at + size > len(pending):
                break
            yield pending[at : at + size]
            at += size
        pending = pending[at:]
    if pending:
        raise malformed("a compressed transaction that ends within an event", event)


def inflated(event: bytes) -> bytes:
    """A QUERY_COMPRESSED or one of COMPRESSED_ROWS as the event that it was before. BadData when
    it is malformed."""
    kind = event[4]
    at, plain = _compressed_part(event, kind)
    try:
        size_bytes = event[at] & 7
        body = event[:at] + zlib.decompress(event[at + 1 + size_bytes :])
    except (IndexError, zlib.error) as error:
        raise malformed(f"a compressed event that is damaged ({error})", event) from error
    whole = bytearray(body)
    whole[4] = plain
    pack_into("<I", whole, _SIZE_AT, len(whole))
    return bytes(whole)


_QUERY_HEAD_BYTES = 13


def _compressed_part(event: bytes, kind: int) -> tuple[int, Kind]:
    """Where the compressed part begins, and the kind of the event without it."""
    reader = Reader(event)
    if kind == Kind.QUERY_COMPRESSED:
        head = reader.take(_QUERY_HEAD_BYTES)
        status_bytes = int.from_bytes(head[11:], "little")
        return HEADER_BYTES + _QUERY_HEAD_BYTES + status_bytes + head[8] + 1, Kind.QUERY
    plain = COMPRESSED_ROWS[kind]
    reader.skip(8)
    if plain in (Kind.WRITE_ROWS, Kind.UPDATE_ROWS, Kind.DELETE_ROWS):
        reader.skip(reader.number(2) - 2)
    bitmap_bytes = (reader.packed() + 7) // 8
    reader.skip(bitmap_bytes * (2 if plain in (Kind.UPDATE_ROWS, Kind.UPDATE_ROWS_V1) else 1))
    return reader.at, plain
