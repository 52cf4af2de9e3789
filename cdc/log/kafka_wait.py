"""Waiting for frontiers: a consumer that stands at the end of their topics.

The broker answers its long poll as soon as a transaction is committed there. The ends themselves
are asked for at the first call for a name, and now and then: a topic may have been made, or made
anew, since.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cdc.log.kafka_client import Broker, kafka_errors
from cdc.log.librdkafka_consumer import Arrived, Consumer

FETCH_WAIT_MS = 100
"""How often the broker says that there is nothing yet; what comes, it says at once."""
LOOK_EVERY_S = 0.5
LOOK_FOR_TOPICS_EVERY_S = 0.05


@dataclass(frozen=True)
class Newest:
    """The newest record that arrived, and its topic's id."""

    topic_id: str
    offset: int
    value: bytes


class Waiter:
    """See cdc.log.api.Reader.wait."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._consumer: Consumer | None = None
        self._seen: dict[str, tuple[str, int]] = {}
        """Per name: the topic's id, and the end up to which it has been told."""
        self._assigned: dict[str, tuple[str, str]] = {}
        """Per topic (with prefix) that the consumer stands in, its name and id."""
        self.arrived: dict[str, Newest] = {}
        """Per name."""

    def wait(self, names: Sequence[str], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        if any(name not in self._seen for name in names) and self._look(names):
            return True
        while True:
            self._assign(names)
            known = all(name in self._seen for name in names)
            every_s = LOOK_EVERY_S if known else LOOK_FOR_TOPICS_EVERY_S
            left_s = deadline - time.monotonic()
            if self._poll(max(0.0, min(every_s, left_s))):
                return True
            if left_s <= 0:
                return False
            if self._look(names):
                return True

    def _assign(self, names: Sequence[str]) -> None:
        wanted = {
            self._broker.name(f"{name}.frontier"): (name, self._seen[name][0])
            for name in names
            if name in self._seen
        }
        if wanted == self._assigned:
            return
        if self._consumer is None:
            self._consumer = self._broker.consumer(FETCH_WAIT_MS)
        places = [(topic, 0, self._seen[name][1]) for topic, (name, _) in wanted.items()]
        with kafka_errors(", ".join(names)):
            self._consumer.assign(places)
        self._assigned = wanted

    def _poll(self, timeout_s: float) -> bool:
        """Whether a record arrived; several that have arrived are one."""
        if self._consumer is None:
            time.sleep(timeout_s)
            return False
        news = [self._note(each) for each in self._consumer.take(timeout_s, stamped=False)]
        return any(news)

    def _note(self, arrived: Arrived) -> bool:
        """Whether that is news."""
        if arrived.error is not None or arrived.topic not in self._assigned:
            return False
        name, topic_id = self._assigned[arrived.topic]
        seen = self._seen[name][1]
        self._seen[name] = (topic_id, max(seen, arrived.next_offset))
        newest = arrived.records.values[-1].as_py()
        self.arrived[name] = Newest(topic_id, arrived.next_offset - 1, newest)
        return arrived.next_offset > seen

    def _look(self, names: Sequence[str]) -> bool:
        """Whether one of the topics has a record that was not told of."""
        moved = False
        for name in names:
            described = self._broker.describe(f"{name}.frontier")
            if described is None:
                continue
            (end,) = self._broker.end_offsets(f"{name}.frontier", 1)
            topic_id, seen = self._seen.get(name, ("", 0))
            if topic_id != described[0]:
                seen = 0
            # Behind every record stands its transaction's marker.
            moved |= end > seen + 1
            self._seen[name] = (described[0], max(end, seen))
        return moved

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
