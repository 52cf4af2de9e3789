"""The captured tables while their binlog goes by: decoders, schemas, statements, left-out values.

A restart goes on behind a frontier that may stand between an ALTER TABLE and the first rows that
show what it did. So what statements said since then is noted in the frontier.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cdc.changes import Bools, ChangeBatch
from cdc.errors import SnapshotNeeded, SourceError
from cdc.mysql.events import Query
from cdc.mysql.evolution import Evolution, as_table
from cdc.mysql.rows import TableDecoder, compile_table
from cdc.mysql.side_effects import SideEffects
from cdc.mysql.statements import has_escapes, is_strict, updated_databases
from cdc.mysql.table_maps import resolve, table_map, table_name
from cdc.mysql.tables import MyTable
from cdc.positions import NativePosition
from cdc.schema import TableSchema
from cdc.source import ALTERED_NOTE


class Completion(Protocol):
    """Fills in what row images leave out."""

    def __call__(
        self,
        decoder: TableDecoder,
        changes: ChangeBatch,
        unchanged: Mapping[str, Bools],
        unnamed: Mapping[str, Bools],
    ) -> ChangeBatch:
        """`changes` with nothing missing. By column and row, what was not sent: values that an
        update left alone, and those that an insert does not name. Empty: none."""
        ...


def nothing_left_out(
    decoder: TableDecoder,
    changes: ChangeBatch,
    unchanged: Mapping[str, Bools],
    unnamed: Mapping[str, Bools],
) -> ChangeBatch:
    """For a server whose row images are complete."""
    if unchanged or unnamed:
        names = ", ".join({**unchanged, **unnamed})
        raise SourceError(
            f"a change came without its values of {names}, though the server's "
            "binlog_row_image is FULL: a session has another",
            where=decoder.schema.name,
            hint="SET GLOBAL binlog_row_image = NOBLOB and run again: values that are left out are "
            "then kept here; or let no session change it, and take a new snapshot",
        )
    return changes


@dataclass
class CapturedTables:
    """What the stream knows of the tables; `evolution` has their schemas, `side_effects` is
    MariaDB's."""

    evolution: Evolution
    mariadb: bool
    completion: Completion = nothing_left_out
    side_effects: SideEffects | None = None
    _new: dict[str, TableSchema] = field(default_factory=dict)
    _decoders: dict[str, TableDecoder] = field(default_factory=dict)

    def resume(self, notes: Mapping[str, Any]) -> None:
        """Take in what an earlier run noted."""
        found = notes.get(ALTERED_NOTE, {})
        self.evolution.resume(found)
        if self.side_effects is not None:
            self.side_effects.resume(found)

    def begin(self, schemas: Mapping[str, TableSchema]) -> None:
        """First versions of tables that the log does not know."""
        self.evolution.schemas.update(schemas)
        self._new |= schemas

    def taken_made(self) -> dict[str, bool]:
        """Evolution.made since the last call."""
        made, self.evolution.made = self.evolution.made, {}
        return made

    def notes(self) -> dict[str, Any]:
        """For the frontier's `resume`."""
        found = self.evolution.notes()
        if self.side_effects is not None:
            found |= self.side_effects.notes()
        return {ALTERED_NOTE: found} if found else {}

    def taken_new(self) -> dict[str, TableSchema]:
        """The schema versions that began since the last call."""
        new, self._new = self._new, {}
        return new

    def statement(self, found: Query, event: bytes, reached: NativePosition) -> tuple[str, ...]:
        """A statement comes past, `event` its QUERY, behind `reached`; the captured tables that it
        emptied. Raises as Evolution does."""
        escapes = has_escapes(event)
        updated: Collection[str] | None = (
            updated_databases(event)
            if self.side_effects is None
            else self.side_effects.updated(found.sql, found.database, reached, escapes=escapes)
        )
        return self.evolution.statement(
            found.sql,
            found.database,
            strict=is_strict(event),
            escapes=escapes,
            updated=updated,
        )

    def on_table_map(self, event: bytes) -> TableDecoder | None:
        """How the rows behind a table map are read; None: not captured. Raises SnapshotNeeded
        and SchemaChanged."""
        # The columns of tables that are not captured may be of types that nobody knows.
        known = self.evolution.schemas.get(table_name(event))
        if known is None:
            return None
        found = table_map(event, mariadb=self.mariadb)
        if not found.named and self.evolution.is_touched(found.name):
            # The catalog may be ahead of the rows; read again, both are of one position.
            raise SnapshotNeeded(
                "the table was altered, and its rows do not say how",
                where=found.name,
                hint="its rows are read again; with binlog_row_metadata = FULL they say how",
            )
        table = resolve(found, as_table(known))
        schema = self.evolution.described(table)
        if schema is not known:
            self._new[found.name] = schema
        return self._decoder(table, schema)

    def _decoder(self, table: MyTable, schema: TableSchema) -> TableDecoder:
        """One as long as the table stays what it is, also where its number changes (the server's
        cache of tables, FLUSH TABLES): rows of one decoder are put in their order."""
        found = self._decoders.get(table.name)
        if found is None or found.schema is not schema or found.table != table:
            found = compile_table(table, schema, self.evolution.zero_dates)
            self._decoders[table.name] = found
        return found

    def read(self, changes: ChangeBatch) -> None:
        """Rows of a table that was added later come past: updates may leave their values out."""
        schema = changes.schema
        decoder = compile_table(as_table(schema), schema, self.evolution.zero_dates)
        self.completion(decoder, changes, {}, {})

    def is_touched(self) -> bool:
        """Whether a statement may have changed a table since its rows came last."""
        return any(map(self.evolution.is_touched, self.evolution.schemas))
