"""The Kafka log when its broker dies, hangs, is full or refuses, and when its producers die: every
append is in the log once or not at all, and an error says what is wrong and ends in bounded time.

Append n has ids of its own and the frontier n (tests/services/appending_process.py), so after every
fault the topic is compared with its newest frontier."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, IsolationLevel, TopicPartition
from confluent_kafka import Producer as KafkaClient
from confluent_kafka.admin import (
    AclOperation,
    AclPermissionType,
    AdminClient,
    OffsetSpec,
    ResourceType,
)

from cdc.changes import C
from cdc.config import LogConfig
from cdc.errors import BadData, Fenced, LogError, LogRefused
from cdc.log import kafka_client, kafka_producer
from cdc.log.api import Log, Producer, Reader
from cdc.log.open import open_log
from demo.server_process import free_port, wait_until
from tests.fix_kafka import PASSWORDS, allow
from tests.fix_log import SPEC, TOPIC, changes, frontier, ids_of, kafka_config, read_all
from tests.services.appending_process import NAME, ROWS, append, next_number
from tests.services.forked import Forked
from tests.services.kafka import Broker, Security, make_authority

pytestmark = pytest.mark.service

DEADLINE_S = 60.0
BOUND_S = 40.0
"""What an operation may take until it says that it cannot be done."""
TOO_LARGE = "x" * 1_500_000


@pytest.fixture
def config(own_kafka: Broker, tmp_path: Path) -> LogConfig:
    return kafka_config(own_kafka.bootstrap, tmp_path)


@pytest.fixture
def log(config: LogConfig) -> Log:
    return open_log(config)


@pytest.fixture
def producer(log: Log) -> Iterator[Producer]:
    made = log.producer(NAME)
    made.create_topics([SPEC])
    yield made
    made.close()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@contextmanager
def reading(log: Log) -> Iterator[Reader]:
    with closing(log.reader()) as reader:
        yield reader


def assert_exact(log: Log, appends: int | None = None) -> None:
    """The topic has what its newest frontier says, once; the newest append is `appends` - 1."""
    with reading(log) as reader:
        newest = reader.newest_frontier(NAME)
        assert newest is not None
        if appends is not None:
            assert newest.txn_seq == appends - 1
        wanted = list(range((newest.txn_seq + 1) * ROWS))
        assert ids_of(read_all(reader, TOPIC, newest.end_offsets[TOPIC])) == wanted
        assert ids_of(read_all(reader)) == wanted


def go_on(log: Log, until: int) -> None:
    """As a connector that is started again: behind the newest frontier."""
    with closing(log.producer(NAME)) as producer:
        producer.create_topics([SPEC])
        for number in range(next_number(log), until):
            append(producer, number)


def append_all(producer: Producer, numbers: Iterator[int]) -> None:
    for number in numbers:
        append(producer, number)


def assert_transient(error: LogError) -> None:
    """Not one of its subclasses, which say that trying again would not help."""
    assert type(error) is LogError, error


def append_on(log: Log, producer: Producer, numbers: Iterator[int]) -> None:
    """Append `numbers`; after an error with a new producer, as long as one is to be had."""
    deadline = time.monotonic() + DEADLINE_S
    current, number = producer, next(numbers)
    while True:
        try:
            append(current, number)
            number = next(numbers)
        except StopIteration:
            return
        except LogError as error:
            assert_transient(error)
            assert time.monotonic() < deadline
            current = log.producer(NAME)
            current.create_topics([SPEC])
            if next_number(log) > number:  # it was committed, though nobody could say so
                number = next(numbers)


class Ends:
    """Of the topic, as the broker has it now."""

    def __init__(self, config: LogConfig) -> None:
        self._admin = AdminClient({"bootstrap.servers": config.bootstrap_servers})
        self._place = TopicPartition(config.topic_prefix + TOPIC, 0)

    @property
    def is_open(self) -> bool:
        """Whether a transaction has records there that are not committed."""
        written, stable = map(
            self._end, (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)
        )
        return written > stable

    def _end(self, level: IsolationLevel) -> int:
        wanted = {self._place: OffsetSpec.latest()}
        found = self._admin.list_offsets(wanted, isolation_level=level, request_timeout=10)
        return int(found[self._place].result().offset)


RESTARTS = pytest.mark.parametrize("end", [Broker.stop, Broker.shut_down], ids=["kill", "stop"])


class TestABrokerThatEnds:
    @RESTARTS
    def test_between_appends(
        self, own_kafka: Broker, log: Log, producer: Producer, end: Callable[[Broker], None]
    ) -> None:
        append(producer, 0)
        end(own_kafka)
        own_kafka.start()
        append(producer, 1)
        assert_exact(log, 2)

    @RESTARTS
    def test_while_appending(
        self, own_kafka: Broker, log: Log, producer: Producer, aside: ThreadPoolExecutor,
        end: Callable[[Broker], None],
    ) -> None:  # fmt: skip
        append(producer, 0)
        enough = threading.Event()
        count = 1

        def numbers() -> Iterator[int]:
            nonlocal count
            while not enough.is_set():
                yield count
                count += 1

        appending = aside.submit(append_on, log, producer, numbers())
        before = next_number(log)
        wait_until(lambda: count > before + 2, timeout_s=DEADLINE_S, what="appends")
        end(own_kafka)
        own_kafka.start()
        before = count
        wait_until(lambda: count > before + 2, timeout_s=DEADLINE_S, what="appends")
        enough.set()
        appending.result(DEADLINE_S)
        assert_exact(log)

    def test_in_a_transaction(self, own_kafka: Broker, config: LogConfig, log: Log) -> None:
        """The coordinator is gone; the producer is then in the middle of an append."""
        with closing(Appending(config)) as appending:
            halted = halt_inside_an_append(config, appending)
            own_kafka.stop()
            own_kafka.start()
            appending.process.send_signal(signal.SIGCONT)
            if appending.appended_or_ended():
                appending.appended()
            else:
                status, said = appending.ended()
                assert (status, said.partition(":")[0]) == (3, "LogError"), said
        assert next_number(log) >= halted
        go_on(log, next_number(log) + 1)
        assert_exact(log)

    def test_while_reading(self, own_kafka: Broker, log: Log, producer: Producer) -> None:
        """The reader goes on, or says that the broker is away; it leaves nothing out."""
        for number in range(20):
            append(producer, number)
        with reading(log) as reader:
            (end,) = reader.end_offsets(TOPIC)
            batches = reader.read(TOPIC, 0, 0, end, max_rows=ROWS)
            found = ids_of([next(batches)])
            own_kafka.stop()
            own_kafka.start()
            try:
                found += ids_of(list(batches))
            except LogError as error:
                assert_transient(error)
            assert found == list(range(20 * ROWS))[: len(found)]
            assert reader.wait([NAME], 10.0)
            assert ids_of(read_all(reader)) == list(range(20 * ROWS))
        append(producer, 20)
        assert_exact(log, 21)

    def test_while_many_things_are_asked(
        self, own_kafka: Broker, log: Log, producer: Producer, aside: ThreadPoolExecutor
    ) -> None:
        """A broker that is soon there again is waited for."""
        append(producer, 0)
        enough = threading.Event()

        def ask() -> int:
            count = 0
            with reading(log) as reader:
                while not enough.is_set():
                    assert reader.topics() == [TOPIC]
                    newest = reader.newest_frontier(NAME)
                    assert newest is not None
                    assert reader.end_offsets(TOPIC) >= newest.end_offsets[TOPIC]
                    assert reader.wait([NAME], 0.01) in (True, False)
                    count += 1
            return count

        asking = aside.submit(ask)
        own_kafka.stop()
        own_kafka.start()
        append(producer, 1)
        enough.set()
        assert asking.result(DEADLINE_S) > 0
        assert_exact(log, 2)

    def test_and_is_full(
        self, own_kafka: Broker, log: Log, producer: Producer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A broker ends when its disk is full. What it acknowledged is there when it has room."""
        append(producer, 0)
        for module in (kafka_client, kafka_producer):
            monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 5.0)
        own_kafka.fill(200_000)
        started = time.monotonic()
        with pytest.raises(LogError) as caught:
            append_all(producer, iter(range(1, 10_000)))
        assert_transient(caught.value)
        assert time.monotonic() - started < BOUND_S
        own_kafka.await_end()
        monkeypatch.undo()
        own_kafka.start()
        done = next_number(log)
        go_on(log, done + 2)
        assert_exact(log, done + 2)


