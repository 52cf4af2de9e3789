"""One consumer that is sent from partition to partition."""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import Consumer, Message

from cdc.log.kafka_client import REQUEST_TIMEOUT_S, Broker, fetch, kafka_errors


class Fetcher:
    """Reads ranges of partitions, for one thread; connects with the first."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._consumer: Consumer | None = None
        self._met: set[str] = set()

    def fetch(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Message]]:
        """Committed records start <= offset < end, as cdc.log.kafka_client.fetch. `topic` is
        without the log's prefix."""
        if self._consumer is None:
            self._consumer = self._broker.consumer()
        name = self._broker.name(topic)
        if name not in self._met:
            # A topic that the client has not met yet would be looked for once a second.
            with kafka_errors(topic):
                self._consumer.list_topics(name, REQUEST_TIMEOUT_S)
            self._met.add(name)
        return fetch(self._consumer, name, partition, start, end)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
            self._met.clear()
