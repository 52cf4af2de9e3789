"""What only a broker can do to a log: aborted and compacted tails, transactions in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.changes import C, ChangeBatch, D
from cdc.cli.log import table_events
from cdc.config import LogConfig
from cdc.cuts import CutReader
from cdc.errors import ConfigError
from cdc.formats.records import Records
from cdc.log import kafka_ranges
from cdc.log.api import LogBatch
from cdc.log.kafka import KafkaLog
from cdc.log.kafka_client import Broker
from cdc.log.kafka_producer import KafkaProducer, fencing_producer
from cdc.log.kafka_records import encoded
from cdc.log.kafka_send import Sender
from cdc.log.kafka_tables import Tables
from cdc.log.schema_topic import SchemaTopic
from tests.fix_log import OTHER, SPEC, TOPIC, changes, frontier, ids_of, notes_by_id, read_all
from tests.services.kafka_messages import messages

pytestmark = pytest.mark.service


@pytest.fixture
def config(kafka_bootstrap: str, tmp_path: Path) -> LogConfig:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    return LogConfig("kafka", tmp_path, bootstrap_servers=kafka_bootstrap, topic_prefix=prefix)


@pytest.fixture
def producer(config: LogConfig) -> Iterator[KafkaProducer]:
    made = KafkaLog(config).producer("shop")
    made.create_topics([SPEC])
    yield made
    made.close()


def count_of(batches: list[LogBatch]) -> int:
    return sum(batch.changes.num_rows for batch in batches)


def records_of(broker: Broker, ids: list[int]) -> Records:
    """Changes as the topic's own producer would write them."""
    (entry,) = (entry for entry in Tables(SchemaTopic(broker)).entries() if entry.name == TOPIC)
    return encoded(entry, broker.name(TOPIC), changes(ids), 0)


def abort_records(config: LogConfig, ids: list[int]) -> None:
    """A transaction of somebody else on the topic, written to the broker and aborted."""
    broker = Broker(config)
    other = fencing_producer(broker, "other")
    other.begin_transaction()
    sender = Sender(other)
    sender.send(broker.name(TOPIC), records_of(broker, ids), 1)
    assert sender.flush(30) == 0
    other.abort_transaction(30)
    other.close()


def test_aborted_records_are_not_read(config: LogConfig, producer: KafkaProducer) -> None:
    producer.append([(TOPIC, changes([1, 2]))], [frontier(1)])
    abort_records(config, [100, 101])
    reader = KafkaLog(config).reader()
    (end,) = reader.end_offsets(TOPIC)
    batches = list(reader.read(TOPIC, 0, 0, end))
    assert ids_of(batches) == [1, 2]
    assert batches[-1].next_offset == end
    (tail,) = reader.read(TOPIC, 0, 2, end)
    assert tail.changes.num_rows == 0 and tail.next_offset == end


def test_a_cut_behind_aborted_records(config: LogConfig, producer: KafkaProducer) -> None:
    cuts = CutReader(KafkaLog(config).reader(), {"shop": [TOPIC]})
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    abort_records(config, [100])
    producer.append([(TOPIC, changes([2]))], [frontier(2)])
    cut = cuts.next_cut(10.0)
    assert cut is not None
    assert ids_of(list(cut.batches(TOPIC))) == [1, 2]
    assert cuts.exact(cut)


def test_a_transaction_in_pieces(config: LogConfig, producer: KafkaProducer) -> None:
    cuts = CutReader(KafkaLog(config).reader(), {"shop": [TOPIC]})
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    first = cuts.next_cut(10.0)
    assert first is not None and ids_of(list(first.batches(TOPIC))) == [1]
    for piece in (2, 3):
        producer.append([(TOPIC, changes([piece]))], [frontier(1, whole=False)])
    assert cuts.next_cut(0.0) is None
    producer.close()
    again = KafkaLog(config).producer("shop")
    again.append([(TOPIC, changes([4]))], [frontier(2)])
    second = cuts.next_cut(10.0)
    assert second is not None and ids_of(list(second.batches(TOPIC))) == [2, 3, 4]
    again.close()


def test_a_killed_transaction_is_aborted_by_the_successor(
    config: LogConfig, producer: KafkaProducer
) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    broker = Broker(config)
    dying = fencing_producer(broker, "shop")
    dying.begin_transaction()
    sender = Sender(dying)
    sender.send(broker.name(TOPIC), records_of(broker, [666]), 1)
    assert sender.flush(30) == 0
    successor = KafkaLog(config).producer("shop")
    successor.append([(TOPIC, changes([2]))], [frontier(2)])
    assert ids_of(read_all(KafkaLog(config).reader())) == [1, 2]
    successor.close()


