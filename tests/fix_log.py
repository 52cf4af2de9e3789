"""Logs for tests, and the small tables that they carry.

log_config   function: a fresh log of every implementation (Kafka's, in both formats, need a
             server)
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdc.changes import ChangeBatch, D, R, concat
from cdc.config import Format, LogConfig
from cdc.frontiers import Frontier
from cdc.log.api import LogBatch, Reader, TopicSpec
from cdc.positions import Lsn, Vector
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

ORDERS = TableSchema(
    "public.orders",
    (
        Column("id", pa.int64(), "bigint", False, 1),
        Column("note", pa.string(), "text", True, 2),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)", True, 3),
        Column("rate", NUMERIC_TEXT, "numeric", True, 4),
        Column("at", pa.timestamp("us", "UTC"), "timestamp with time zone", True, 5),
    ),
    ("id",),
)
TOPIC = "shop.public.orders"
SPEC = TopicSpec(TOPIC, ORDERS)
OTHER = TopicSpec("shop.public.lines", ORDERS)


_ON_KAFKA = (pytest.mark.service, pytest.mark.xdist_group("kafka"))


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("avro", marks=_ON_KAFKA),
        pytest.param("json", marks=_ON_KAFKA),
    ]
)
def log_config(request: pytest.FixtureRequest, tmp_path: Path) -> LogConfig:
    if request.param == "embedded":
        return LogConfig("embedded", tmp_path)
    return kafka_config(request.getfixturevalue("kafka_bootstrap"), tmp_path, request.param)


def kafka_config(bootstrap_servers: str, folder: Path, form: Format = "avro") -> LogConfig:
    """A log on Kafka that shares the broker with others."""
    return LogConfig(
        "kafka",
        folder,
        bootstrap_servers=bootstrap_servers,
        topic_prefix=f"t{uuid.uuid4().hex[:8]}.",
        format=form,
    )


def told(log: LogConfig) -> dict[str, Any]:
    """A log's settings as JSON values, for another process; `heard` reads them there."""
    return {**asdict(log), "path": str(log.path)}


def heard(settings: dict[str, Any]) -> LogConfig:
    return LogConfig(**{**settings, "path": Path(settings["path"])})


def changes(
    ids: Sequence[int], *, op: int = R, note: str | None = "n", txn_seq: int = 0
) -> ChangeBatch:
    """One change per id; deletes have only their key."""
    count = len(ids)
    deleted = op == D
    notes = [None if deleted else note] * count
    amounts = pa.array([None if deleted else i for i in ids], pa.int64())
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array(ids, pa.int64()),
            pa.array(notes, pa.string()),
            amounts.cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2)),
            NUMERIC_TEXT.wrap_array(pa.array([None if deleted else "1.50"] * count, pa.string())),
            pa.array([None if deleted else i for i in ids], pa.timestamp("us", "UTC")),
        ],
        schema=ORDERS.arrow,
    )
    return ChangeBatch(
        ORDERS,
        np.full(count, op, np.uint8),
        np.full(count, txn_seq, np.int64),
        np.arange(count, dtype=np.int64),
        np.full(count, 1_700_000_000_000_000 + txn_seq, np.int64),
        rows,
    )


def frontier(number: int, *, whole: bool = True, name: str = "shop") -> Frontier:
    return Frontier(name, Vector.of({"shop": Lsn(number)}), txn_seq=number, whole=whole)


def read_all(
    reader: Reader, topic: str = TOPIC, end: Sequence[int] | None = None, max_rows: int = 65536
) -> list[LogBatch]:
    """Every batch of every partition, from offset zero to `end` (none: the topic's end)."""
    ends = reader.end_offsets(topic) if end is None else end
    return [
        batch
        for partition, stop in enumerate(ends)
        for batch in reader.read(topic, partition, 0, stop, max_rows)
    ]


def ids_of(batches: Sequence[LogBatch]) -> list[int]:
    return [i for batch in batches for i in batch.changes.rows.column("id").to_pylist()]


def notes_by_id(batches: Sequence[LogBatch]) -> dict[int, str]:
    """The table that the changes amount to."""
    table: dict[int, str] = {}
    filled = [batch.changes for batch in batches if batch.changes.num_rows]
    if not filled:
        return table
    joined = concat(filled)
    columns = (joined.op.tolist(), *(joined.rows.column(c).to_pylist() for c in ("id", "note")))
    for op, key, note in zip(*columns, strict=True):
        if op == D:
            table.pop(key, None)
        else:
            table[key] = note
    return table
