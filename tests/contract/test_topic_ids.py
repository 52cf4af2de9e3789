"""What only a topic can do to those whose ids it holds: be absent, shared, compacted, spoiled."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdc.config import LogConfig
from cdc.errors import LogDamaged, LogError
from cdc.log.kafka_client import SCHEMAS, Broker
from cdc.log.kafka_send import send_now
from cdc.log.schema_topic import SchemaTopic
from cdc.log.topic_ids import KIND, TopicIds, fingerprint_of

pytestmark = pytest.mark.service

OPEN = Callable[[], SchemaTopic]


@pytest.fixture
def broker(kafka_bootstrap: str) -> Broker:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    return Broker(
        LogConfig("kafka", Path(), bootstrap_servers=kafka_bootstrap, topic_prefix=prefix)
    )


@pytest.fixture
def topic(broker: Broker) -> Iterator[OPEN]:
    """The topic as another process would open it, closed after the test."""
    with ExitStack() as opened:

        def made() -> SchemaTopic:
            found = SchemaTopic(broker)
            opened.callback(found.close)
            return found

        yield made


def schema(version: int) -> str:
    return json.dumps({"type": "record", "name": "R", "fields": [], "cdc.version": version})


def test_an_empty_cluster_can_be_read(broker: Broker, topic: OPEN) -> None:
    assert list(topic().records()) == []
    with pytest.raises(LogError, match="no schema with the id 1"):
        TopicIds(topic()).schema(1)
    assert broker.describe(SCHEMAS) is None, "reading makes no topic"


def test_an_id_is_the_offset_plus_one(topic: OPEN) -> None:
    shared = topic()
    shared.append(("other", 1), {})
    ids = TopicIds(shared)
    assert ids.register("s", schema(1)) == 2
    shared.append(("other", 2), {})
    assert ids.register("s", schema(2)) == 4
    assert ids.register("another subject", schema(1)) == 2
    with pytest.raises(LogError, match="no schema with the id 3"):
        ids.schema(3)


def test_all_who_read_share_one_reading(topic: OPEN) -> None:
    shared, other = topic(), topic()
    ids = TopicIds(shared)
    offset = other.append(("table", "t", 1), {"columns": ["id"]})
    ids.register("s", schema(1))
    first, second = shared.records()
    assert (first.offset, first.key, first.value) == (
        offset, ("table", "t", 1), {"columns": ["id"]},
    )  # fmt: skip
    assert second.key[0] == KIND
    other.append(("table", "t", 2), {})
    assert [record.key for record in shared.records(2)] == [("table", "t", 2)]
    assert list(shared.records(3)) == []


def test_the_first_writer_of_a_fingerprint_wins(topic: OPEN) -> None:
    """Two that did not know of each other have both written; spelling is no difference."""
    writer = topic()
    spelled = json.dumps(json.loads(schema(1)), indent=2, sort_keys=True)
    for text in (schema(1), spelled):
        key = (KIND, fingerprint_of("s", text), uuid.uuid4().hex)
        writer.append(key, {"subject": "s", "schema": text})
    for text in (spelled, schema(1)):
        assert TopicIds(topic()).register("s", text) == 1
    assert len(topic().records()) == 2


def test_a_text_that_is_no_schema(topic: OPEN) -> None:
    with pytest.raises(LogError, match="not an Avro schema"):
        TopicIds(topic()).register("s", "{")


def test_compaction_takes_no_schema_away(broker: Broker, topic: OPEN) -> None:
    """The broker really compacts; records around the schemas go, offsets stay."""
    eager = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.001",
        "segment.ms": "100",
        "max.compaction.lag.ms": "200",
    }
    broker.create(SCHEMAS, 1, eager)
    writer = topic()
    ids = TopicIds(writer)
    found: dict[int, int] = {}
    for version in range(8):
        writer.append(("other", "same key"), {"version": version})
        found[version] = ids.register("s", schema(version))
    deadline = time.monotonic() + 90
    left = 8
    while left > 2 and time.monotonic() < deadline:
        # A segment is closed, and then cleaned, only when something is written behind it.
        writer.append(("other", "same key"), {})
        records = topic().records()
        left = sum(record.key[0] == "other" and bool(record.value) for record in records)
    assert left <= 2, "the broker has compacted"
    later = TopicIds(topic())
    for version, schema_id in found.items():
        assert later.register("s", schema(version)) == schema_id
        assert later.schema(schema_id) == schema(version)


def test_somebody_elses_topic_of_the_name(broker: Broker, topic: OPEN) -> None:
    broker.create(SCHEMAS, 3, {})
    with pytest.raises(LogError, match="3 partitions"):
        TopicIds(topic()).register("s", schema(1))


@pytest.mark.parametrize(("key", "value"), [(b"k", b"{}"), (b'["avro"]', b"{}")])
def test_a_record_that_is_not_ours(broker: Broker, topic: OPEN, key: bytes, value: bytes) -> None:
    ids = TopicIds(topic())
    ids.register("s", schema(1))
    send_now(broker, SCHEMAS, [(key, value)])
    with pytest.raises(LogDamaged, match=r"not") as damaged:
        ids.register("s", schema(2))
    assert f"{SCHEMAS}/0/1" in str(damaged.value)


def test_a_topic_that_was_made_anew(broker: Broker, topic: OPEN) -> None:
    """Its ids would be other schemas', also when it is as long as the old one was, or longer."""
    shorter, longer = TopicIds(topic()), TopicIds(topic())
    for version in range(3):
        shorter.register("s", schema(version))
    longer.schema(1)
    broker.delete([SCHEMAS])
    again = TopicIds(topic())
    again.register("s", schema(10))
    with pytest.raises(LogDamaged, match="made anew"):
        shorter.register("s", schema(4))
    for version in range(11, 16):
        again.register("s", schema(version))
    with pytest.raises(LogDamaged, match="made anew"):
        longer.register("s", schema(4))
