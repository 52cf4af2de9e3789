"""What SqlSink needs of one SQL store: a session of one transaction.

SqlSink (sinks.sql) knows the order of things: fence, tables, rows, position. A Store knows one
database: how it connects, spells types, and loads Arrow batches in bulk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from cdc.schema import Column
from sinks.api import QueryResult
from sinks.sql.targets import Target


@dataclass(frozen=True)
class Belongings:
    """What a table of another name gets from one that gives its name away, as statements: `take`
    is run before the change of names, `give` after it."""

    take: tuple[str, ...] = ()
    give: tuple[str, ...] = ()


class Session(Protocol):
    """One transaction; committed when the store's context ends without an error."""

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for its values; the rows it gives, [] if none."""
        ...

    def update(self, sql: str, *values: object) -> int:
        """Run one UPDATE, INSERT or DELETE; how many rows it touched."""
        ...

    def columns(self, schema_name: str, table: str) -> dict[str, str]:
        """Column name → type as `Store.type_name` spells it; empty when there is no such table."""
        ...

    def primary_key(self, schema_name: str, table: str) -> tuple[str, ...]:
        """Its columns in key order; empty when there is none, or no such table."""
        ...

    def bound_to(self, target: Target) -> list[str]:
        """What stays with the table object when another takes its name, and cannot be carried over
        (views, triggers, …), each named for people."""
        ...

    def belongings(self, target: Target, columns: Collection[str]) -> Belongings:
        """What can be carried over to a table with `columns`: plain indexes, grants."""
        ...

    def rename(self, target: Target, table: str) -> None: ...

    def analyze(self, target: Target) -> None:
        """Statistics of a table that was filled just now, where the planner needs them."""
        ...

    def write(self, target: Target, upserts: pa.RecordBatch, deletes: pa.RecordBatch) -> None:
        """Make the keys of `upserts` (the target's columns) have these rows, and the keys in
        `deletes` (the target's primary key columns) have none."""
        ...

    def load(self, target: Target, rows: pa.RecordBatch) -> None:
        """Insert rows whose keys the table does not have."""
        ...


class Store(Protocol):
    """One database. Every method raises SinkError, or StoreUnavailable where trying again helps."""

    rest_ratio: float
    """How long to leave the store alone after a write, as a multiple of the write's time."""
    row_lock: str
    """What to append to a SELECT so that it locks its rows."""
    name_bytes_max: int
    """Longer names of tables and columns are cut or refused by the store."""
    folds_case: bool
    """Whether names that differ in case only are the same, even quoted."""
    binds_to_tables: bool
    """Whether views and rights belong to the table object, not to its name."""

    def type_name(self, column: Column) -> str: ...

    def by_text(self, column: Column) -> bool:
        """Whether a key with this column must be compared by its canonical text."""
        ...

    def quote(self, name: str) -> str: ...

    def same_rows(self, columns: Sequence[Column], left: str, right: str) -> str:
        """SQL that says whether two rows, by their tables' aliases, surely hold the same values."""
        ...

    def session(self) -> AbstractContextManager[Session]:
        """A transaction that may write."""
        ...

    def reading(self) -> AbstractContextManager[Session]:
        """A transaction that only reads; waits for a writer where the store shuts readers out."""
        ...

    def literal(self, column: Column, text: str) -> str:
        """SQL for one value, given as Postgres prints it."""
        ...

    def rows(self, target: Target, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]: ...

    def query(self, text: str) -> QueryResult: ...

    def close(self) -> None: ...


def quoted_table(store: Store, schema_name: str, table: str) -> str:
    if schema_name:
        return f"{store.quote(schema_name)}.{store.quote(table)}"
    return store.quote(table)
