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
    position has reached `end` (SEMANTICS 3). Raises LogError when it does not get there in time."""
    if start >= end:
        return
    with kafka_errors(topic):
        consumer.assign([TopicPartition(topic, partition, start)])
        wait = _Wait(f"{topic}/{partition}", end)
        done = False
        while not done:
            arrived = _arrived(consumer)
            found, done = _sifted(arrived, end)
            if found and (found[0].offset() or 0) < start:
                # The topic was made anew, and is read from its beginning: none of it was asked for.
                found = [message for message in found if (message.offset() or 0) >= start]
            if found:
                yield found
            wait.note(arrived, progress=bool(found) or done)
        consumer.unassign()


def fetch_all(consumer: Consumer, ranges: Sequence[Range]) -> dict[Range, list[Message]]:
    """As `fetch`, of several partitions at once; for a few records. Topics are with prefix."""
    found: dict[Range, list[Message]] = {each: [] for each in ranges}
    open_at = {(each[0], each[1]): each for each in ranges}
    with kafka_errors(", ".join(sorted({each[0] for each in ranges}))):
        consumer.assign([TopicPartition(*each[:3]) for each in ranges])
        waits = {at: _Wait(f"{at[0]}/{at[1]}", each[3]) for at, each in open_at.items()}
        while open_at:
            for message in _arrived(consumer):
                at = (message.topic() or "", message.partition() or 0)
                each = open_at.get(at)
                records, is_done = _sifted([message], 0 if each is None else each[3])
                if each is not None:
                    found[each] += [m for m in records if (m.offset() or 0) >= each[2]]
                    waits[at].note([message], progress=False)
                    if is_done:
                        del open_at[at]
            for at in open_at:
                waits[at].note([], progress=False)
        consumer.unassign()
    return found


class _Wait:
    """For a partition's records up to `end`, as long as some come."""

    def __init__(self, place: str, end: int) -> None:
        self._place, self._end = place, end
        self._deadline = time.monotonic() + REQUEST_TIMEOUT_S
        self._stands_at: int | None = None

    def note(self, arrived: Sequence[Message], *, progress: bool) -> None:
        """Raises LogError when nothing has come for too long."""
        for message in arrived:
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                self._stands_at = message.offset()
        if progress:
            self._deadline = time.monotonic() + REQUEST_TIMEOUT_S
        elif time.monotonic() > self._deadline:
            if self._stands_at is None:
                raise LogError("the broker does not answer", where=self._place)
            raise LogError(
                f"the broker shows committed records up to {self._stands_at}, not up to "
                f"{self._end}: a transaction there has no end yet",
                where=self._place,
                hint="its producer ends it when it is started again",
            )


def _sifted(arrived: list[Message], end: int) -> tuple[list[Message], bool]:
    """(records below `end`, whether nothing more can come). The partition's end is no answer where
    it stands below `end`: a transaction's markers reach its partitions one after the other, and a
    frontier may be visible before the records that it covers."""
    errors = [error for error in map(Message.error, arrived) if error is not None]
    if not errors:
        last = arrived[-1].offset() or 0 if arrived else -1
        if last < end:
            return arrived, last == end - 1
    for error in errors:
        if error.code() != KafkaError._PARTITION_EOF and not error.retriable():
            raise KafkaException(error)
    records = [message for message in arrived if message.error() is None]
    below = [message for message in records if (message.offset() or 0) < end]
    reached = any(_position(message) >= end for message in arrived)
    return below, reached


def _position(message: Message) -> int:
    """Where the consumer stands behind a message: a record, or the news that there are no more."""
    error, offset = message.error(), message.offset() or 0
    if error is None:
        return offset + 1
    return offset if error.code() == KafkaError._PARTITION_EOF else -1


def _arrived(consumer: Consumer) -> list[Message]:
    """What has arrived, waiting for the first only: `consume` waits until it has all it may."""
    first = consumer.poll(_POLL_S)
    return [] if first is None else [first, *consumer.consume(_FETCH_MESSAGES, 0)]
