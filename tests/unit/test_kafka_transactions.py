"""Transaction metadata: Debezium's schemas as it wrote them (golden_debezium/transactions.json),
and every place and count against plain Python, however transactions are cut into appends."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.changes import C, ChangeBatch, D, R, U
from cdc.formats.connect_schema import connect_json
from cdc.formats.debezium_schema import Options
from cdc.formats.envelope import Origin
from cdc.formats.records import Avro, Json, envelope_records
from cdc.log import kafka_transactions
from cdc.log.kafka_transactions import (
    KEY_SCHEMA,
    VALUE_SCHEMA,
    Described,
    OpenTransaction,
    avro_schemas,
    described,
    reopened,
)
from cdc.schema import Column, TableSchema

GOLDEN = json.loads((Path(__file__).parent / "golden_debezium/transactions.json").read_text())
RECORDED = GOLDEN["topics"]["shop.transaction"]
COLUMNS = (Column("id", pa.int64(), "bigint", False, 1),)
TABLES = {name: TableSchema(name, COLUMNS, ("id",)) for name in ("public.a", "public.b", "other.c")}
COMMIT_US = 1_700_000_000_000_000
HEADER = 5

Row = tuple[str, int, int, int]
"""(table, txn_seq, ordinal, op)"""


def batch(table: str, rows: Sequence[Row]) -> tuple[str, ChangeBatch]:
    numbers = np.array([row[1] for row in rows], np.int64)
    changes = ChangeBatch(
        TABLES[table],
        np.array([row[3] for row in rows], np.uint8),
        numbers,
        np.array([row[2] for row in rows], np.int64),
        COMMIT_US + numbers * 1000,
        pa.RecordBatch.from_arrays([pa.array(range(len(rows)), pa.int64())], names=["id"]),
    )
    return f"shop.{table}", changes


def batches_of(rows: Sequence[Row], cuts: Sequence[int] = ()) -> list[tuple[str, ChangeBatch]]:
    """The rows by table, each table's in batches of the sizes `cuts`, then the rest."""
    found = []
    for table in TABLES:
        mine = [row for row in rows if row[0] == table]
        for size in cuts:
            if mine[:size]:
                found.append(batch(table, mine[:size]))
            mine = mine[size:]
        if mine:
            found.append(batch(table, mine))
    return found


@dataclass
class Reference:
    """Debezium's TransactionMonitor, one event after the other."""

    blocks: dict[tuple[int, int], dict[str, Any] | None] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    open: int | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def change(self, row: Row) -> None:
        table, number, ordinal, op = row
        if op == R:
            self.blocks[number, ordinal] = None
            return
        if number != self.open:
            self.end()
            self.open, self.counts = number, Counter()
            self.events.append(self._event("BEGIN", None, None))
        self.counts[table] += 1
        self.blocks[number, ordinal] = {
            "id": str(number),
            "total_order": self.counts.total(),
            "data_collection_order": self.counts[table],
        }

    def complete(self, number: int) -> None:
        if self.open is not None and self.open <= number:
            self.end()

    def end(self) -> None:
        if self.open is not None:
            tables = [
                {"data_collection": name, "event_count": count}
                for name, count in sorted(self.counts.items())
            ]
            self.events.append(self._event("END", self.counts.total(), tables))
        self.open = None

    def _event(self, status: str, count: int | None, tables: Any) -> dict[str, Any]:
        assert self.open is not None
        ts_ms = COMMIT_US // 1000 + self.open
        return {
            "status": status,
            "id": str(self.open),
            "event_count": count,
            "data_collections": tables,
            "ts_ms": ts_ms,
        }


def blocks_of(
    batches: Sequence[tuple[str, ChangeBatch]], found: Described
) -> dict[tuple[int, int], dict[str, Any] | None]:
    """Every change's transaction block, as it stands in the envelopes."""
    blocks = {}
    for (topic, changes), details in zip(batches, found.details, strict=True):
        origin = Origin("shop", "db", "1")
        records = envelope_records(changes, topic, Json(), Options(), origin, 0, details)
        values = [json.loads(value) for value in records.values.to_pylist() if value]
        for at, value in zip(
            zip(changes.txn_seq.tolist(), changes.ordinal.tolist(), strict=True),
            values,
            strict=True,
        ):
            blocks[at] = value["transaction"]
    return blocks


def events_of(found: Described) -> list[dict[str, Any]]:
    keys, values = found.events.encoded(Json())
    bodies = [json.loads(value) for value in values.to_pylist()]
    assert [json.loads(key) for key in keys.to_pylist()] == [{"id": b["id"]} for b in bodies]
    return bodies


