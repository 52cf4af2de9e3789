"""A real Kafka broker (KRaft, one node) as a native process.

1. jars: Kafka and a logger, once, through Maven
2. format the log directory
3. run it on 127.0.0.1; ready when it says so and its port accepts
"""

from __future__ import annotations

import base64
import signal
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from demo.server_process import (
    ServerFailed,
    ServerProcess,
    accepts_connections,
    free_port,
    start_process,
)
from tests.services.maven import cached, copy_dependencies

VERSION = "4.3.1"
HEAP = "512m"
START_TIMEOUT_S = 60.0

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
class Broker:
    bootstrap: str
    process: ServerProcess

    def stop(self) -> None:
        """End it at once: its data are thrown away, so nothing needs to be handed over."""
        self.process.stop(signal.SIGKILL)


def start_kafka(folder: Path) -> Broker:
    """Start an empty broker that keeps everything under `folder`. Raises ServerFailed."""
    port = free_port()
    properties = folder / "server.properties"
    properties.write_text(_properties(folder, port, free_port()))
    logging = folder / "log4j2.properties"
    logging.write_text(_LOGGING)
    jars = cached(f"kafka-{VERSION}", lambda target: copy_dependencies(_POM, target))
    java = ["java", f"-Dlog4j2.configurationFile=file:{logging}", "-cp", f"{jars}/*"]
    _format(java, properties)
    process = start_process(
        [*java, f"-Xms{HEAP}", f"-Xmx{HEAP}", "kafka.Kafka", str(properties)],
        log=folder / "kafka.log",
    )

    def ready() -> bool:
        return "Kafka Server started" in process.log.read_text() and accepts_connections(port)

    process.wait_ready(ready, timeout_s=START_TIMEOUT_S)
    return Broker(f"127.0.0.1:{port}", process)


def _format(java: list[str], properties: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = [
        "-Xmx128m",
        "kafka.tools.StorageTool",
        "format",
        f"--cluster-id={cluster}",
        "-c",
        str(properties),
    ]
    done = subprocess.run([*java, *tool], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerFailed(f"Kafka could not format its log:\n{done.stdout}{done.stderr}")


def _properties(folder: Path, port: int, controller_port: int) -> str:
    """One node with few, single-copy internal topics, so that it is ready soon."""
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
message.max.bytes=10485760
"""
