"""Topics that somebody else wrote, and an agent that captures them.

foreign        function, over its parameter (json, schemas, avro): a `Foreign` with topics of its
               own on the shared broker
through_kafka  function: the same for Avro, captured into a log on Kafka

Records are made here one by one, as Debezium's documentation shows them, and not by cdc.formats:
Avro by fastavro.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import fastavro
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from cdc.config import LogConfig, Place, SourceConfig, TopicsConfig
from cdc.frontiers import Frontier
from cdc.log.api import Log
from cdc.log.kafka_client import Broker
from cdc.log.schema_topic import SchemaTopic
from cdc.log.topic_ids import TopicIds
from cdc.positions import NativePosition
from cdc.topics.source import TopicsSource
from tests.fix_capture import DEADLINE_S, SOURCE, AgentThread, Capture
from tests.services.forked import Forked

Kind = Literal["json", "schemas", "avro"]
KINDS: tuple[Kind, ...] = ("json", "schemas", "avro")
Row = Mapping[str, Any]
CONFLUENT = b"\0"

COLUMNS = {"id": "bigint", "name": "text", "amount": "numeric(12,2)", "at": "timestamptz"}
DECIMAL = {"scale": "2", "connect.decimal.precision": "12"}


@dataclass(frozen=True)
class Field:
    """A column as Connect has it, in JSON and in Avro."""

    name: str
    connect: Mapping[str, Any]
    avro: Any

    @classmethod
    def plain(cls, name: str, connect: str, avro: str, **more: Any) -> Field:
        return cls(name, {"type": connect, **more}, {"type": avro, **more} if more else avro)


FIELDS = (
    Field.plain("id", "int64", "long"),
    Field.plain("name", "string", "string"),
    Field(
        "amount",
        {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": DECIMAL},
        {
            "type": "bytes",
            "connect.name": "org.apache.kafka.connect.data.Decimal",
            "connect.parameters": DECIMAL,
        },
    ),
    Field(
        "at",
        {"type": "string", "name": "io.debezium.time.ZonedTimestamp"},
        {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"},
    ),
)


def connect_row(fields: Sequence[Field], name: str) -> dict[str, Any]:
    inner = [{**f.connect, "optional": f.name != "id", "field": f.name} for f in fields]
    return {"type": "struct", "fields": inner, "optional": True, "name": f"t.{name}"}


def connect_envelope(fields: Sequence[Field]) -> dict[str, Any]:
    long = {"type": "int64", "optional": True}
    source = {"type": "struct", "fields": [{**long, "field": "ts_ms"}], "optional": False}
    parts = [
        {**connect_row(fields, "Value"), "field": "before"},
        {**connect_row(fields, "Value"), "field": "after"},
        {**source, "field": "source"},
        {"type": "string", "optional": False, "field": "op"},
    ]
    return {"type": "struct", "fields": parts, "optional": False, "name": "t.Envelope"}


def avro_envelope(fields: Sequence[Field]) -> dict[str, Any]:
    inner = [
        {"name": f.name, "type": f.avro}
        if f.name == "id"
        else {"name": f.name, "type": ["null", f.avro], "default": None}
        for f in fields
    ]
    row = {"type": "record", "name": "Value", "fields": inner}
    source = {"type": "record", "name": "Source", "fields": [{"name": "ts_ms", "type": "long"}]}
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": "t",
        "fields": [
            {"name": "before", "type": ["null", row], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": source},
            {"name": "op", "type": "string"},
        ],
    }


AVRO_KEY = {
    "type": "record", "name": "Key", "namespace": "t", "fields": [{"name": "id", "type": "long"}]
}  # fmt: skip
CONNECT_KEY = {
    "type": "struct",
    "fields": [{"type": "int64", "optional": False, "field": "id"}],
    "optional": False,
}


@dataclass
class Foreign:
    """A broker, and topics `<prefix>.public.<table>` of one kind on it."""

    bootstrap: str
    folder: Path
    kind: Kind
    prefix: str = field(default_factory=lambda: f"f{uuid.uuid4().hex[:10]}")
    tables: tuple[str, ...] = ("public.a",)
    fields: tuple[Field, ...] = FIELDS
    columns: Mapping[str, str] = field(default_factory=lambda: COLUMNS)
    keys: tuple[str, ...] = ()
    commit_ms: int = 1_700_000_000_000
    into: LogConfig | None = None

    def __post_init__(self) -> None:
        self.capture = Capture("", self.folder, into=self.into)
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})
        self._producer: Producer | None = None
        self._ids: TopicIds | None = None

    # Writing

    def topic(self, table: str = "public.a") -> str:
        return f"{self.prefix}.{table}"

    def make(self, table: str = "public.a", partitions: int = 1, policy: str = "compact") -> None:
        wanted = NewTopic(self.topic(table), partitions, 1, config={"cleanup.policy": policy})
        self.admin.create_topics([wanted])[self.topic(table)].result(30)

    def drop(self, table: str = "public.a") -> None:
        """Delete a topic, and wait until the broker has."""
        self.admin.delete_topics([self.topic(table)])[self.topic(table)].result(30)
        broker = Broker(LogConfig("kafka", Path(), bootstrap_servers=self.bootstrap))
        broker._until(lambda: broker.describe(self.topic(table)) is None, self.topic(table))

    def delete_records(self, before: int, table: str = "public.a") -> None:
        """As retention would: the first records of partition 0 go."""
        at = TopicPartition(self.topic(table), 0, before)
        for future in self.admin.delete_records([at]).values():
            future.result(30)

    def add_partitions(self, count: int, table: str = "public.a") -> None:
        wanted = NewPartitions(self.topic(table), count)
        self.admin.create_partitions([wanted])[self.topic(table)].result(30)
        self._producer = None  # which would ask for them only minutes later

    def group_offsets(self) -> dict[tuple[str, int], int]:
        """What other people's tools see of the agent's progress."""
        group = f"{self.prefix}.{SOURCE}"
        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        found = asked[group].result(30).topic_partitions or []
        return {(at.topic, at.partition): at.offset for at in found}

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

    def producer(self, **settings: str) -> Producer:
        return Producer({"bootstrap.servers": self.bootstrap, "linger.ms": "1", **settings})

    def send(
        self,
        *records: tuple[bytes | None, bytes | None],
        table: str = "public.a",
        to: int = -1,
        at_ms: int = 0,
    ) -> None:
        """Append records; `to` is a partition, or chosen by the key; `at_ms`: 0 is now."""
        if self._producer is None:
            self._producer = self.producer()
        for key, value in records:
            self._producer.produce(self.topic(table), value, key, partition=to, timestamp=at_ms)
        assert self._producer.flush(30) == 0

    def key(self, row: Row) -> bytes:
        if self.kind == "avro":
            return self._avro("key", AVRO_KEY, {"id": row["id"]})
        if self.kind == "schemas":
            return json.dumps({"schema": CONNECT_KEY, "payload": {"id": row["id"]}}).encode()
        return json.dumps({"id": row["id"]}).encode()

    def value(self, op: str, row: Row | None) -> bytes:
        """An envelope. A delete's old row is its key alone, as with the default identity."""
        self.commit_ms += 1
        mine = None if row is None else {f.name: row.get(f.name) for f in self.fields}
        body: dict[str, Any] = {
            "before": None if row is None or op != "d" else self._carried({"id": row["id"]}),
            "after": None if mine is None or op == "d" else self._carried(mine),
            "source": {"ts_ms": self.commit_ms},
            "op": op,
        }
        if self.kind == "avro":
            return self._avro("value", avro_envelope(self.fields), body)
        if self.kind == "schemas":
            body = {"schema": connect_envelope(self.fields), "payload": body}
        return json.dumps(body, separators=(",", ":")).encode()

    def upsert(self, row: Row, op: str = "c") -> tuple[bytes, bytes]:
        return self.key(row), self.value(op, row)

    def delete(self, row: Row) -> tuple[tuple[bytes, bytes], tuple[bytes, None]]:
        return (self.key(row), self.value("d", row)), (self.key(row), None)

    def _carried(self, row: Row) -> dict[str, Any]:
        found = dict(row)
        amount = found.get("amount")
        if amount is not None:
            unscaled = int(Decimal(amount).scaleb(2))
            raw = unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True)
            found["amount"] = raw if self.kind == "avro" else base64.b64encode(raw).decode()
        return found

    def _avro(self, part: str, schema: Any, body: Any) -> bytes:
        if self._ids is None:
            config = LogConfig(
                "kafka", Path(), bootstrap_servers=self.bootstrap, topic_prefix=self.prefix
            )
            self._ids = TopicIds(SchemaTopic(Broker(config)))
        number = self._ids.register(f"{self.topic()}-{part}", json.dumps(schema))
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), body)
        return CONFLUENT + number.to_bytes(4, "big") + out.getvalue()

    # Capturing

    @property
    def config(self) -> SourceConfig:
        topics = tuple(self.topic(table) for table in self.tables)
        kafka = TopicsConfig(
            self.bootstrap,
            {},
            "avro" if self.kind == "avro" else "json",
            "",
            {},
            columns=dict.fromkeys(topics, self.columns) if self.kind == "json" else {},
            keys=dict.fromkeys(topics, self.keys) if self.keys else {},
        )
        place = Place("connectors.yaml", 1, 1)
        return SourceConfig(SOURCE, "topics", "", topics, "initial", "", "", place, topics=kafka)

    @property
    def log(self) -> Log:
        return self.capture.log

    def source(self) -> TopicsSource:
        return TopicsSource(self.config, f"{self.prefix}.{SOURCE}")

    def barrier(self) -> NativePosition:
        with closing(self.source()) as source:
            return source.place_barrier()

    def wait_for(self, position: NativePosition, alive: Any = None) -> Frontier:
        return self.capture.wait_for(position, alive)

    def running(self) -> AgentThread:
        """An agent on a thread; leaving its block stops it, and raises its error."""
        return AgentThread(self)

    def once(self) -> Frontier:
        """Run an agent until it has everything that is there now."""
        with self.running() as agent:
            return agent.caught_up()

    def live(self, table: str = "public.a") -> dict[int, dict[str, Any]]:
        """The rows of our topic, by id."""
        return {row["id"]: row for row in self.capture.live(table).to_pylist()}

    # Processes

    def process(self, fault: str = "") -> subprocess.Popen[str]:
        """An agent in a process of its own, which dies at `fault`."""
        settings = {
            "bootstrap": self.bootstrap,
            "folder": str(self.folder),
            "kind": self.kind,
            "prefix": self.prefix,
            "tables": self.tables,
        }
        return Forked(
            ["-m", "tests.capture.topics_process", json.dumps(settings)],
            env={**os.environ, "CDC_FAULT": fault},
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def dies(self, fault: str) -> None:
        process = self.process(fault)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == -9, errors


@pytest.fixture
def through_kafka(kafka_bootstrap: str, tmp_path: Path) -> Foreign:
    """Avro topics that are captured into a log on the same broker."""
    prefix = f"log{uuid.uuid4().hex[:8]}-"
    config = LogConfig("kafka", tmp_path, bootstrap_servers=kafka_bootstrap, topic_prefix=prefix)
    return Foreign(kafka_bootstrap, tmp_path, "avro", into=config)


@pytest.fixture(params=KINDS)
def foreign(request: pytest.FixtureRequest, kafka_bootstrap: str, tmp_path: Path) -> Foreign:
    """Topics of the kind that the parameter says; the test makes them."""
    return Foreign(kafka_bootstrap, tmp_path, request.param)
