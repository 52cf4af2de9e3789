"""Batches that are taken through librdkafka's C API: the same records as confluent-kafka's consumer
gives, in order, and errors that say what is wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from cdc.log.kafka_client import Broker
from cdc.log.kafka_producer import fencing_producer
from cdc.log.kafka_ranges import fetch_all
from cdc.log.kafka_records import together
from cdc.log.kafka_send import Sender, send_now
from cdc.log.librdkafka_consumer import Arrived, Consumer
from tests.fix_log import kafka_config
from tests.services.kafka_messages import messages

pytestmark = pytest.mark.service
TOPICS = ("one", "two")
PARTITIONS = 2
TIMEOUT_S = 30.0
Pair = tuple[bytes | None, bytes | None]
Place = tuple[str, int]


@dataclass(frozen=True)
class Record:
    offset: int
    pair: Pair
    stamp_us: int


@pytest.fixture
def broker(kafka_bootstrap: str, tmp_path: Path) -> Broker:
    made = Broker(kafka_config(kafka_bootstrap, tmp_path))
    for topic in TOPICS:
        made.create(topic, PARTITIONS, {})
    return made


@pytest.fixture
def consumer(broker: Broker) -> Iterator[Consumer]:
    with closing(broker.consumer()) as made:
        yield made


def fill(broker: Broker, batches: Sequence[tuple[Place, Sequence[Pair]]], name: str = "p") -> None:
    """One transaction for each batch."""
    with closing(fencing_producer(broker, name)) as producer:
        sender = Sender(producer)
        for (topic, number), pairs in batches:
            producer.begin_transaction()
            for key, value in pairs:
                sender.send_one(broker.name(topic), key, value, number)
            assert sender.flush(TIMEOUT_S) == 0 and not sender.refused
            producer.commit_transaction(TIMEOUT_S)


def taken(broker: Broker, consumer: Consumer, places: Sequence[Place]) -> dict[Place, list[Record]]:
    """All records of these partitions, up to their ends."""
    consumer.assign([(broker.name(topic), number, 0) for topic, number in places])
    names = {broker.name(topic): topic for topic, _ in places}
    found: dict[Place, list[Record]] = {place: [] for place in places}
    open_places = set(places)
    while open_places:
        for each in consumer.take(TIMEOUT_S, stamped=True):
            place = (names[each.topic], each.partition)
            if each.error is None:
                found[place] += records_of(each)
            else:
                assert each.error.code() == KafkaError._PARTITION_EOF
                open_places.discard(place)
    return found


def records_of(arrived: Arrived) -> list[Record]:
    records = arrived.records
    pairs = zip(records.keys.to_pylist(), records.values.to_pylist(), strict=True)
    columns = (records.offsets.tolist(), pairs, records.stamps_us.tolist())
    assert arrived.next_offset == records.offsets[-1] + 1
    return [Record(*each) for each in zip(*columns, strict=True)]


def seen(broker: Broker, place: Place) -> list[Record]:
    """By confluent-kafka's consumer."""
    found = messages(broker.config.bootstrap_servers, broker.name(place[0]), place[1])
    return [Record(m.offset() or 0, (m.key(), m.value()), m.timestamp()[1] * 1000) for m in found]


def some_bytes(chance: random.Random) -> bytes | None:
    size = chance.choice([None, 0, 1, 7, 30, 300, 5_000])
    return None if size is None else chance.randbytes(size)


@pytest.mark.parametrize("seed", range(6))
def test_what_another_consumer_sees(broker: Broker, consumer: Consumer, seed: int) -> None:
    chance = random.Random(seed)
    places = [(topic, number) for topic in TOPICS for number in range(PARTITIONS)]
    sizes = [1] if seed == 0 else [1, 2, 9, 200, 1_500]
    batches = [
        (
            chance.choice(places),
            [(some_bytes(chance), some_bytes(chance)) for _ in range(chance.choice(sizes))],
        )
        for _ in range(20)
    ]
    fill(broker, batches)
    found = taken(broker, consumer, places)
    assert found == {place: seen(broker, place) for place in places}, f"seed {seed}"
    assert sum(map(len, found.values())) == sum(len(pairs) for _, pairs in batches)


def test_nothing_but_nulls(broker: Broker, consumer: Consumer) -> None:
    place = (TOPICS[0], 0)
    fill(broker, [(place, [(None, None)] * 100), (place, [(b"", None)] * 100)])
    found = taken(broker, consumer, [place])[place]
    assert [record.pair for record in found] == [(None, None)] * 100 + [(b"", None)] * 100


