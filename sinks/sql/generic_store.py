"""Any other database that SQLAlchemy speaks to: staged in Python, executemany, one transaction.

Values are held exactly or refused. Where a database has no exact type (SQLite: decimals, times),
the column is text, in the form that keys have (cdc.keys), and is read back from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import types as sqltypes

from cdc.errors import BadData, SinkError, StoreUnavailable, mask_url
from cdc.schema import NUMERIC_TEXT, Column
from sinks.api import QueryResult
from sinks.sql.session import Belongings, Session
from sinks.sql.targets import Target
from sinks.sql.text_values import from_texts, texts

_READ_ROWS = 10_000
_KEY_TEXT_LENGTH = 255


class GenericStore:
    """See sinks.sql.session.Store."""

    rest_ratio = 0.0
    folds_case = True
    binds_to_tables = True

    def __init__(self, url: sa.URL) -> None:
        self._where = mask_url(url.render_as_string(hide_password=True))
        try:
            self._engine = sa.create_engine(url)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
            raise SinkError(
                f"SQLAlchemy cannot use this URL: {error}",
                where=self._where,
                hint="install the database's driver beside cdc-views",
            ) from error
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        self._exact = not self.is_sqlite
        self.row_lock = " FOR UPDATE" if self._exact else ""
        self.name_bytes_max = self._engine.dialect.max_identifier_length

    def type_name(self, column: Column) -> str:
        return str(self._type(column).compile(self._engine.dialect))

    def by_text(self, column: Column) -> bool:
        return column.type == NUMERIC_TEXT or pa.types.is_list(column.type)

    def quote(self, name: str) -> str:
        return self._engine.dialect.identifier_preparer.quote_identifier(name)

    def same_rows(self, columns: Sequence[Column], left: str, right: str) -> str:
        """Of other databases' equality nothing is known: 'a' may be 'A' to them."""
        if not self.is_sqlite:
            return "1 = 0"
        return " AND ".join(
            f"{left}.{self.quote(c.name)} IS {right}.{self.quote(c.name)}" for c in columns
        )

    def literal(self, column: Column, text: str) -> str:
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return text
        if pa.types.is_boolean(column.type):
            return "1" if text in {"t", "true"} else "0"
        return "'" + text.replace("'", "''") + "'"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._errors(), self._engine.connect() as connection:
            if not self._exact:
                # pysqlite begins a transaction at the first INSERT only: too late to be alone.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield GenericSession(self, connection)
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._errors(), self._engine.connect() as connection:
            yield GenericSession(self, connection)

    def rows(self, target: Target, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        names = ", ".join(self.quote(c.name) for c in columns)
        with self._errors(), self._engine.connect() as connection:
            found = connection.execute(sa.text(f"SELECT {names} FROM {self._place(target)}"))
            while part := found.fetchmany(_READ_ROWS):
                yield self._batch([tuple(row) for row in part], columns)

    def query(self, text: str) -> QueryResult:
        with self._errors(), self._engine.connect() as connection:
            found = connection.exec_driver_sql(text)
            try:
                if not found.returns_rows:
                    raise SinkError("only queries are run here", hint="write a SELECT")
                return QueryResult(tuple(found.keys()), [tuple(row) for row in found])
            finally:
                connection.rollback()

    def close(self) -> None:
        self._engine.dispose()

    def exact(self, column: Column) -> bool:
        """Whether the database holds the column's values in a type of its own."""
        kind = column.type
        if isinstance(kind, pa.ExtensionType) or pa.types.is_list(kind):
            return False
        if pa.types.is_decimal(kind) or pa.types.is_temporal(kind):
            return self._exact
        return True

    def _type(self, column: Column) -> sqltypes.TypeEngine[Any]:
        kind = column.type
        if not self.exact(column):
            return sqltypes.Text()
        if pa.types.is_string(kind) and not column.nullable and self._engine.name != "sqlite":
            return sqltypes.String(_KEY_TEXT_LENGTH)
        if pa.types.is_decimal(kind):
            return sqltypes.Numeric(kind.precision, kind.scale)
        return _TYPES[kind]

    def _place(self, target: Target) -> str:
        table = self.quote(target.table)
        return f"{self.quote(target.schema_name)}.{table}" if target.schema_name else table

    def _batch(self, rows: list[tuple[Any, ...]], columns: Sequence[Column]) -> pa.RecordBatch:
        arrays = [self._array([row[i] for row in rows], column) for i, column in enumerate(columns)]
        schema = pa.schema([pa.field(c.name, c.type) for c in columns])
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _array(self, values: list[Any], column: Column) -> pa.Array:
        if not self.exact(column):
            return from_texts(values, column.type)
        if pa.types.is_boolean(column.type):
            values = [None if v is None else bool(v) for v in values]
        return pa.array(values, column.type)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            what = mask_url(str(cause).strip().split("\n")[0])
            if isinstance(error, (sa.exc.InterfaceError, sa.exc.TimeoutError)) or (
                isinstance(error, sa.exc.OperationalError) and _passes(what)
            ):
                raise StoreUnavailable(what, where=self._where) from error
            raise SinkError(what, where=self._where) from error


class GenericSession:
    """See sinks.sql.session.Session."""

    def __init__(self, store: GenericStore, connection: sa.Connection) -> None:
        self._store, self._connection = store, connection

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        found = self._connection.execute(*_bound(sql, values))
        return [tuple(row) for row in found] if found.returns_rows else []

    def update(self, sql: str, *values: object) -> int:
        return self._connection.execute(*_bound(sql, values)).rowcount

    def columns(self, schema_name: str, table: str) -> dict[str, str]:
        inspector = sa.inspect(self._connection)
        if not inspector.has_table(table, schema=schema_name or None):
            return {}
        return {
            found["name"]: str(found["type"].compile(self._connection.dialect))
            for found in inspector.get_columns(table, schema=schema_name or None)
        }

    def primary_key(self, schema_name: str, table: str) -> tuple[str, ...]:
        inspector = sa.inspect(self._connection)
        if not inspector.has_table(table, schema=schema_name or None):
            return ()
        found = inspector.get_pk_constraint(table, schema=schema_name or None)
        return tuple(found["constrained_columns"])

    def bound_to(self, target: Target) -> list[str]:
        """SQLite's views find their tables by name, its triggers do not."""
        self._require_sqlite(target)
        rows = self.execute(
            "SELECT 'trigger ' || name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?",
            target.table,
        )
        return [name for (name,) in rows]

    def belongings(self, target: Target, columns: Collection[str]) -> Belongings:
        self._require_sqlite(target)
        rows = self.execute(
            "SELECT i.name, i.sql, (SELECT json_group_array(c.name) FROM pragma_index_info(i.name) "
            "c) FROM sqlite_master i WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
            target.table,
        )
        carried = [row for row in rows if set(json.loads(row[2])) <= set(columns)]
        take = tuple(f"DROP INDEX {self._store.quote(name)}" for name, *_ in carried)
        return Belongings(take, tuple(sql for _, sql, _ in carried))

    def _require_sqlite(self, target: Target) -> None:
        if not self._store.is_sqlite:
            raise SinkError(
                "the table's definition changes, which this database cannot do in a transaction",
                where=f"table {target.table}",
                hint="DROP the table, then `cdc run`: it is loaded anew from the log",
            )

    def rename(self, target: Target, table: str) -> None:
        # Otherwise SQLite makes the views over the table follow it to its new name.
        if self._store.is_sqlite:
            self.execute("PRAGMA legacy_alter_table = ON")
        self.execute(f"ALTER TABLE {self._place(target)} RENAME TO {self._store.quote(table)}")
        if self._store.is_sqlite:
            self.execute("PRAGMA legacy_alter_table = OFF")

    def analyze(self, target: Target) -> None:
        """The join is by the primary key, which needs no statistics."""

    def write(self, target: Target, upserts: pa.RecordBatch, deletes: pa.RecordBatch) -> None:
        for rows in (deletes, upserts):
            if rows.num_rows:
                self._delete(target, rows.select(list(target.primary_key)))
        if upserts.num_rows:
            self.load(target, upserts)

    def load(self, target: Target, rows: pa.RecordBatch) -> None:
        if not rows.num_rows:
            return
        names = ", ".join(self._store.quote(c.name) for c in target.columns)
        values = ", ".join(f":p{i}" for i in range(len(target.columns)))
        self._connection.execute(
            sa.text(f"INSERT INTO {self._place(target)} ({names}) VALUES ({values})"),
            self._parameters(rows, target.columns),
        )

    def _delete(self, target: Target, keys: pa.RecordBatch) -> None:
        same = " AND ".join(
            f"{self._store.quote(c.name)} = :p{i}" for i, c in enumerate(target.key_columns)
        )
        self._connection.execute(
            sa.text(f"DELETE FROM {self._place(target)} WHERE {same}"),
            self._parameters(keys, target.key_columns),
        )

    def _place(self, target: Target) -> str:
        table = self._store.quote(target.table)
        return f"{self._store.quote(target.schema_name)}.{table}" if target.schema_name else table

    def _parameters(
        self, rows: pa.RecordBatch, columns: tuple[Column, ...]
    ) -> list[dict[str, Any]]:
        names = [f"p{i}" for i in range(len(columns))]
        values = [
            self._values(array, column) for array, column in zip(rows.columns, columns, strict=True)
        ]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def _values(self, array: pa.Array, column: Column) -> list[Any]:
        if not self._store.exact(column):
            return texts(array)
        try:
            values = array.to_pylist()
        except (ValueError, OverflowError) as error:
            raise BadData(
                f"a value of column '{column.name}' does not exist in this store: {error}",
                hint="cast the column to text in a view",
            ) from error
        if pa.types.is_floating(column.type) and _holds_nan(values):
            raise BadData(
                f"column '{column.name}' holds NaN, which this store does not have",
                hint="replace it in a view, or cast the column to text",
            )
        return values


_TYPES: dict[pa.DataType, sqltypes.TypeEngine[Any]] = {
    pa.bool_(): sqltypes.Boolean(),
    pa.int16(): sqltypes.SmallInteger(),
    pa.int32(): sqltypes.Integer(),
    pa.int64(): sqltypes.BigInteger(),
    pa.uint64(): sqltypes.Numeric(20, 0),
    pa.float32(): sqltypes.Double(),
    pa.float64(): sqltypes.Double(),
    pa.string(): sqltypes.Text(),
    pa.binary(): sqltypes.LargeBinary(),
    pa.date32(): sqltypes.Date(),
    pa.time64("us"): sqltypes.Time(),
    pa.timestamp("us"): sqltypes.DateTime(),
    pa.timestamp("us", "UTC"): sqltypes.DateTime(timezone=True),
}
_PASSING = ("locked", "busy", "connect", "timeout", "timed out", "gone away", "deadlock", "full")


def _holds_nan(values: Sequence[float | None]) -> bool:
    return any(value is not None and math.isnan(value) for value in values)


def _passes(what: str) -> bool:
    return any(word in what.lower() for word in _PASSING)


def _bound(sql: str, values: Sequence[object]) -> tuple[sa.TextClause, dict[str, object]]:
    """`?` as SQLAlchemy's named parameters."""
    pieces = sql.split("?")
    text = pieces[0] + "".join(f":p{i}{piece}" for i, piece in enumerate(pieces[1:]))
    return sa.text(text), {f"p{i}": value for i, value in enumerate(values)}
