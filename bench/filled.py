"""A log with one topic, filled with rows that a benchmark makes, at once or at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, R
from cdc.config import LogConfig
from cdc.frontiers import Frontier
from cdc.log.api import Log, Producer, TopicSpec
from cdc.log.open import open_log
from cdc.positions import Lsn, Vector
from cdc.schema import TableSchema

FIRST_US = 1_700_000_000_000_000


class Filled:
    """The embedded log in `folder`, and the one producer of `topic` in it."""

    def __init__(self, folder: Path, producer: str, topic: str, schema: TableSchema) -> None:
        self.log: Log = open_log(LogConfig("embedded", folder))
        self._name, self._topic, self._schema = producer, topic, schema
        self._producer: Producer = self.log.producer(producer)
        self._producer.create_topics([TopicSpec(topic, schema)])
        self._number = 0

    def append(self, rows: pa.RecordBatch) -> None:
        """One transaction of the source."""
        number, count = self._number, rows.num_rows
        self._number += 1
        changes = ChangeBatch(
            self._schema,
            np.full(count, R, np.uint8),
            np.full(count, number, np.int64),
            np.arange(count, dtype=np.int64),
            np.full(count, FIRST_US + number, np.int64),
            rows,
        )
        position = Vector.of({"shop": Lsn(number + 1)})
        frontier = Frontier(self._name, position, number, FIRST_US + number)
        self._producer.append([(self._topic, changes)], [frontier])

    def close(self) -> None:
        self._producer.close()
        self.log.close()


def paced(count: int, per_s: float) -> Iterator[int]:
    """0, 1, …, each when it is due."""
    began_s = time.perf_counter()
    for i in range(count):
        time.sleep(max(0.0, began_s + i / per_s - time.perf_counter()))
        yield i