def _outcome(appending: Future[Any]) -> bool:
    """Whether the append was done; otherwise it failed as one that may be tried again."""
    try:
        appending.result(DEADLINE_S)
    except LogError as error:
        assert_transient(error)
        return False
    return True


class TestABrokerThatHangs:
    def test_while_appending(
        self, own_kafka: Broker, log: Log, producer: Producer, aside: ThreadPoolExecutor
    ) -> None:
        append(producer, 0)
        own_kafka.pause()
        appending = aside.submit(append, producer, 1)
        with pytest.raises(TimeoutError):
            appending.result(1.0)
        own_kafka.resume()
        if not _outcome(appending):
            go_on(log, 2)
        assert_exact(log, 2)

    def test_while_reading(
        self, own_kafka: Broker, log: Log, producer: Producer, aside: ThreadPoolExecutor
    ) -> None:
        append(producer, 0)
        with reading(log) as reader:
            own_kafka.pause()
            found = aside.submit(lambda: ids_of(read_all(reader)))
            with pytest.raises(TimeoutError):
                found.result(1.0)
            own_kafka.resume()
            assert found.result(DEADLINE_S) == list(range(ROWS))


class TestABrokerThatIsNotThere:
    def test_at_the_start(self, tmp_path: Path) -> None:
        address = f"127.0.0.1:{free_port()}"
        log = open_log(kafka_config(address, tmp_path))
        started = time.monotonic()
        with pytest.raises(LogError) as caught:
            log.reader().newest_frontier(NAME)
        assert_transient(caught.value)
        assert address in str(caught.value)
        assert time.monotonic() - started < BOUND_S

    def test_a_topic_removed_behind_our_back(
        self, config: LogConfig, log: Log, producer: Producer
    ) -> None:
        append(producer, 0)
        with reading(log) as reader:
            assert read_all(reader)
            _delete_topic(config, TOPIC)
            with pytest.raises(LogError, match="no such topic") as caught:
                read_all(reader)
            assert caught.value.where == TOPIC
        with pytest.raises(LogError, match="removed") as caught:
            append(producer, 1)
        assert TOPIC in caught.value.where

    @pytest.mark.parametrize("topic", [TOPIC, f"{NAME}.frontier", f"{NAME}.transaction"])
    def test_a_removed_topic_is_named(self, own_kafka: Broker, tmp_path: Path, topic: str) -> None:
        """Whether the client hears of it first, and waits, or the transaction's coordinator, and
        purges the records: that is a matter of luck."""
        for _ in range(2):
            config = replace(kafka_config(own_kafka.bootstrap, tmp_path), transaction_metadata=True)
            with closing(open_log(config).producer(NAME)) as producer:
                producer.create_topics([SPEC])
                append(producer, 0)
                _delete_topic(config, topic)
                with pytest.raises(LogError, match="removed") as caught:
                    append(producer, 1)
            assert caught.value.where == topic


