"""The SQL sink: rows and position in one transaction, whichever database it is.

A transaction of `apply`:
1. lock the sink's row in `_cdc_sink` and see that the epoch is still ours, else Fenced;
2. write every input's deletes and upserts;
3. set the position where the epoch is ours (compare and set);
4. commit.

`open` raises the epoch, so whoever had the sink before fails at 1 or 3 (sinks.sql.entry). A reload
(SinkCut.replace) gathers its rows in tables beside the live ones (targets.shadow_of) and exchanges
all rows in its last transaction.

A rebuild is a sink of its own, `<name>/rebuild`, over tables beside the live ones. `swap` is one
transaction: see that the rebuild has come as far as the live sink, exchange the tables
(sinks.sql.exchange), hand the sink on with the rebuild's position, and forget the rebuild's entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from cdc import faults
from cdc.errors import CdcError
from cdc.source import Finding
from sinks.api import InputChanges, QueryResult, Reject, Sink, SinkCut, SinkInput, SinkPosition
from sinks.sql.entry import Entry
from sinks.sql.session import Session, Store
from sinks.sql.tables import Tables
from sinks.sql.targets import BOOKKEEPING, Target, shadow_of


class SqlSink:
    """See sinks.api.Sink. `schema_name` empty: the connection's default."""

    def __init__(
        self,
        name: str,
        store: Store,
        *,
        schema_name: str = "",
        table: str = "{name}",
        live: SqlSink | None = None,
    ) -> None:
        """`live`: this is a rebuild of that sink, beside it."""
        self._name = name
        self._store = store
        self._schema_name = schema_name
        self._template = table
        self._live = live
        self._entry = Entry(name, store, schema_name)
        self._tables = Tables(name, store, schema_name, table, self._entry.place)
        self._targets: dict[str, Target] = {}
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
                for target in targets:
                    self._tables.lacking(session, target)
        except CdcError as error:
            return [Finding("error", where, str(error.what), error.hint)]
        return [
            Finding("ok", where, f"{target.input.name} → table {self._tables.place(target)}")
            for target in targets
        ]

    def open(self, inputs: Sequence[SinkInput]) -> SinkPosition | None:
        targets = self._targets_of(inputs)
        with self._store.session() as session:
            self._entry.make_table(session)
            stored = self._entry.take_over(session)
            if self._live is not None:
                self._tables.drop_unfit(session, targets)
            made = [self._tables.make(session, target) for target in targets]
            if self._live is not None:
                self._live._tables.require_exchange(session, targets)
            self._tables.note(session, targets)
            self._tables.drop_shadows(session, targets)
        self._targets = {target.input.name: target for target in targets}
        self._reloading = False
        self.empty = all(made)
        return None if any(made) else stored

    def apply(self, cut: SinkCut, reject: Reject) -> None:
        faults.point("sink.before_write")
        with self._store.session() as session:
            self._entry.hold(session)
            if cut.replace:
                self._reload(session, cut)
            else:
                for changes in cut.changes:
                    self._write(session, changes, cut.first_load)
            faults.point("sink.after_write")
            if not cut.replace or cut.position.chunk == 0:
                self._entry.set_position(session, cut.position)
        faults.point("sink.after_commit")
        self._reloading = cut.replace and cut.position.chunk != 0

    def position(self) -> SinkPosition | None:
        with self._store.reading() as session:
            return self._entry.position(session) if self._entry.has_table(session) else None

    def rows(self, name: str) -> Iterator[pa.RecordBatch]:
        target = self._targets[name]
        yield from self._store.rows(target, target.input.schema.columns)

    def prepare_reading(self, inputs: Sequence[SinkInput]) -> None:
        self._targets = {target.input.name: target for target in self._targets_of(inputs)}

    def readable_columns(self, name: str) -> tuple[str, ...]:
        return tuple(column.name for column in self._targets[name].input.schema.columns)

    def query(self, text: str) -> QueryResult:
        return self._store.query(text)

    def beside(self) -> SqlSink:
        return SqlSink(
            f"{self._name}/rebuild",
            self._store,
            schema_name=self._schema_name,
            table=self._template,
            live=self,
        )

    def swap(self, rebuilt: Sink, inputs: Sequence[SinkInput]) -> bool:
        assert isinstance(rebuilt, SqlSink)
        with self._store.session() as session:
            live = self._entry.position(session, lock=True)
            rebuilt._entry.hold(session)
            reached = rebuilt._entry.position(session)
            if reached is None or not reached.covers(live):
                return False
            self._entry.hand_on(session, reached)
            self._tables.exchange(session, tuple(rebuilt._targets.values()))
            rebuilt._tables.drop_all(session)
            rebuilt._entry.forget(session)
            faults.point("sink.mid_swap")
        faults.point("sink.after_swap")
        return True

    def discard(self) -> list[str]:
        with self._store.reading() as session:
            if not self._entry.has_table(session):
                return []
        with self._store.session() as session:
            self._entry.forget(session)
            return self._tables.drop_all(session)

    def remove(self) -> list[str]:
        removed = self.beside().discard()
        with self._store.reading() as session:
            if not self._entry.has_table(session):
                return []
        with self._store.session() as session:
            removed += self._tables.drop_kept(session)
            if self._entry.forget(session):
                removed.append(f"position of sink {self._name} in {BOOKKEEPING}")
        return removed

    def close(self) -> None:
        self._store.close()

    def _targets_of(self, inputs: Sequence[SinkInput]) -> tuple[Target, ...]:
        return self._tables.targets(inputs, rebuilt=self._live is not None)

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
                session.execute(self._tables.create(shadow_of(target)))
        for changes in cut.changes:
            target = self._targets[changes.input.name]
            session.write(
                shadow_of(target),
                target.stored_rows(changes.upserts),
                target.stored_keys(changes.deletes),
            )
        if cut.position.chunk == 0:
            for target in self._targets.values():
                self._exchange_rows(session, target)

    def _exchange_rows(self, session: Session, target: Target) -> None:
        """Give the table exactly the shadow's rows. The table itself stays: views over it,
        rights and indexes are the user's."""
        names = ", ".join(self._store.quote(column.name) for column in target.columns)
        live, shadow = self._tables.place(target), self._tables.place(shadow_of(target))
        session.execute(f"DELETE FROM {live}")
        session.execute(f"INSERT INTO {live} ({names}) SELECT {names} FROM {shadow}")
        session.execute(f"DROP TABLE {shadow}")
