"""Binlog events other than rows: what each says.

An event is `bytes`: a header of 19 bytes and a body, without the checksum, which the receiver has
verified and cut off. All numbers are little endian. Sources: MySQL's libbinlogevents (8.0),
MariaDB's sql/log_event.h (10.11) and its knowledge base, "Replication protocol".

A transaction is, on MySQL: GTID, QUERY `BEGIN`, (TABLE_MAP, rows)…, XID or QUERY `COMMIT`; or GTID
and one QUERY (DDL); or GTID and one TRANSACTION_PAYLOAD (payload.py) that holds the rest. On
MariaDB: MARIA_GTID, which says itself whether it stands alone, instead of GTID and BEGIN.
Table maps are in table_maps.py, rows in rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import NoReturn

from cdc.errors import BadData, SourceError
from cdc.mysql.charsets import charset_of

HEADER_BYTES = 19
CHECKSUM_BYTES = 4


class Kind(IntEnum):
    """Log_event_type; from 160 on MariaDB's. ROWS_V1 are MariaDB's row events and those of MySQL
    before 5.6."""

    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    RAND = 13
    USER_VAR = 14
    FORMAT_DESCRIPTION = 15
    XID = 16
    TABLE_MAP = 19
    WRITE_ROWS_V1 = 23
    UPDATE_ROWS_V1 = 24
    DELETE_ROWS_V1 = 25
    INCIDENT = 26
    HEARTBEAT = 27
    IGNORABLE = 28
    ROWS_QUERY = 29
    WRITE_ROWS = 30
    UPDATE_ROWS = 31
    DELETE_ROWS = 32
    GTID = 33
    ANONYMOUS_GTID = 34
    PREVIOUS_GTIDS = 35
    TRANSACTION_CONTEXT = 36
    VIEW_CHANGE = 37
    XA_PREPARE = 38
    PARTIAL_UPDATE_ROWS = 39
    TRANSACTION_PAYLOAD = 40
    HEARTBEAT_V2 = 41
    GTID_TAGGED = 42
    ANNOTATE_ROWS = 160
    BINLOG_CHECKPOINT = 161
    MARIA_GTID = 162
    MARIA_GTID_LIST = 163
    START_ENCRYPTION = 164
    QUERY_COMPRESSED = 165
    WRITE_ROWS_COMPRESSED_V1 = 166
    UPDATE_ROWS_COMPRESSED_V1 = 167
    DELETE_ROWS_COMPRESSED_V1 = 168
    WRITE_ROWS_COMPRESSED = 169
    UPDATE_ROWS_COMPRESSED = 170
    DELETE_ROWS_COMPRESSED = 171


WRITES = frozenset({Kind.WRITE_ROWS, Kind.WRITE_ROWS_V1})
UPDATES = frozenset({Kind.UPDATE_ROWS, Kind.UPDATE_ROWS_V1})
DELETES = frozenset({Kind.DELETE_ROWS, Kind.DELETE_ROWS_V1})
ROWS = WRITES | UPDATES | DELETES
"""The row events that rows.decode_rows reads."""
COMPRESSED_ROWS: Mapping[int, Kind] = {
    Kind.WRITE_ROWS_COMPRESSED_V1: Kind.WRITE_ROWS_V1,
    Kind.UPDATE_ROWS_COMPRESSED_V1: Kind.UPDATE_ROWS_V1,
    Kind.DELETE_ROWS_COMPRESSED_V1: Kind.DELETE_ROWS_V1,
    Kind.WRITE_ROWS_COMPRESSED: Kind.WRITE_ROWS,
    Kind.UPDATE_ROWS_COMPRESSED: Kind.UPDATE_ROWS,
    Kind.DELETE_ROWS_COMPRESSED: Kind.DELETE_ROWS,
}
"""MariaDB's compressed row events, and what payload.inflated makes of them."""

_HEADER = Struct("<IBIIIH")
_MARIA_GTID = Struct("<qIB")
_QUERY = Struct("<IIBHH")


@dataclass(frozen=True, slots=True)
class Header:
    """`timestamp_s`: when the statement began, seconds since 1970. `end_position`: of the event
    in its file, modulo 2^32; 0 in events the server made up and within a payload."""

    timestamp_s: int
    kind: int
    server_id: int
    size_bytes: int
    end_position: int
    flags: int

    @property
    def artificial(self) -> bool:
        """Not in any file: made up for this connection (LOG_EVENT_ARTIFICIAL_F)."""
        return bool(self.flags & 0x20)


def header(event: bytes) -> Header:
    """The event's header. BadData when the event is shorter than one."""
    if len(event) < HEADER_BYTES:
        raise malformed("an event shorter than its header", event)
    return Header(*_HEADER.unpack_from(event))


