"""Schema changes while a Kafka log is written: what is registered, what is refused, and what old
and new messages say to us and to others from offset zero."""

from __future__ import annotations

import io
import json
import struct
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from cdc.cli.restart import Exit, exit_of
from cdc.config import LogConfig
from cdc.errors import BadData, CdcError, LogRefused, SchemaChanged
from cdc.log.kafka_client import Broker
from cdc.log.schema_topic import SchemaTopic
from tests.fix_capture import SOURCE, Capture
from tests.fix_log import kafka_config
from tests.services.registry import ask

pytestmark = [pytest.mark.service, pytest.mark.xdist_group("kafka")]

LOGS = ("registry", "cdc.schemas", "json", "json with schemas")


@dataclass
class Logged:
    """A database captured into Kafka, and what others find there."""

    capture: Capture
    config: LogConfig

    def topic(self, table: str = "public.t") -> str:
        return f"{self.config.topic_prefix}{SOURCE}.{table}"

    def messages(self, table: str = "public.t") -> list[Message]:
        """All records of a topic, by a plain consumer."""
        settings = {
            "bootstrap.servers": self.config.bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "enable.partition.eof": True,
        }
        consumer = Consumer(settings)
        with closing(consumer):
            consumer.assign([TopicPartition(self.topic(table), 0, 0)])
            found: list[Message] = []
            while (message := consumer.poll(30.0)) is not None and message.error() is None:
                found.append(message)
        return found

    def values(self, table: str = "public.t") -> list[Any]:
        """Every envelope from offset zero, read without any code of ours."""
        return [self._read(m.value() or b"") for m in self.messages(table) if m.value()]

    def keys(self, table: str = "public.t") -> set[bytes]:
        return {m.key() or b"" for m in self.messages(table)}

    def _read(self, value: bytes) -> Any:
        if self.config.format == "json":
            body = json.loads(value)
            return body["payload"] if self.config.schemas else body
        _, schema_id = struct.unpack(">bI", value[:5])
        schema = fastavro.parse_schema(self.schema(schema_id))
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)

    def schema(self, schema_id: int) -> Any:
        """The schema of an id, as anybody would get it."""
        if self.config.schema_registry:
            found = ask(f"{self.config.schema_registry}/schemas/ids/{schema_id}")
            return json.loads(found["schema"])
        with closing(SchemaTopic(Broker(self.config))) as topic:
            (record,) = (r for r in topic.records() if r.offset == schema_id - 1)
        return json.loads(record.value["schema"])

    @property
    def versions(self) -> list[int]:
        """The versions of the topic's value schema in the registry."""
        subject = f"{self.topic()}-value"
        found: list[int] = ask(f"{self.config.schema_registry}/subjects/{subject}/versions")
        return found

    def allow(self, level: str, what: str = "value") -> None:
        """Set the compatibility of the topic's subject."""
        url = f"{self.config.schema_registry}/config/{self.topic()}-{what}"
        ask(url, "PUT", {"compatibility": level})


def captured(capture: Capture, config: LogConfig) -> Logged:
    capture.into = config
    return Logged(capture, config)


@pytest.fixture(params=LOGS)
def logged(
    request: pytest.FixtureRequest, capture: Capture, kafka_bootstrap: str, tmp_path: Path
) -> Logged:
    """One per way in which the messages can be written."""
    config = kafka_config(kafka_bootstrap, tmp_path)
    if request.param.startswith("json"):
        config = replace(config, format="json", schemas=request.param != "json")
    elif request.param == "registry":
        config = replace(config, schema_registry=request.getfixturevalue("schema_registry"))
    return captured(capture, config)


@pytest.fixture
def registered(
    capture: Capture, kafka_bootstrap: str, schema_registry: str, tmp_path: Path
) -> Logged:
    config = kafka_config(kafka_bootstrap, tmp_path)
    return captured(capture, replace(config, schema_registry=schema_registry))


