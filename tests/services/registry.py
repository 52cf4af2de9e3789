"""A real schema registry with Confluent's REST interface (Apicurio) as a native process.

1. the server, once, through Maven; 3.0.9 is the newest that runs on Java 17
2. run it on 127.0.0.1 over a database file of its own, so that it can be killed and started again
3. ready when it lists its subjects
"""

from __future__ import annotations

import json
import signal
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo.server_process import ServerProcess, free_port, start_process
from tests.services import java
from tests.services.maven import cached, copy_artifact

VERSION = "3.0.9"
HEAP = "512m"
START_TIMEOUT_S = 120.0

_ARTIFACT = "io.apicurio:apicurio-registry-app"


@dataclass(frozen=True)
class Registry:
    """A registry that keeps everything under `folder`; it can be stopped and started again."""

    folder: Path
    port: int
    _running: list[ServerProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def start(self) -> None:
        """Start it and wait until it serves. Raises ServerFailed."""
        home = cached(f"registry-{VERSION}", _unpack)
        settings = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": str(self.port),
            "quarkus.log.level": "WARN",
            "quarkus.http.access-log.enabled": "false",
            "apicurio.storage.kind": "sql",
            "apicurio.storage.sql.kind": "h2",
            # By default H2 writes half a second after it has answered.
            "apicurio.datasource.url": f"jdbc:h2:file:{self.folder}/registry;WRITE_DELAY=0",
        }
        process = start_process(
            [
                *("java", *java.QUICK, f"-Xmx{HEAP}"),
                *(f"-D{name}={value}" for name, value in settings.items()),
                *("-jar", str(home / f"apicurio-registry-app-{VERSION}-runner.jar")),
            ],
            log=self.folder / "registry.log",
        )
        process.wait_ready(self._ready, timeout_s=START_TIMEOUT_S)
        self._running.append(process)

    def kill(self) -> None:
        """End it at once, and wait until it has ended."""
        while self._running:
            self._running.pop().stop(signal.SIGKILL)

    def set_level(self, level: str, subject: str = "") -> None:
        """The compatibility of a subject, or of all that have none of their own."""
        path = f"/config/{subject}" if subject else "/config"
        ask(self.url + path, "PUT", {"compatibility": level})

    def _ready(self) -> bool:
        try:
            ask(f"{self.url}/subjects")
        except OSError:
            return False
        return True


def ask(url: str, method: str = "GET", body: Any = None) -> Any:
    """What the interface answers, without any client of ours. Raises OSError."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


@contextmanager
def running_registry() -> Iterator[Registry]:
    """An empty registry, thrown away afterwards. Raises ServerFailed."""
    with TemporaryDirectory(prefix="cdc-registry-") as folder:
        registry = Registry(Path(folder), free_port())
        registry.start()
        try:
            yield registry
        finally:
            registry.kill()


def _unpack(target: Path) -> None:
    copy_artifact(f"{_ARTIFACT}:{VERSION}:tar.gz:all", target, alone=True)
    archive = target / f"apicurio-registry-app-{VERSION}-all.tar.gz"
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    archive.unlink()
