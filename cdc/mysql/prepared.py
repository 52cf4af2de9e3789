"""The rows of a SELECT as the server sends them: binary rows of a prepared statement, many at once.

Source: MySQL's client/server protocol, "Command Phase": COM_STMT_PREPARE, COM_STMT_EXECUTE and
"Binary Protocol Resultset". The binary form has floats exactly and integers and times without
printing. A packet is a length (3 bytes), a sequence number and the payload; a payload of 2^24 - 1
bytes goes on in the next packet. After the column definitions come the rows, each a packet whose
first byte is 0, and an EOF (first byte 0xFE) or an error (0xFF).

1.  The socket is read into one large buffer, many rows at once.
2.  Packet by packet the row starts are collected: each length says where the next one stands.
3.  With PIECE_BYTES of rows they are handed on; what is incomplete moves to the buffer's front.

Rows larger than a packet are put together where they stand.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymysql

from cdc.mysql.connection import Connection, internals
from cdc.ragged import PAD, Bytes, Int64s

PIECE_BYTES = 2 * 2**20
"""Row data handed on at once: large enough for vectors, small enough for the caches."""
ROOM_BYTES = 2**20
_PREPARE, _EXECUTE, _CLOSE = 0x16, 0x17, 0x19
_LONGEST = 2**24 - 1
_head = struct.Struct("<I").unpack_from


@dataclass(frozen=True, eq=False)
class Packets:
    """Row i is buffer[start[i] : end[i]]. The buffer has at least len(PAD) bytes more, and is
    used again for the next rows."""

    buffer: Bytes
    start: Int64s
    end: Int64s

    def __len__(self) -> int:
        return len(self.start)


def binary_rows(connection: Connection, statement: str) -> Generator[Packets]:
    """The rows of a SELECT without parameters; nothing without rows. Given up in the middle, the
    connection is closed. Raises PyMySQL's errors, and OSError when the connection breaks."""
    wire = internals(connection)
    number = _prepared(wire, statement)
    complete = False
    try:
        wire._execute_command(_EXECUTE, struct.pack("<IBI", number, 0, 1))
        for _ in range(_column_count(wire)):
            wire._read_packet()
        wire._read_packet()
        yield from _rows(wire)
        complete = True
    except pymysql.MySQLError:
        complete = connection.open
        raise
    finally:
        if complete:
            wire._execute_command(_CLOSE, struct.pack("<I", number))
        else:
            wire._force_close()


def _prepared(wire: Any, statement: str) -> int:
    wire._execute_command(_PREPARE, statement.encode())
    answer = wire._read_packet().get_all_data()
    number, columns, parameters = struct.unpack_from("<IHH", answer, 1)
    for count in (parameters, columns):
        for _ in range(count + (count > 0)):
            wire._read_packet()
    assert isinstance(number, int)
    return number


def _column_count(wire: Any) -> int:
    found = wire._read_packet().read_length_encoded_integer()
    assert isinstance(found, int)
    return found


def _rows(wire: Any) -> Iterator[Packets]:
    receive = wire._sock.recv_into
    buffer = bytearray(PIECE_BYTES + ROOM_BYTES + len(PAD))
    # PyMySQL's own buffer has what came with the column definitions, perhaps everything.
    held = wire._rfile.read(len(wire._rfile.peek(1)))
    buffer[: len(held)] = held
    size, at = len(held), 0
    starts: list[int] = []
    ends: list[int] = []
    while True:
        at, size = _walk(buffer, at, size, starts, ends)
        ended = _ended(wire, buffer, at, size)
        if starts and (ended or at >= PIECE_BYTES):
            whole = np.frombuffer(buffer, np.uint8)
            yield Packets(whole, np.array(starts, np.int64), np.array(ends, np.int64))
            starts.clear()
            ends.clear()
            buffer, size, at = _moved(buffer, at, size, PIECE_BYTES + ROOM_BYTES), size - at, 0
        if ended:
            return
        if len(buffer) - len(PAD) - size < ROOM_BYTES // 2:
            buffer = _moved(buffer, 0, size, 2 * len(buffer))
        count = receive(memoryview(buffer)[size : len(buffer) - len(PAD)])
        if not count:
            raise ConnectionError("the server ended the connection in the middle of its rows")
        size += count


def _walk(
    buffer: bytearray, at: int, size: int, starts: list[int], ends: list[int]
) -> tuple[int, int]:
    """Pass the complete rows between `at` and `size`; where that ended, and the size, which is less
    when rows of several packets were put together."""
    while at + 5 <= size:
        length = _head(buffer, at)[0] & _LONGEST
        behind = at + 4 + length
        if behind > size or buffer[at + 4]:
            break
        if length == _LONGEST:
            joined = _joined(buffer, at, size)
            if joined is None:
                break
            behind, size = joined
        starts.append(at + 4)
        ends.append(behind)
        at = behind
    return at, size


def _joined(buffer: bytearray, at: int, size: int) -> tuple[int, int] | None:
    """Put the packets of one row together by moving what follows over the heads in between; the
    row's end and the new size. None while it is incomplete."""
    heads = [at]
    while True:
        if heads[-1] + 4 > size:
            return None
        length = _head(buffer, heads[-1])[0] & _LONGEST
        behind = heads[-1] + 4 + length
        if behind > size:
            return None
        if length < _LONGEST:
            break
        heads.append(behind)
    to = heads[1]
    view = memoryview(buffer)
    for head, after in zip(heads[1:], [*heads[2:], behind], strict=True):
        count = after - head - 4
        view[to : to + count] = view[head + 4 : after]
        to += count
    view[to : to + size - behind] = view[behind:size]
    return to, to + size - behind


def _ended(wire: Any, buffer: bytearray, at: int, size: int) -> bool:
    """Whether the packet at `at` is complete and no row: the EOF. An error is raised."""
    if at + 5 > size or not buffer[at + 4]:
        return False
    length = _head(buffer, at)[0] & _LONGEST
    if at + 4 + length > size:
        return False
    payload = bytes(buffer[at + 4 : at + 4 + length])
    if payload[0] == 0xFF:
        pymysql.err.raise_mysql_exception(payload)
    if payload[0] != 0xFE or length > 9 or at + 4 + length != size:
        raise ConnectionError(f"the server sent what is no row: {payload[:16].hex(' ')}")
    (wire.server_status,) = struct.unpack_from("<H", payload, 3)
    return True


def _moved(buffer: bytearray, first: int, last: int, capacity: int) -> bytearray:
    """The bytes first .. last at the front of a buffer with at least this capacity: a new one, if
    the old is of another size, or still in use."""
    wanted = max(capacity, last - first + ROOM_BYTES) + len(PAD)
    if len(buffer) == wanted:
        if first:
            rest = bytes(buffer[first:last])
            buffer[: len(rest)] = rest
        return buffer
    moved = bytearray(wanted)
    moved[: last - first] = memoryview(buffer)[first:last]
    return moved
