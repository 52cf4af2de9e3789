"""A captured table as MySQL and MariaDB describe it: what the catalog, a table map and the decoders
share.

A `MyType` is one column's type, completely resolved, whether information_schema or a TABLE_MAP
event with full metadata said so: two descriptions of the same column are equal, but for what no
table map says (`json`, `native`). From it follow the Arrow type and the Postgres spelling of the
type (cdc/mysql/types.py).
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass

BINARY_COLLATION = 63
"""The collation id of binary strings and of everything that is no text."""

UNKNOWN = -1
"""The code of a type that capture does not know; its name is the only label."""


@dataclass(frozen=True)
class MyType:
    """The type of one column.

    code       enum_field_types of the column itself (an ENUM is 247, a SET 248, a CHAR 254), never
               the shared code under which the binlog carries it
    meta       the two bytes of the table map's metadata that belong to it, as this type's meaning
               has them: length in bytes of strings, (precision << 8 | scale) of decimals, fraction
               digits of times, (bytes << 8 | bits) of BIT, width of the length of blobs, bytes of
               ENUM, SET, FLOAT and DOUBLE
    unsigned   integers only
    collation  id of the collation; 63: binary; 0 for what is neither text nor binary
    labels     of ENUM and SET, in order
    json       MariaDB: a text column that is declared JSON
    native     MariaDB's types that travel as fixed strings of bytes: 'uuid', 'inet6', 'inet4'
    """

    code: int
    meta: int = 0
    unsigned: bool = False
    collation: int = 0
    labels: tuple[str, ...] = ()
    json: bool = False
    native: str = ""

    def to_text(self) -> str:
        """As Column.native keeps it; `from_text` reads it back equal."""
        return json.dumps([*astuple(self)], separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> MyType:
        code, meta, unsigned, collation, labels, is_json, native = json.loads(text)
        return cls(code, meta, unsigned, collation, tuple(labels), is_json, native)


@dataclass(frozen=True)
class MyColumn:
    """`generated`: 'stored', 'virtual' or ''. `default`: the text of the column's constant default
    as SELECT prints it; None: NULL, none, an expression, or a string of bytes."""

    name: str
    kind: MyType
    nullable: bool
    generated: str = ""
    invisible: bool = False
    default: str | None = None


@dataclass(frozen=True)
class MyTable:
    """One table. `name` is `database.table`; `columns` are all, in the order of the row images;
    `key` is the primary key's columns, else those of a unique index without nullable columns, else
    empty. `rows` and `data_bytes` are the server's estimates.

    key_index                          the index that makes the key unique
    engine, transactional, versioned   whether a snapshot of it can be consistent; `versioned` is
                                       MariaDB's SYSTEM VERSIONING
    hash_index                         a unique index that MariaDB keeps as a hash, if there is one
    """

    name: str
    columns: tuple[MyColumn, ...]
    key: tuple[str, ...]
    rows: int = 0
    data_bytes: int = 0
    key_index: str = "PRIMARY"
    engine: str = "InnoDB"
    transactional: bool = True
    versioned: bool = False
    hash_index: str = ""

    @property
    def quoted(self) -> str:
        """The table's name in SQL."""
        return ".".join(f"`{part.replace('`', '``')}`" for part in self.name.split(".", 1))


def described(table: MyTable) -> list[tuple[str, MyType]]:
    """The columns by name and type: what must be equal for rows to be read the same."""
    return [(column.name, column.kind) for column in table.columns]