def _delete_topic(config: LogConfig, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": config.bootstrap_servers})
    name = config.topic_prefix + topic
    admin.delete_topics([name])[name].result(30)
    wait_until(
        lambda: name not in admin.list_topics(timeout=10).topics, timeout_s=30, what="the deletion"
    )


class TestABrokerThatRefuses:
    @pytest.fixture
    def secured(self, secure_kafka: Broker, security: Security, tmp_path: Path) -> LogConfig:
        settings = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "cdc",
            "sasl.password": PASSWORDS["cdc"],
            "ssl.ca.location": str(security.authority),
        }
        return replace(kafka_config(secure_kafka.bootstrap, tmp_path), config=settings)

    def test_nobody_who_has_all_it_asks_for(self, secured: LogConfig) -> None:
        """TLS and passwords go through `config` as librdkafka's settings."""
        log = open_log(secured)
        go_on(log, 2)
        assert_exact(log, 2)

    def test_a_wrong_password(self, secured: LogConfig) -> None:
        error = _refused(_with(secured, "sasl.password", "not-the-s3cret"))
        assert "uthentication" in error.what and "not-the-s3cret" not in str(error)
        assert "sasl.password" in error.hint

    def test_a_certificate_of_an_unknown_authority(
        self, secured: LogConfig, tmp_path: Path
    ) -> None:
        other = make_authority(tmp_path, "other")
        error = _refused(_with(secured, "ssl.ca.location", str(other)))
        assert "certificate" in error.what
        assert "ssl.ca.location" in error.hint

    def test_a_user_without_rights(self, secured: LogConfig) -> None:
        log = open_log(secured)
        go_on(log, 1)
        guest = _with(secured, "sasl.username", "guest", "sasl.password", PASSWORDS["guest"])
        error = _refused(guest)
        assert "uthoriz" in error.what and NAME in error.where
        assert PASSWORDS["guest"] not in str(error)
        with reading(open_log(guest)) as reader, pytest.raises(LogRefused, match="uthoriz"):
            read_all(reader)

    def test_a_right_that_is_taken_away(self, secured: LogConfig, secure_kafka: Broker) -> None:
        """The records that still wait are purged, and only the transaction has the cause."""
        with closing(open_log(secured).producer(NAME)) as producer:
            producer.create_topics([SPEC])
            append(producer, 0)
            topic = [(ResourceType.TOPIC, secured.topic_prefix + TOPIC)]
            write, deny = AclOperation.WRITE, AclPermissionType.DENY
            allow(secure_kafka.internal, "cdc", topic, write, deny)
            with pytest.raises(LogRefused, match="uthoriz"):
                append(producer, 1)


