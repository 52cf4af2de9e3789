"""Postgres as a SQL store: COPY BINARY into a staging table, then DELETE and INSERT … ON CONFLICT.

A first load goes by COPY straight into the table when every column has a binary form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import errors, sql
from sqlalchemy import URL

from cdc.errors import SinkError, StoreUnavailable, mask_url
from cdc.schema import Column
from sinks.api import QueryResult
from sinks.sql.pg_catalog import belongings, bound_to, primary_key
from sinks.sql.pg_copy_encode import as_text, encode
from sinks.sql.pg_read import read_rows
from sinks.sql.pg_types import pg_type
from sinks.sql.session import Belongings, Session
from sinks.sql.targets import Target

_OPTIONS = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=1"
_CONNECT_TIMEOUT_S = 10

Connection = psycopg.Connection[tuple[Any, ...]]


class PostgresStore:
    """See sinks.sql.session.Store. One connection, opened when first needed."""

    rest_ratio = 0.0
    row_lock = " FOR UPDATE"
    name_bytes_max = 63
    folds_case = False
    binds_to_tables = True

    def __init__(self, url: URL) -> None:
        self._url = url
        self._where = mask_url(url.render_as_string(hide_password=True))
        self._connection: Connection | None = None

    def type_name(self, column: Column) -> str:
        return pg_type(column)

    def by_text(self, column: Column) -> bool:
        return False

    def quote(self, name: str) -> str:
        return _quote(name)

    def same_rows(self, columns: Sequence[Column], left: str, right: str) -> str:
        """By the rows' bytes: json, point and xml have no equality."""
        rows = [", ".join(f"{side}.{_quote(c.name)}" for c in columns) for side in (left, right)]
        return f"record_image_eq(ROW({rows[0]}), ROW({rows[1]}))"

    def literal(self, column: Column, text: str) -> str:
        quoted: str = sql.Literal(text).as_string(None)
        return f"{quoted}::{pg_type(column)}"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._errors():
            connection = self._connected()
            with connection.transaction():
                yield PostgresSession(connection)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._errors():
            connection = self._connected()
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY")
                yield PostgresSession(connection)

    def rows(self, target: Target, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        with self._errors(), self._connect() as connection:
            yield from read_rows(connection, _place(target), tuple(columns))

    def query(self, text: str) -> QueryResult:
        with self._errors():
            connection = self._connected()
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY")
                # Prepared, because that is one statement only: none may end the transaction.
                found = connection.execute(text.encode(), prepare=True)
                columns = tuple(d.name for d in found.description or ())
                return QueryResult(columns, found.fetchall() if found.description else [])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        url = self._url
        extra: dict[str, Any] = dict(url.query)
        return psycopg.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password,
            dbname=url.database,
            options=_OPTIONS,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name="cdc sink",
            autocommit=True,
            **extra,
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Postgres's errors as ours: what a restart, a lock or more room cures is retried."""
        try:
            yield
        except psycopg.Error as error:
            what = mask_url(str(error).strip().split("\n")[0])
            if self._connection is not None and self._connection.broken:
                self.close()
            if isinstance(error, _PASSING) and not isinstance(error, _LASTING):
                raise StoreUnavailable(what, where=self._where) from error
            raise SinkError(what, where=self._where) from error


# OperationalError is: no connection, shutdown, too many connections, no room, deadlock, lock wait.
_PASSING = (psycopg.OperationalError, psycopg.InterfaceError)
_LASTING = (
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
)


class PostgresSession:
    """See sinks.sql.session.Session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        found = self._run(sql, values)
        return found.fetchall() if found.description else []

    def update(self, sql: str, *values: object) -> int:
        return self._run(sql, values).rowcount

    def columns(self, schema_name: str, table: str) -> dict[str, str]:
        place = f"{_quote(schema_name)}.{_quote(table)}" if schema_name else _quote(table)
        return dict(
            self._connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped "
                "ORDER BY attnum",
                (place,),
            ).fetchall()
        )

    def primary_key(self, schema_name: str, table: str) -> tuple[str, ...]:
        place = f"{_quote(schema_name)}.{_quote(table)}" if schema_name else _quote(table)
        return primary_key(self._connection, place)

    def bound_to(self, target: Target) -> list[str]:
        return bound_to(self._connection, _place(target))

    def belongings(self, target: Target, columns: Collection[str]) -> Belongings:
        return belongings(self._connection, _place(target), columns)

    def rename(self, target: Target, table: str) -> None:
        """Waits only so long: whoever reads meanwhile would wait behind it."""
        self._run(f"SET LOCAL lock_timeout = '{_RENAME_WAIT_S}s'")
        self._run(f"ALTER TABLE {_place(target)} RENAME TO {_quote(table)}")

    def analyze(self, target: Target) -> None:
        self._run(f"ANALYZE {_place(target)}")

    def write(self, target: Target, upserts: pa.RecordBatch, deletes: pa.RecordBatch) -> None:
        if deletes.num_rows:
            self._delete(target, deletes)
        if upserts.num_rows:
            self._upsert(target, upserts)

    def load(self, target: Target, rows: pa.RecordBatch) -> None:
        if any(as_text(column) for column in target.columns):
            self._upsert(target, rows)
        else:
            self._copy(_place(target), rows, target.columns)

    def _delete(self, target: Target, keys: pa.RecordBatch) -> None:
        columns = target.key_columns
        self._stage(keys, columns)
        same = " AND ".join(f"t.{_quote(c.name)} = {_cast('s', c)}" for c in columns)
        self._run(f"DELETE FROM {_place(target)} t USING _cdc_staged s WHERE {same}")
        self._run("DROP TABLE _cdc_staged")

    def _upsert(self, target: Target, rows: pa.RecordBatch) -> None:
        self._stage(rows, target.columns)
        names = ", ".join(_quote(c.name) for c in target.columns)
        values = ", ".join(_cast("s", c) for c in target.columns)
        rest = [c.name for c in target.columns if c.name not in target.primary_key]
        sets = ", ".join(f"{_quote(n)} = EXCLUDED.{_quote(n)}" for n in rest)
        key = ", ".join(_quote(n) for n in target.primary_key)
        self._run(
            f"INSERT INTO {_place(target)} ({names}) SELECT {values} FROM _cdc_staged s "
            f"ON CONFLICT ({key}) DO {f'UPDATE SET {sets}' if rest else 'NOTHING'}"
        )
        self._run("DROP TABLE _cdc_staged")

    def _stage(self, rows: pa.RecordBatch, columns: tuple[Column, ...]) -> None:
        types = ", ".join(
            f"{_quote(c.name)} {'text' if as_text(c) else pg_type(c)}" for c in columns
        )
        self._run(f"CREATE TEMP TABLE _cdc_staged ({types}) ON COMMIT DROP")
        self._copy("_cdc_staged", rows, columns)
        if rows.num_rows > _ANALYZE_ROWS:
            self._run("ANALYZE _cdc_staged")

    def _copy(self, place: str, rows: pa.RecordBatch, columns: tuple[Column, ...]) -> None:
        names = ", ".join(_quote(c.name) for c in columns)
        statement = f"COPY {place} ({names}) FROM STDIN (FORMAT BINARY)"
        with self._connection.cursor().copy(statement.encode()) as copy:
            for piece in encode(rows, columns):
                for start in range(0, len(piece), _PIECE_BYTES):
                    copy.write(piece[start : start + _PIECE_BYTES])

    def _run(self, sql: str, values: Sequence[object] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        if not values:
            return self._connection.execute(sql.encode())
        return self._connection.execute(sql.replace("?", "%s").encode(), values)


_ANALYZE_ROWS = 5_000
_RENAME_WAIT_S = 5
_PIECE_BYTES = 2**20


def _cast(alias: str, column: Column) -> str:
    name = f"{alias}.{_quote(column.name)}"
    return f"{name}::{pg_type(column)}" if as_text(column) else name


def _place(target: Target) -> str:
    table = _quote(target.table)
    return f"{_quote(target.schema_name)}.{table}" if target.schema_name else table


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
