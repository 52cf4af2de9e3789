"""A change batch as the columns of Debezium's envelope.

    before         the old row where the source sent one; of a delete without one, its key
    after          the new row; null for a delete
    source         where it comes from: connector, database, table; commit time; `sequence`
    transaction    as with `provide.transaction.metadata`, where the caller knows it
    op             c, u, d, r
    ts_ms, ts_us, ts_ns   when the envelope was made

Our own position travels in `source.sequence`, which Debezium defines as JSON text by which the
connector's events can be ordered (cdc/formats/sequence.py). So our topics have no field that
Debezium's lack, and a reader of ours gets back exactly what was appended.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import ChangeBatch, D, R
from cdc.formats import sequence
from cdc.formats.connect_values import Constant, Structs, Values, to_connect
from cdc.formats.debezium_schema import MYSQL, POSTGRES, Options, TopicSchemas, field_name
from cdc.ragged import Bools, Int64s
from cdc.schema import TableSchema

_TRAILING_ZEROS = r"(\.\d*?)0+$"


@dataclass(frozen=True)
class Origin:
    """What the source block says of every record: our version, the source's name, its database."""

    name: str
    database: str
    version: str
    connector: str = POSTGRES


@dataclass(frozen=True, eq=False)
class Details:
    """What a caller may know beyond the change batch, one entry per change. A change without
    transaction_id has no transaction block."""

    tx_id: Int64s | None = None
    lsn: Int64s | None = None
    transaction_id: pa.Array | None = None
    total_order: Int64s | None = None
    data_collection_order: Int64s | None = None

    def slice(self, start: int, length: int) -> Details:
        """The details of some neighbouring changes."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return Details(
            **{n: None if v is None else v[start : start + length] for n, v in found.items()}
        )


NO_DETAILS = Details()


def key_values(changes: ChangeBatch, schemas: TopicSchemas, options: Options) -> Structs:
    """The keys of all changes. Values that are equal give equal bytes, or compaction would keep
    both: numeric without trailing zeros, one zero and one NaN among floats."""
    table, rows = changes.schema, changes.rows
    fields: dict[str, Values] = {}
    for column in table.key_columns:
        name = field_name(column, options)
        canonical = _canonical(rows.column(column.name))
        fields[name] = to_connect(canonical, column, schemas.key.field(name))
    return Structs(fields)


def _canonical(column: pa.Array) -> pa.Array:
    if isinstance(column.type, pa.ExtensionType):
        short = pc.replace_substring_regex(column.storage, _TRAILING_ZEROS, r"\1")
        whole = pc.replace_substring_regex(short, r"\.$", "")
        return column.type.wrap_array(whole)
    if pa.types.is_floating(column.type):
        nan = pa.scalar(float("nan"), column.type)
        return pc.if_else(pc.is_nan(column), nan, pc.add(column, pa.scalar(0.0, column.type)))
    return column


def row_values(
    rows: pa.RecordBatch, table: TableSchema, schemas: TopicSchemas, options: Options
) -> dict[str, Values]:
    """The columns of rows as the fields of the Value struct."""
    found: dict[str, Values] = {}
    for column, values in zip(table.columns, rows.columns, strict=True):
        name = field_name(column, options)
        found[name] = to_connect(values, column, schemas.row.field(name))
    return found


def envelope_values(
    changes: ChangeBatch,
    schemas: TopicSchemas,
    options: Options,
    origin: Origin,
    now_us: int,
    details: Details = NO_DETAILS,
) -> Structs:
    """The envelopes of all changes, with `now_us` as the time at which they were made."""
    deleted = changes.op == D
    row = row_values(changes.rows, changes.schema, schemas, options)
    after = Structs(row, ~deleted if ragged.some(deleted) else None)
    return Structs(
        {
            "before": _before(changes, row, schemas, options),
            "after": after,
            "source": _source(changes, origin, details),
            "transaction": _transaction(details),
            "op": _letters(changes.op),
            "ts_ms": Constant(now_us // 1000),
            "ts_us": Constant(now_us),
            "ts_ns": Constant(now_us * 1000),
        }
    )


def _before(
    changes: ChangeBatch, row: dict[str, Values], schemas: TopicSchemas, options: Options
) -> Values:
    deleted: Bools = changes.op == D
    if options.required == "declared":
        # The key alone would not be a row.
        deleted = np.zeros(len(deleted), np.bool_)
    here = changes.has_before
    if changes.before is None or here is None or not ragged.some(here):
        return Structs(row, deleted) if ragged.some(deleted) else Constant(None)
    count = changes.num_rows
    place = pa.array(np.where(here, 0, count) + np.arange(count))
    columns = [
        pa.concat_arrays([old, new]).take(place)
        for old, new in zip(changes.before.columns, changes.rows.columns, strict=True)
    ]
    old_rows = pa.RecordBatch.from_arrays(columns, schema=changes.schema.arrow)
    return Structs(row_values(old_rows, changes.schema, schemas, options), here | deleted)


def _source(changes: ChangeBatch, origin: Origin, details: Details) -> Structs:
    mysql = origin.connector == MYSQL
    schema, _, table = changes.schema.name.partition(".")
    ts_ms, ts_us, ts_ns = _times(changes.commit_us)
    return Structs(
        {
            "version": Constant(origin.version),
            "connector": Constant(origin.connector),
            "name": Constant(origin.name),
            "ts_ms": ts_ms,
            "snapshot": _snapshot(changes),
            "db": Constant(schema if mysql else origin.database),
            "sequence": sequence.written(changes.txn_seq, changes.ordinal, changes.schema.version),
            "ts_us": ts_us,
            "ts_ns": ts_ns,
            **(_mysql(table) if mysql else _postgres(schema, table, details)),
        }
    )


def _postgres(schema: str, table: str, details: Details) -> dict[str, Values]:
    null = Constant(None)
    return {
        "schema": Constant(schema),
        "table": Constant(table),
        "txId": null if details.tx_id is None else pa.array(details.tx_id),
        "lsn": null if details.lsn is None else pa.array(details.lsn),
        "xmin": null,
        "origin": null,
        "origin_lsn": null,
    }


def _mysql(table: str) -> dict[str, Values]:
    """The place in the binlog is that of a snapshot's rows in Debezium: the log has one for a whole
    frontier, and what orders changes is `sequence`."""
    null = Constant(None)
    return {
        "table": Constant(table),
        "server_id": Constant(0),
        "gtid": null,
        "file": Constant(""),
        "pos": Constant(0),
        "row": Constant(0),
        "thread": null,
        "query": null,
    }


def _times(at_us: Int64s) -> tuple[Values, Values, Values]:
    """As milliseconds, microseconds, nanoseconds."""
    if ragged.same(at_us):
        only_us = int(at_us[0])
        return Constant(only_us // 1000), Constant(only_us), Constant(only_us * 1000)
    return pa.array(at_us // 1000), pa.array(at_us), pa.array(at_us * 1000)


def _snapshot(changes: ChangeBatch) -> Values:
    read = changes.op == R
    if not ragged.some(read):
        return Constant("false")
    if ragged.every(read):
        return Constant("true")
    return pc.if_else(pa.array(read), "true", "false")


def _transaction(details: Details) -> Values:
    if details.transaction_id is None:
        return Constant(None)
    orders = {
        "total_order": details.total_order,
        "data_collection_order": details.data_collection_order,
    }
    ids = details.transaction_id
    fields: dict[str, Values] = {"id": ids}
    fields |= {name: pa.array(order) for name, order in orders.items()}
    return Structs(fields, np.asarray(ids.is_valid()) if ids.null_count else None)


def _letters(op: ragged.Bytes) -> Values:
    if ragged.same(op):
        return Constant(chr(op[0]))
    return ragged.strings_of(np.ascontiguousarray(op), np.ones(len(op), np.int64), None)
