"""A real Kafka Connect worker with Debezium's Postgres connector, as a native process.

1. jars, once, through Maven: Connect itself; in a plugin folder of their own each, Debezium and
   Apicurio's converter, which writes Avro in Confluent's wire format to any registry that serves
   Apicurio's interface, too (Confluent's own converter is not on Maven Central)
2. run one worker on 127.0.0.1, with internal topics of its own; ready when it lists connectors
3. connectors come and go through its REST interface; each has its converters in its own settings
"""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from demo.server_process import (
    POLL_S,
    ServerFailed,
    ServerProcess,
    free_port,
    start_process,
)
from tests.services import java, kafka
from tests.services.debezium import (
    AVRO_CONVERTER,
    Converter,
    converters,
    debezium_settings,
    slot_name,
)
from tests.services.maven import cached, copy_dependencies, pom

DEBEZIUM = "3.7.0.Final"
APICURIO = "2.6.13.Final"
"""The newest converter on Maven Central; it works with registries of version 3, too."""
HEAP = "512m"
START_TIMEOUT_S = 120.0
DEADLINE_S = 120.0

_RUNTIME = pom(
    "connect",
    f"org.apache.kafka:connect-runtime:{kafka.VERSION}",
    f"org.apache.kafka:connect-json:{kafka.VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.1",
)
_PLUGINS = {
    "debezium": pom("debezium", f"io.debezium:debezium-connector-postgres:{DEBEZIUM}"),
    "avro": pom("avro", f"io.apicurio:apicurio-registry-utils-converter:{APICURIO}"),
}
MYSQL_DEBEZIUM = "3.6.1.Final"
"""The newest of its MySQL connector on Maven Central."""
_MYSQL_PLUGINS = {
    "debezium-mysql": pom(
        "debezium-mysql",
        f"io.debezium:debezium-connector-mysql:{MYSQL_DEBEZIUM}",
        "com.mysql:mysql-connector-j:9.1.0",
    ),
}
_OF_THE_WORKER = ("connect-", "kafka-clients", "slf4j", "jakarta.ws.rs", "snappy", "zstd", "lz4")
"""Jars that a plugin must not bring along."""

_LOGGING = """rootLogger.level = WARN
rootLogger.appenderRef.out.ref = OUT
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
"""