TABLE = "CREATE TABLE t (id int PRIMARY KEY, a text, b int, n numeric(10,2), v varchar(10))"
ROWS = "INSERT INTO t SELECT g, 'a' || g, g, g / 8.0, 'v' || g FROM generate_series(1, 5) g"


def test_old_and_new_messages_say_the_same_to_everybody(logged: Logged) -> None:
    capture = logged.capture
    capture.sql(TABLE, ROWS)
    with capture.running() as agent:
        agent.caught_up()
        capture.sql(
            "UPDATE t SET a = 'before' WHERE id = 1",
            "ALTER TABLE t ADD c text, ADD d int DEFAULT 7",
            "UPDATE t SET c = 'c', d = 8 WHERE id = 2",
        )
        agent.caught_up()
        capture.sql("ALTER TABLE t DROP b", "DELETE FROM t WHERE id = 3")
        agent.caught_up()
        capture.sql("ALTER TABLE t RENAME a TO renamed", "UPDATE t SET renamed = 'r' WHERE id = 4")
        agent.caught_up()
        capture.sql(
            "ALTER TABLE t ALTER v TYPE text, ALTER n TYPE numeric(14,2)",
            "UPDATE t SET n = 123456789012.25 WHERE id = 5",
        )
        agent.caught_up()
    capture.assert_equal("public.t")
    capture.assert_history("public.t")
    ours = [row for batch in raw_batches(logged) for row in batch]
    theirs = [(e["op"], e["after"]) for e in logged.values()]
    assert [op for op, _ in ours] == [op for op, _ in theirs]
    for (op, mine), (_, other) in zip(ours, theirs, strict=True):
        if op != "d":
            assert mine.keys() == other.keys()
            for name in mine.keys() - {"n"}:  # a decimal has a form of its own in each format
                assert mine[name] == other[name], (name, mine, other)
    assert {frozenset(row) for op, row in theirs if op != "d"} == {
        frozenset(names.split()) for names in ("id a b n v", "id a b n v c d", "id renamed n v c d")
    }


