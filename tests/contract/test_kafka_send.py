"""Batches through librdkafka's C API: what was handed over is what a consumer reads, in order, and
what goes wrong is an error with its cause, never a crash or a wait without end."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, KafkaException

from cdc.config import LogConfig
from cdc.errors import ConfigError, LogError
from cdc.formats import murmur2
from cdc.formats.records import Records
from cdc.log import kafka_send
from cdc.log.kafka_client import Broker
from cdc.log.kafka_producer import fencing_producer
from cdc.log.kafka_send import Sender, send_now
from cdc.log.librdkafka import Batch, Producer
from demo.server_process import free_port, wait_until
from tests.fix_log import kafka_config
from tests.services.kafka_messages import messages

Pair = tuple[bytes | None, bytes | None]

pytestmark = pytest.mark.service
TOPIC = "records"
PARTITIONS = 3
BOUND_S = 20.0


@pytest.fixture
def config(kafka_bootstrap: str, tmp_path: Path) -> LogConfig:
    return kafka_config(kafka_bootstrap, tmp_path)


@pytest.fixture
def broker(config: LogConfig) -> Broker:
    made = Broker(config)
    made.create(TOPIC, PARTITIONS, {})
    return made


def records(pairs: Sequence[Pair]) -> Records:
    keys, values = zip(*pairs, strict=True)
    arrays = pa.array(keys, pa.binary()), pa.array(values, pa.binary())
    return Records(*arrays, np.arange(len(pairs)))


def numbered(count: int, size: int = 20) -> list[Pair]:
    return [(b"%d" % number, b"%d" % number * (size // 4)) for number in range(count)]


def committed(
    broker: Broker, producer: Producer, parts: Sequence[Records], partitions: int = PARTITIONS
) -> dict[tuple[str, int], int]:
    """Send the parts as one transaction; where it says that the last records are."""
    sender = Sender(producer)
    producer.begin_transaction()
    for part in parts:
        sender.send(broker.name(TOPIC), part, partitions)
    assert sender.flush(BOUND_S) == 0
    assert not sender.refused
    producer.commit_transaction(BOUND_S)
    topic = broker.name(TOPIC)
    wait_until(
        lambda: all(
            end > sender.delivered.get((topic, number), -1)
            for number, end in enumerate(broker.end_offsets(TOPIC, PARTITIONS))
        ),
        timeout_s=BOUND_S,
        what="the transaction's markers",
    )
    return dict(sender.delivered)


def read(broker: Broker) -> list[list[tuple[int, Pair]]]:
    """Per partition, the offset of every committed record, and the record."""
    name = broker.name(TOPIC)
    return [
        [
            (message.offset() or 0, (message.key(), message.value()))
            for message in messages(broker.config.bootstrap_servers, name, number)
        ]
        for number in range(PARTITIONS)
    ]


def test_nulls_and_empty_items(broker: Broker) -> None:
    pairs: list[Pair] = [(b"a", b"1"), (None, b"2"), (b"", b"3"), (b"b", None), (b"c", b"")]
    with closing(fencing_producer(broker, "a")) as producer:
        ends = committed(broker, producer, [records(pairs)], 1)
        empty: list[Pair] = [(b"", b""), (b"", None)]
        none = pa.array([], pa.binary())
        nothing = Records(none, none, np.arange(0))
        ends |= committed(broker, producer, [records(empty), nothing], 1)
    first, *others = read(broker)
    assert [pair for _, pair in first] == pairs + empty
    assert others == [[], []]
    assert ends == {(broker.name(TOPIC), 0): first[-1][0]}


@pytest.mark.parametrize("seed", range(3))
def test_partitions_and_slices(broker: Broker, seed: int) -> None:
    """Every key's records are in its partition, in order, and the reports tell the last offsets."""
    chance = random.Random(seed)
    pairs: list[Pair] = [
        (b"%d" % chance.randrange(50), None if chance.random() < 0.1 else chance.randbytes(
            chance.randrange(2000))) for _ in range(5000)
    ]  # fmt: skip
    whole = records(pairs)
    cuts = sorted(chance.choices(range(len(pairs)), k=5))
    parts = [
        Records(whole.keys[start:stop], whole.values[start:stop], whole.change[start:stop])
        for start, stop in zip([0, *cuts], [*cuts, len(pairs)], strict=True)
    ]
    with closing(fencing_producer(broker, "a")) as producer:
        ends = committed(broker, producer, parts)
    numbers = murmur2.partitions(whole.keys, PARTITIONS).tolist()
    found = read(broker)
    for partition in range(PARTITIONS):
        mine = [pair for pair, at in zip(pairs, numbers, strict=True) if at == partition]
        assert [pair for _, pair in found[partition]] == mine
        assert ends[broker.name(TOPIC), partition] == found[partition][-1][0]


