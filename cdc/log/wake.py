"""Waking readers in other processes within milliseconds of an append.

Each waiting reader binds a Unix datagram socket in a run directory that is derived from the log's
path (a socket's own path may have only 108 bytes, so it cannot stand in the log). After a commit
the producer sends one byte to each. Nothing depends on it: a lost datagram, a dead reader or a
directory that cannot be made cost at most one poll interval of latency, never data.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import select
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

POLL_INTERVAL_S = 0.05
_counter = itertools.count()


def run_directory(log_root: Path) -> Path:
    """Where the log's sockets are: one directory per user and log, mode 0700."""
    digest = hashlib.sha256(str(log_root.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"cdc-{os.getuid()}-{digest}"


def _usable(directory: Path) -> bool:
    """Make the directory if needed; False unless it is ours alone (somebody may squat in /tmp)."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return False
    return directory.is_dir() and status.st_uid == os.getuid() and not status.st_mode & 0o077


class Bell:
    """The producer's side: `ring` wakes every reader that listens now. Never blocks."""

    def __init__(self, log_root: Path) -> None:
        self._directory = run_directory(log_root)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._changed_ns = -1
        self._listeners: list[str] = []

    def ring(self) -> None:
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns
        except OSError:
            return
        if changed_ns != self._changed_ns:
            self._list(changed_ns)
        for path in self._listeners:
            self._send(path)

    def _list(self, changed_ns: int) -> None:
        with suppress(OSError):
            self._listeners = [entry.path for entry in os.scandir(self._directory)]
        # A directory changed this very moment may change again within its timestamp's grain.
        settled = time.time_ns() - changed_ns > 50_000_000
        self._changed_ns = changed_ns if settled else -1

    def _send(self, path: str) -> None:
        try:
            self._socket.sendto(b"\0", path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:  # its process died without unlinking it
                with suppress(OSError):
                    os.unlink(path)

    def close(self) -> None:
        self._socket.close()


class Listener:
    """The reader's side: binds on first use."""

    def __init__(self, log_root: Path) -> None:
        self._directory = run_directory(log_root)
        self._socket: socket.socket | None = None
        self._path = ""

    def open(self) -> None:
        """Bind, unless done; where that is impossible `sleep` only polls."""
        if self._path or not _usable(self._directory):
            return
        path = str(self._directory / f"{os.getpid()}.{next(_counter)}")
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.setblocking(False)
        try:
            with suppress(FileNotFoundError):  # left by a process that had our id
                os.unlink(path)
            bound.bind(path)
        except OSError:
            bound.close()
            return
        self._socket, self._path = bound, path

    def drain(self) -> None:
        """Forget bells that rang before now."""
        if self._socket is None:
            return
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def sleep(self, timeout_s: float) -> None:
        """Return when a bell rings, at the latest after the poll interval or `timeout_s`."""
        timeout_s = max(0.0, min(timeout_s, POLL_INTERVAL_S))
        if self._socket is None:
            time.sleep(timeout_s)
        else:
            select.select([self._socket], [], [], timeout_s)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            with suppress(OSError):
                os.unlink(self._path)
        self._socket, self._path = None, ""
