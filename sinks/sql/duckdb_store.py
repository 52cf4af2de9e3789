"""DuckDB as a SQL store: one file, which one process may write or several may read, never both.

So the file is opened for each transaction and closed after it, and between two writes it is left
alone for four times as long as the write took, at most REST_S_MAX: other programs find it free
most of the time, and changes that arrive meanwhile are written together (group commit). A file
that somebody else holds is no error: opening is tried again for LOCK_WAIT_S, then the delivery
loop backs off.

A cut is registered as an Arrow table; DELETE USING + INSERT in one transaction is an order of
magnitude faster than INSERT OR REPLACE once the table is large and its keys are shuffled.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cdc.errors import SinkError, StoreUnavailable
from cdc.schema import NUMERIC_TEXT, Column
from sinks.api import QueryResult
from sinks.sql.session import Belongings, Session
from sinks.sql.targets import Target

LOCK_WAIT_S = 10.0
# DuckDB shares one instance of a file within a process, and hands it to a second thread before the
# first has registered its functions: "python_arrow_scan does not exist".
_OPENING = threading.Lock()
_WRITING: dict[Path, threading.Lock] = {}
"""Within a process two threads could write a file at once; between processes they cannot, and the
sinks count on that."""
_READ_ROWS = 65_536


class DuckDbStore:
    """See sinks.sql.session.Store. `path` is the database file; it is made when missing."""

    rest_ratio = 4.0
    row_lock = ""
    name_bytes_max = 1024
    folds_case = True
    binds_to_tables = False

    def __init__(self, path: Path, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._path = path
        self._lock_wait_s = lock_wait_s

    def type_name(self, column: Column) -> str:
        return _type_name(column.type, column.sql_type)

    def by_text(self, column: Column) -> bool:
        return column.type == NUMERIC_TEXT

    def quote(self, name: str) -> str:
        return _quote(name)

    def same_rows(self, columns: Sequence[Column], left: str, right: str) -> str:
        return " AND ".join(
            f"{left}.{_quote(c.name)} IS NOT DISTINCT FROM {right}.{_quote(c.name)}"
            for c in columns
        )

    def literal(self, column: Column, text: str) -> str:
        if pa.types.is_binary(column.type):
            return f"from_hex('{text.removeprefix(chr(92) + 'x')}')"
        quoted = "'" + text.replace("'", "''") + "'"
        return f"CAST({quoted} AS {self.type_name(column)})"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._only_writer():
            connection = self._connect(read_only=False)
            try:
                with _duckdb_errors(self._path):
                    connection.execute("BEGIN")
                    yield DuckDbSession(connection)
                    connection.execute("COMMIT")
            finally:
                connection.close()

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        lock = _WRITING.setdefault(self._path.absolute(), threading.Lock())
        if not lock.acquire(timeout=self._lock_wait_s):
            raise StoreUnavailable("another thread is writing the file", where=str(self._path))
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        if not self._path.exists():
            yield DuckDbSession(duckdb.connect())
            return
        connection = self._connect(read_only=True)
        try:
            with _duckdb_errors(self._path):
                yield DuckDbSession(connection)
        finally:
            connection.close()

    def rows(self, target: Target, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([pa.field(c.name, c.type) for c in columns])
        names = ", ".join(_quote(c.name) for c in columns)
        place = _place(target)
        connection = self._connect(read_only=True)
        try:
            with _duckdb_errors(self._path):
                found = connection.sql(f"SELECT {names} FROM {place}")
                for batch in found.to_arrow_reader(_READ_ROWS):
                    yield _conformed(batch, schema)
        finally:
            connection.close()

    def query(self, text: str) -> QueryResult:
        self._need_file()
        connection = self._connect(read_only=True)
        try:
            with _duckdb_errors(self._path):
                # A read-only database can still COPY … TO a file, or ATTACH one that it may write.
                connection.execute("SET enable_external_access = false")
                found = connection.execute(text)
                columns = tuple(d[0] for d in found.description or ())
                return QueryResult(columns, found.fetchall())
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is held between transactions."""

    def _need_file(self) -> None:
        if not self._path.exists():
            raise SinkError(
                "there is no such database yet",
                where=str(self._path),
                hint="`cdc run` makes it with the first cut",
            )

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file, waiting while another process holds it. Raises StoreUnavailable."""
        deadline = time.monotonic() + self._lock_wait_s
        while True:
            try:
                return self._try_to_connect(read_only)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.002, 0.015))

    def _try_to_connect(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        with _duckdb_errors(self._path):
            with _OPENING:
                connection = duckdb.connect(self._path, read_only=read_only)
            connection.execute("SET TimeZone = 'UTC'")
            return connection


class DuckDbSession:
    """See sinks.sql.session.Session."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, list(values)).fetchall()

    def update(self, sql: str, *values: object) -> int:
        ((count,),) = self._connection.execute(sql, list(values)).fetchall()
        return int(count)

    def columns(self, schema_name: str, table: str) -> dict[str, str]:
        rows = self._connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? "
            "AND schema_name = ? AND database_name = current_database() ORDER BY column_index",
            [table, schema_name or "main"],
        ).fetchall()
        return dict(rows)

    def primary_key(self, schema_name: str, table: str) -> tuple[str, ...]:
        rows = self._connection.execute(
            "SELECT constraint_column_names FROM duckdb_constraints() WHERE table_name = ? AND "
            "schema_name = ? AND database_name = current_database() "
            "AND constraint_type = 'PRIMARY KEY'",
            [table, schema_name or "main"],
        ).fetchall()
        return tuple(rows[0][0]) if rows else ()

    def bound_to(self, target: Target) -> list[str]:
        return []

    def belongings(self, target: Target, columns: Collection[str]) -> Belongings:
        """Views find their tables by name, so that only indexes are left."""
        schema_name = target.schema_name or "main"
        rows = self._connection.execute(
            "SELECT index_name, expressions, sql FROM duckdb_indexes() WHERE table_name = ? AND "
            "schema_name = ? AND database_name = current_database()",
            [target.table, schema_name],
        ).fetchall()
        carried = {_quote(name) for name in columns} | set(columns)
        take = [f"DROP INDEX {_quote(schema_name)}.{_quote(name)}" for name, _, _ in rows]
        give = [sql for _, of, sql in rows if carried.issuperset(_index_columns(of))]
        return Belongings(tuple(take), tuple(give))

    def rename(self, target: Target, table: str) -> None:
        self._connection.execute(f"ALTER TABLE {_place(target)} RENAME TO {_quote(table)}")

    def analyze(self, target: Target) -> None:
        """Its tables keep their statistics by themselves."""

    def write(self, target: Target, upserts: pa.RecordBatch, deletes: pa.RecordBatch) -> None:
        for keys in (deletes, upserts):
            if keys.num_rows:
                self._delete(target, keys.select(list(target.primary_key)))
        if upserts.num_rows:
            self.load(target, upserts)

    def load(self, target: Target, rows: pa.RecordBatch) -> None:
        names = ", ".join(_quote(column.name) for column in target.columns)
        self._stage(rows)
        self._connection.execute(
            f"INSERT INTO {_place(target)} ({names}) SELECT {names} FROM _cdc_staged"
        )
        self._connection.unregister("_cdc_staged")

    def _delete(self, target: Target, keys: pa.RecordBatch) -> None:
        self._stage(keys)
        same = " AND ".join(
            f"t.{_quote(c.name)} = CAST(s.{_quote(c.name)} AS {_type_name(c.type, c.sql_type)})"
            for c in target.key_columns
        )
        self._connection.execute(f"DELETE FROM {_place(target)} t USING _cdc_staged s WHERE {same}")
        self._connection.unregister("_cdc_staged")

    def _stage(self, rows: pa.RecordBatch) -> None:
        columns = [storage_of(column) for column in rows.columns]
        self._connection.register(
            "_cdc_staged", pa.Table.from_arrays(columns, names=rows.schema.names)
        )


