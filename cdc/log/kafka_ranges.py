"""Ranges of partitions, read by a consumer that is assigned to them for as long (SEMANTICS 3)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from confluent_kafka import KafkaError, KafkaException

from cdc.errors import LogError
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, kafka_errors
from cdc.log.kafka_records import Fetched
from cdc.log.librdkafka_consumer import Arrived, Consumer

_POLL_S = 0.05
Range = tuple[str, int, int, int]
"""Topic, partition, start <= offset < end."""


def fetch(
    consumer: Consumer, topic: str, partition: int, start: int, end: int, *, stamped: bool = False
) -> Iterator[Fetched]:
    """Committed records start <= offset < end of a partition, as they come. Ends when the
    consumer's position has reached `end`. Raises LogError when it does not get there in time.

    The partition's end is no answer where it lies below `end`: a transaction's markers reach its
    partitions one after the other, and a frontier may be visible before records that it covers."""
    if start >= end:
        return
    with kafka_errors(topic):
        consumer.assign([(topic, partition, start)])
        mine = consumer.assignments
        wait = _Wait(f"{topic}/{partition}", end)
        while not wait.is_over:
            for each in consumer.take(_POLL_S, stamped=stamped):
                wait.note(each)
                records = _within(each, start, end)
                if len(records):
                    yield records
                    wait.begin()
                    if consumer.assignments != mine:
                        raise RuntimeError(f"{topic}: the reader was sent elsewhere meanwhile")
            wait.check()
        consumer.unassign()


def fetch_all(consumer: Consumer, ranges: Sequence[Range]) -> dict[Range, list[Fetched]]:
    """As `fetch`, of several partitions at once; for a few records. Topics are with prefix."""
    found: dict[Range, list[Fetched]] = {each: [] for each in ranges}
    open_at = {each[:2]: (each, _Wait(f"{each[0]}/{each[1]}", each[3])) for each in ranges}
    with kafka_errors(", ".join(sorted({each[0] for each in ranges}))):
        consumer.assign([each[:3] for each in ranges])
        while open_at:
            for arrived in consumer.take(_POLL_S, stamped=True):
                at = (arrived.topic, arrived.partition)
                if at in open_at:
                    each, wait = open_at[at]
                    wait.note(arrived)
                    records = _within(arrived, *each[2:])
                    if len(records):
                        found[each].append(records)
                    if wait.is_over:
                        del open_at[at]
            for _, wait in open_at.values():
                wait.check()
        consumer.unassign()
    return found


class _Wait:
    """For a partition's records up to `end`, as long as some come."""

    def __init__(self, place: str, end: int) -> None:
        self._place, self._end = place, end
        self.begin()
        self._stands_at: int | None = None
        self.is_over = False

    def begin(self) -> None:
        """From now on something must come; before, nobody may have looked."""
        self._deadline = time.monotonic() + REQUEST_TIMEOUT_S

    def note(self, arrived: Arrived) -> None:
        """Raises KafkaException for an error that does not pass by itself."""
        error = arrived.error
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if not error.retriable():
                raise KafkaException(error)
            return
        if error is None:
            self.begin()
        else:
            self._stands_at = arrived.next_offset
        self.is_over |= arrived.next_offset >= self._end

    def check(self) -> None:
        """Raises LogError when nothing has come for too long."""
        if self.is_over or time.monotonic() < self._deadline:
            return
        if self._stands_at is None:
            raise LogError("the broker does not answer", where=self._place)
        raise LogError(
            f"the broker shows committed records up to {self._stands_at}, not up to {self._end}: a "
            "transaction there has no end yet",
            where=self._place,
            hint="its producer ends it when it is started again",
        )


def _within(arrived: Arrived, start: int, end: int) -> Fetched:
    """The records start <= offset < end. Those before were not asked for: the topic was made anew,
    and is read from its beginning."""
    offsets = arrived.records.offsets
    if not len(offsets) or (offsets[0] >= start and offsets[-1] < end):
        return arrived.records
    return arrived.records.slice(*np.searchsorted(offsets, (start, end)).tolist())
