"""Receiving a logical replication stream on a thread of its own.

The walsender is the slowest part of streaming and must never wait for us. So one thread does
nothing but take CopyData messages from libpq and answer keepalives, while another decodes what
arrived. It hands them over when a transaction ends, or in large parts. It stops taking at
QUEUE_BYTES: then the sockets fill, and the server keeps the backlog.

Nothing is acknowledged but what `acknowledge` was told (SEMANTICS 9).
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from dataclasses import dataclass

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn

from cdc.errors import SourceUnavailable
from cdc.postgres.connection import result_error
from cdc.postgres.messages import PG_EPOCH_US

QUEUE_BYTES = 24 * 2**20
STATUS_EVERY_S = 10.0
_DATA, _KEEPALIVE = ord("w"), ord("k")
_STATUS = struct.Struct(">cQQQqB")
_PUBLISH_BYTES = 256 * 2**10
_KIND, _COMMIT = 25, ord("C")
_RESUMES = "the agent resumes when it is back"
_BULK_MESSAGES = 64
_BULK_PAUSE_S = 0.0002
"""Inside a transaction of many rows: reading every few rows would cost the server as many switches
between processes as rows. A transaction of a few rows never pauses. Measured on two cores: 160k
rows/s without the pause, 240k with it. The receive buffer is left to the kernel's tuning: fixed at
8 MiB, the walsender never sleeps, and a busy machine gives it half the time (60k)."""


@dataclass(frozen=True)
class Received:
    """What arrived: XLogData payloads in order, then the newest keepalive's position (0: none).

    `position` was sent behind all of the payloads. `urgent`: the server asked for an answer.
    """

    payloads: list[bytes]
    position: int
    urgent: bool


class Receiver:
    """One running START_REPLICATION. `take` and `acknowledge` are for other threads."""

    def __init__(self, wire: PGconn, command: str, where: str) -> None:
        self._wire, self._where = wire, where
        self._changed = threading.Condition()
        self._payloads: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []
        self._bytes = 0
        self._position = 0
        self._urgent = False
        self._failed: Exception | None = None
        self._stopping = False
        self._acknowledged = self._told = 0
        self._told_at_s = 0.0
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        result = wire.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise result_error(result, where)
        self._thread = threading.Thread(target=self._run, name="receive", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Received:
        """Everything that arrived since the last call; waits for the first of it. Raises
        SourceError when the stream has broken and all that came before was taken."""
        with self._changed:
            if not self._payloads and not self._urgent and self._failed is None:
                self._changed.wait(timeout_s)
            if not self._payloads and self._failed is not None:
                raise self._failed
            found = Received(self._payloads, self._position, self._urgent)
            self._payloads, self._bytes, self._urgent = [], 0, False
            self._changed.notify_all()
            return found

    def acknowledge(self, position: int) -> None:
        """The server may forget what lies before `position`."""
        self._acknowledged = max(self._acknowledged, position)
        self._wake()

    def close(self) -> None:
        self._stopping = True
        self._wake()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._wire.finish()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _wake(self) -> None:
        try:
            os.write(self._wake_in, b"!")
        except (BlockingIOError, OSError):
            return  # it is awake, or gone

    def _run(self) -> None:
        try:
            self._receive()
        except (psycopg.Error, OSError) as error:
            text = f"the connection broke: {str(error).strip()}"
            self._fail(SourceUnavailable(text, where=self._where, hint=_RESUMES))
        except Exception as error:  # whatever it is, the taker must learn of it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failed = error
            self._changed.notify_all()

    def _receive(self) -> None:
        get = self._wire.get_copy_data
        payloads: list[bytes] = []
        size = 0
        while not self._stopping:
            count, data = get(1)
            if count > 0:
                if data[0] == _DATA:
                    payloads.append(bytes(data))
                    size += count
                    if size >= _PUBLISH_BYTES:
                        self._publish(payloads, size)
                        payloads, size = [], 0
                elif data[0] == _KEEPALIVE:
                    self._publish(payloads, size)
                    payloads, size = [], 0
                    self._keepalive(bytes(data))
                continue
            if count < 0:
                raise result_error(self._wire.get_result(), self._where, _RESUMES)
            if payloads and payloads[-1][_KIND] == _COMMIT:
                self._publish(payloads, size)
                payloads, size = [], 0
            elif len(payloads) >= _BULK_MESSAGES:
                time.sleep(_BULK_PAUSE_S)
            self._wait_for_input()

    def _publish(self, payloads: list[bytes], size: int) -> None:
        if not payloads:
            return
        with self._changed:
            self._payloads.extend(payloads) if self._payloads else self._set(payloads)
            self._bytes += size
            self._changed.notify_all()
            while self._bytes >= QUEUE_BYTES and not self._stopping:
                self._changed.wait(1.0)
                self._tell()

    def _set(self, payloads: list[bytes]) -> None:
        self._payloads = payloads

    def _keepalive(self, data: bytes) -> None:
        position, _, asks = struct.unpack(">QqB", data[1:18])
        with self._changed:
            self._position = max(self._position, position)
            if asks:
                self._urgent = True
                self._changed.notify_all()
        if asks:
            self._tell(force=True)

    def _wait_for_input(self) -> None:
        self._tell()
        wait_s = STATUS_EVERY_S if self._told == self._acknowledged else 1.0
        ready, _, _ = select.select([self._wire.socket, self._wake_out], [], [], wait_s)
        if self._wake_out in ready:
            os.read(self._wake_out, 4096)
        if self._wire.socket in ready:
            self._wire.consume_input()

    def _tell(self, force: bool = False) -> None:
        """Send a status update: when asked, when there is something new (at most each second),
        and every STATUS_EVERY_S."""
        now_s = time.monotonic()
        age_s = now_s - self._told_at_s
        news = self._acknowledged != self._told and age_s >= 1.0
        if not (force or news or age_s >= STATUS_EVERY_S):
            return
        at = self._told = self._acknowledged
        self._told_at_s = now_s
        clock = time.time_ns() // 1000 - PG_EPOCH_US
        self._wire.put_copy_data(_STATUS.pack(b"r", at, at, at, clock, 0))
        self._wire.flush()
