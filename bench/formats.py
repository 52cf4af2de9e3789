"""Kafka's formats (cdc/formats/), one core, everything in memory; no broker.

The table is that of bench/decode.py: 8 columns, about 150 bytes a row in Postgres. A message is
Debezium's whole envelope, its key beside it: 283 bytes of Avro, 674 of JSON, 3.7 KB with schemas.
Times are the processor's (process_time), so that a neighbour does not count. Beside them stands
fastavro, one message at a time.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from bench.decode import SCHEMA
from bench.json import table
from bench.measure import Figure
from cdc.changes import C, ChangeBatch
from cdc.formats import json_envelope, murmur2
from cdc.formats.debezium_schema import Options
from cdc.formats.envelope import Origin
from cdc.formats.records import (
    Avro,
    Form,
    Json,
    Records,
    avro_schemas,
    envelope_records,
    read_avro_envelopes,
)

ROWS = 16_384
REPEAT = 5
TOPIC = "shop.public.bench_orders"
ORIGIN = Origin("shop", "postgres", "0.1.0")
NOW_US = 1_795_258_035_800_356
FORMS: dict[str, Form] = {
    "Avro": Avro(1, 2),
    "JSON": Json(),
    "JSON with schemas": Json(schemas=True),
}


def main() -> None:
    pa.set_cpu_count(1)
    changes = batch(ROWS)
    for name, form in FORMS.items():
        records = written(changes, form)
        assert read(records, form).rows.equals(changes.rows)
        size = len(records.values[0].as_py())
        target = {"Avro": ("≥ 1M", "≥ 500k")}.get(name, ("", ""))
        rate(f"changes → {name} ({size} bytes)", partial(written, changes, form), target[0])
        rate(f"changes ← {name}", partial(read, records, form), target[1])
        one = batch(1)
        few = written(one, form)
        single(f"1 change → {name}", partial(written, one, form), "< 300 µs")
        single(f"1 change ← {name}", partial(read, few, form), "< 300 µs")
    keys = written(changes, FORMS["Avro"]).keys
    rate("keys → partitions", lambda: murmur2.partitions(keys, 12))
    fastavros(changes)


def batch(count: int) -> ChangeBatch:
    numbers = np.arange(count)
    commit_us = numbers * 1000 + NOW_US
    op = np.full(count, C, np.uint8)
    return ChangeBatch(SCHEMA, op, numbers // 10, numbers % 10, commit_us, table(count))


def written(changes: ChangeBatch, form: Form) -> Records:
    return envelope_records(changes, TOPIC, form, Options(), ORIGIN, NOW_US)


def read(records: Records, form: Form) -> ChangeBatch:
    if isinstance(form, Avro):
        return read_avro_envelopes(records.keys, records.values, WRITER, SCHEMA).changes
    found = json_envelope.read_envelopes(records.keys, records.values, lambda _: SCHEMA, Options())
    rows = pa.Table.from_batches([piece.changes.rows for piece in found]).combine_chunks()
    first = found[0].changes
    return ChangeBatch(
        SCHEMA, first.op, first.txn_seq, first.ordinal, first.commit_us, rows.to_batches()[0]
    )


def fastavros(changes: ChangeBatch) -> None:
    schema = fastavro.parse_schema(json.loads(WRITER.value))
    messages = [value[5:] for value in written(changes, FORMS["Avro"]).values.to_pylist()[:2000]]
    envelopes = [one_read(message, schema) for message in messages]
    rate(
        "fastavro, one envelope at a time: writing",
        lambda: one_by_one(envelopes, schema),
        rows=2000,
    )
    rate(
        "fastavro, one envelope at a time: reading",
        lambda: [one_read(message, schema) for message in messages],
        rows=2000,
    )


def one_read(message: bytes, schema: Any) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(message), schema, None)


def one_by_one(envelopes: list[Any], schema: Any) -> None:
    for envelope in envelopes:
        fastavro.schemaless_writer(io.BytesIO(), schema, envelope)


def rate(name: str, run: Callable[[], object], target: str = "", rows: int = ROWS) -> None:
    run()
    rates = tuple(rows * REPEAT / taken_s(run, REPEAT) for _ in range(3))
    print(Figure(name, "rows/s", rates, target), flush=True)


def single(name: str, run: Callable[[], object], target: str) -> None:
    run()
    times = 300
    runs = tuple(taken_s(run, times) / times * 1e6 for _ in range(3))
    print(Figure(name, "µs", runs, target), flush=True)


def taken_s(run: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        run()
    return time.process_time() - began


WRITER = avro_schemas(TOPIC, SCHEMA, Options())

if __name__ == "__main__":
    main()
