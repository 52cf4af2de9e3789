"""A captured table as MySQL and MariaDB describe it: what the catalog, a table map and the decoders
share.

A `MyType` is one column's type, completely resolved, whether information_schema or a TABLE_MAP event
with full metadata said so: two descriptions of the same column are equal. From it follow the Arrow
type and the Postgres spelling of the type (cdc/mysql/types.py).
"""

from __future__ import annotations

from dataclasses import dataclass

BINARY_COLLATION = 63
"""The collation id of binary strings and of everything that is no text."""


@dataclass(frozen=True)
class MyType:
    """The type of one column.

    code       enum_field_types of the column itself (an ENUM is 247, a SET 248, a CHAR 254), never
               the shared code under which the binlog carries it
    meta       the two bytes of the table map's metadata that belong to it, as this type's meaning
               has them: length in bytes of strings, (precision << 8 | scale) of decimals, fraction
               digits of times, (bytes << 8 | bits) of BIT, width of the length of blobs
    unsigned   numbers only
    collation  id of the collation; 63: binary; 0 for what is neither text nor binary
    labels     of ENUM and SET, in order
    json       MariaDB: a text column that is declared JSON
    """

    code: int
    meta: int = 0
    unsigned: bool = False
    collation: int = 0
    labels: tuple[str, ...] = ()
    json: bool = False


@dataclass(frozen=True)
class MyColumn:
    """`generated`: 'stored', 'virtual' or ''. `default`: the constant that older rows have where
    the column was added with one, as Column.missing; None: NULL."""

    name: str
    kind: MyType
    nullable: bool
    generated: str = ""
    invisible: bool = False
    default: str | None = None


@dataclass(frozen=True)
class MyTable:
    """One table. `name` is `database.table`; `columns` are all, in the order of the row images;
    `key` is the primary key's columns, else those of the first unique index without nullable
    columns, else empty. `rows` is the server's estimate."""

    name: str
    columns: tuple[MyColumn, ...]
    key: tuple[str, ...]
    rows: int = 0

    @property
    def quoted(self) -> str:
        """The table's name in SQL."""
        return ".".join(f"`{part.replace('`', '``')}`" for part in self.name.split(".", 1))
