"""Ranges of partitions, read by a consumer that is assigned to them for as long (SEMANTICS 3)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cdc.errors import LogError
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, kafka_errors

_FETCH_MESSAGES = 3_000
_POLL_S = 0.05
Range = tuple[str, int, int, int]
"""Topic, partition, start <= offset < end."""


def fetch(
    consumer: Consumer, topic: str, partition: int, start: int, end: int
) -> Iterator[list[Message]]:
    """Committed records start <= offset < end of a partition, in lists. Ends when the consumer's
    position has passed `end` or stands at the partition's end (SEMANTICS 3)."""
    if start >= end:
        return
    with kafka_errors(topic):
        consumer.assign([TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        done = False
        while not done:
            found, done = _sifted(_arrived(consumer), end)
            if found and (found[0].offset() or 0) < start:
                # The topic was made anew, and is read from its beginning: none of it was asked for.
                found = [message for message in found if (message.offset() or 0) >= start]
            if found:
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
                yield found
            elif time.monotonic() > deadline:
                raise LogError("the broker does not answer", where=f"{topic}/{partition}")
        consumer.unassign()


def fetch_all(consumer: Consumer, ranges: Sequence[Range]) -> dict[Range, list[Message]]:
    """As `fetch`, of several partitions at once; for a few records. Topics are with prefix."""
    found: dict[Range, list[Message]] = {each: [] for each in ranges}
    open_at = {(each[0], each[1]): each for each in ranges}
    with kafka_errors(", ".join(sorted({each[0] for each in ranges}))):
        consumer.assign([TopicPartition(*each[:3]) for each in ranges])
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while open_at:
            for message in _arrived(consumer):
                each = open_at.get((message.topic() or "", message.partition() or 0))
                records, is_done = _sifted([message], 0 if each is None else each[3])
                if each is not None:
                    found[each] += [m for m in records if (m.offset() or 0) >= each[2]]
                    if is_done:
                        del open_at[each[0], each[1]]
            if time.monotonic() > deadline:
                raise LogError("the broker does not answer", where=str(next(iter(open_at))))
        consumer.unassign()
    return found


def _sifted(arrived: list[Message], end: int) -> tuple[list[Message], bool]:
    """(records below `end`, whether nothing more can come)."""
    errors = [error for error in map(Message.error, arrived) if error is not None]
    if not errors:
        last = arrived[-1].offset() or 0 if arrived else -1
        if last < end:
            return arrived, last == end - 1
    for error in errors:
        if error.code() != KafkaError._PARTITION_EOF and not error.retriable():
            raise KafkaException(error)
    at_end = any(error.code() == KafkaError._PARTITION_EOF for error in errors)
    records = [message for message in arrived if message.error() is None]
    below = [message for message in records if (message.offset() or 0) < end]
    return below, at_end or len(below) < len(records)


def _arrived(consumer: Consumer) -> list[Message]:
    """What has arrived, waiting for the first only: `consume` waits until it has all it may."""
    first = consumer.poll(_POLL_S)
    return [] if first is None else [first, *consumer.consume(_FETCH_MESSAGES, 0)]
