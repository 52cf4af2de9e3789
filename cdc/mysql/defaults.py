"""What a column has by default where an insert does not name it, while the tables are altered.

The binlog has no defaults: the catalog says them when the stream begins, and statements say what
became of them since. Only constants matter: what an expression gave is in the row (seen on MySQL
8.0 and MariaDB 10.11).

The catalog may be ahead of the stream: then an insert gets a default that came after it, and the
statement that set it comes past later. So a statement that may have set one for a column that
inserts can leave out has all tables read again, whatever the catalog said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.errors import SnapshotNeeded
from cdc.mysql.ddl import Added, Altered
from cdc.mysql.tables import MyColumn, MyTable
from cdc.mysql.types import BLOBS, FieldType

_LARGE = frozenset(BLOBS) | {FieldType.JSON, FieldType.GEOMETRY}
_UNKNOWN = Added(known=False)


def can_be_left_out(table: MyTable, column: MyColumn, *, minimal: bool) -> bool:
    """Whether row images can lack the column: with NOBLOB what is large, with MINIMAL all but the
    key."""
    return column.name not in table.key and (minimal or column.kind.code in _LARGE)


@dataclass
class Defaults:
    """Of all captured tables. `tables`: as the catalog had them when the stream began, or when they
    were made."""

    tables: Mapping[str, MyTable]
    minimal: bool
    _known: dict[str, dict[str, Added]] = field(default_factory=dict)

    def altered(self, table: MyTable, found: Altered) -> None:
        """An ALTER TABLE comes past, of the table as it was before. Raises SnapshotNeeded."""
        redefined = {name.lower() for name in found.redefined}
        for column in table.columns:
            if column.name.lower() in redefined and can_be_left_out(
                table, column, minimal=self.minimal
            ):
                raise _again(table.name, f"the default of {column.name} may have changed")
        known = self._of(table.name)
        moved = {new: known.pop(old.lower(), None) for new, old in found.renamed.items()}
        for name in found.dropped:
            known.pop(name.lower(), None)
        for name, default in (*moved.items(), *found.added.items()):
            if default is not None:
                known[name.lower()] = default

    def made_anew(self, table: str) -> None:
        """The table was dropped and made again."""
        self._known[table] = {}

    def of(self, table: str, column: str) -> str | None:
        """The text of the constant; None: NULL, or none. Raises SnapshotNeeded where it is not
        known: a snapshot begins with the catalog of its own position."""
        found = self._of(table).get(column.lower(), _UNKNOWN)
        if not found.known:
            raise _again(table, f"an insert does not name {column}, whose default is not known")
        return found.default

    def _of(self, table: str) -> dict[str, Added]:
        if table not in self._known:
            columns = self.tables[table].columns if table in self.tables else ()
            self._known[table] = {column.name.lower(): Added(column.default) for column in columns}
        return self._known[table]


def _again(table: str, why: str) -> SnapshotNeeded:
    return SnapshotNeeded(
        f"{why}, and binlog_row_image lets inserts leave it out",
        where=table,
        hint="the tables are read again",
    )
