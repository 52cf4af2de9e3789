"""A real Kafka broker (KRaft, one node) as a native process.

1. jars: Kafka and a logger, once, through Maven
2. format the log directory
3. run it on 127.0.0.1; ready when it says so and its port accepts

It can be killed, shut down, started again at the same port over the same data, paused, and filled:
`fill` limits the size of the files that the process may write (RLIMIT_FSIZE), which the broker sees
as it sees a full disk, an IOException on append. With `Security` its clients' listener is SASL_SSL.
"""

from __future__ import annotations

import base64
import resource
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo.server_process import (
    ServerFailed,
    ServerProcess,
    accepts_connections,
    free_port,
    start_process,
    wait_until,
)
from tests.services import java
from tests.services.maven import cached, copy_dependencies

VERSION = "4.3.1"
HEAP = "512m"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SHORT_SESSIONS = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "300"}
"""For brokers to be killed: the controller lets one in again once the dead one's session has
ended."""
ADMIN = "ANONYMOUS"
"""Whoever comes through the listener without TLS: the broker itself, and tests that set it up."""

_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>cdc</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>2.25.1</version>
    </dependency>
  </dependencies>
</project>
"""

_LOGGING = """rootLogger.level = WARN
rootLogger.appenderRef.out.ref = OUT
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = INFO
"""


@dataclass(frozen=True)
class Security:
    """What the clients' listener asks for: TLS with a certificate of an authority of our own, and
    a password (SCRAM-SHA-512). Users other than ADMIN have no rights but those given to them."""

    authority: Path
    key_and_certificate: Path
    passwords: Mapping[str, str]


@dataclass
class Broker:
    """A running broker. `bootstrap` is for clients; `internal` has neither TLS nor passwords."""

    folder: Path
    bootstrap: str
    internal: str
    jvm: Sequence[str] = ()
    process: ServerProcess = field(init=False)

    def start(self) -> None:
        """Start it, also again: same port, same data. Raises ServerFailed."""
        log = self.folder / "kafka.log"
        seen = log.stat().st_size if log.exists() else 0
        self.process = start_process(
            [*_java(self.folder), *self.jvm, f"-Xmx{HEAP}", "kafka.Kafka", _file(self.folder)],
            log=log,
        )

        def ready() -> bool:
            started = b"Kafka Server started" in log.read_bytes()[seen:]
            return started and accepts_connections(int(self.bootstrap.rpartition(":")[2]))

        self.process.wait_ready(ready, timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """End it at once, as a crash would: it hands nothing over, and its data stay."""
        self.process.stop(signal.SIGKILL)

    def shut_down(self) -> None:
        """End it in order."""
        self.process.stop(signal.SIGTERM, timeout_s=STOP_TIMEOUT_S)

    def pause(self) -> None:
        """Its connections stay, and nothing is answered any more."""
        self.process.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.process.send_signal(signal.SIGCONT)

    def fill(self, file_bytes: int) -> None:
        """No file of the broker may grow beyond that any more; once one would, it ends."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (file_bytes, -1))

    def await_end(self, timeout_s: float = START_TIMEOUT_S) -> None:
        ended = self.process.process.poll
        wait_until(lambda: ended() is not None, timeout_s=timeout_s, what="the broker's end")

    @property
    def running(self) -> bool:
        return self.process.process.poll() is None


def start_kafka(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    security: Security | None = None,
    quick: bool = False,
) -> Broker:
    """Start an empty broker that keeps everything under `folder`; `settings` are added to
    server.properties. A `quick` one starts with less work (tests/services/java.py). Raises
    ServerFailed."""
    port, internal, controller = free_port(), free_port(), free_port()
    found = _properties(folder, port, controller)
    if security is not None:
        found |= _secured(port, internal, controller, security)
    found |= settings or {}
    text = "".join(f"{name}={value}\n" for name, value in found.items())
    Path(_file(folder)).write_text(text)
    (folder / "log4j2.properties").write_text(_LOGGING)
    _format(folder, security.passwords if security else {})
    inside = internal if security is not None else port
    jvm = java.QUICK if quick else (f"-Xms{HEAP}",)
    broker = Broker(folder, f"127.0.0.1:{port}", f"127.0.0.1:{inside}", jvm)
    broker.start()
    return broker


def _file(folder: Path) -> str:
    return str(folder / "server.properties")


def _java(folder: Path) -> list[str]:
    logging = f"-Dlog4j2.configurationFile=file:{folder / 'log4j2.properties'}"
    return ["java", logging, "-cp", _jars()]


def _jars() -> str:
    return str(cached(f"kafka-{VERSION}", lambda to: copy_dependencies(_POM, to)) / "*")


def config_tool() -> list[str]:
    """What kafka-configs.sh runs."""
    return ["java", *java.QUICK, "-Xmx128m", "-cp", _jars(), "kafka.admin.ConfigCommand"]


def _format(folder: Path, passwords: Mapping[str, str]) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = [*java.QUICK, "-Xmx128m", "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
    users = [f"SCRAM-SHA-512=[name={n},password={p}]" for n, p in passwords.items()]
    _run([*_java(folder), *tool, "-c", _file(folder), *(f"--add-scram={user}" for user in users)])


def _run(arguments: Sequence[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerFailed(f"{arguments[-1]} failed:\n{done.stdout}{done.stderr}")


def _properties(folder: Path, port: int, controller_port: int) -> dict[str, str]:
    """One node with few, single-copy internal topics, so that it is ready soon."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": f"{folder}/data",
        "num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "message.max.bytes": "10485760",
        # Index files have this size from the start: `fill` shall fail appends, not new topics.
        "log.index.size.max.bytes": "65536",
    }


def _secured(port: int, internal: int, controller: int, security: Security) -> dict[str, str]:
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    clients, inside = f"SASL_SSL://127.0.0.1:{port}", f"PLAINTEXT://127.0.0.1:{internal}"
    return {
        "listeners": f"{clients},{inside},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"{clients},{inside}",
        "listener.security.protocol.map": (
            "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(security.key_and_certificate),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN}",
    }


def make_security(folder: Path, passwords: Mapping[str, str]) -> Security:
    """An authority and a certificate for 127.0.0.1 that it signed, made with openssl."""
    authority, key = folder / "authority.pem", folder / "key.pem"
    request, certificate = folder / "request.pem", folder / "certificate.pem"
    make_authority(folder, "authority")
    _openssl(
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1",
        "-keyout", str(key), "-out", str(request),
    )  # fmt: skip
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    _openssl(
        "x509", "-req", "-days", "2", "-in", str(request), "-CA", str(authority),
        "-CAkey", str(folder / "authority.key"), "-CAcreateserial", "-extfile", str(names),
        "-out", str(certificate),
    )  # fmt: skip
    both = folder / "server.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return Security(authority, both, passwords)


def make_authority(folder: Path, name: str) -> Path:
    """The certificate of a new authority, NAME.pem with NAME.key beside it."""
    found = folder / f"{name}.pem"
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", str(folder / f"{name}.key"), "-out", str(found),
    )  # fmt: skip
    return found


def _openssl(*arguments: str) -> None:
    _run(["openssl", *arguments])
