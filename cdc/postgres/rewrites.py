"""Tables rewritten, or made anew, behind the stream's back (SEMANTICS 13).

A rewriting ALTER (`ALTER x TYPE int USING x * 2`) sends no rows: the table's values change, and
nothing in the stream says so. The catalog does: the table has another file, and its columns'
catalog rows are newer. VACUUM FULL, CLUSTER and TRUNCATE change the file as well, but not the
columns. So the catalog is looked at now and then:

1.  The same file: nothing was rewritten; the columns' mark is taken over, whatever else changed.
2.  Another file with the same columns: a VACUUM FULL, or a TRUNCATE still to come. Taken over.
3.  Another file and other columns: a suspicion, because the catalog is ahead of the stream. Once
    the stream has passed the place where we looked, every followed change has been taken over by
    itself (stream.py); what is still different was rewritten, and is read again.
4.  No such table any more, but another of its name: made anew, and not in the publication.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.errors import SchemaChanged, SnapshotNeeded
from cdc.positions import Lsn
from cdc.postgres.catalog import COLUMNS_MARK, PgTable
from cdc.postgres.connection import Connection

LOOK_EVERY_S = 5.0

_LOOK = f"""
SELECT c.oid::int8, c.relfilenode::int8, {COLUMNS_MARK}
FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
"""
_SUCCESSORS = """
SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY (%s) AND c.relkind IN ('r', 'p')
"""


@dataclass
class RewriteWatch:
    """`filenodes` is shared with the stream, which takes over what it follows; `marks` stand for
    the columns' catalog rows. Both by table, kept in the frontier's notes."""

    filenodes: dict[str, int]
    marks: dict[str, str]
    source: str
    _suspects: dict[str, int] = field(default_factory=dict)
    """The file known when another was seen; 0: made anew."""
    _looked_at: Lsn = field(default_factory=lambda: Lsn(0))
    _looked_s: float = float("-inf")

    def check(self, catalog: Connection, tables: Mapping[str, PgTable], position: Lsn) -> None:
        """Raise SchemaChanged for a table that was rewritten before `position`; looks at the
        catalog every LOOK_EVERY_S."""
        if self._suspects and position.covers(self._looked_at):
            self._settle()
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S and not self._suspects:
            self._look(catalog, tables)

    def _look(self, catalog: Connection, tables: Mapping[str, PgTable]) -> None:
        self._looked_s = time.monotonic()
        oids = [table.oid for table in tables.values()]
        seen = {oid: (file, mark) for oid, file, mark in catalog.execute(_LOOK, (oids,))}
        gone = []
        for name, table in tables.items():
            if table.oid not in seen:
                gone.append(name)
                continue
            file, mark = seen[table.oid]
            if self.filenodes.get(name, file) == file or self.marks.get(name, mark) == mark:
                self.filenodes[name], self.marks[name] = file, mark
            else:
                self._suspects[name] = self.filenodes[name]
        if gone:
            for (name,) in catalog.execute(_SUCCESSORS, (gone,)):
                self._suspects[name] = 0
        if self._suspects:
            row = catalog.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            self._looked_at = Lsn.parse(row[0])

    def _settle(self) -> None:
        suspects, self._suspects = self._suspects, {}
        self._looked_s = float("-inf")
        for name, file in suspects.items():
            if file == 0:
                raise self._changed(name, "it was dropped and made again: its rows are not sent")
            if self.filenodes[name] == file:  # nothing was followed since
                what = "it was rewritten: rows have values that were not sent"
                raise self._changed(name, what, SnapshotNeeded)
            self.marks.pop(name, None)

    def _changed(
        self, table: str, what: str, kind: type[SchemaChanged] = SchemaChanged
    ) -> SchemaChanged:
        return kind(
            f"the table's definition changed: {what}",
            where=table,
            hint=f"cdc remove {self.source}, then cdc run takes a new snapshot",
        )
