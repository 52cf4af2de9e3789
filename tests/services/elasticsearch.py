"""A real Elasticsearch (one node, no security unless asked for) as a native process.

1. Elastic's own test distribution, once, through Maven: the server with few of its modules
2. a JDK that the version runs on: 17 for 8.x, 21 for 9.x
3. run it on 127.0.0.1; ready when its cluster is
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from demo.embedded_postgres import as_ordinary_user
from demo.server_process import ServerFailed, ServerProcess, free_port, start_process
from tests.services import java
from tests.services.maven import cached, copy_artifact

# version -> the oldest Java that it runs on
VERSIONS = {"8.19.0": 17, "9.5.3": 21}
HEAP = "512m"
START_TIMEOUT_S = 120.0

_ARTIFACT = "org.elasticsearch.distribution.integ-test-zip:elasticsearch"


@dataclass(frozen=True)
class ElasticsearchServer:
    """A server that keeps everything under `folder`; it can be stopped and started again.
    `files` go into its configuration's folder, by name. A `quick` one starts with less work
    (tests/services/java.py)."""

    folder: Path
    version: str
    port: int
    settings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    _running: list[ServerProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it serves. Raises ServerFailed."""
        home = cached(f"elasticsearch-{self.version}", lambda target: _unpack(self.version, target))
        environment = {
            "ES_JAVA_HOME": str(java_home(VERSIONS[self.version])),
            "ES_PATH_CONF": str(_configured(home, self)),
            "ES_TMPDIR": str(_folder(self.folder / "tmp")),
            "ES_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP}",
        }
        if self.quick:
            # Its own options choose a collector, and there may be only one.
            environment["ES_JAVA_OPTS"] += f" -XX:-UseG1GC {' '.join(java.QUICK)}"
            environment["CLI_JAVA_OPTS"] = " ".join(java.QUICK)
        process = start_process(
            as_ordinary_user([str(home / "bin" / "elasticsearch")]),
            log=self.folder / "elasticsearch.log",
            environment=environment,
        )
        process.wait_ready(self._ready, timeout_s=START_TIMEOUT_S)
        self._running.append(process)

    def stop(self) -> None:
        """End it and wait until it has ended."""
        while self._running:
            self._running.pop().stop(signal.SIGTERM)

    def restart(self) -> None:
        """Stop it, then start it on the same port."""
        self.stop()
        self.start()

    def _ready(self) -> bool:
        health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        try:
            with urllib.request.urlopen(health, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code in {401, 403}
        except OSError:
            return False


def start_elasticsearch(
    folder: Path,
    version: str | None = None,
    settings: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    quick: bool = False,
) -> ElasticsearchServer:
    """Start an empty server, by default of the newest version that a JDK here runs. `settings` are
    lines of elasticsearch.yml. Raises ServerFailed."""
    chosen = version or newest_version()
    server = ElasticsearchServer(folder, chosen, free_port(), tuple(settings), files or {}, quick)
    server.start()
    return server


def newest_version() -> str:
    """The newest of VERSIONS that a JDK here runs."""
    return runnable_versions()[-1]


@cache
def runnable_versions() -> tuple[str, ...]:
    """The VERSIONS that a JDK here runs; the oldest always, so that its absence is a failure."""
    found = _java_majors()
    runnable = [v for v, least in VERSIONS.items() if any(major >= least for major in found)]
    return tuple(runnable) or (next(iter(VERSIONS)),)


def java_home(least: int) -> Path:
    """A JDK of version `least` or newer, the oldest such. Raises ServerFailed."""
    found = _java_majors()
    fitting = sorted(major for major in found if major >= least)
    if not fitting:
        raise ServerFailed(f"tests need a Java {least} or newer (JAVA_HOME, or beside `java`)")
    return found[fitting[0]]


@cache
def _java_majors() -> dict[int, Path]:
    """Major version -> home, of JAVA_HOME, of the `java` on the path and of its neighbours."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    java = shutil.which("java")
    if java is not None:
        homes += sorted(Path(java).resolve().parent.parent.parent.iterdir())
    return dict(_versioned(homes))


def _versioned(homes: list[Path]) -> Iterator[tuple[int, Path]]:
    for home in homes:
        release = home / "release"
        if release.is_file() and (home / "bin" / "java").exists():
            found = re.search(r'JAVA_VERSION="(\d+)', release.read_text())
            if found:
                yield int(found[1]), home


def _unpack(version: str, target: Path) -> None:
    copy_artifact(f"{_ARTIFACT}:{version}:zip", target)
    archive = target / f"elasticsearch-{version}.zip"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(target)
    archive.unlink()
    unpacked = target / f"elasticsearch-{version}"
    for part in unpacked.iterdir():
        part.rename(target / part.name)
    unpacked.rmdir()
    for script in (target / "bin").iterdir():
        script.chmod(0o755)


def _configured(home: Path, server: ElasticsearchServer) -> Path:
    config = server.folder / "config"
    if not config.exists():
        shutil.copytree(home / "config", config)
        options = config / "jvm.options"
        lines = options.read_text().splitlines()
        kept = [line for line in lines if "Xlog" not in line and "hs_err" not in line]
        options.write_text("\n".join(line for line in kept if "HeapDumpPath" not in line) + "\n")
    for name, text in {**server.files, "elasticsearch.yml": _settings(server)}.items():
        (config / name).write_text(text)
    return config


def _settings(server: ElasticsearchServer) -> str:
    lines = [
        f"path.data: {_folder(server.folder / 'data')}",
        f"path.logs: {_folder(server.folder / 'logs')}",
        "network.host: 127.0.0.1",
        f"http.port: {server.port}",
        f"transport.port: {free_port()}",
        "discovery.type: single-node",
        "cluster.routing.allocation.disk.threshold_enabled: false",
        *(server.settings or ("xpack.security.enabled: false",)),
    ]
    return "\n".join(lines) + "\n"


def _folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
