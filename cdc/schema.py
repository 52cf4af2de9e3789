"""What a table's rows look like: columns, their types, the key, the version.

A column has two types. `sql_type` is what it is: a Postgres type in Postgres's own spelling
(`numeric(12,2)`, `timestamp with time zone`, `uuid`, `text[]`); views type their expressions by it
and stores derive theirs from it. `type` is how its values travel, in Arrow:

    smallint, integer, bigint, oid       int16, int32, int64, int64
    real, double precision               float32, float64
    numeric(p <= 38, s >= 0)             decimal128(p, s)
    any other numeric                    NUMERIC_TEXT: canonical text, scale, NaN and ±Infinity kept
    boolean                              bool
    text, varchar, char(n), name, enum,
    json, jsonb, uuid, interval, and
    every type not listed                string, as Postgres prints it
    bytea                                binary
    date                                 date32; ±infinity is ±(2^31 - 1)
    time                                 time64[us]
    timestamp, timestamptz               timestamp[us], timestamp[us, UTC]; ±infinity is ±(2^63 - 1)
    T[] declared with one dimension      list<T>

The infinities are DuckDB's own, so that batches pass to it unchanged.
A schema version belongs to a frontier (SEMANTICS 13): readers fill a column that a stored batch
lacks with the column's `missing` value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa


class NumericText(pa.ExtensionType):
    """NUMERIC without a scale, or wider than 38 digits: its canonical text (SEMANTICS 24)."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "cdc.numeric")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> NumericText:
        return cls()

    def __hash__(self) -> int:
        return hash(self.extension_name)


NUMERIC_TEXT = NumericText()
pa.register_extension_type(NUMERIC_TEXT)

DATE_INFINITY = 2**31 - 1
TIMESTAMP_INFINITY = 2**63 - 1


@dataclass(frozen=True)
class Column:
    """One column.

    `attnum` is the source's stable identity of the column (Postgres: pg_attribute.attnum; 0 in a
    view). `missing` is the text of the value that records older than the column have; None: NULL.
    `native` is the type as the source describes it, where `sql_type` does not say all of it.
    """

    name: str
    type: pa.DataType
    sql_type: str
    nullable: bool = True
    attnum: int = 0
    missing: str | None = None
    native: str = ""


@dataclass(frozen=True)
class TableSchema:
    """One version of a table's columns. `name` is `schema.table`, or a view's name.

    `key` names the columns of the topic's key, in key order; empty: the one-row key `[]`.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: int = 1

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of the rows: every field nullable, since a delete has only its key."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.column(name) for name in self.key)

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def only(self, names: Collection[str]) -> TableSchema:
        """The schema with these columns alone, in its own order; the key must be among them."""
        return replace(self, columns=tuple(c for c in self.columns if c.name in names))

    def fingerprint(self) -> str:
        """A digest of everything except the version."""
        body = self.to_json()
        del body["version"]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON values; `from_json` reads it back equal."""
        return {
            "name": self.name,
            "version": self.version,
            "key": list(self.key),
            "columns": [
                {
                    "name": c.name,
                    "type": type_name(c.type),
                    "sql_type": c.sql_type,
                    "nullable": c.nullable,
                    "attnum": c.attnum,
                    "missing": c.missing,
                    **({"native": c.native} if c.native else {}),
                }
                for c in self.columns
            ],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TableSchema:
        columns = tuple(
            Column(
                c["name"],
                type_named(c["type"]),
                c["sql_type"],
                c["nullable"],
                c["attnum"],
                c["missing"],
                c.get("native", ""),
            )
            for c in body["columns"]
        )
        return cls(body["name"], columns, tuple(body["key"]), body["version"])


_PLAIN: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "numeric": NUMERIC_TEXT,
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
_NAMES = {kind: name for name, kind in _PLAIN.items()}


def type_name(kind: pa.DataType) -> str:
    """The stored spelling of a travelling type: `int64`, `decimal(12,2)`, `list<string>`."""
    if pa.types.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return _NAMES[kind]


def type_named(name: str) -> pa.DataType:
    """The inverse of `type_name`."""
    if name.startswith("decimal("):
        precision, scale = name[8:-1].split(",")
        return pa.decimal128(int(precision), int(scale))
    if name.startswith("list<"):
        return pa.list_(type_named(name[5:-1]))
    return _PLAIN[name]