@pytest.mark.parametrize(
    "limit", [{"queue.buffering.max.messages": "7"}, {"queue.buffering.max.kbytes": "1"}]
)
def test_more_than_finds_room(broker: Broker, config: LogConfig, limit: dict[str, str]) -> None:
    settings = {"bootstrap.servers": config.bootstrap_servers, **limit}
    with closing(Producer({**settings, "transactional.id": broker.name("a")})) as producer:
        producer.init_transactions(BOUND_S)
        committed(broker, producer, [records(numbered(500, 40))], 1)
    assert [pair for _, pair in read(broker)[0]] == numbered(500, 40)


def test_no_room_for_long(config: LogConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes the records."""
    monkeypatch.setattr(kafka_send, "REQUEST_TIMEOUT_S", 0.5)
    settings = {
        "bootstrap.servers": f"127.0.0.1:{free_port()}",
        "queue.buffering.max.messages": "7",
    }
    with closing(Producer(settings)) as producer, pytest.raises(LogError, match="not take"):
        Sender(producer).send(TOPIC, records(numbered(100)), 1)


def test_a_record_that_is_too_large(broker: Broker) -> None:
    with closing(fencing_producer(broker, "a")) as producer:
        sender = Sender(producer)
        producer.begin_transaction()
        large: list[Pair] = [(b"large", bytes(2_000_000))]
        sender.send(broker.name(TOPIC), records([*numbered(3), *large, *numbered(3)]), 1)
        assert [error.code() for error in sender.refused] == [KafkaError.MSG_SIZE_TOO_LARGE]
        sender.give_up(BOUND_S)
        producer.abort_transaction(BOUND_S)
        committed(broker, producer, [records(numbered(2))], 1)
    assert [pair for _, pair in read(broker)[0]] == numbered(2)


def test_values_may_be_forgotten_when_they_were_sent(broker: Broker) -> None:
    """librdkafka reads them where they are: the producer holds them until they are written."""
    with closing(fencing_producer(broker, "a")) as producer:
        sender = Sender(producer)
        before = pa.total_allocated_bytes()
        overwritten = pa.array([], pa.binary())
        producer.begin_transaction()
        for part in range(20):
            pairs: list[Pair] = [
                (b"%d" % row, b"%08d" % (part * 2000 + row)) for row in range(2000)
            ]
            sender.send(broker.name(TOPIC), records(pairs), 1)
            overwritten = pa.array([b"x" * 8] * 2000, pa.binary())
        assert sender.flush(BOUND_S) == 0
        assert pa.total_allocated_bytes() - before - overwritten.nbytes < 4096
        producer.commit_transaction(BOUND_S)
        committed(broker, producer, [records(numbered(1))], 1)
    found = [value for _, (_, value) in read(broker)[0]]
    assert found[:-1] == [b"%08d" % number for number in range(40_000)]


def test_given_up_and_aborted(broker: Broker) -> None:
    with closing(fencing_producer(broker, "a")) as producer:
        sender = Sender(producer)
        producer.begin_transaction()
        sender.send(broker.name(TOPIC), records(numbered(20_000)), PARTITIONS)
        sender.give_up(BOUND_S)
        producer.abort_transaction(BOUND_S)
        committed(broker, producer, [records(numbered(3))], 1)
    assert [[pair for _, pair in part] for part in read(broker)] == [numbered(3), [], []]


def test_fenced(broker: Broker) -> None:
    with closing(fencing_producer(broker, "a")) as older:
        sender = Sender(older)
        older.begin_transaction()
        sender.send(broker.name(TOPIC), records(numbered(3)), 1)
        with closing(fencing_producer(broker, "a")) as newer:
            assert sender.flush(BOUND_S) == 0
            with pytest.raises(KafkaException) as caught:
                older.commit_transaction(BOUND_S)
            cause = caught.value.args[0]
            assert cause.code() == KafkaError._FENCED and cause.fatal()
            assert not cause.retriable()
            sender.begin()
            sender.send(broker.name(TOPIC), records(numbered(3)), 1)
            (refused,) = sender.refused
            assert refused.code() == KafkaError._FENCED and refused.fatal()
            committed(broker, newer, [records(numbered(1))], 1)
    assert [pair for _, pair in read(broker)[0]] == numbered(1)


def test_outside_a_transaction(broker: Broker) -> None:
    started = time.monotonic()
    with closing(fencing_producer(broker, "a")) as producer:
        sender = Sender(producer)
        sender.send(broker.name(TOPIC), records(numbered(3)), 1)
        assert [error.code() for error in sender.refused] == [KafkaError._STATE]
        with pytest.raises(KafkaException) as caught:
            producer.commit_transaction(BOUND_S)
        assert caught.value.args[0].code() == KafkaError._STATE
    assert time.monotonic() - started < BOUND_S


def test_a_partition_that_does_not_exist(broker: Broker) -> None:
    with closing(broker.sender()) as producer:
        sender = Sender(producer)
        sender.send_one(broker.name(TOPIC), b"known", b"")
        assert sender.flush(BOUND_S) == 0
        sender.send_batch(broker.name(TOPIC), PARTITIONS, Batch.of(*_arrays(numbered(2))))
        assert sender.flush(BOUND_S) == 0
        assert [error.code() for error in sender.refused] == [KafkaError._UNKNOWN_PARTITION]


def _arrays(pairs: Sequence[Pair]) -> tuple[pa.Array, pa.Array]:
    made = records(pairs)
    return made.keys, made.values


def test_no_transaction_is_needed(broker: Broker) -> None:
    assert send_now(broker, TOPIC, [(None, b"0"), (b"k", b"1")]) == 1
    assert send_now(broker, TOPIC, [(b"k", b"2")]) == 2
    assert [pair for _, pair in read(broker)[0]] == [(None, b"0"), (b"k", b"1"), (b"k", b"2")]


CALLS: list[Callable[[Producer], object]] = [
    len,
    Producer.begin_transaction,
    Producer.purge,
    lambda producer: producer.poll(0),
    lambda producer: producer.produce(TOPIC, 0, Batch.of(*_arrays(numbered(1)))),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_producer(broker: Broker, call: Callable[[Producer], object]) -> None:
    producer = broker.producer()
    producer.close()
    producer.close()
    with pytest.raises(KafkaException, match="closed"):
        call(producer)


def test_closed_with_records_on_their_way(broker: Broker, config: LogConfig) -> None:
    """It ends at once, also when there is no broker; what nobody holds is closed, too."""
    away = {"bootstrap.servers": f"127.0.0.1:{free_port()}"}
    started = time.monotonic()
    for settings in (away, {"bootstrap.servers": config.bootstrap_servers}):
        with closing(Producer(settings)) as producer:
            Sender(producer).send(broker.name(TOPIC), records(numbered(10_000)), PARTITIONS)
    dropped = fencing_producer(broker, "a")
    dropped.begin_transaction()
    Sender(dropped).send(broker.name(TOPIC), records(numbered(10_000)), PARTITIONS)
    del dropped
    gc.collect()
    assert time.monotonic() - started < BOUND_S
    with closing(fencing_producer(broker, "a")) as successor:
        committed(broker, successor, [records(numbered(1))], 1)


def test_settings_that_do_not_go_together(config: LogConfig) -> None:
    broker = Broker(replace(config, config={"max.in.flight": "10"}))
    with pytest.raises(ConfigError, match=r"max\.in\.flight"):
        broker.producer()
    with pytest.raises(KafkaException, match=r"no\.such\.setting"):
        Producer({"no.such.setting": "1"})
