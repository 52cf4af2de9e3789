"""The topic `cdc.schemas`: what must be known of schemas before other topics can be read.

One partition, compacted. Every record has a key of its own, so that compaction takes none away and
a record's offset can be its identity (SEMANTICS 17). A key is a JSON array that begins with the
record's kind; whoever reads passes over kinds that are not its own.

    ["avro", fingerprint, unique]   an Avro schema: cdc.log.topic_ids
    ["table", topic id, version]    a version of a topic's columns: cdc.log.kafka_tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdc.errors import LogDamaged, LogError
from cdc.log.kafka_client import (
    SCHEMAS,
    Broker,
)
from cdc.log.kafka_fetch import Fetcher
from cdc.log.kafka_send import send_now


@dataclass(frozen=True)
class SchemaRecord:
    """`key` begins with the record's kind."""

    offset: int
    key: tuple[Any, ...]
    value: Any


class SchemaTopic:
    """One reading of the topic for all who need it; for one thread. A cluster where nobody has
    written has no such topic, which reads as empty."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._fetcher = Fetcher(broker)
        self._topic_id = ""
        self._next = 0
        self._records: list[SchemaRecord] = []

    def records(self, after: int = 0) -> Sequence[SchemaRecord]:
        """Every committed record but the first `after`, in order. Costs one request when nothing
        was added. Raises LogError, and LogDamaged for a record that is not one of ours."""
        if self._found():
            self._read()
        return self._records[after:]

    def append(self, key: Sequence[Any], value: Any) -> int:
        """Write a record and return its offset; made is the topic, too, if nobody has. `key` must
        be of this record alone. Raises LogError."""
        if not self._found():
            self._broker.create(SCHEMAS, 1, {"cleanup.policy": "compact"})
        record = (json.dumps(key).encode(), json.dumps(value).encode())
        return send_now(self._broker, SCHEMAS, [record])

    def close(self) -> None:
        self._fetcher.close()

    def _read(self) -> None:
        (end,) = self._broker.end_offsets(SCHEMAS, 1)
        if end == self._next:
            return
        self._check_same()
        found = [
            self._parsed(offset, key, value)
            for records in self._fetcher.fetch(SCHEMAS, 0, self._next, end)
            for offset, key, value in zip(
                records.offsets.tolist(),
                records.keys.to_pylist(),
                records.values.to_pylist(),
                strict=True,
            )
        ]
        self._records += found
        self._next = end

    def _found(self) -> bool:
        """Whether the topic exists; once it does, no longer asked."""
        if not self._topic_id:
            self._topic_id = self._described()
        return bool(self._topic_id)

    def _described(self) -> str:
        """The topic's id; empty: there is none. Raises LogError when it cannot be ours."""
        found = self._broker.describe(SCHEMAS)
        if found is None:
            return ""
        if found[1] != 1:
            raise LogError(
                f"the topic has {found[1]} partitions; offsets are ids in one only",
                where=self._broker.name(SCHEMAS),
                hint="somebody else made it: delete it while it is empty, we make our own",
            )
        return found[0]

    def _check_same(self) -> None:
        """The ids in a topic that was made anew are other schemas'."""
        if self._described() != self._topic_id:
            raise LogDamaged(
                "the topic was deleted, or made anew, while it was in use",
                where=self._broker.name(SCHEMAS),
                hint="records in other topics name schemas that went with it: restore the topic",
            )

    def _parsed(self, offset: int, key: bytes | None, value: bytes | None) -> SchemaRecord:
        try:
            return SchemaRecord(offset, tuple(json.loads(key or b"")), json.loads(value or b""))
        except (ValueError, TypeError) as error:
            raise LogDamaged(
                "a record that is not one of ours",
                where=f"{self._broker.name(SCHEMAS)}/0/{offset}",
                hint="only cdc-views may write to this topic",
            ) from error
