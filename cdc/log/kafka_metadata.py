"""The topic `<source>.transaction`, written in the transactions of its source's producer.

What stands in it is decided in cdc/log/kafka_transactions.py. Like Debezium's it is not compacted:
what is older than the broker's retention is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cdc.changes import ChangeBatch
from cdc.formats.records import Avro, Form, Json, Records
from cdc.frontiers import Frontier
from cdc.log.api import Reader
from cdc.log.kafka_client import Broker
from cdc.log.kafka_records import TopicForm
from cdc.log.kafka_send import Sender
from cdc.log.kafka_transactions import (
    Described,
    OpenTransaction,
    avro_schemas,
    described,
    reopened,
    topic_name,
)
from cdc.log.schema_ids import SchemaIds


class TransactionTopic:
    """One producer's. `committed` is told what `describe` gave when its append has succeeded."""

    def __init__(
        self, broker: Broker, ids: SchemaIds, name: str, form: TopicForm, reader: Reader
    ) -> None:
        self._topic = broker.name(topic_name(name))
        newest = reader.newest_frontier(name)
        self._complete = newest.txn_seq if newest is not None else -1
        self._open: OpenTransaction | None = None
        if newest is not None and not newest.whole:
            self._open = reopened(_behind(reader, name, newest), self._complete)
        broker.create(topic_name(name), 1, {"cleanup.policy": "delete"})
        self._form = _form(self._topic, ids, form)

    def describe(
        self, batches: Sequence[tuple[str, ChangeBatch]], frontiers: Sequence[Frontier]
    ) -> Described:
        self._complete = max([self._complete, *(frontier.txn_seq for frontier in frontiers)])
        return described(batches, self._complete, self._open)

    def send(self, sender: Sender, found: Described) -> None:
        keys, values = found.events.encoded(self._form)
        if len(keys):
            sender.send(self._topic, Records(keys, values, np.arange(len(keys))), 1)

    def committed(self, found: Described) -> None:
        self._open = found.open


def _form(topic: str, ids: SchemaIds, form: TopicForm) -> Form:
    if form.format == "json":
        return Json(form.schemas)
    schemas = avro_schemas()
    key_id = ids.register(f"{topic}-key", schemas.key)
    return Avro(key_id, ids.register(f"{topic}-value", schemas.value))


def _behind(reader: Reader, name: str, frontier: Frontier) -> Iterator[tuple[str, ChangeBatch]]:
    """The changes beyond the newest whole frontier."""
    for topic in reader.topics():
        if topic.startswith(f"{name}."):
            ends = reader.end_offsets(topic)
            starts = frontier.end_offsets.get(topic, (0,) * len(ends))
            for partition, (start, end) in enumerate(zip(starts, ends, strict=True)):
                for batch in reader.read(topic, partition, start, end):
                    yield topic, batch.changes
