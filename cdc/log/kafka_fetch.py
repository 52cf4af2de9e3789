"""Consumers that are sent from partition to partition.

A broker that has nothing new holds a fetch back for `fetch.wait.max.ms`, and a client asks a broker
for one fetch at a time: who reads a few records here, then a few there, waits again and again for
answers that nobody wants any more. So short ranges are read by a consumer whose fetches are never
held back. It is given up before its records are handed on, because it would ask without a pause
while it stands at a partition's end. Several short ranges that are known before they are read are
fetched at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdc.log.kafka_client import REQUEST_TIMEOUT_S, Broker, kafka_errors
from cdc.log.kafka_ranges import Range, fetch, fetch_all
from cdc.log.kafka_records import Fetched
from cdc.log.librdkafka_consumer import Consumer

SHORT_OFFSETS = 256
SHORT_RANGES = 16


class Fetcher:
    """Reads ranges of partitions, for one thread; connects with the first."""

    def __init__(self, broker: Broker) -> None:
        self._long = _Connection(broker, fetch_wait_ms=10)
        self._short = _Connection(broker, fetch_wait_ms=0)
        self._ahead: dict[Range, list[Fetched]] = {}

    def fetch_ahead(self, ranges: Sequence[Range]) -> None:
        """Fetch what `fetch` will be asked for, where that is little; forget what it was not."""
        short = [each for each in ranges if each[3] - each[2] <= SHORT_OFFSETS]
        few = 1 < len(short) <= SHORT_RANGES
        self._ahead = self._short.fetch_all(short) if few else {}

    def fetch(
        self, topic: str, partition: int, start: int, end: int, *, stamped: bool = False
    ) -> Iterator[Fetched]:
        """Committed records start <= offset < end, as cdc.log.kafka_ranges.fetch. `topic` is
        without the log's prefix."""
        each = (topic, partition, start, end)
        ahead = self._ahead.pop(each, None)
        if ahead is not None:
            return iter(ahead)
        if end - start > SHORT_OFFSETS:
            return self._long.fetch(each, stamped)
        return iter(list(self._short.fetch(each, stamped)))

    def close(self) -> None:
        self._long.close()
        self._short.close()


class _Connection:
    """A consumer, connected with the first fetch."""

    def __init__(self, broker: Broker, fetch_wait_ms: int) -> None:
        self._broker, self._fetch_wait_ms = broker, fetch_wait_ms
        self._consumer: Consumer | None = None
        self._met: set[str] = set()

    def fetch(self, each: Range, stamped: bool) -> Iterator[Fetched]:
        consumer = self._that_has_met(each[0])
        return fetch(consumer, self._broker.name(each[0]), *each[1:], stamped=stamped)

    def fetch_all(self, ranges: Sequence[Range]) -> dict[Range, list[Fetched]]:
        consumer = self._that_has_met(*{each[0] for each in ranges})
        named = {(self._broker.name(each[0]), *each[1:]): each for each in ranges}
        return {named[each]: found for each, found in fetch_all(consumer, list(named)).items()}

    def _that_has_met(self, *topics: str) -> Consumer:
        """The consumer; a topic that it had not met yet it would look for once a second."""
        if self._consumer is None:
            self._consumer = self._broker.consumer(self._fetch_wait_ms)
        for topic in topics:
            name = self._broker.name(topic)
            if name not in self._met:
                with kafka_errors(topic):
                    self._consumer.meet(name, REQUEST_TIMEOUT_S)
                self._met.add(name)
        return self._consumer

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
            self._met.clear()