def _with(config: LogConfig, *settings: str) -> LogConfig:
    changed = dict(zip(settings[::2], settings[1::2], strict=True))
    return replace(config, config={**config.config, **changed})


def _refused(config: LogConfig) -> LogRefused:
    """Why the log cannot be written to, and nothing that waiting would mend."""
    started = time.monotonic()
    with pytest.raises(LogRefused) as caught:
        open_log(config).producer(NAME)
    assert time.monotonic() - started < BOUND_S
    return caught.value


class TestMessagesAreTooLarge:
    def test_stop(self, log: Log, producer: Producer) -> None:
        append(producer, 0)
        large = changes([999_999], op=C, note=TOO_LARGE, txn_seq=1)
        with pytest.raises(BadData) as caught:
            producer.append([(TOPIC, large)], [frontier(1)])
        assert TOPIC in caught.value.where and "key" in caught.value.where
        assert "message.max.bytes" in caught.value.hint
        assert "max.message.bytes" in caught.value.hint
        assert_exact(log, 1)

    def test_dead_letter(self, config: LogConfig) -> None:
        log = open_log(replace(config, oversized="dead_letter"))
        go_on(log, 1)
        with closing(log.producer(NAME)) as producer:
            mixed = changes([ROWS], op=C, txn_seq=1), changes([7], op=C, note=TOO_LARGE, txn_seq=1)
            producer.append([(TOPIC, part) for part in mixed], [frontier(1)])
        with reading(log) as reader:
            assert ids_of(read_all(reader)) == list(range(ROWS + 1))
            newest = reader.newest_frontier(NAME)
            assert newest is not None and newest.txn_seq == 1
            ((_, letter),) = reader.dead_letters()
        assert letter.connector == NAME and TOPIC in letter.where
        assert letter.key == _key_of(config, offset=7)
        assert letter.value

    def test_one_dead_letter_for_an_append_that_is_made_twice(self, config: LogConfig) -> None:
        """Somebody's aborted records stand where ours were expected: the first try is aborted."""
        log = open_log(replace(config, oversized="dead_letter"))
        go_on(log, 1)
        with closing(log.producer(NAME)) as producer:
            append(producer, 1)
            _abort_a_record(config)
            large = changes([7], op=C, note=TOO_LARGE, txn_seq=2)
            small = changes(range(2 * ROWS, 3 * ROWS), op=C, txn_seq=2)
            producer.append([(TOPIC, small), (TOPIC, large)], [frontier(2)])
        with reading(log) as reader:
            assert len(list(reader.dead_letters())) == 1
        assert_exact(log, 3)

    def test_unless_librdkafka_is_told_otherwise(self, config: LogConfig) -> None:
        """Its settings go through: this one is for the client, the broker takes 10 MB."""
        log = open_log(replace(config, config={"message.max.bytes": "3000000"}))
        with closing(log.producer(NAME)) as producer:
            producer.create_topics([SPEC])
            producer.append([(TOPIC, changes([1], op=C, note=TOO_LARGE))], [frontier(0)])
        with reading(log) as reader:
            (batch,) = read_all(reader)
            assert batch.changes.rows.column("note").to_pylist() == [TOO_LARGE]


