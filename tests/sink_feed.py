"""A real embedded log, filled through the Producer API with changes that a test invents."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D, R, U
from cdc.config import Config, LogConfig, Place, SinkConfig, SourceConfig, StateConfig
from cdc.frontiers import Frontier
from cdc.log.api import Log, Producer, TopicSpec
from cdc.log.open import open_log
from cdc.positions import Lsn, Vector
from cdc.schema import Column, TableSchema
from sinks.api import InputChanges, SinkCut, SinkInput, SinkPosition
from sinks.chunks import Limits
from sinks.delivery import deliver
from sinks.part import PART, feed_of, status_file
from sinks.progress import Progress
from sinks.stores import sink_of

PLACE = Place("connectors.yaml", 1, 1)

Row = Mapping[str, Any]


def table(
    name: str, *columns: Column, key: Sequence[str] = ("id",), version: int = 1
) -> TableSchema:
    return TableSchema(name, columns, tuple(key), version)


ITEMS = table(
    "public.items",
    Column("id", pa.int64(), "bigint", nullable=False),
    Column("name", pa.string(), "text"),
    Column("amount", pa.int32(), "integer"),
)
SOURCE = SinkInput("shop.items", "shop.public.items", ITEMS)
SUMS = table(
    "public.sums",
    Column("id", pa.int64(), "bigint", nullable=False),
    Column("total", pa.int64(), "bigint"),
)


@dataclass(frozen=True)
class StoreCase:
    """An empty store of some kind, as the YAML would name it; `prefix` keeps tests apart."""

    kind: Literal["duckdb", "sqlite", "postgres", "elasticsearch", "redis"]
    url: str
    prefix: str = ""

    @property
    def type(self) -> Literal["sql", "elasticsearch", "redis"]:
        match self.kind:
            case "elasticsearch" | "redis":
                return self.kind
        return "sql"

    def options(self, schema: TableSchema) -> dict[str, Any]:
        """The least that a sink of this kind needs for rows of `schema`."""
        name = self.prefix + schema.name.rpartition(".")[2]
        if self.kind == "elasticsearch":
            return {"index": name}
        if self.kind == "redis":
            return {"key": ":".join([name, *(f"{{{column}}}" for column in schema.key)])}
        return {}


def config_for(folder: Path, store: StoreCase, schema: TableSchema, **options: Any) -> Config:
    """One source `shop`, one sink `warehouse` of one table; everything under `folder`."""
    name = "shop." + schema.name.removeprefix("public.")
    settings = {**store.options(schema), **options}
    return config_of(folder, store.url, [name], store.type, **settings)


def config_of(
    folder: Path,
    url: str,
    inputs: Sequence[str],
    type_: Literal["sql", "elasticsearch", "redis"] = "sql",
    **options: Any,
) -> Config:
    """One source `shop`, one sink `warehouse`; everything under `folder`."""
    source = SourceConfig("shop", "postgres", "", ("public.*",), "initial", "s", "p", PLACE)
    sink = SinkConfig("warehouse", type_, url, tuple(inputs), PLACE, options)
    return Config(
        folder / "connectors.yaml",
        LogConfig("embedded", folder / "log"),
        StateConfig(folder / "state"),
        {"shop": source},
        {},
        {"warehouse": sink},
    )


def changes(
    schema: TableSchema, ops: Sequence[int], rows: pa.RecordBatch, txn_seq: int
) -> ChangeBatch:
    count = rows.num_rows
    return ChangeBatch(
        schema,
        np.array(ops, np.uint8),
        np.full(count, txn_seq, np.int64),
        np.arange(count, dtype=np.int64),
        np.full(count, 1_700_000_000_000_000 + txn_seq, np.int64),
        rows,
    )


class Shop:
    """The source `shop`: each `commit` is a transaction over its tables, with its frontier."""

    def __init__(self, config: Config, *schemas: TableSchema) -> None:
        self.log: Log = open_log(config.log)
        self.schemas = {schema.name: schema for schema in schemas}
        self.producer: Producer = self.log.producer("shop")
        self.producer.create_topics([TopicSpec(f"shop.{s.name}", s) for s in schemas])
        newest = self.log.reader().newest_frontier("shop")
        self.txn = -1 if newest is None else newest.txn_seq
        self.live: dict[int, dict[str, Any]] = {}

    def commit(self, *work: tuple[str, Sequence[int], pa.RecordBatch]) -> Vector:
        """Append one transaction: (table, ops, rows) each; the position it reaches."""
        self.txn += 1
        batches = [
            (f"shop.{name}", changes(self.schemas[name], ops, rows, self.txn))
            for name, ops, rows in work
        ]
        position = Vector.of({"shop": Lsn(self.txn + 1)})
        frontier = Frontier(
            "shop",
            position,
            self.txn,
            1_700_000_000_000_000 + self.txn,
            schema_versions={f"shop.{name}": s.version for name, s in self.schemas.items()},
        )
        self.producer.append(batches, [frontier])
        return position

    def put(self, name: str, rows: Sequence[Row], op: int = U) -> Vector:
        batch = pa.RecordBatch.from_pylist(list(rows), schema=self.schemas[name].arrow)
        return self.commit((name, [op] * len(rows), batch))

    def delete(self, name: str, rows: Sequence[Row]) -> Vector:
        return self.put(name, rows, D)

    def load(self, name: str, rows: pa.RecordBatch) -> Vector:
        return self.commit((name, [R] * rows.num_rows, rows))

    def close(self) -> None:
        self.producer.close()
        self.log.close()


def until(stop_when: Callable[[], bool], timeout_s: float = 60.0) -> Callable[[], bool]:
    """A `Stop` that says yes once `stop_when()` holds; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s

    def stop() -> bool:
        if stop_when():
            return True
        assert time.monotonic() < deadline, "the sink did not get there in time"
        return False

    return stop


