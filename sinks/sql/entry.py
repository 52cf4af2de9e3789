"""A sink's row in `_cdc_sink`: its owner, fenced by an epoch, and its position.

Whoever opens the sink raises the epoch and puts its own name there; a write by anybody else sees
another epoch and fails. A process that opens again, after an error, does not take the sink back
from a newer owner, unless that is a rebuild, which hands it on.
"""

from __future__ import annotations

from sinks.api import SinkPosition
from sinks.owners import is_rebuild, new_owner, rebuilding, replaced
from sinks.sql.session import Session, Store, quoted_table
from sinks.sql.targets import BOOKKEEPING


class Entry:
    """The row of the sink `name`. `schema_name` empty: the connection's default."""

    def __init__(self, name: str, store: Store, schema_name: str) -> None:
        self.name = name
        self._store, self._schema_name = store, schema_name
        self._owner = new_owner()
        self._epoch = 0

    @property
    def place(self) -> str:
        """The table, quoted."""
        return quoted_table(self._store, self._schema_name, BOOKKEEPING)

    def has_table(self, session: Session) -> bool:
        return bool(session.columns(self._schema_name, BOOKKEEPING))

    def make_table(self, session: Session) -> None:
        if self.has_table(session):
            return
        if self._schema_name:
            session.execute(f"CREATE SCHEMA IF NOT EXISTS {self._store.quote(self._schema_name)}")
        session.execute(
            f"CREATE TABLE IF NOT EXISTS {self.place} "
            "(sink VARCHAR(255) PRIMARY KEY, "
            "epoch BIGINT NOT NULL, owner VARCHAR(255), position TEXT, tables TEXT)"
        )

    def take_over(self, session: Session) -> SinkPosition | None:
        """Raise the owner epoch; the position stored so far."""
        if self._epoch:
            self._see_that_it_is_ours(session)
        raised = session.update(
            f"UPDATE {self.place} SET epoch = epoch + 1, owner = ? WHERE sink = ?",
            self._owner,
            self.name,
        )
        if not raised:
            session.update(
                f"INSERT INTO {self.place} (sink, epoch, owner) VALUES (?, 1, ?)",
                self.name,
                self._owner,
            )
        ((self._epoch, position),) = session.execute(
            f"SELECT epoch, position FROM {self.place} WHERE sink = ?", self.name
        )
        return None if position is None else SinkPosition.from_json(position)

    def _see_that_it_is_ours(self, session: Session) -> None:
        """Raise Fenced where another process took over since this one opened the sink."""
        held = session.execute(
            f"SELECT owner FROM {self.place} WHERE sink = ?{self._store.row_lock}", self.name
        )
        owner = held[0][0] if held else self._owner
        if owner != self._owner and not is_rebuild(owner):
            raise replaced(self.name, owner)

    def hold(self, session: Session) -> None:
        """Lock the row. Raises Swapped or Fenced when it is not ours any more."""
        held = session.execute(
            f"SELECT epoch, owner FROM {self.place} WHERE sink = ?{self._store.row_lock}",
            self.name,
        )
        if not held or held[0][0] != self._epoch:
            raise replaced(self.name, held[0][1] if held else None)

    def position(self, session: Session, *, lock: bool = False) -> SinkPosition | None:
        rows = session.execute(
            f"SELECT position FROM {self.place} WHERE sink = ?"
            f"{self._store.row_lock if lock else ''}",
            self.name,
        )
        return SinkPosition.from_json(rows[0][0]) if rows and rows[0][0] else None

    def set_position(self, session: Session, position: SinkPosition) -> None:
        changed = session.update(
            f"UPDATE {self.place} SET position = ? WHERE sink = ? AND epoch = ?",
            position.to_json(),
            self.name,
            self._epoch,
        )
        if changed != 1:
            raise replaced(self.name, None)

    def hand_on(self, session: Session, position: SinkPosition) -> None:
        """A rebuild has put other rows in the sink's place, which stand at `position`."""
        values = (rebuilding(self._owner), position.to_json(), self.name)
        raised = session.update(
            f"UPDATE {self.place} SET epoch = epoch + 1, owner = ?, position = ? WHERE sink = ?",
            *values,
        )
        if not raised:
            session.update(
                f"INSERT INTO {self.place} (epoch, owner, position, sink) VALUES (1, ?, ?, ?)",
                *values,
            )

    def forget(self, session: Session) -> bool:
        """Leave it without owner and position, and fence whoever has it; whether it had an owner.
        The row stays: it lists the sink's tables, and epochs must not begin again."""
        gone = session.update(
            f"UPDATE {self.place} SET epoch = epoch + 1, owner = NULL, position = NULL "
            "WHERE sink = ? AND owner IS NOT NULL",
            self.name,
        )
        return bool(gone)