def raw_batches(logged: Logged) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Every change as it was written, not brought forward."""
    reader = logged.capture.log.reader()
    topic = f"{SOURCE}.public.t"
    for partition, end in enumerate(reader.end_offsets(topic)):
        for batch in reader.read(topic, partition, 0, end):
            ops = [chr(op) for op in batch.changes.op.tolist()]
            yield list(zip(ops, batch.changes.rows.to_pylist(), strict=True))
    reader.close()


def stopped(capture: Capture) -> CdcError:
    """The error that ends an agent: one that is not retried."""
    with capture.running() as agent:
        error = agent.failed()
    assert isinstance(error, CdcError), error
    assert exit_of(error) is Exit.FAILED
    return error


def catch_up(capture: Capture) -> None:
    with capture.running() as agent:
        agent.caught_up()


def forget(capture: Capture) -> None:
    """What `cdc remove` does."""
    with closing(capture.source()) as source:
        source.remove()
    capture.log.remove(SOURCE)


def test_an_incompatible_version_is_refused_before_anything_is_published(
    registered: Logged,
) -> None:
    capture = registered.capture
    capture.sql(TABLE, ROWS)
    catch_up(capture)
    registered.allow("BACKWARD")
    with capture.running() as agent:
        agent.caught_up()
        before = len(registered.messages())
        capture.sql(
            "ALTER TABLE t ALTER n TYPE numeric",
            "UPDATE t SET n = 0.123456789 WHERE id = 1",
            "UPDATE t SET a = 'later' WHERE id = 2",
        )
        error = agent.failed()
    assert isinstance(error, LogRefused) and exit_of(error) is Exit.FAILED
    said = str(error)
    assert f"{registered.topic()}-value" in said and "BACKWARD" in said
    assert "Value.n: null or bytes as decimal(10, 2) -> null or record" in said
    assert f"/config/{registered.topic()}-value" in said and "again" in said
    assert len(registered.messages()) == before and registered.versions == [1]
    assert isinstance(stopped(capture), LogRefused)  # and so it stays, until somebody does that
    assert len(registered.messages()) == before and registered.versions == [1]
    registered.allow("NONE")
    catch_up(capture)
    assert registered.versions == [1, 2]
    capture.assert_equal("public.t")
    capture.assert_history("public.t")


def test_a_rewritten_table_is_read_again_once_its_version_is_allowed(registered: Logged) -> None:
    """int to bigint: BACKWARD-compatible, but not FULL."""
    capture = registered.capture
    capture.sql(TABLE, ROWS)
    catch_up(capture)
    registered.allow("FULL")
    capture.sql("DELETE FROM t WHERE id = 5", "ALTER TABLE t ALTER b TYPE bigint USING b * -1")
    capture.sql("UPDATE t SET b = 3000000000 WHERE id = 1", "DELETE FROM t WHERE id = 4")
    before = len(registered.messages())
    for _ in range(2):
        error = stopped(capture)
        assert isinstance(error, LogRefused) and "Value.b: null or int -> null or long" in str(
            error
        )
    assert registered.versions == [1]
    assert not [e for e in registered.values()[before:] if (e["after"] or {}).get("b") == 3e9]
    registered.allow("BACKWARD")
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("UPDATE t SET b = 7 WHERE id = 2")
        agent.caught_up()
    assert registered.versions == [1, 2]
    capture.assert_equal("public.t")
    capture.assert_history("public.t")
    assert len({e["after"]["b"] for e in registered.values() if e["after"]}) > 5


def test_other_tables_go_on_exactly_after_a_refusal(registered: Logged) -> None:
    """One append holds old rows and a new version of one table, and what is refused of another."""
    capture = registered.capture
    capture.sql(TABLE, ROWS, "CREATE TABLE u (id int PRIMARY KEY, x text)")
    catch_up(capture)
    registered.allow("FULL")
    capture.sql(
        "INSERT INTO u VALUES (1, 'old')",
        "ALTER TABLE u ADD y int DEFAULT 5",
        "INSERT INTO u VALUES (2, 'new', 6)",
        "ALTER TABLE u DROP x",
        "INSERT INTO u VALUES (3, 7)",
        "ALTER TABLE t ALTER n TYPE numeric",
        "UPDATE t SET n = 1 WHERE id = 1",
    )
    for _ in range(2):
        assert isinstance(stopped(capture), LogRefused)
    registered.allow("NONE")
    catch_up(capture)
    capture.assert_equal("public.t", "public.u")
    capture.assert_history("public.t", "public.u")


def test_columns_come_and_go_under_full_compatibility(registered: Logged) -> None:
    capture = registered.capture
    capture.sql(TABLE, ROWS)
    catch_up(capture)
    registered.allow("FULL_TRANSITIVE")
    with capture.running() as agent:
        for change in (
            "ADD c text NOT NULL DEFAULT 'c'",
            "DROP b",
            "RENAME a TO z",
            "ALTER v TYPE text",
        ):
            agent.caught_up()
            capture.sql(f"ALTER TABLE t {change}", "UPDATE t SET n = n + 1 WHERE id = 1")
        agent.caught_up()
    assert registered.versions == [1, 2, 3, 4, 5]
    capture.assert_equal("public.t")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER id TYPE bigint",
        "DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, a)",
    ],
)
def test_a_key_that_changes_stops_the_agent(
    capture: Capture, kafka_bootstrap: str, tmp_path: Path, change: str
) -> None:
    logged = captured(capture, kafka_config(kafka_bootstrap, tmp_path))
    capture.sql(TABLE, ROWS)
    with capture.running() as agent:
        agent.caught_up()
        keys = logged.keys()
        capture.sql(f"ALTER TABLE t {change}", "UPDATE t SET b = 0")
        error = agent.failed()
    assert isinstance(error, SchemaChanged) and exit_of(error) is Exit.FAILED
    assert "key" in error.what and "public.t" in error.where and "cdc remove shop" in error.hint
    assert logged.keys() == keys
    forget(capture)
    catch_up(capture)
    capture.assert_equal("public.t")


def test_table_names_that_a_broker_cannot_tell_apart(
    capture: Capture, kafka_bootstrap: str, tmp_path: Path
) -> None:
    captured(capture, kafka_config(kafka_bootstrap, tmp_path))
    capture.sql('CREATE TABLE "a b" (id int PRIMARY KEY)', "CREATE TABLE a_b (id int PRIMARY KEY)")
    error = stopped(capture)
    assert isinstance(error, LogRefused) and "rename" in error.hint
    assert {error.where, "shop.public.a b", "shop.public.a_b"} == {
        "shop.public.a b",
        "shop.public.a_b",
    }


ODD = ("a b", "1st", "größe", "select", "x.y", 'q"q', "Ab")


def test_names_that_avro_does_not_have(logged: Logged) -> None:
    capture = logged.capture
    columns = ", ".join('"{}" text'.format(name.replace('"', '""')) for name in ODD)
    capture.sql(
        f'CREATE TABLE "t t" ("the key" int PRIMARY KEY, {columns})',
        "INSERT INTO \"t t\" VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f', 'g')",
    )
    with capture.running() as agent:
        agent.caught_up()
        capture.sql('ALTER TABLE "t t" ADD "näher" int', 'UPDATE "t t" SET "näher" = 5')
        agent.caught_up()
    capture.assert_equal("public.t t")


def test_two_names_that_avro_cannot_tell_apart(
    capture: Capture, kafka_bootstrap: str, tmp_path: Path
) -> None:
    logged = captured(capture, kafka_config(kafka_bootstrap, tmp_path))
    capture.sql(TABLE, 'ALTER TABLE t ADD "a b" int, ADD a_b int', ROWS)
    error = stopped(capture)
    assert isinstance(error, BadData)
    assert "'a b' and 'a_b' are both 'a_b'" in error.what and "json" in error.hint
    frontier = capture.frontier()
    assert frontier is None or not frontier.positions
    forget(capture)
    capture.sql("ALTER TABLE t DROP a_b")
    with capture.running() as agent:
        agent.caught_up()
        before = len(logged.messages())
        capture.sql("ALTER TABLE t ADD a_b int", "UPDATE t SET a_b = 1")
        assert isinstance(agent.failed(), BadData)
    assert len(logged.messages()) == before
    forget(capture)
    capture.into = replace(kafka_config(kafka_bootstrap, tmp_path), format="json")
    catch_up(capture)
    capture.assert_equal("public.t")


def test_a_table_that_is_dropped_and_made_anew(registered: Logged) -> None:
    capture = registered.capture
    capture.sql(TABLE, ROWS)
    catch_up(capture)
    registered.allow("FULL")
    registered.allow("FULL", "key")
    capture.sql("DROP TABLE t", "CREATE TABLE t (id text PRIMARY KEY, b text)")
    capture.sql("INSERT INTO t VALUES ('one', 'b')")
    error = stopped(capture)
    assert "public.t" in str(error) and "cdc remove shop" in error.hint
    forget(capture)
    error = stopped(capture)  # the registry still has the old table's key
    assert isinstance(error, LogRefused) and f"{registered.topic()}-key" in str(error)
    registered.allow("NONE", "key")
    error = stopped(capture)
    assert isinstance(error, LogRefused) and f"{registered.topic()}-value" in str(error)
    registered.allow("NONE")
    catch_up(capture)
    capture.assert_equal("public.t")


def test_two_logs_share_a_registry(registered: Logged, kafka_bootstrap: str) -> None:
    capture = registered.capture
    capture.sql(TABLE, ROWS)
    catch_up(capture)
    registered.allow("FULL")
    forget_slot = capture.source()
    forget_slot.remove()
    forget_slot.close()
    capture.sql("ALTER TABLE t DROP b, ADD b text")
    config = kafka_config(kafka_bootstrap, capture.folder)
    other = captured(capture, replace(config, schema_registry=registered.config.schema_registry))
    catch_up(capture)
    capture.assert_equal("public.t")
    assert other.versions == registered.versions == [1]