def _abort_a_record(config: LogConfig) -> None:
    name = f"{config.topic_prefix}other"
    other = KafkaClient({"bootstrap.servers": config.bootstrap_servers, "transactional.id": name})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(config.topic_prefix + TOPIC, b"value", b"key")
    assert other.flush(30) == 0
    other.abort_transaction(30)


def _key_of(config: LogConfig, offset: int) -> bytes | None:
    """The bytes of a record's key, as any consumer sees them."""
    consumer = Consumer({"bootstrap.servers": config.bootstrap_servers, "group.id": "look"})
    try:
        consumer.assign([TopicPartition(config.topic_prefix + TOPIC, 0, offset)])
        message = consumer.poll(30.0)
        assert message is not None and message.error() is None
        key = message.key()
        return key if key is None else bytes(key)
    finally:
        consumer.close()


class Appending:
    """The process of tests/services/appending_process.py."""

    def __init__(self, config: LogConfig, fault: str = "") -> None:
        module = "tests.services.appending_process"
        self.process = Forked(
            ["-m", module, config.bootstrap_servers, config.topic_prefix],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CDC_FAULT": fault},
        )

    def appended(self) -> int:
        """The next number that it has appended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.ended()
        return int(line)

    def appended_or_ended(self) -> bool:
        """Whether it appended once more; False: it ended."""
        assert self.process.stdout is not None
        return bool(self.process.stdout.readline())

    def ended(self) -> tuple[int, str]:
        """Its status, and what it wrote."""
        _, said = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.crash
class TestProducersThatDie:
    @pytest.mark.parametrize("fault", ["log.append.before_commit:3", "log.append.after_commit:3"])
    def test_at_a_named_point(self, config: LogConfig, log: Log, fault: str) -> None:
        with closing(Appending(config, fault)) as first:
            status, said = first.ended()
        assert status == -signal.SIGKILL, said
        done = next_number(log)
        assert done == (3 if "after" in fault else 2)
        with closing(Appending(config)) as second:
            assert second.appended() == done
            assert second.appended() == done + 1
        go_on(log, done + 4)
        assert_exact(log, done + 4)

    def test_at_any_moment(self, config: LogConfig, log: Log) -> None:
        for _ in range(2):
            with closing(Appending(config)) as one:
                one.appended()
                one.appended()
        go_on(log, next_number(log) + 1)
        assert_exact(log)


class TestTwoProducers:
    def test_the_second_fences_the_first(self, log: Log, producer: Producer) -> None:
        append(producer, 0)
        go_on(log, 2)
        with pytest.raises(Fenced):
            append(producer, 2)
        assert_exact(log, 2)

    def test_also_in_the_middle_of_an_append(self, config: LogConfig, log: Log) -> None:
        """The first is stopped when it has written records that it has not committed."""
        with closing(Appending(config)) as first:
            halt_inside_an_append(config, first)
            go_on(log, next_number(log) + 2)
            done = next_number(log)
            first.process.send_signal(signal.SIGCONT)
            status, said = first.ended()
        assert (status, said.partition(":")[0]) == (3, "Fenced"), said
        assert "only one process" in said
        assert_exact(log, done)


def halt_inside_an_append(config: LogConfig, appending: Appending) -> int:
    """SIGSTOP it when it has an open transaction with records; the number of that append."""
    deadline, ends = time.monotonic() + DEADLINE_S, Ends(config)
    number = appending.appended() + 1
    while True:
        appending.process.send_signal(signal.SIGSTOP)
        if ends.is_open:
            return number
        assert time.monotonic() < deadline
        appending.process.send_signal(signal.SIGCONT)
        wait_until(lambda: ends.is_open, timeout_s=DEADLINE_S, what="a transaction")
