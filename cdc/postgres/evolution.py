"""Schema changes in the stream (SEMANTICS 13): which can be followed, and how.

A Relation message says what the tuples behind it look like; the catalog says what the table looks
like now, perhaps later in history. `evolved` compares both with the schema version known so far:

    nothing changed           the known version
    columns added             with the server's `missing` value (NULL or the constant default),
                              unless the table was rewritten: then old rows have values that were
                              never sent
    columns dropped, renamed  mapped by attnum, if they are not of the key
    anything else             SchemaChanged, before anything wrong is published
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from cdc.changes import column_value
from cdc.errors import SchemaChanged
from cdc.postgres.catalog import PgTable
from cdc.postgres.messages import Relation
from cdc.schema import Column, TableSchema


@dataclass(frozen=True)
class _Refusal:
    """What is raised for a change of `table` that cannot be followed."""

    table: str
    source: str

    def __call__(self, what: str) -> SchemaChanged:
        return SchemaChanged(
            f"the table's definition changed: {what}",
            where=self.table,
            hint=f"nothing after the change was published. cdc remove {self.source}, then cdc run "
            "takes a new snapshot",
        )


def evolved(
    relation: Relation,
    known: TableSchema,
    now: PgTable | None,
    filenode: int | None,
    source: str,
) -> TableSchema:
    """The schema version of the tuples behind `relation`: `known`, or its successor.

    `now` is the catalog's table (None: it is gone), `filenode` the last relfilenode known."""
    refuse = _Refusal(known.name, source)
    names = tuple(column.name for column in relation.columns)
    if now is None:
        if names == tuple(c.name for c in known.columns):
            return known
        raise refuse("it changed and was then dropped or renamed")
    current = now.schema(known.version)
    _require_types(known, current, refuse)
    if now.key != known.key:
        raise refuse(f"its key is {now.key}, it was {known.key}")
    if names == tuple(c.name for c in known.columns) and not _renamed(known, current, names):
        return known
    if names != tuple(c.name for c in current.columns):
        raise refuse("its columns changed more than once since the agent last ran")
    columns = tuple(_carried(column, known) for column in current.columns)
    added = [c.name for c in columns if c.attnum not in {k.attnum for k in known.columns}]
    if added and filenode is not None and filenode != now.filenode:
        raise refuse(
            f"it was rewritten while {', '.join(added)} was added: rows have values that the "
            "server does not send",
        )
    for column in columns:
        _require_readable(column, refuse)
    return replace(current, columns=columns, version=known.version + 1)


def _require_readable(column: Column, refuse: _Refusal) -> None:
    """Readers must be able to fill older records with the default."""
    if column.missing is None:
        return
    try:
        column_value(column, column.missing)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        what = f"{column.name} was added with a default that older records cannot be given"
        raise refuse(f"{what}: {column.missing}") from error


def _renamed(known: TableSchema, current: TableSchema, names: tuple[str, ...]) -> bool:
    """Whether a column of the same name is another one (dropped and added again)."""
    then = {c.name: c.attnum for c in known.columns}
    return names == tuple(c.name for c in current.columns) and any(
        then.get(c.name) != c.attnum for c in current.columns
    )


def _require_types(known: TableSchema, current: TableSchema, refuse: _Refusal) -> None:
    before = {c.attnum: c for c in known.columns}
    for column in current.columns:
        old = before.get(column.attnum)
        if old is not None and (old.type != column.type or old.sql_type != column.sql_type):
            raise refuse(f"{column.name} is {column.sql_type}, it was {old.sql_type}")


def _carried(column: Column, known: TableSchema) -> Column:
    """A column that was there keeps what was known: a rewrite forgets `missing`."""
    for old in known.columns:
        if old.attnum == column.attnum:
            return replace(old, name=column.name)
    return column
