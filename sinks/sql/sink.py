"""The SQL sink: rows and position in one transaction, whichever database it is.

A transaction of `apply`:
1. lock the sink's row in `_cdc_sink` and see that the epoch is still ours, else Fenced;
2. write every input's deletes and upserts;
3. set the position where the epoch is ours (compare and set);
4. commit.

`open` raises the epoch, so whoever had the sink before fails at 1 or 3. A process that opens
again, after an error, does not take the sink back from a newer owner: the row names the owner, and
one that was replaced stays so. A reload (SinkCut.replace) gathers its rows in tables beside the
live ones (targets.shadow_of) and exchanges all rows in its last transaction.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator, Sequence

import pyarrow as pa

from cdc import faults
from cdc.errors import CdcError, Fenced
from cdc.schema import Column
from cdc.source import Finding
from sinks.api import InputChanges, QueryResult, Reject, SinkCut, SinkInput, SinkPosition
from sinks.sql.ownership import Owned, owned_tables, record_own, require_own
from sinks.sql.session import Session, Store, quoted_table
from sinks.sql.targets import (
    BOOKKEEPING,
    Target,
    missing_columns,
    require_names,
    shadow_of,
    targets_of,
)


class SqlSink:
    """See sinks.api.Sink. `schema_name` empty: the connection's default."""

    def __init__(
        self, name: str, store: Store, *, schema_name: str = "", table: str = "{name}"
    ) -> None:
        self._name = name
        self._store = store
        self._schema_name = schema_name
        self._template = table
        self._targets: dict[str, Target] = {}
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._epoch = 0
        self._reloading = False
        self.empty = False

    @property
    def rest_ratio(self) -> float:
        """How long to leave the store alone after a write, as a multiple of the write's time."""
        return self._store.rest_ratio

    def check(self, inputs: Sequence[SinkInput]) -> list[Finding]:
        where = f"sink {self._name}"
        try:
            targets = self._targets_of(inputs)
            with self._store.reading() as session:
                kept = session.columns(self._schema_name, BOOKKEEPING)
                owned = owned_tables(session, self._bookkeeping) if kept else {}
                for target in targets:
                    found = session.columns(self._schema_name, target.table)
                    if found:
                        require_own(session, self._name, owned, target, self._place(target))
                        missing_columns(target, found, self._store.type_name)
        except CdcError as error:
            return [Finding("error", where, str(error.what), error.hint)]
        return [
            Finding("ok", where, f"{target.input.name} → table {self._place(target)}")
            for target in targets
        ]

    def open(self, inputs: Sequence[SinkInput]) -> SinkPosition | None:
        targets = self._targets_of(inputs)
        with self._store.session() as session:
            self._make_bookkeeping(session)
            self._epoch, text = self._take_over(session)
            owned = owned_tables(session, self._bookkeeping)
            made = [self._make_table(session, target, owned) for target in targets]
            record_own(session, self._name, self._bookkeeping, owned, targets)
            for target in targets:
                session.execute(f"DROP TABLE IF EXISTS {self._place(shadow_of(target))}")
        self._targets = {target.input.name: target for target in targets}
        self._reloading = False
        self.empty = all(made)
        if text is None or any(made):
            return None
        return SinkPosition.from_json(text)

    def apply(self, cut: SinkCut, reject: Reject) -> None:
        faults.point("sink.before_write")
        with self._store.session() as session:
            self._hold(session)
            if cut.replace:
                self._reload(session, cut)
            else:
                for changes in cut.changes:
                    self._write(session, changes, cut.first_load)
            faults.point("sink.after_write")
            if not cut.replace or cut.position.chunk == 0:
                self._set_position(session, cut.position)
        faults.point("sink.after_commit")
        self._reloading = cut.replace and cut.position.chunk != 0

    def position(self) -> SinkPosition | None:
        with self._store.reading() as session:
            if not session.columns(self._schema_name, BOOKKEEPING):
                return None
            rows = session.execute(
                f"SELECT position FROM {self._bookkeeping} WHERE sink = ?", self._name
            )
        return SinkPosition.from_json(rows[0][0]) if rows and rows[0][0] else None

    def rows(self, name: str) -> Iterator[pa.RecordBatch]:
        target = self._targets[name]
        yield from self._store.rows(target, target.input.schema.columns)

    def prepare_reading(self, inputs: Sequence[SinkInput]) -> None:
        self._targets = {target.input.name: target for target in self._targets_of(inputs)}

    def readable_columns(self, name: str) -> tuple[str, ...]:
        return tuple(column.name for column in self._targets[name].input.schema.columns)

    def query(self, text: str) -> QueryResult:
        return self._store.query(text)

    def remove(self) -> list[str]:
        with self._store.reading() as session:
            if not session.columns(self._schema_name, BOOKKEEPING):
                return []
        with self._store.session() as session:
            gone = session.update(
                f"UPDATE {self._bookkeeping} SET epoch = epoch + 1, owner = NULL, position = NULL "
                "WHERE sink = ? AND owner IS NOT NULL",
                self._name,
            )
        return [f"position of sink {self._name} in {BOOKKEEPING}"] if gone else []

    def close(self) -> None:
        self._store.close()

    @property
    def _bookkeeping(self) -> str:
        return quoted_table(self._store, self._schema_name, BOOKKEEPING)

    def _place(self, target: Target) -> str:
        return quoted_table(self._store, target.schema_name, target.table)

    def _targets_of(self, inputs: Sequence[SinkInput]) -> tuple[Target, ...]:
        targets = targets_of(inputs, self._schema_name, self._template, self._store.by_text)
        for target in targets:
            require_names(target, self._store.name_bytes_max, self._store.folds_case)
        return targets

    def _make_bookkeeping(self, session: Session) -> None:
        if session.columns(self._schema_name, BOOKKEEPING):
            return
        if self._schema_name:
            session.execute(f"CREATE SCHEMA IF NOT EXISTS {self._store.quote(self._schema_name)}")
        session.execute(
            f"CREATE TABLE IF NOT EXISTS {self._bookkeeping} "
            "(sink VARCHAR(255) PRIMARY KEY, "
            "epoch BIGINT NOT NULL, owner VARCHAR(255), position TEXT, tables TEXT)"
        )

    def _take_over(self, session: Session) -> tuple[int, str | None]:
        """Raise the owner epoch; the new one, and the position stored so far."""
        if self._epoch:
            self._see_that_it_is_ours(session)
        raised = session.update(
            f"UPDATE {self._bookkeeping} SET epoch = epoch + 1, owner = ? WHERE sink = ?",
            self._owner,
            self._name,
        )
        if not raised:
            session.update(
                f"INSERT INTO {self._bookkeeping} (sink, epoch, owner) VALUES (?, 1, ?)",
                self._name,
                self._owner,
            )
        ((epoch, position),) = session.execute(
            f"SELECT epoch, position FROM {self._bookkeeping} WHERE sink = ?", self._name
        )
        return epoch, position

    def _see_that_it_is_ours(self, session: Session) -> None:
        """Raise Fenced where another process took over since this one opened the sink."""
        held = session.execute(
            f"SELECT owner FROM {self._bookkeeping} WHERE sink = ?{self._store.row_lock}",
            self._name,
        )
        if held and held[0][0] != self._owner:
            raise self._fenced(held[0][0])

    def _make_table(self, session: Session, target: Target, owned: Owned) -> bool:
        """Make or widen a table; whether it is new."""
        found = session.columns(target.schema_name, target.table)
        if not found:
            session.execute(self._create(target))
            return True
        require_own(session, self._name, owned, target, self._place(target))
        for column in missing_columns(target, found, self._store.type_name):
            self._add_column(session, target, column)
        return False

    def _create(self, target: Target) -> str:
        quote = self._store.quote
        lines = [
            f"{quote(c.name)} {self._store.type_name(c)}"
            + (" NOT NULL" if c.name in target.primary_key else "")
            for c in target.columns
        ]
        key = ", ".join(quote(name) for name in target.primary_key)
        body = ", ".join([*lines, f"PRIMARY KEY ({key})"])
        return f"CREATE TABLE {self._place(target)} ({body})"

    def _add_column(self, session: Session, target: Target, column: Column) -> None:
        place, name = self._place(target), self._store.quote(column.name)
        session.execute(f"ALTER TABLE {place} ADD COLUMN {name} {self._store.type_name(column)}")
        if column.missing is not None:
            value = self._store.literal(column, column.missing)
            session.execute(f"UPDATE {place} SET {name} = {value}")

    def _hold(self, session: Session) -> None:
        held = session.execute(
            f"SELECT epoch, owner FROM {self._bookkeeping} WHERE sink = ?{self._store.row_lock}",
            self._name,
        )
        if not held or held[0][0] != self._epoch:
            raise self._fenced((held and held[0][1]) or "`cdc remove`")

    def _set_position(self, session: Session, position: SinkPosition) -> None:
        changed = session.update(
            f"UPDATE {self._bookkeeping} SET position = ? WHERE sink = ? AND epoch = ?",
            position.to_json(),
            self._name,
            self._epoch,
        )
        if changed != 1:
            raise self._fenced("another process")

    def _fenced(self, owner: str) -> Fenced:
        return Fenced(
            f"this sink was taken over by {owner}",
            where=f"sink {self._name}",
            hint="run each sink in one `cdc run` only",
        )

    def _write(self, session: Session, changes: InputChanges, first_load: bool) -> None:
        target = self._targets[changes.input.name]
        upserts = target.stored_rows(changes.upserts)
        if first_load:
            session.load(target, upserts)
        else:
            session.write(target, upserts, target.stored_keys(changes.deletes))

    def _reload(self, session: Session, cut: SinkCut) -> None:
        for target in self._targets.values():
            if not self._reloading:
                session.execute(self._create(shadow_of(target)))
        for changes in cut.changes:
            target = self._targets[changes.input.name]
            session.write(
                shadow_of(target),
                target.stored_rows(changes.upserts),
                target.stored_keys(changes.deletes),
            )
        if cut.position.chunk == 0:
            for target in self._targets.values():
                self._exchange(session, target)

    def _exchange(self, session: Session, target: Target) -> None:
        """Give the table exactly the shadow's rows. The table itself stays: views over it,
        rights and indexes are the user's."""
        names = ", ".join(self._store.quote(column.name) for column in target.columns)
        live, shadow = self._place(target), self._place(shadow_of(target))
        session.execute(f"DELETE FROM {live}")
        session.execute(f"INSERT INTO {live} ({names}) SELECT {names} FROM {shadow}")
        session.execute(f"DROP TABLE {shadow}")
