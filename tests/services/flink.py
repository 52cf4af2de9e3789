"""Apache Flink's SQL as an independent reader of topics: a real Flink in one process of its own.

1. jars, once: Flink from PyPI's package of them, which only this folder gets (never our venv), its
   Kafka connector and its Avro formats through Maven
2. run FlinkSql.java, which starts Flink's cluster within its process and takes statements on its
   stdin; it ends when we do, for then stdin ends
3. a SELECT gives changes; what they leave standing is the result

Tables want `'scan.bounded.mode' = 'latest-offset'`: a job then ends at what a topic holds now.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from demo.server_process import ServerFailed
from tests.services import java
from tests.services.maven import cached, copy_artifact

VERSION = "2.2.1"
HEAP = "512m"
DEADLINE_S = 120.0

_ARTIFACTS = (
    "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
    "org.apache.flink:flink-sql-avro-confluent-registry:2.2.0",
)
_PROGRAM = Path(__file__).parent / "FlinkSql.java"
_OPENED = (
    *("java.lang", "java.lang.invoke", "java.math", "java.net", "java.io", "java.nio", "java.time"),
    *("java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.text"),
    *("sun.nio.ch", "sun.net.util"),
)
_SETTINGS = (
    "parallelism.default=1",
    "taskmanager.numberOfTaskSlots=1",
    "taskmanager.memory.network.min=16m",
    "taskmanager.memory.network.max=16m",
    "taskmanager.memory.managed.size=32m",
    "rest.bind-port=0",
)
_LOGGING = """rootLogger.level = ERROR
rootLogger.appenderRef.out.ref = OUT
appender.out.type = Console
appender.out.target = SYSTEM_ERR
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
"""

Rows = Counter[tuple[str | None, ...]]
"""A table's rows, each value as Flink prints it, and how often each row occurs."""


class Flink:
    """One session: what it creates stays until it ends."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        return self._process.pid

    def execute(self, *statements: str) -> None:
        """Run statements; one that starts a job returns once the job has ended. Raises
        ServerFailed with Flink's error."""
        for statement in statements:
            self._run(statement)

    def rows(self, query: str) -> Rows:
        """The rows that a SELECT over bounded tables has in the end. Raises ServerFailed, also
        when Flink takes back a row that it never gave."""
        found: Rows = Counter()
        for line in self._run(query):
            kind, *values = json.loads(line)
            found[tuple(values)] += 1 if kind in {"+I", "+U"} else -1
        wrong = [row for row, times in found.items() if times < 0]
        if wrong:
            raise ServerFailed(f"taken back, but never given: {wrong[:5]}")
        return +found

    @contextmanager
    def enabled(self, setting: str) -> Iterator[None]:
        """One of Flink's settings that are off unless told, on within the block."""
        self.execute(f"SET '{setting}' = 'true'")
        try:
            yield
        finally:
            self.execute(f"SET '{setting}' = 'false'")

    def stop(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def wait_ready(self) -> None:
        with self._deadline():
            self._answer_until("ready")

    def _run(self, statement: str) -> list[str]:
        with self._deadline():
            _stream(self._process.stdin).write(json.dumps(statement) + "\n")
            _stream(self._process.stdin).flush()
            return self._answer_until("done", statement)

    def _answer_until(self, last: str, statement: str = "") -> list[str]:
        lines: list[str] = []
        for line in _stream(self._process.stdout):
            if line.rstrip() == last:
                return lines
            if line.startswith("error "):
                raise ServerFailed(f"{statement}\n{json.loads(line.removeprefix('error '))}")
            lines.append(line)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        raise ServerFailed(f"Flink ended, or took longer than {DEADLINE_S:g} s\n{tail}")

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        timer = threading.Timer(DEADLINE_S, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def start_flink(folder: Path, heap: str = HEAP) -> Flink:
    """Start it; its log is under `folder`. Raises ServerFailed."""
    jars = cached(f"flink-{VERSION}", _copy_jars)
    logging, log = folder / "log4j2-flink.properties", folder / "flink.log"
    logging.write_text(_LOGGING)
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            ["java", *java.QUICK, *opened, f"-Xmx{heap}", f"-Djava.io.tmpdir={folder}",
             f"-Dlog4j2.configurationFile=file:{logging}", "-cp", f"{jars}/*",
             str(_PROGRAM), *_SETTINGS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )  # fmt: skip
    flink = Flink(process, log)
    flink.wait_ready()
    return flink


def _copy_jars(target: Path) -> None:
    package = target / "package"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(package)]
    done = subprocess.run(
        [*command, f"apache-flink-libraries=={VERSION}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"Flink's jars could not be fetched:\n{done.stdout}{done.stderr}")
    for jar in (package / "pyflink" / "lib").iterdir():
        jar.rename(target / jar.name)
    shutil.rmtree(package)
    for artifact in _ARTIFACTS:
        copy_artifact(f"{artifact}:jar", target)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