@dataclass(frozen=True)
class ConnectWorker:
    """One worker. `url` is its REST interface."""

    url: str
    process: ServerProcess

    @property
    def pid(self) -> int:
        return self.process.pid

    def create(self, name: str, settings: Mapping[str, str]) -> None:
        """Create a connector (or change it) and wait until it and its task run."""
        self._ask("PUT", f"/connectors/{name}/config", dict(settings))
        self.wait_running(name)

    def stop_connector(self, name: str) -> None:
        """Stop its task; its offsets and its slot stay."""
        self._ask("PUT", f"/connectors/{name}/stop")
        self._wait(lambda: self._state(name) == "STOPPED", f"{name} to stop")

    def resume(self, name: str) -> None:
        """Go on where a stopped connector was."""
        self._ask("PUT", f"/connectors/{name}/resume")

    def delete(self, name: str) -> None:
        """Delete a connector; nothing when there is none."""
        if name in self.connectors():
            self._ask("DELETE", f"/connectors/{name}")
        self._wait(lambda: name not in self.connectors(), f"{name} to be deleted")

    def connectors(self) -> list[str]:
        names: list[str] = self._ask("GET", "/connectors")
        return names

    def wait_running(self, name: str) -> None:
        """Wait until the connector and its task run. Raises ServerFailed with its stack trace."""
        self._wait(lambda: self.runs(name), f"the connector {name} to run")

    def runs(self, name: str) -> bool:
        """Whether its task runs. Raises ServerFailed when it has failed."""
        status = self._status(name)
        for part in (status.get("connector", {}), *status.get("tasks", [])):
            if part.get("state") == "FAILED":
                raise ServerFailed(f"connector {name} failed:\n{part.get('trace')}")
        return [task["state"] for task in status.get("tasks", [])] == ["RUNNING"]

    @contextmanager
    def debezium(
        self,
        url: str,
        tables: Sequence[str],
        prefix: str,
        converter: Converter = "json",
        registry: str = "",
        **settings: str,
    ) -> Iterator[Debezium]:
        """Debezium over some tables of the Postgres at `url`, into the topics `<prefix>.<table>`,
        from its snapshot on; inside the block it streams. `settings` are Debezium's own, with `__`
        for dots. Afterwards connector, slot and publication are gone."""
        connector = Debezium(self, f"{prefix}-{uuid.uuid4().hex[:8]}", url)
        more = {name.replace("__", "."): value for name, value in settings.items()}
        base = debezium_settings(url, tables, prefix, connector.slot)
        try:
            self.create(connector.name, base | converters(converter, registry) | more)
            yield connector
        finally:
            self.delete(connector.name)
        connector.remove()

    def stop(self) -> None:
        """End it at once."""
        self.process.stop(signal.SIGKILL)

    def _state(self, name: str) -> str:
        return str(self._status(name).get("connector", {}).get("state", ""))

    def _status(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._ask("GET", f"/connectors/{name}/status")
            return found
        except urllib.error.HTTPError as error:
            if error.code == 404:  # known a moment after it was created
                return {}
            raise

    def _wait(self, condition: Any, what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise ServerFailed(f"waited {DEADLINE_S:g} s for {what}\n{self.process.tail()}")
            time.sleep(POLL_S)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            request = urllib.request.Request(self.url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    raise
                if error.code != 409 or time.monotonic() > deadline_s:  # 409: it rebalances
                    said = error.read().decode(errors="replace")
                    raise ServerFailed(f"{method} {path}: {error.code} {said}") from error
            time.sleep(POLL_S)


@dataclass(frozen=True)
class Debezium:
    """A connector that runs over the database at `url`."""

    worker: ConnectWorker
    name: str
    url: str

    @property
    def slot(self) -> str:
        return slot_name(self.name)

    def caught_up(self) -> None:
        """Wait until everything committed by now is in Kafka: it streams (so its snapshot is
        published before), and it has acknowledged a transaction that was begun after this call,
        which it does once Kafka has all that came before."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
            self._wait(connection, active, "to stream")
            emitted = connection.execute(
                "SELECT pg_logical_emit_message(true, 'barrier', '')::text"
            ).fetchone()
            assert emitted is not None
            flushed = f"""SELECT confirmed_flush_lsn >= '{emitted[0]}'::pg_lsn
                FROM pg_replication_slots WHERE slot_name = %s"""
            self._wait(connection, flushed, f"to reach {emitted[0]}")

    def _wait(self, connection: psycopg.Connection[Any], statement: str, what: str) -> None:
        def done() -> bool:
            row = connection.execute(statement, (self.slot,)).fetchone()
            self.worker.runs(self.name)
            return bool(row and row[0])

        self.worker._wait(done, f"{self.name} {what}")

    def remove(self) -> None:
        """Drop its slot and its publication."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            held = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
            self.worker._wait(
                lambda: not (connection.execute(held, (self.slot,)).fetchone() or (False,))[0],
                f"the slot {self.slot} to be free",
            )
            drop = """SELECT pg_drop_replication_slot(slot_name)
                FROM pg_replication_slots WHERE slot_name = %s"""
            connection.execute(drop, (self.slot,))
            connection.execute(f"DROP PUBLICATION IF EXISTS {self.slot}".encode())


def start_connect(
    folder: Path,
    bootstrap: str,
    heap: str = HEAP,
    offset_flush_ms: int = 200,
    jvm: Sequence[str] = java.QUICK,
    mysql: bool = False,
) -> ConnectWorker:
    """Start a worker that keeps nothing but its log under `folder`; its internal topics on the
    broker have a name of their own. `mysql`: with Debezium's MySQL connector, too. Raises
    ServerFailed."""
    port = free_port()
    plugins = cached(f"connect-plugins-{DEBEZIUM}-{APICURIO}", _copy_plugins)
    path = str(plugins)
    if mysql:
        path += f",{cached(f'connect-mysql-{MYSQL_DEBEZIUM}', _copy_mysql_plugins)}"
    jars = cached(f"connect-{kafka.VERSION}", lambda target: copy_dependencies(_RUNTIME, target))
    properties = folder / "worker.properties"
    properties.write_text(_properties(port, bootstrap, path, offset_flush_ms))
    logging = folder / "log4j2-connect.properties"
    logging.write_text(_LOGGING)
    process = start_process(
        ["java", f"-Dlog4j2.configurationFile=file:{logging}", "-cp", f"{jars}/*",
         *jvm, f"-Xmx{heap}",
         "org.apache.kafka.connect.cli.ConnectDistributed", str(properties)],
        log=folder / "connect.log",
    )  # fmt: skip
    worker = ConnectWorker(f"http://127.0.0.1:{port}", process)

    def ready() -> bool:
        try:
            return worker.connectors() == []
        except OSError:
            return False

    process.wait_ready(ready, timeout_s=START_TIMEOUT_S)
    return worker


def _copy_mysql_plugins(target: Path) -> None:
    _copy_each(_MYSQL_PLUGINS, target)


def _copy_each(plugins: Mapping[str, str], target: Path) -> None:
    for name, dependencies in plugins.items():
        folder = target / name
        folder.mkdir()
        copy_dependencies(dependencies, folder)
        for jar in folder.iterdir():
            if jar.name.startswith(_OF_THE_WORKER):
                jar.unlink()


def _copy_plugins(target: Path) -> None:
    _copy_each(_PLUGINS, target)
    # What `connect-plugin-path sync-manifests` does: then Connect need not scan every class.
    with zipfile.ZipFile(target / "avro" / "services.jar", "w") as jar_file:
        service = "META-INF/services/org.apache.kafka.connect.storage.Converter"
        jar_file.writestr(service, AVRO_CONVERTER)


def _properties(port: int, bootstrap: str, plugins: str, offset_flush_ms: int) -> str:
    group = f"connect-{uuid.uuid4().hex[:8]}"
    topics = "".join(
        f"{kind}.storage.topic={group}-{kind}\n{kind}.storage.replication.factor=1\n"
        for kind in ("config", "offset", "status")
    )
    return f"""bootstrap.servers={bootstrap}
listeners=http://127.0.0.1:{port}
rest.advertised.host.name=127.0.0.1
plugin.path={plugins}
plugin.discovery=service_load
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
offset.flush.interval.ms={offset_flush_ms}
group.id={group}
{topics}offset.storage.partitions=1
status.storage.partitions=1
"""