def test_a_compacted_topic(config: LogConfig) -> None:
    """The broker really compacts: offsets have holes, tails are gone, tombstones stand alone."""
    broker = Broker(config)
    eager = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.001",
        "segment.ms": "100",
        "max.compaction.lag.ms": "200",
        "delete.retention.ms": "86400000",
    }
    broker.create(TOPIC, 1, eager)
    producer = KafkaLog(config).producer("shop")
    producer.create_topics([SPEC])
    for number in range(4):
        producer.append([(TOPIC, changes(range(50), op=C, note=f"v{number}"))], [frontier(number)])
    producer.append([(TOPIC, changes([7, 8], op=D))], [frontier(9)])
    wanted = dict.fromkeys(set(range(50)) - {7, 8}, "v3")
    reader = KafkaLog(config).reader()
    cut = reader.newest_frontier("shop")
    assert cut is not None
    deadline = time.monotonic() + 90
    batches = read_all(reader, TOPIC, cut.end_offsets[TOPIC])
    while count_of(batches) > 60 and time.monotonic() < deadline:
        # A segment is closed, and then cleaned, only when something is written behind it.
        producer.append([(TOPIC, changes([1000]))], [frontier(10)])
        batches = read_all(reader, TOPIC, cut.end_offsets[TOPIC])
        assert notes_by_id(batches) == wanted
    assert count_of(batches) <= 60
    assert batches[-1].next_offset == cut.end_offsets[TOPIC][0]
    deleted = [batch.changes for batch in batches if (batch.changes.op == D).any()]
    assert deleted, "the tombstones are there"
    producer.close()


def events_of(config: LogConfig, topic: str) -> list[dict[str, object]]:
    """The values of a topic's records."""
    found = messages(config.bootstrap_servers, config.topic_prefix + topic)
    return [json.loads(message.value() or b"null") for message in found]


def test_transactions_are_described(config: LogConfig) -> None:
    """BEGIN and END, also of a transaction whose producer was replaced half-way."""
    described = replace(config, format="json", transaction_metadata=True)
    producer = KafkaLog(described).producer("shop")
    producer.create_topics([SPEC, OTHER])
    producer.append([(TOPIC, changes([1, 2])), (OTHER.name, changes([3]))], [frontier(0)])
    first = [(TOPIC, changes([4], op=C, txn_seq=1)), (OTHER.name, later([5], 1))]
    producer.append(first, [frontier(0, whole=False)])
    producer.close()
    again = KafkaLog(described).producer("shop")
    again.append([(TOPIC, later([6, 7], 2))], [frontier(1)])
    begin, end = events_of(described, "shop.transaction")
    assert (begin["status"], begin["id"]) == ("BEGIN", "1")
    assert (end["status"], end["id"], end["event_count"]) == ("END", "1", 4)
    assert end["data_collections"] == [
        {"data_collection": "public.orders", "event_count": 4},
    ]
    blocks = [event["transaction"] for event in events_of(described, TOPIC)]
    assert blocks[:2] == [None, None]
    assert [block["total_order"] for block in blocks[2:]] == [1, 3, 4]  # type: ignore[index]
    again.close()


def later(ids: list[int], first: int) -> ChangeBatch:
    """Inserts of transaction 1, from that ordinal."""
    found = changes(ids, op=C, txn_seq=1)
    return replace(found, ordinal=found.ordinal + first)


MANY_ROWS, APPENDS = 60_000, 400
"""Several times what is taken at once; more frontiers than are read at once."""


def test_a_reader_may_rest(
    config: LogConfig, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever works on records for longer than the broker may be silent finds the next ones."""
    producer.append([(TOPIC, changes(range(MANY_ROWS)))], [frontier(1)])
    with closing(KafkaLog(config).reader()) as reader:
        (end,) = reader.end_offsets(TOPIC)
        monkeypatch.setattr(kafka_ranges, "REQUEST_TIMEOUT_S", 0.5)
        found = 0
        for batch in reader.read(TOPIC, 0, 0, end):
            found += batch.changes.num_rows
            time.sleep(0.6)
        assert found == MANY_ROWS


def test_cdc_log_of_many_records(config: LogConfig, producer: KafkaProducer) -> None:
    """The frontiers that cover them are read beside them."""
    each = MANY_ROWS // APPENDS
    for number in range(APPENDS):
        ids = range(number * each, (number + 1) * each)
        producer.append([(TOPIC, changes(ids))], [frontier(number)])
    log = KafkaLog(config)
    with closing(log.reader()) as reader, closing(log.reader()) as history:
        events = list(table_events(reader, history, TOPIC, 0, False))
        assert [event["key"] for event in events] == [[number] for number in range(MANY_ROWS)]
        assert len({event["position"] for event in events}) == APPENDS

        records = reader.read(TOPIC, 0, 0, *reader.end_offsets(TOPIC))
        next(records)
        sum(1 for _ in reader.frontiers("shop"))
        with pytest.raises(RuntimeError, match="sent elsewhere"):
            list(records)


def test_records_larger_than_a_fetch(config: LogConfig) -> None:
    large = replace(config, config={"message.max.bytes": "20000000"})
    with closing(KafkaLog(large).producer("shop")) as made:
        made.create_topics([SPEC])
        made.append([(TOPIC, changes([1]))], [frontier(1)])
    assert ids_of(read_all(KafkaLog(large).reader())) == [1]


def test_settings_that_no_consumer_takes(config: LogConfig) -> None:
    wrong = replace(config, config={"fetch.max.bytes": "1000"})
    with pytest.raises(ConfigError, match=r"fetch\.max\.bytes"):
        Broker(wrong).consumer()
