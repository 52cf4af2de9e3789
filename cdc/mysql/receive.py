"""Receiving a binlog stream on a thread of its own.

One thread reads the socket in large pieces, cuts them into packets, and verifies and removes the
checksums; another decodes what arrived. It hands over after each read, and stops reading at
QUEUE_BYTES: then the sockets fill, and the server keeps the backlog.

A packet is 3 bytes of length, a sequence number, and a payload: 0x00 and an event, or 0xFF and an
error. An event of 16 MiB or more comes in several packets, all but the last of the greatest length.
Events end with a CRC32 unless the FORMAT_DESCRIPTION in front of them says otherwise, which itself
always has the field.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from zlib import crc32

import pymysql

from cdc.errors import BadData, SourceUnavailable
from cdc.mysql import events
from cdc.mysql.connection import Connection, internals
from cdc.mysql.dump import Dump, begin_dump
from cdc.mysql.events import CHECKSUM_BYTES, HEADER_BYTES, Kind

QUEUE_BYTES = 8 * 2**20
BUFFER_BYTES = 2**20
_RESUMES = "the agent resumes when it is back"
_HEAD_BYTES = 4
_PACKET_BYTES_MAX = 0xFFFFFF
_OK, _END, _ERROR = 0x00, 0xFE, 0xFF
_HEARTBEATS = frozenset((Kind.HEARTBEAT, Kind.HEARTBEAT_V2))
_LOOKED_AT = _HEARTBEATS | {Kind.FORMAT_DESCRIPTION, Kind.ROTATE}
_word = struct.Struct("<I").unpack_from


class Receiver:
    """One running dump, over a connection that it owns. `take` is for another thread."""

    def __init__(self, connection: Connection, dump: Dump) -> None:
        self._connection, self._dump = connection, dump
        self._changed = threading.Condition()
        self._events: list[bytes] = []
        self._bytes = 0
        self._failed: Exception | None = None
        self._stopping = False
        self._socket = begin_dump(connection, dump)
        self._packets = Packets(self._socket, dump)
        self._thread = threading.Thread(target=self._run, name="receive", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> list[bytes]:
        """All events that arrived since the last call, in order, without checksums and heartbeats;
        waits for the first. Raises SourceError or BadData when the stream has broken and all that
        came before was taken."""
        with self._changed:
            if not self._events and self._failed is None:
                self._changed.wait(timeout_s)
            if not self._events and self._failed is not None:
                raise self._failed
            found, self._events, self._bytes = self._events, [], 0
            self._changed.notify_all()
            return found

    def close(self) -> None:
        self._stopping = True
        with suppress(OSError):
            # Not the method of a TLS socket: that takes away what the thread is reading from.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        internals(self._connection)._force_close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._publish(*self._packets.read())
        except pymysql.MySQLError as error:
            self._fail(self._dump.failed(error))
        except TimeoutError:
            self._fail(self._unavailable("the server has been silent for too long"))
        except OSError as error:
            self._fail(self._unavailable(f"the connection broke: {error}"))
        except Exception as error:  # whatever it is, the taker must learn of it
            self._fail(error)

    def _unavailable(self, what: str) -> SourceUnavailable:
        return SourceUnavailable(what, where=self._dump.source, hint=_RESUMES)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failed = error
            self._changed.notify_all()

    def _publish(self, found: list[bytes], size: int) -> None:
        if not found:
            return
        with self._changed:
            self._events.extend(found)
            self._bytes += size
            self._changed.notify_all()
            while self._bytes >= QUEUE_BYTES and not self._stopping:
                self._changed.wait(1.0)


class Packets:
    """Cuts a stream of packets into events."""

    def __init__(self, wire: socket.socket, dump: Dump) -> None:
        self._wire, self._dump = wire, dump
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0
        self._sequence = 1
        self._checksum = True
        self._file = ""
        self._broken: Exception | None = None

    def read(self) -> tuple[list[bytes], int]:
        """The events that one read of the socket completes, and their bytes. Raises OSError when
        the connection ends, PyMySQL's errors that the server sends, BadData for an event that does
        not fit its checksum; what came before it was returned."""
        if self._broken is not None:
            raise self._broken
        found: list[bytes] = []
        try:
            self._fill(self._buffer[self._filled :])
            at = self._cut(found)
            left = self._filled - at
            if left >= _HEAD_BYTES and self._length(at) > BUFFER_BYTES - _HEAD_BYTES:
                self._event(self._large(at), found)
            elif at:
                self._buffer[:left] = bytes(self._buffer[at : self._filled])
                self._filled = left
        except Exception as error:
            if not found:
                raise
            self._broken = error
        return found, sum(map(len, found))

    def _length(self, at: int) -> int:
        return int(_word(self._buffer, at)[0]) & _PACKET_BYTES_MAX

    def _fill(self, into: memoryview) -> None:
        count = self._wire.recv_into(into)
        if count == 0:
            raise ConnectionError("the server ended it")
        self._filled += count

    def _cut(self, found: list[bytes]) -> int:
        """Append the events of all packets that are complete; where the next packet begins. What
        is ordinary is done here, without a call per event."""
        buffer, end, at = self._buffer, self._filled, 0
        while end - at >= _HEAD_BYTES:
            (word,) = _word(buffer, at)
            stop = at + _HEAD_BYTES + (word & _PACKET_BYTES_MAX)
            if stop > end:
                break
            if word >> 24 != self._sequence:
                self._count(word)
            self._sequence = (word >> 24) + 1 & 0xFF
            event = buffer[at + _HEAD_BYTES + 1 : stop - CHECKSUM_BYTES].tobytes()
            if (
                self._checksum
                and len(event) >= HEADER_BYTES
                and buffer[at + _HEAD_BYTES] == _OK
                and event[4] not in _LOOKED_AT
                and crc32(event) == _word(buffer, stop - CHECKSUM_BYTES)[0]
            ):
                found.append(event)
            else:
                self._event(buffer[at + _HEAD_BYTES : stop].tobytes(), found)
            at = stop
        return at

    def _count(self, word: int) -> None:
        if word >> 24 != self._sequence:
            raise BadData(
                f"packet {word >> 24} came where {self._sequence} was due",
                where=f"{self._dump.source}, binlog {self._file}",
                hint="the connection is damaged: restart, and report it if it stays",
            )
        self._sequence = (self._sequence + 1) & 0xFF

    def _large(self, at: int) -> bytes:
        """The payload that begins at `at` of the buffer and does not fit into it."""
        payload = bytearray()
        while True:
            (word,) = _word(self._head(at), 0)
            self._count(word)
            length, start = word & _PACKET_BYTES_MAX, len(payload)
            payload += self._buffer[at + _HEAD_BYTES : min(self._filled, at + 4 + length)]
            have = len(payload) - start
            if have < length:
                payload.extend(bytes(length - have))
                into = memoryview(payload)[start + have :]
                while len(into):
                    count = self._wire.recv_into(into)
                    if count == 0:
                        raise ConnectionError("the server ended it")
                    into = into[count:]
                into.release()
                self._filled = at = 0
            else:
                at += _HEAD_BYTES + length
            if length < _PACKET_BYTES_MAX:
                break
        left = self._filled - at
        self._buffer[:left] = bytes(self._buffer[at : self._filled])
        self._filled = left
        return bytes(payload)

    def _head(self, at: int) -> memoryview:
        """The packet's head at `at`, read if it is not there yet."""
        while self._filled - at < _HEAD_BYTES:
            self._fill(self._buffer[self._filled :])
        return self._buffer[at : at + _HEAD_BYTES]

    def _event(self, payload: bytes, found: list[bytes]) -> None:
        if payload[:1] != b"\0":
            self._refused(payload)
        if len(payload) <= HEADER_BYTES:
            raise events.malformed("a packet without an event", payload[1:])
        kind = payload[5]
        if kind == Kind.FORMAT_DESCRIPTION:
            self._checksum = payload[-CHECKSUM_BYTES - 1] == 1
            event = payload[1:-CHECKSUM_BYTES]
        elif self._checksum:
            event = payload[1:-CHECKSUM_BYTES]
        else:
            event = payload[1:]
        if self._checksum:
            if crc32(event) != _word(payload, len(payload) - CHECKSUM_BYTES)[0]:
                raise self._damaged("an event that does not fit its checksum", event)
        elif kind != Kind.FORMAT_DESCRIPTION and _word(event, 9)[0] != len(event):
            raise self._damaged("an event of another length than it says", event)
        if kind in _HEARTBEATS:
            return
        if kind == Kind.ROTATE:
            self._file = events.rotate(event).file
        found.append(event)

    def _damaged(self, what: str, event: bytes) -> BadData:
        error = events.malformed(what, event)
        return BadData(
            error.what,
            where=f"{self._dump.source}, binlog {self._file}, {error.where}",
            hint=error.hint,
        )

    def _refused(self, payload: bytes) -> None:
        if payload[:1] == bytes([_ERROR]):
            pymysql.err.raise_mysql_exception(payload)
        if payload[:1] == bytes([_END]):
            raise ConnectionError("the server ended the stream")
        raise self._damaged("a packet that is neither event nor error", payload)