transactions = st.lists(
    st.lists(st.tuples(st.sampled_from(list(TABLES)), st.sampled_from([C, U, D, R])), max_size=7),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(transactions, st.integers(0, 5), st.data())
def test_every_place_and_count(
    history: list[list[tuple[str, int]]], first: int, data: st.DataObject
) -> None:
    rows = [
        (table, first + number, ordinal, op)
        for number, transaction in enumerate(history)
        for ordinal, (table, op) in enumerate(transaction)
    ]
    newest = first + len(history) - 1
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=5)) | {len(rows)})
    reference = Reference()
    open_: OpenTransaction | None = None
    blocks: dict[tuple[int, int], dict[str, Any] | None] = {}
    events: list[dict[str, Any]] = []
    published: list[tuple[str, ChangeBatch]] = []
    start = 0
    for stop in cuts:
        appended = rows[start:stop]
        start = stop
        begun = {row[1] for row in rows[stop:]}
        complete = min(begun) - 1 if begun else newest
        batches = batches_of(appended, data.draw(st.lists(st.integers(1, 3), max_size=2)))
        for row in appended:
            reference.change(row)
        reference.complete(complete)
        if data.draw(st.booleans(), "crashed"):
            covered = complete_before(rows, start - len(appended), first)
            open_ = reopened(published, covered)
        found = described(batches, complete, open_)
        open_ = found.open
        published += batches
        blocks |= blocks_of(batches, found)
        events += events_of(found)
    assert blocks == reference.blocks
    assert events == reference.events
    assert open_ is None


def complete_before(rows: Sequence[Row], stop: int, first: int) -> int:
    """The newest transaction that had ended when rows[:stop] were published."""
    later = [row[1] for row in rows[stop:]]
    return min(later) - 1 if later else max((row[1] for row in rows), default=first - 1)


def test_many_rows_at_once() -> None:
    """Above the sizes at which Arrow and numpy take over."""
    names = list(TABLES)
    rows = [(names[(n // 3) % 3], n // 7, n % 7, R if n % 11 == 0 else U) for n in range(5000)]
    reference = Reference()
    for row in rows:
        reference.change(row)
    batches = batches_of(rows, [1000])
    found = described(batches, 700)
    assert blocks_of(batches, found) == reference.blocks
    assert events_of(found) == reference.events
    assert found.open == OpenTransaction(714, COMMIT_US + 714_000, dict(reference.counts))
    reference.end()
    last = described([], 714, found.open)
    assert events_of(last) == reference.events[-1:] and last.open is None


def test_schemas_are_debeziums() -> None:
    assert connect_json(KEY_SCHEMA) == RECORDED["key_schema"]
    assert connect_json(VALUE_SCHEMA) == RECORDED["value_schema"]
    writer = avro_schemas()
    assert json.loads(writer.key) == RECORDED["key_avro_schema"]
    assert json.loads(writer.value) == RECORDED["value_avro_schema"]


def test_events_are_debeziums() -> None:
    """The recorded transactions again; only ids differ (Debezium's END has another than its
    BEGIN), and with them the keys."""
    recorded = [json.loads(record["value"]) for record in RECORDED["records"]]
    tables = {
        name: TableSchema(name, COLUMNS, ("id",))
        for value in recorded
        for name in [c["data_collection"] for c in value["data_collections"] or ()]
    }
    events: list[dict[str, Any]] = []
    for number, end in enumerate(recorded[1::2]):
        ((name, count),) = (
            (c["data_collection"], c["event_count"]) for c in end["data_collections"]
        )
        zeros = np.zeros(count, np.int64)
        ids = pa.RecordBatch.from_arrays([pa.array(range(count), pa.int64())], names=["id"])
        changes = ChangeBatch(
            tables[name], np.full(count, U, np.uint8), zeros + number, np.arange(count),
            zeros + end["ts_ms"] * 1000, ids,
        )  # fmt: skip
        events += events_of(described([(f"shop.{name}", changes)], number))
    assert [{**e, "id": r["id"]} for e, r in zip(events, recorded, strict=True)] == recorded


def test_events_in_avro() -> None:
    rows = [("public.a", 1, 0, C), ("public.b", 1, 1, D), ("public.a", 2, 0, U)]
    found = described(batches_of(rows), 2)
    keys, values = found.events.encoded(Avro(7, 8))
    writer = avro_schemas()
    for texts, schema, number in ((keys, writer.key, 7), (values, writer.value, 8)):
        parsed = fastavro.parse_schema(json.loads(schema))
        read = []
        for data in texts.to_pylist():
            assert data[:HEADER] == b"\0" + number.to_bytes(4, "big")
            read.append(fastavro.schemaless_reader(io.BytesIO(data[HEADER:]), parsed, None))
        wanted = events_of(found)
        assert read == (wanted if number == 8 else [{"id": e["id"]} for e in wanted])


def test_the_topic() -> None:
    assert kafka_transactions.topic_name("shop") == "shop.transaction"
