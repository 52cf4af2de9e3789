"""Putting rebuilt tables in the live ones' place, inside the caller's transaction.

Two ways, both seen by readers at once, both leaving the previous rows in `<table>__cdc_old`:

*   By name, where nothing is bound to the table object (DuckDB), or where the definitions differ:
    the live table takes the name `…__cdc_old`, the rebuilt one takes the live name. Indexes and
    grants are made again on it. Where something else is bound to the object and would stay with
    the old one (views in Postgres), it is refused before anything is touched.
*   By rows, where the definitions agree and objects have identity: views, rights and triggers stay
    as they are. The rows in which the two tables differ change places, so that a rebuild of what
    was right already writes next to nothing; then the rebuilt table takes the name `…__cdc_old`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdc.errors import SinkError
from sinks.sql.session import Session, Store, quoted_table
from sinks.sql.targets import OLD, Target, beside


@dataclass(frozen=True)
class Exchange:
    """The exchange of one table."""

    session: Session
    store: Store
    live: Target
    rebuilt: Target
    sink: str

    @property
    def old(self) -> Target:
        return beside(self.live, OLD)

    def refuse_if_bound(self) -> None:
        """Raise SinkError where what is bound to the live table forbids the exchange by name."""
        if self._is_by_rows():
            return
        bound = self.session.bound_to(self.live) if self._there(self.live) else []
        if bound:
            raise SinkError(
                f"table {self.live.table} must be replaced, for its definition changes, and these "
                f"would stay with the old one: {', '.join(bound)}",
                where=f"sink {self.sink}",
                hint=f"drop them, `cdc rebuild {self.sink}`, and create them again",
            )

    def run(self) -> None:
        self.refuse_if_bound()
        if self._is_by_rows():
            self._exchange_rows()
        else:
            self._exchange_names()

    def _is_by_rows(self) -> bool:
        if not self.store.binds_to_tables:
            return False
        live, rebuilt = self._definition(self.live), self._definition(self.rebuilt)
        return bool(live[0]) and live == rebuilt

    def _definition(self, target: Target) -> tuple[dict[str, str], tuple[str, ...]]:
        place = target.schema_name, target.table
        return self.session.columns(*place), self.session.primary_key(*place)

    def _there(self, target: Target) -> bool:
        return bool(self.session.columns(target.schema_name, target.table))

    def _exchange_names(self) -> None:
        columns = self.session.columns(self.rebuilt.schema_name, self.rebuilt.table)
        self._drop_old()
        belongings = None
        if self._there(self.live):
            belongings = self.session.belongings(self.live, columns)
            self._run(belongings.take)
            self.session.rename(self.live, self.old.table)
        self.session.rename(self.rebuilt, self.live.table)
        if belongings is not None:
            self._run(belongings.give)

    def _exchange_rows(self) -> None:
        """Rows that only the live table has go, rows that only the rebuilt one has come."""
        names = self._listed([column.name for column in self.live.columns])
        live, rebuilt = self._place(self.live), self._place(self.rebuilt)
        self.session.analyze(self.rebuilt)
        self._collect("_cdc_going", self.live, self.rebuilt)
        self._collect("_cdc_coming", self.rebuilt, self.live)
        for place, gone, come in (
            (live, "_cdc_going", "_cdc_coming"),
            (rebuilt, "_cdc_coming", "_cdc_going"),
        ):
            key = self._listed(self.live.primary_key)
            self.session.execute(f"DELETE FROM {place} WHERE ({key}) IN (SELECT {key} FROM {gone})")
            self.session.execute(f"INSERT INTO {place} ({names}) SELECT {names} FROM {come}")
        self._run(["DROP TABLE _cdc_going", "DROP TABLE _cdc_coming"])
        self._drop_old()
        self.session.rename(self.rebuilt, self.old.table)

    def _collect(self, into: str, these: Target, those: Target) -> None:
        """The rows of `these` that `those` does not have just so, as a temporary table."""
        quote, key = self.store.quote, self.live.primary_key
        names = ", ".join(f"a.{quote(column.name)}" for column in self.live.columns)
        same_key = " AND ".join(f"a.{quote(name)} = b.{quote(name)}" for name in key)
        same_row = self.store.same_rows(self.live.columns, "a", "b")
        self.session.execute(
            f"CREATE TEMPORARY TABLE {into} AS SELECT {names} FROM {self._place(these)} a "
            f"LEFT JOIN {self._place(those)} b ON {same_key} AND {same_row} "
            f"WHERE b.{quote(key[0])} IS NULL"
        )

    def _drop_old(self) -> None:
        self.session.execute(f"DROP TABLE IF EXISTS {self._place(self.old)}")

    def _place(self, target: Target) -> str:
        return quoted_table(self.store, target.schema_name, target.table)

    def _listed(self, names: Sequence[str]) -> str:
        return ", ".join(self.store.quote(name) for name in names)

    def _run(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self.session.execute(statement)
