"""The tables of one SQL sink: made, widened, dropped, and noted as its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cdc.errors import SinkError
from cdc.schema import Column
from sinks.api import SinkInput
from sinks.sql.exchange import Exchange
from sinks.sql.ownership import Owned, owned_tables, require_own, set_own
from sinks.sql.session import Session, Store, quoted_table
from sinks.sql.targets import (
    BOOKKEEPING,
    OLD,
    REBUILT,
    SHADOW,
    Target,
    beside,
    missing_columns,
    name_beside,
    require_names,
    shadow_of,
    targets_of,
)


class Tables:
    """The tables of the sink `sink`, whose row is in the table `bookkeeping` (quoted); with
    `rebuilt`, those beside them that a rebuild fills."""

    def __init__(
        self, sink: str, store: Store, schema_name: str, template: str, bookkeeping: str
    ) -> None:
        self._sink, self._store, self._bookkeeping = sink, store, bookkeeping
        self._schema_name, self._template = schema_name, template

    def targets(self, inputs: Sequence[SinkInput], *, rebuilt: bool = False) -> tuple[Target, ...]:
        found = targets_of(inputs, self._schema_name, self._template, self._store.by_text)
        for target in found:
            require_names(target, self._store.name_bytes_max, self._store.folds_case)
        return tuple(beside(target, REBUILT) for target in found) if rebuilt else found

    def place(self, target: Target) -> str:
        return quoted_table(self._store, target.schema_name, target.table)

    def make(self, session: Session, target: Target) -> bool:
        """Make or widen a table; whether it is new."""
        if not session.columns(target.schema_name, target.table):
            session.execute(self.create(target))
            return True
        for column in self.lacking(session, target):
            self._add_column(session, target, column)
        return False

    def create(self, target: Target) -> str:
        quote = self._store.quote
        lines = [
            f"{quote(c.name)} {self._store.type_name(c)}"
            + (" NOT NULL" if c.name in target.primary_key else "")
            for c in target.columns
        ]
        key = ", ".join(quote(name) for name in target.primary_key)
        body = ", ".join([*lines, f"PRIMARY KEY ({key})"])
        return f"CREATE TABLE {self.place(target)} ({body})"

    def lacking(self, session: Session, target: Target) -> tuple[Column, ...]:
        """The columns that the existing table lacks. Raises SinkError if it does not fit, or is
        somebody else's."""
        place = target.schema_name, target.table
        found = session.columns(*place)
        if not found:
            return ()
        self._require_own(session, target)
        sink = self._sink.partition("/")[0]
        key = session.primary_key(*place)
        return missing_columns(target, found, key, self._store.type_name, sink)

    def _require_own(self, session: Session, target: Target) -> None:
        require_own(session, self._sink, self._owned(session), target, self.place(target))

    def _add_column(self, session: Session, target: Target, column: Column) -> None:
        place, name = self.place(target), self._store.quote(column.name)
        session.execute(f"ALTER TABLE {place} ADD COLUMN {name} {self._store.type_name(column)}")
        if column.missing is not None:
            value = self._store.literal(column, column.missing)
            session.execute(f"UPDATE {place} SET {name} = {value}")

    def note(self, session: Session, targets: Sequence[Target]) -> None:
        """Note that `targets` are the sink's, beside those that are."""
        own = self._own(session)
        if wider := {target.table for target in targets} - own:
            set_own(session, self._sink, self._bookkeeping, own | wider)

    def drop_shadows(self, session: Session, targets: Sequence[Target]) -> None:
        """Drop what an interrupted reload left."""
        for target in targets:
            session.execute(f"DROP TABLE IF EXISTS {self.place(shadow_of(target))}")

    def drop_unfit(self, session: Session, targets: Sequence[Target]) -> None:
        """Where what an interrupted rebuild left does not fit `targets`, drop all of it."""
        own = self._own(session)
        fits = own <= {target.table for target in targets}
        try:
            for target in targets:
                self.lacking(session, target)
        except SinkError:
            fits = False
        if not fits:
            self.drop_all(session)

    def drop_all(self, session: Session) -> list[str]:
        """Drop every table of the sink's own; what was there."""
        own = self._own(session)
        set_own(session, self._sink, self._bookkeeping, ())
        return self._drop(session, own)

    def drop_kept(self, session: Session) -> list[str]:
        """Drop the tables that the last rebuild replaced; what was there."""
        own = self._own(session)
        kept = own & {name_beside(table, OLD) for table in own}
        if kept:
            set_own(session, self._sink, self._bookkeeping, own - kept)
        return self._drop(session, kept)

    def _own(self, session: Session) -> frozenset[str]:
        return self._owned(session).get(self._sink, frozenset())

    def _owned(self, session: Session) -> Owned:
        if not session.columns(self._schema_name, BOOKKEEPING):
            return {}
        return owned_tables(session, self._bookkeeping)

    def _drop(self, session: Session, names: Collection[str]) -> list[str]:
        there = [name for name in sorted(names) if session.columns(self._schema_name, name)]
        for name in names:
            for each in (name, name_beside(name, SHADOW)):
                place = quoted_table(self._store, self._schema_name, each)
                session.execute(f"DROP TABLE IF EXISTS {place}")
        return [f"table {name}" for name in there]

    def require_exchange(self, session: Session, rebuilt: Sequence[Target]) -> None:
        """Raise SinkError where `rebuilt` could not be put in the live tables' place."""
        for target, new in self._pairs(rebuilt):
            for each in (target, beside(target, OLD)):
                if session.columns(each.schema_name, each.table):
                    self._require_own(session, each)
            self._exchange(session, target, new).refuse_if_bound()

    def exchange(self, session: Session, rebuilt: Sequence[Target]) -> None:
        """Put `rebuilt` in the live tables' place; what they held is kept in `…__cdc_old`."""
        self.require_exchange(session, rebuilt)
        for target, new in self._pairs(rebuilt):
            self._exchange(session, target, new).run()
            kept = beside(target, OLD)
            there = session.columns(kept.schema_name, kept.table)
            self.note(session, [target, kept] if there else [target])

    def _pairs(self, rebuilt: Sequence[Target]) -> list[tuple[Target, Target]]:
        live = self.targets([target.input for target in rebuilt])
        return list(zip(live, rebuilt, strict=True))

    def _exchange(self, session: Session, target: Target, rebuilt: Target) -> Exchange:
        return Exchange(session, self._store, target, rebuilt, self._sink)
