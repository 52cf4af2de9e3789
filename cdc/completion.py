"""Completion of values that the database left out of a change, before the append (SEMANTICS 11).

Postgres does not send a value stored out of line that an update left alone (cdc/postgres/toast.py);
MySQL leaves out what binlog_row_image says (cdc/mysql/row_images.py). They come from here: a store
on disk, table and key → the values that may be left out.

1.  The topic is the truth; the store is an index over it that can always be rebuilt. Rows pass
    `remember` before they are appended; rows of which nothing can be left out are not kept.
2.  A clean end writes the position reached into the store. At the start any other position than
    the newest frontier's, or none, discards the store: after a crash it may be ahead of the log.
3.  On the first miss of a table the topic is read once (`history`), and every key that was not
    remembered since the start gets its newest value. So what was remembered always wins.
4.  A key that is then still unknown is an error: nothing is invented.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdc.changes import Bools, C, ChangeBatch, D, Int64s, column_value
from cdc.errors import SourceError
from cdc.frontiers import Frontier
from cdc.keys import row_keys
from cdc.positions import NativePosition
from cdc.schema import Column
from cdc.source import History, Piece

_FORM = 2
"""Of the values kept; a store of another form is made anew."""
_CACHE_KIB = 16 * 1024


def no_history(table: str) -> Iterator[ChangeBatch]:
    """For a source that is used without a log."""
    return iter(())


@dataclass(frozen=True)
class LeftOut:
    """What can be left out of a table's changes: of `columns`, none of them in the key, in the
    rows that `rows` picks (never a delete's). `remedy`: how the database is told to leave nothing
    out."""

    table: str
    columns: tuple[str, ...]
    rows: Callable[[ChangeBatch], Int64s]
    remedy: str


class ValueStore:
    """Newest values of the columns of one source that can be left out."""

    def __init__(self, path: Path, frontier: Frontier, history: History, source: str) -> None:
        self._history, self._source = history, source
        self._acknowledged = frontier.positions[source] if frontier.whole else None
        self._yielded: NativePosition | None = None
        self._ahead = False
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_clean(path, str(self._acknowledged or "")):
            _delete(path)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._db.execute(f"PRAGMA user_version={_FORM}")
        self._db.execute("CREATE TABLE IF NOT EXISTS clean (position TEXT)")
        self._db.execute("DELETE FROM clean")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS vals (tab TEXT, key TEXT, body BLOB, "
            "PRIMARY KEY (tab, key)) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS built (tab TEXT PRIMARY KEY)")
        self._built = {tab for (tab,) in self._db.execute("SELECT tab FROM built")}

    def remember(self, table: LeftOut, changes: ChangeBatch) -> None:
        """Keep what later updates may leave out; call before the changes are appended."""
        picked = table.rows(changes)
        if len(picked):
            self._ahead = True
            self._write("INSERT OR REPLACE", table, changes.take(picked))

    def complete(
        self, table: LeftOut, changes: ChangeBatch, unchanged: Mapping[str, Bools]
    ) -> ChangeBatch:
        """`changes` (of any number of keys, in order) with every unchanged value filled in, and
        remembered. `unchanged[column][row]` marks the values that were not sent."""
        self._ahead = True
        rows = np.flatnonzero(np.logical_or.reduce(list(unchanged.values())))
        keys = row_keys(changes.schema, changes.rows).to_pylist()
        large = set(table.rows(changes).tolist()) | set(rows.tolist())
        names = table.columns
        columns = {name: changes.rows.column(name).to_pylist() for name in names}
        touched = set(rows.tolist())
        for row in sorted(large):
            if row in touched:
                # A changed key: the values stand under the old one, deleted just before.
                known = self._lookup(table, changes, keys[row - (changes.op[row] == C)])
                for name, missing in unchanged.items():
                    if missing[row]:
                        columns[name][row] = _value(known, changes.schema.column(name))
            if changes.op[row] != D:
                body = _pack(table, changes, {n: columns[n][row] for n in names})
                self._db.execute(
                    "INSERT OR REPLACE INTO vals VALUES (?, ?, ?)", (table.table, keys[row], body)
                )
        return _with_columns(changes, columns)

    def _lookup(self, table: LeftOut, changes: ChangeBatch, key: str) -> pa.RecordBatch:
        for _ in range(2):
            row = self._db.execute(
                "SELECT body FROM vals WHERE tab = ? AND key = ?", (table.table, key)
            ).fetchone()
            if row is not None:
                return _unpack(row[0])
            if table.table in self._built:
                break
            self._build(table, changes)
        raise SourceError(
            f"the server left out an unchanged value of key {key}, and the topic does not have it",
            where=table.table,
            hint=f"{table.remedy}, and cdc remove {self._source}, then cdc run takes a new "
            "snapshot",
        )

    def _build(self, table: LeftOut, changes: ChangeBatch) -> None:
        """Newest values of the whole topic into a table of their own, then behind what was
        remembered since the start."""
        self._db.execute("CREATE TEMP TABLE old AS SELECT * FROM vals WHERE 0")
        self._db.execute("CREATE UNIQUE INDEX temp.old_key ON old (tab, key)")
        for batch in self._history(table.table):
            conformed = batch.conformed(changes.schema)
            self._write("INSERT OR REPLACE", table, conformed, into="old")
        self._db.execute("INSERT OR IGNORE INTO vals SELECT * FROM old")
        self._db.execute("DROP TABLE temp.old")
        self._db.execute("INSERT OR REPLACE INTO built VALUES (?)", (table.table,))
        self._built.add(table.table)

    def _write(self, verb: str, table: LeftOut, changes: ChangeBatch, into: str = "vals") -> None:
        live = changes.take(np.flatnonzero(changes.op != D))
        if into == "old":
            live = live.take(table.rows(live))
        keys = row_keys(live.schema, live.rows).to_pylist()
        columns = [live.rows.column(name).to_pylist() for name in table.columns]
        values = (
            (table.table, key, _pack(table, live, dict(zip(table.columns, row, strict=True))))
            for key, row in zip(keys, zip(*columns, strict=True), strict=True)
        )
        self._db.execute("BEGIN")
        self._db.executemany(f"{verb} INTO {into} VALUES (?, ?, ?)", values)
        self._db.execute("COMMIT")

    def yielded(self, piece: Piece) -> None:
        """The piece is handed on. A whole one ends with all that was remembered before."""
        if piece.whole:
            self._ahead = False
            if piece.num_rows or piece.transactions:
                self._yielded = piece.position

    def acknowledge(self, position: NativePosition) -> None:
        """The log has everything up to here."""
        self._acknowledged = position

    def close(self) -> None:
        """End; it is kept for the next start if the log has all that was remembered."""
        at = self._acknowledged
        logged = self._yielded is None or (at is not None and at.covers(self._yielded))
        if at is not None and logged and not self._ahead:
            self._db.execute("INSERT INTO clean VALUES (?)", (str(at),))
        self._db.close()


def _pack(table: LeftOut, changes: ChangeBatch, values: dict[str, object]) -> bytes:
    """Values under their columns' attnums: names and types may be others when they are needed."""
    columns = [changes.schema.column(name) for name in values]
    arrays = [
        pa.array([value], _storage(column.type))
        for column, value in zip(columns, values.values(), strict=True)
    ]
    plain = pa.RecordBatch.from_arrays(arrays, names=[str(column.attnum) for column in columns])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_batch(plain)
    return bytes(sink.getvalue())


def _unpack(body: bytes) -> pa.RecordBatch:
    return pa.ipc.open_stream(body).read_next_batch()


def _value(known: pa.RecordBatch, column: Column) -> object:
    """A column's value among those that were kept; it may be younger than they are."""
    name = str(column.attnum)
    if name in known.schema.names:
        return known.column(name).cast(_storage(column.type))[0].as_py()
    return None if column.missing is None else column_value(column, column.missing).as_py()


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.ExtensionType) else kind


def _with_columns(changes: ChangeBatch, columns: dict[str, list[object]]) -> ChangeBatch:
    rows = changes.rows
    arrays = []
    for field in rows.schema:
        if field.name in columns:
            array = pa.array(columns[field.name], _storage(field.type))
            if isinstance(field.type, pa.ExtensionType):
                array = field.type.wrap_array(array)
            arrays.append(array)
        else:
            arrays.append(rows.column(field.name))
    return ChangeBatch(
        changes.schema,
        changes.op,
        changes.txn_seq,
        changes.ordinal,
        changes.commit_us,
        pa.RecordBatch.from_arrays(arrays, schema=rows.schema),
        changes.before,
        changes.has_before,
    )


def _is_clean(path: Path, position: str) -> bool:
    if not path.exists():
        return False
    try:
        db = sqlite3.connect(path)
        row = db.execute("SELECT position FROM clean").fetchone()
        (form,) = db.execute("PRAGMA user_version").fetchone()
        db.close()
    except sqlite3.Error:
        return False
    return bool(row) and row[0] == position and form == _FORM


def _delete(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
