"""Transactions that have ended although partitions never got their marker.

A broker that shuts down may note a transaction as complete without having written its markers
(seen with Kafka 4.3 on one node, once in some forty orderly shutdowns under load). Its records then
stay open: readers stop before them, and the marker of the producer's next transaction would decide
about them as about its own. So a producer that begins first ends them as their transaction ended:

1.  What is open: partitions that are written beyond their last stable offset. Nothing of ours can
    still be going on there: init_transactions has ended all that the coordinator knew of.
2.  Committed, if readers see any part of it: a frontier that covers open records, or records that
    only an open frontier covers.
3.  Otherwise aborted: nobody has seen it, and its append has not returned (`await_markers`).
4.  A transaction of its own with a record in each of these partitions: whatever it is, aborted with
    the open ones; or the newest of them once more, committed with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from cdc.errors import LogError
from cdc.frontiers import Frontier
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, Broker, kafka_errors
from cdc.log.kafka_ranges import fetch
from cdc.log.kafka_send import Sender
from cdc.log.librdkafka import Producer
from cdc.log.librdkafka_consumer import Consumer

Partition = tuple[str, int]
_SUFFIX = ".frontier"
_TAIL = 64
"""Offsets among which there is a record, whatever else stands at a partition's end."""
_NOTHING = (b"", b"")
"""Key and value of a record that is written to be aborted."""
COMMIT_TIMEOUT_S = 180.0


def await_markers(broker: Broker, last: Mapping[Partition, int]) -> None:
    """Return once readers see a transaction: per topic (with prefix) and partition, the offset of
    its last record. A commit is acknowledged before its markers are written. Raises LogError."""
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    missing = set(last)
    while missing:
        stable = broker.stable_offsets(_newest(missing))
        missing = {at for at in missing if stable[at] <= last[at]}
        if missing and time.monotonic() > deadline:
            places = ", ".join(f"{topic}/{number}" for topic, number in sorted(missing))
            raise LogError(
                "the transaction has ended, and the broker does not show its records",
                where=places,
                hint="start the connector again, which ends what the broker left open; if that "
                "does not help, another producer has an open transaction there",
            )


def end_open(
    broker: Broker,
    producer: Producer,
    topics: Mapping[str, int],
    newest: Mapping[str, Frontier | None],
) -> bool:
    """End what is open in `topics` (without prefix, with their partitions), of which only
    `producer` writes; whether there was something. `newest`: per key of frontiers, the newest that
    readers see. Raises LogError."""
    found = _open(broker, topics)
    if not found:
        return False
    tails = _Tails(broker, found)
    committed = _is_seen(broker, found, newest, tails)
    sender = Sender(producer)
    with kafka_errors(", ".join(sorted({topic for topic, _ in found}))):
        producer.begin_transaction()
        for (topic, number), last in tails.last.items():
            key, value = last if committed else _NOTHING
            sender.send_one(broker.name(topic), key, value, number)
        if sender.flush(COMMIT_TIMEOUT_S) or sender.refused:
            raise LogError("the broker does not take the records that end a transaction")
        if committed:
            _commit(producer)
        else:
            producer.abort_transaction(REQUEST_TIMEOUT_S)
    await_markers(broker, sender.delivered)
    return True


def _commit(producer: Producer) -> None:
    """Given up, the transaction would be aborted, and what readers have seen with it."""
    deadline = time.monotonic() + COMMIT_TIMEOUT_S
    while True:
        try:
            return producer.commit_transaction(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise


@dataclass(frozen=True)
class _Range:
    """Offsets start <= offset < end."""

    start: int
    end: int


def _open(broker: Broker, topics: Mapping[str, int]) -> dict[Partition, _Range]:
    """Per topic and partition, the offsets that readers are not shown yet."""
    places = {
        (broker.name(topic), number): (topic, number)
        for topic, partitions in topics.items()
        for number in range(partitions)
    }
    if not places:
        return {}
    stable = broker.stable_offsets(_newest(places))
    written = broker.stable_offsets(_newest(places), IsolationLevel.READ_UNCOMMITTED)
    return {
        places[at]: _Range(stable[at], written[at]) for at in places if stable[at] < written[at]
    }


def _newest(places: Iterable[Partition]) -> dict[TopicPartition, OffsetSpec]:
    return {TopicPartition(*at): OffsetSpec.latest() for at in places}


class _Tails:
    """Key and value of the last open record of each partition. Those that were to end an aborted
    transaction, and were left open as well, count only where there is no other."""

    def __init__(self, broker: Broker, ranges: Mapping[Partition, _Range]) -> None:
        self.last: dict[Partition, tuple[bytes | None, bytes | None]] = {}
        consumer = broker.consumer(isolation="read_uncommitted")
        try:
            for (topic, number), each in ranges.items():
                start = max(each.start, each.end - _TAIL)
                for records in fetch(consumer, broker.name(topic), number, start, each.end):
                    pairs = zip(records.keys.to_pylist(), records.values.to_pylist(), strict=True)
                    last = [pair for pair in pairs if pair != _NOTHING][-1:]
                    if last or (topic, number) not in self.last:
                        self.last[topic, number] = last[0] if last else _NOTHING
        finally:
            consumer.close()

    def frontiers(self) -> dict[str, Frontier]:
        """Per key of frontiers, the newest that is open."""
        return {
            topic.removesuffix(_SUFFIX): Frontier.from_json(value)
            for (topic, _), (_, value) in self.last.items()
            if topic.endswith(_SUFFIX) and value
        }


def _is_seen(
    broker: Broker,
    found: Mapping[Partition, _Range],
    newest: Mapping[str, Frontier | None],
    tails: _Tails,
) -> bool:
    """Whether readers see a part of the transaction whose records are open."""
    seen = [frontier for frontier in newest.values() if frontier is not None]
    if any(end > found[at].start for each in seen for at, end in _ends(each) if at in found):
        return True
    together = {each.appended_us for each in seen if each.whole}
    consumer = broker.consumer()
    try:
        for key, frontier in tails.frontiers().items():
            if frontier.whole and frontier.appended_us in together:
                return True
            before = newest.get(key)
            known = {} if before is None else dict(_ends(before))
            beyond = {at: end for at, end in _ends(frontier) if at not in found}
            if any(
                _has_records(broker, consumer, at, known.get(at, 0), beyond[at]) for at in beyond
            ):
                return True
    finally:
        consumer.close()
    return False


def _has_records(broker: Broker, consumer: Consumer, at: Partition, start: int, end: int) -> bool:
    """Whether readers see a record start <= offset < end."""
    place = broker.name(at[0]), at[1]
    (stable,) = broker.stable_offsets(_newest([place])).values()
    return next(fetch(consumer, *place, start, min(end, stable)), None) is not None


def _ends(frontier: Frontier) -> list[tuple[Partition, int]]:
    return [
        ((topic, number), end)
        for topic, ends in frontier.appended_ends.items()
        for number, end in enumerate(ends)
    ]
