"""Asking the server for its binlog: registration, session variables, COM_BINLOG_DUMP[_GTID].

By GTID the server itself finds where to begin: MySQL is sent the set of what we have, MariaDB the
newest GTID per domain as a session variable. Without GTIDs it is a file and a byte. Sources: the
"Replication protocol" of MySQL's internals and MariaDB's knowledge base; sql/rpl_source.cc (8.0).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import pymysql

from cdc.errors import SlotError, SourceError, SourceUnavailable
from cdc.mysql.connection import Connection, error_number, execute, internals, source_error
from cdc.positions import BinlogPosition, GtidSet, MariaGtid, NativePosition

_COM_BINLOG_DUMP, _COM_REGISTER_SLAVE, _COM_BINLOG_DUMP_GTID = 0x12, 0x15, 0x1E
_THROUGH_GTID = 0x04
_FIRST_EVENT = 4
_OFFSET_MAX = 2**32 - 1
_GTIDS_UNDERSTOOD = "4"
"""MARIA_SLAVE_CAPABILITY_GTID."""

_FATAL_READING_BINLOG: Final = frozenset((1236, 1945, 1947, 1955))
_MISSING = ("purged", "could not find", "not in the master's binlog", "has diverged")
_PASSES = ("server_uuid/server_id", "same server_id")


@dataclass(frozen=True)
class Dump:
    """A binlog stream: as which server we read it, from where, and how often the server speaks when
    it is idle. `source` is the source's name and `url` its URL, for errors."""

    server_id: int
    position: NativePosition
    heartbeat_s: float
    source: str
    url: str

    def failed(self, error: pymysql.MySQLError | OSError) -> SourceError:
        """The server's error in place of events, as one of ours."""
        text = str(error.args[-1] if error.args else error)
        if error_number(error) not in _FATAL_READING_BINLOG:
            return source_error(error, self.url)
        if any(sign in text for sign in _PASSES):
            return SourceError(
                f"another replica reads the binlog under our server_id {self.server_id}: {text}",
                where=self.source,
                hint="give this source a `server_id` of its own in connectors.yaml",
            )
        if any(sign in text.lower() for sign in _MISSING):
            return purged(self.source, self.position, text)
        return SourceError(text, where=f"{self.source}, after {self.position}")


def purged(source: str, position: NativePosition, text: str) -> SlotError:
    """The changes after `position` are gone."""
    return SlotError(
        f"the server cannot send the changes after {position}: {text}",
        where=source,
        hint="raise binlog_expire_logs_seconds; to start again: "
        f"cdc remove {source}, then cdc run takes a new snapshot",
    )


def begin_dump(connection: Connection, dump: Dump) -> socket.socket:
    """Start the stream on the connection; its packets then come from the socket. Raises
    SourceError, SlotError when the position cannot be asked for, PyMySQL's errors."""
    period_ns = int(dump.heartbeat_s * 1e9)
    execute(
        connection,
        "SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32', "
        f"@master_heartbeat_period = {period_ns}, @source_heartbeat_period = {period_ns}, "
        f"@mariadb_slave_capability = {_GTIDS_UNDERSTOOD}",
    )
    wire = internals(connection)
    wire._execute_command(_COM_REGISTER_SLAVE, _registration(dump))
    if not wire._read_packet().is_ok_packet():
        raise SourceUnavailable("the server does not accept the registration", where=dump.source)
    wire._execute_command(*_command(connection, dump))
    found: socket.socket = wire._sock
    found.settimeout(30.0 + 3 * dump.heartbeat_s)
    return found


def replica_name(source: str) -> str:
    """The host that a source registers as: `cdc check` knows it again in SHOW REPLICAS."""
    return f"cdc-{source}"[:60]


def _registration(dump: Dump) -> bytes:
    """Server id; host; no user, password, port; rank; source's id."""
    host = replica_name(dump.source).encode()
    return struct.pack("<IB", dump.server_id, len(host)) + host + struct.pack("<2xHII", 0, 0, 0)


def _command(connection: Connection, dump: Dump) -> tuple[int, bytes]:
    position = dump.position
    if isinstance(position, GtidSet):
        gtids = _encoded(position)
        head = struct.pack("<HII", _THROUGH_GTID, dump.server_id, 0)
        return _COM_BINLOG_DUMP_GTID, head + struct.pack("<QI", _FIRST_EVENT, len(gtids)) + gtids
    if isinstance(position, MariaGtid):
        state = "" if not position.domains else str(position).replace("+", ",")
        execute(
            connection,
            "SET @slave_connect_state = %s, @slave_gtid_strict_mode = 1, "
            "@slave_gtid_ignore_duplicates = 0",
            (state,),
        )
        return _COM_BINLOG_DUMP, struct.pack("<IHI", _FIRST_EVENT, 0, dump.server_id)
    assert isinstance(position, BinlogPosition)
    if position.offset > _OFFSET_MAX:
        raise SlotError(
            f"the protocol cannot name a position beyond 4 GiB: {position}",
            where=dump.source,
            hint="set gtid_mode=ON, so that positions are GTIDs; "
            f"cdc remove {dump.source}, then cdc run takes a new snapshot",
        )
    head = struct.pack("<IHI", position.offset, 0, dump.server_id)
    return _COM_BINLOG_DUMP, head + position.file.encode()


def _encoded(gtids: GtidSet) -> bytes:
    """Gtid_set::encode: uuids with their intervals, whose ends are excluded."""
    parts = [struct.pack("<Q", len(gtids.servers))]
    for name, intervals in gtids.servers:
        uuid, _, tag = name.partition(":")
        if tag:
            raise SourceError(f"a GTID with a tag, which is not understood: {name}")
        parts.append(UUID(uuid).bytes + struct.pack("<Q", len(intervals)))
        parts += [struct.pack("<QQ", first, last + 1) for first, last in intervals]
    return b"".join(parts)
