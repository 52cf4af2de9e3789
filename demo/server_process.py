"""One server process that never outlives the program that started it.

    start     own session, so that Ctrl-C in the terminal reaches us and not the server
    guard     a second, tiny process waits for our end of a pipe to close; when we die, however we
              die, it ends the server
    stop      a signal, a limit, then SIGKILL; then wait for the children of a server that was
              killed: they still hold its port, its files or its shared memory

Used by the demo, the benchmarks and the tests, for Postgres and for Kafka alike.
"""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

POLL_S = 0.01
# Below Linux's range for outgoing connections (from 32768), so that none of those takes a port
# between our look and the server's bind, nor while a server restarts.
_PORTS = range(15000, 32000)


class ServerFailed(RuntimeError):
    """A server did not start or did not answer; the message ends with the tail of its log."""


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Return once `condition()` holds. Raises TimeoutError naming `what`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def accepts_connections(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts a TCP connection at `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class ServerProcess:
    """A running server. `log` holds its stdout and stderr. `family` is a pipe whose other end only
    the server and its children have: it ends with the last of them."""

    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]
    log: Path
    family: FileIO

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return once `ready()` holds. Raises ServerFailed when it exits or takes too long; it
        is stopped then."""

        def ready_or_ended() -> bool:
            return self.process.poll() is not None or ready()

        try:
            wait_until(ready_or_ended, timeout_s=timeout_s, what="the server to become ready")
        except TimeoutError as error:
            self.stop(signal.SIGKILL)
            raise ServerFailed(f"{error}\n{self.tail()}") from error
        if self.process.poll() is not None:
            self.stop(signal.SIGKILL)
            raise ServerFailed(f"ended with {self.process.returncode}\n{self.tail()}")

    def stop(self, signal_number: signal.Signals, *, timeout_s: float = 20) -> None:
        """Signal it and wait for its end; after `timeout_s` kill it. Then wait for its children;
        raises ServerFailed when they stay. Nothing if it has ended."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            self.guard.kill()
            self.guard.communicate()
        if not self.family.closed:
            self._await_children(timeout_s)

    def _await_children(self, timeout_s: float) -> None:
        def ended() -> bool:
            return self.family.read(1) == b""  # None: not yet

        with self.family:
            try:
                wait_until(ended, timeout_s=timeout_s, what="the children of the server to end")
            except TimeoutError as error:
                raise ServerFailed(f"{error}\n{self.tail()}") from error

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def start_process(
    arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> ServerProcess:
    """Start a server in the background; `environment` is added to ours."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with log.open("ab") as output, os.fdopen(theirs):
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            pass_fds=(theirs,),
        )
    # SIGQUIT: Postgres ends at once and takes its children along; a JVM ignores it, so SIGKILL
    # follows.
    end = 'cat >/dev/null; kill -QUIT "$0"; sleep 1; kill -KILL "$0"'
    guard = subprocess.Popen(
        ["/bin/sh", "-c", end, str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = ServerProcess(process, guard, log, FileIO(ours))
    atexit.register(server.stop, signal.SIGKILL)
    return server