def run_until(config: Config, shop: Shop, position: Vector, limits: Limits | None = None) -> None:
    """Deliver until the store has reached `position`."""
    file = status_file(config, "warehouse")
    progress = Progress("warehouse", shop.log, file, record_every_s=0)

    def reached() -> bool:
        said = PART.status(config, "warehouse") if file.exists() else {}
        return bool(said.get("chunk") == 0 and Vector.parse(said["position"]).covers(position))

    file.unlink(missing_ok=True)
    with closing(sink_of(config, "warehouse")) as sink:
        deliver(sink, feed_of(config, "warehouse"), shop.log, until(reached), progress, limits)


def stored(config: Config, schema: TableSchema = ITEMS, name: str = "shop.items") -> list[Any]:
    """The store's rows in key order, as Python values."""
    batches = list(PART.rows(config, "warehouse", name, schema))
    rows = pa.Table.from_batches(batches, schema=schema.arrow).to_pylist()
    return sorted(rows, key=lambda row: [str(row[k]) for k in schema.key])


def item(number: int, name: str | None = "x", amount: int | None = 0) -> dict[str, Any]:
    return {"id": number, "name": name, "amount": amount}


def batch_of(rows: Sequence[dict[str, Any]], schema: TableSchema = ITEMS) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=schema.arrow)


def cut(upserts: list[dict[str, Any]], deletes: list[int], offset: int, **more: Any) -> SinkCut:
    """A cut whose records all stand at `offset`; the next one begins behind it."""
    changes = InputChanges(
        SOURCE,
        batch_of(upserts),
        batch_of([item(number) for number in deletes]).select(["id"]),
        np.full(len(upserts), offset, np.int64),
        np.full(len(deletes), offset, np.int64),
    )
    position = SinkPosition(
        Vector.of({"shop": Lsn(offset + 1)}), {SOURCE.topic: (offset + 1,)}, {SOURCE.topic: "g"}
    )
    return SinkCut((changes,), position, **more)


def no_letters(letters: Any) -> None:
    raise AssertionError(letters)