def malformed(what: str, event: bytes) -> BadData:
    """The error for an event that cannot be read: with its end in the file and its beginning."""
    place = ""
    if len(event) >= HEADER_BYTES:
        found = Header(*_HEADER.unpack_from(event))
        place = f"event of type {found.kind} that ends at log position {found.end_position}"
    return BadData(
        f"{what}; it begins with {event[:48].hex(' ')}",
        where=place,
        hint="the binlog or the connection is damaged: compare with mysqlbinlog --hexdump; "
        "restart, and report it if it stays",
    )


@dataclass(frozen=True)
class Rotate:
    """The next event is at `position` of `file`."""

    file: str
    position: int


def rotate(event: bytes) -> Rotate:
    """ROTATE: at a file's end, and made up at a stream's beginning."""
    reader = Reader(event)
    position = reader.number(8)
    return Rotate(reader.rest().decode(), position)


def tagged_gtid(event: bytes) -> SourceError:
    """What a GTID with a tag is (MySQL 8.3 and later)."""
    return SourceError(
        "a GTID with a tag, which is not understood",
        where=f"log position {header(event).end_position}",
        hint="commit with gtid_next='AUTOMATIC', without a tag",
    )


@dataclass(frozen=True)
class MariaGtidEvent:
    """The transaction that begins."""

    domain: int
    server_id: int
    sequence: int


def maria_gtid(event: bytes) -> MariaGtidEvent:
    """GTID_EVENT of MariaDB."""
    sequence, domain, _ = _MARIA_GTID.unpack(Reader(event).take(_MARIA_GTID.size))
    return MariaGtidEvent(domain, header(event).server_id, sequence)


@dataclass(frozen=True)
class Query:
    """A statement in the session's database. BEGIN and COMMIT are such; DDL; and in statement-based
    logging changes of rows. `error`: the error code it ended with, 0 normally."""

    database: str
    sql: str
    error: int


def query(event: bytes) -> Query:
    """QUERY (a QUERY_COMPRESSED after payload.inflated)."""
    reader = Reader(event)
    _, _, database_bytes, error, status_bytes = _QUERY.unpack(reader.take(_QUERY.size))
    codec = _client_codec(reader.take(status_bytes))
    database = reader.take(database_bytes).decode("utf-8", "replace")
    reader.skip(1)
    return Query(database, reader.rest().decode(codec, "replace"), error)


_FLAGS2, _SQL_MODE, _CATALOG, _AUTO_INCREMENT, _CHARSET, _CATALOG_NZ = 0, 1, 2, 3, 4, 6
_STATUS_BYTES = {_FLAGS2: 4, _SQL_MODE: 8, _AUTO_INCREMENT: 4}


def _client_codec(status: bytes) -> str:
    """How the statement's text is encoded: character_set_client among the status variables, which
    stand in a fixed order; without it UTF-8."""
    at = 0
    while at < len(status):
        code = status[at]
        if code == _CHARSET and at + 3 <= len(status):
            number = int.from_bytes(status[at + 1 : at + 3], "little")
            return charset_of(number).codec or "utf-8"
        if code in _STATUS_BYTES:
            at += 1 + _STATUS_BYTES[code]
        elif code in (_CATALOG, _CATALOG_NZ) and at + 1 < len(status):
            at += 2 + status[at + 1] + (code == _CATALOG)
        else:
            break
    return "utf-8"


def incident(event: bytes) -> str:
    """INCIDENT: what the server says was lost. History does not continue behind one."""
    reader = Reader(event)
    reader.skip(2)
    return reader.take(reader.number(1)).decode("utf-8", "replace")


def table_id(event: bytes) -> int:
    """Of a TABLE_MAP or row event: the number that ties them together within a connection."""
    return int.from_bytes(event[HEADER_BYTES : HEADER_BYTES + 6], "little")


class Reader:
    """A cursor over one event's body, for events that are rare. Going past the end: BadData."""

    def __init__(self, event: bytes, at: int = HEADER_BYTES) -> None:
        self._event, self.at = event, at

    def more(self) -> bool:
        return self.at < len(self._event)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def packed(self) -> int:
        """A length-encoded integer (net_field_length)."""
        first = self.number(1)
        if first < 251:
            return first
        if first not in _PACKED_BYTES:
            self._fail()
        return self.number(_PACKED_BYTES[first])

    def take(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        if self.at > len(self._event):
            self._fail()
        return self._event[start : self.at]

    def skip(self, size: int) -> None:
        self.take(size)

    def rest(self) -> bytes:
        return self.take(max(0, len(self._event) - self.at))

    def _fail(self) -> NoReturn:
        raise malformed("an event that ends too early", self._event)


_PACKED_BYTES = {252: 2, 253: 3, 254: 8}
