"""Transactions that the broker has noted as complete without having written their markers: their
records are neither lost nor told twice, and no reader takes the records before them for all.

Kafka does so now and then when it is shut down in order. Here it is brought about: while a
transaction is open, its partitions' files are copied; once it is committed, they are put back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka import Producer as KafkaClient

from cdc import faults
from cdc.changes import C
from cdc.config import LogConfig
from cdc.errors import LogError
from cdc.log import kafka_ranges, kafka_unmarked
from cdc.log.api import Log
from cdc.log.kafka_producer import KafkaProducer
from cdc.log.kafka_transactions import topic_name
from cdc.log.open import open_log
from tests.fix_log import SPEC, TOPIC, changes, frontier, ids_of, kafka_config, read_all
from tests.services.appending_process import NAME, ROWS, append, next_number
from tests.services.kafka import Broker

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("own_kafka")]

FRONTIER = f"{NAME}.frontier"
TRANSACTION = topic_name(NAME)


@dataclass(frozen=True)
class Case:
    """A log whose append 1 has no markers in `open_topics`."""

    open_topics: tuple[str, ...]
    committed: bool
    """Whether a reader sees any of it, so that it cannot be taken back."""
    whole: bool = True
    aborted: bool = False
    """Whether an earlier successor has aborted it, and that has no markers either."""


CASES = {
    "all": Case((TOPIC, FRONTIER, TRANSACTION), committed=False),
    "all, aborted": Case((TOPIC, FRONTIER, TRANSACTION), committed=False, aborted=True),
    "records": Case((TOPIC,), committed=True),
    "frontier": Case((FRONTIER,), committed=True),
    "part": Case((TOPIC, FRONTIER, TRANSACTION), committed=False, whole=False),
    "records of a part": Case((TOPIC,), committed=True, whole=False),
    "frontier of a part": Case((FRONTIER,), committed=True, whole=False),
}


@pytest.fixture(scope="module")
def configs(
    module_kafka: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, LogConfig]:
    """One log for each case, on a broker that was started again over files without markers."""
    found: dict[str, LogConfig] = {}
    kept: list[tuple[Path, Path]] = []
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("log")
        made = kafka_config(module_kafka.bootstrap, folder)
        found[name] = replace(made, transaction_metadata=True)
        kept += _append_two(module_kafka, found[name], case, folder)
    module_kafka.stop()
    for place, copy in kept:
        shutil.rmtree(place)
        shutil.copytree(copy, place)
    module_kafka.start()
    return found


def _append_two(
    broker: Broker, config: LogConfig, case: Case, folder: Path
) -> list[tuple[Path, Path]]:
    """Append 0, and 1 as the case says; (partition's folder, its copy without 1's markers)."""
    places = [broker.folder / "data" / f"{config.topic_prefix}{t}-0" for t in case.open_topics]
    copies = [(place, folder / place.name) for place in places]

    def copy(point: str) -> None:
        if point == "log.append.before_commit":
            if case.aborted:
                assert isinstance(producer, KafkaProducer)
                for topic in case.open_topics:
                    producer._sender.send_one(config.topic_prefix + topic, b"", b"")
                assert not producer._sender.flush(30.0)
            for place, to in copies:
                shutil.copytree(place, to)

    with (
        closing(open_log(config).producer(NAME)) as producer,
        pytest.MonkeyPatch.context() as patch,
    ):
        producer.create_topics([SPEC])
        append(producer, 0)
        patch.setattr(faults, "point", copy)
        rows = changes(range(ROWS, 2 * ROWS), op=C, txn_seq=1)
        made = frontier(1) if case.whole else replace(frontier(0), whole=False, resume={"part": 1})
        producer.append([(TOPIC, rows)], [made])
    return copies


@pytest.fixture
def log(configs: Mapping[str, LogConfig], name: str) -> Iterator[Log]:
    opened = open_log(configs[name])
    yield opened
    opened.close()


@pytest.mark.parametrize("name", ["records"])
def test_a_reader_does_not_take_less_for_all(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_ranges, "REQUEST_TIMEOUT_S", 1.0)
    with closing(log.reader()) as reader:
        newest = reader.newest_frontier(NAME)
        assert newest is not None and newest.txn_seq == 1
        with pytest.raises(LogError, match="no end yet") as caught:
            read_all(reader, TOPIC, newest.end_offsets[TOPIC])
    assert TOPIC in caught.value.where


@pytest.mark.parametrize("name", CASES)
def test_the_next_producer_ends_it(log: Log, name: str) -> None:
    case = CASES[name]
    with closing(log.producer(NAME)) as producer:
        producer.create_topics([SPEC])
        with closing(log.reader()) as reader:
            newest = reader.newest_frontier(NAME)
        assert newest is not None
        if case.whole:
            assert newest.txn_seq == (1 if case.committed else 0)
        else:
            assert newest.whole != case.committed
        for number in range(2 if case.committed else 1, 4):
            append(producer, number)
    with closing(log.reader()) as reader:
        newest = reader.newest_frontier(NAME)
        assert newest is not None and newest.txn_seq == 3
        found = ids_of(read_all(reader, TOPIC, newest.end_offsets[TOPIC]))
        assert found == ids_of(read_all(reader))
    wanted = list(range(4 * ROWS))
    if TOPIC in case.open_topics and case.committed:
        wanted.insert(2 * ROWS, 2 * ROWS - 1)  # its newest record was written once more
    assert found == wanted


def test_an_append_does_not_return_before_readers_see_it(
    own_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's open transaction keeps them from it."""
    config = kafka_config(own_kafka.bootstrap, tmp_path)
    with closing(open_log(config)) as log:
        with closing(log.producer(NAME)) as producer:
            producer.create_topics([SPEC])
            append(producer, 0)
            other = _with_an_open_record(config)
            monkeypatch.setattr(kafka_unmarked, "REQUEST_TIMEOUT_S", 1.0)
            with pytest.raises(LogError, match="does not show") as caught:
                append(producer, 1)
            assert config.topic_prefix + TOPIC in caught.value.where
            with pytest.raises(LogError, match="an earlier append failed"):
                append(producer, 2)
        other.abort_transaction(30)
        monkeypatch.undo()
        with closing(log.producer(NAME)) as producer:
            producer.create_topics([SPEC])
            assert next_number(log) == 2
            append(producer, 2)
        with closing(log.reader()) as reader:
            assert ids_of(read_all(reader)) == list(range(3 * ROWS))


def _with_an_open_record(config: LogConfig) -> KafkaClient:
    name = f"{config.topic_prefix}other"
    other = KafkaClient({"bootstrap.servers": config.bootstrap_servers, "transactional.id": name})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(config.topic_prefix + TOPIC, b"value", b"key")
    assert other.flush(30) == 0
    return other