def storage_of(column: pa.Array) -> pa.Array:
    """The column without its extension type, also inside lists."""
    if isinstance(column.type, pa.ExtensionType):
        return column.storage
    if pa.types.is_list(column.type) and isinstance(column.type.value_type, pa.ExtensionType):
        return column.cast(pa.list_(column.type.value_type.storage_type))
    return column


_PLAIN = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
}


def _type_name(kind: pa.DataType, sql_type: str) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if pa.types.is_decimal128(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return _type_name(kind.value_type, sql_type.removesuffix("[]")) + "[]"
    return {"uuid": "UUID", "json": "JSON", "jsonb": "JSON"}.get(sql_type, "VARCHAR")


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        _as_type(column, field.type) for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(column.cast(kind.storage_type))
    return column if column.type == kind else column.cast(kind)


def _index_columns(expressions: str) -> list[str]:
    """What an index is over, as duckdb_indexes() lists it: `[name, '"two words"', (id + 1)]`."""
    listed = expressions.removeprefix("[").removesuffix("]").split(", ")
    return [one.removeprefix("'").removesuffix("'") for one in listed]


def _place(target: Target) -> str:
    table = _quote(target.table)
    return f"{_quote(target.schema_name)}.{table}" if target.schema_name else table


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_BUSY = re.compile(
    r"set lock on file|different configuration|Conflict on|write-write conflict", re.IGNORECASE
)


@contextmanager
def _duckdb_errors(path: Path) -> Iterator[None]:
    """DuckDB's errors as ours: a held file or a full disk may pass, the rest not."""
    try:
        yield
    except duckdb.Error as error:
        what = str(error).strip().split("\n")[0]
        if _BUSY.search(what):
            hint = "another program holds it"
            raise StoreUnavailable(what, where=str(path), hint=hint) from error
        if isinstance(error, duckdb.IOException) and "No space left" in what:
            raise StoreUnavailable(what, where=str(path), hint="make room on the disk") from error
        raise SinkError(what, where=str(path)) from error