def test_times_are_left_out_where_nobody_wants_them(broker: Broker, consumer: Consumer) -> None:
    fill(broker, [((TOPICS[0], 0), [(b"k", b"v")] * 3), ((TOPICS[0], 1), [(b"k", None)])])
    stamps: dict[int, list[int]] = {0: [], 1: []}
    consumer.assign([(broker.name(TOPICS[0]), number, 0) for number in range(PARTITIONS)])
    while sum(map(len, stamps.values())) < 4:
        for each in consumer.take(TIMEOUT_S, stamped=False):
            stamps[each.partition] += each.records.stamps_us.tolist()
    assert stamps[0] == [0, 0, 0]
    assert stamps[1] == [record.stamp_us for record in seen(broker, (TOPICS[0], 1))]


def test_records_outlive_the_consumer(broker: Broker) -> None:
    value = b"v" * 1000
    fill(broker, [((TOPICS[0], 0), [(b"k", value)] * 500)])
    consumer = broker.consumer()
    consumer.assign([(broker.name(TOPICS[0]), 0, 0)])
    found: list[Arrived] = []
    while sum(len(each.records) for each in found) < 500:
        found += consumer.take(TIMEOUT_S, stamped=False)
    consumer.close()
    assert {value for each in found for value in each.records.values.to_pylist()} == {value}


def test_where_it_is_assigned_anew(broker: Broker, consumer: Consumer) -> None:
    """Nothing of the former assignment comes later."""
    for topic in TOPICS:
        fill(broker, [((topic, 0), [(topic.encode(), b"%d" % n) for n in range(2_000)])])
    for topic in (*TOPICS, *TOPICS):
        consumer.assign([(broker.name(topic), 0, 1_000)])
        arrived = consumer.take(TIMEOUT_S, stamped=False)
        assert {each.topic for each in arrived} == {broker.name(topic)}
        assert arrived[0].records.offsets[0] == 1_000
        assert set(arrived[0].records.keys.to_pylist()) == {topic.encode()}
    consumer.unassign()
    assert consumer.take(0.1, stamped=False) == []


def test_an_offset_that_is_not_there(broker: Broker) -> None:
    settings = {
        "bootstrap.servers": broker.config.bootstrap_servers,
        "group.id": "look",
        "auto.offset.reset": "error",
    }
    name = broker.name(TOPICS[0])
    with closing(Consumer(settings)) as consumer:
        consumer.assign([(name, 1, 1_000)])
        (arrived,) = consumer.take(TIMEOUT_S, stamped=False)
    assert arrived.error is not None
    assert arrived.error.code() == KafkaError._AUTO_OFFSET_RESET
    assert "out of range" in arrived.error.str()
    assert (arrived.topic, arrived.partition, len(arrived.records)) == (name, 1, 0)


def test_a_consumer_that_is_closed(broker: Broker) -> None:
    consumer = broker.consumer()
    consumer.close()
    consumer.close()
    for use in (
        consumer.unassign,
        lambda: consumer.assign([("t", 0, 0)]),
        lambda: consumer.meet("t", 1.0),
        lambda: consumer.take(0.0, stamped=False),
    ):
        with pytest.raises(KafkaException, match="closed"):
            use()


def test_a_setting_that_is_none(kafka_bootstrap: str, tmp_path: Path) -> None:
    with pytest.raises(KafkaException, match=r"no\.such\.setting"):
        Consumer({"bootstrap.servers": kafka_bootstrap, "no.such.setting": "1"})


def test_one_record_written_now(broker: Broker, consumer: Consumer) -> None:
    send_now(broker, TOPICS[0], [(b"k", b"v")])
    place = (TOPICS[0], 0)
    assert [record.pair for record in taken(broker, consumer, [place])[place]] == [(b"k", b"v")]


def test_ranges_of_which_one_has_nothing_but_a_marker(broker: Broker, consumer: Consumer) -> None:
    fill(broker, [((topic, 0), [(b"k", b"%d" % n) for n in range(3)]) for topic in TOPICS])
    one, two = (broker.name(topic) for topic in TOPICS)
    found = fetch_all(consumer, [(one, 0, 1, 3), (two, 0, 3, 4)])
    records = together(found[one, 0, 1, 3])
    assert (records.offsets.tolist(), records.values.to_pylist()) == ([1, 2], [b"1", b"2"])
    assert found[two, 0, 3, 4] == []
