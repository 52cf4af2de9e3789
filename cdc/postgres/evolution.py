"""Schema changes in the stream (SEMANTICS 13): which can be followed, and how.

A Relation message says what the tuples behind it look like: names, types. The catalog says what the
table looks like now, perhaps later in history, after several more changes: it knows a column by its
number (attnum), what older rows have in it, and the key. `evolved` makes the schema version of the
tuples from both, and from the version known so far:

    nothing changed            the known version
    column added               with the server's `missing` value (NULL or the constant default),
    column dropped, renamed    mapped by attnum, if it is not of the key
    column retyped             if the server did not rewrite the rows for it: then values are what
                               they were, and the old type's stand for the new one's (`_carries`)
    added or retyped, and      SnapshotNeeded: the agent reads all tables again, if older values
    the rows rewritten         can be read as the new type
    anything else              SchemaChanged, before anything wrong is published

`as_streamed` is the table that belongs to such a version: what decoding and the store of TOAST
values go by. The catalog's own may be ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from cdc.changes import column_value
from cdc.errors import SchemaChanged, SnapshotNeeded
from cdc.postgres.catalog import PgColumn, PgTable, types_of
from cdc.postgres.connection import Connection
from cdc.postgres.messages import Relation, RelationColumn
from cdc.postgres.types import PgType, column
from cdc.schema import NUMERIC_TEXT, Column, TableSchema


@dataclass(frozen=True)
class _Refusal:
    """What is raised for a change of `table` that cannot be followed."""

    table: str
    source: str

    def __call__(self, what: str, kind: type[SchemaChanged] = SchemaChanged) -> SchemaChanged:
        return kind(
            f"the table's definition changed: {what}",
            where=self.table,
            hint=f"nothing after the change was published. cdc remove {self.source}, then cdc run "
            "takes a new snapshot",
        )


def relation_types(
    connection: Connection, relation: Relation, known: TableSchema, now: PgTable | None
) -> dict[str, PgType]:
    """The type of every column of `relation`, by name; without those whose type is gone."""
    there = {c.name: c.kind for c in now.columns} if now is not None else {}
    then = {c.name: c for c in known.columns}
    found = {
        c.name: there[c.name]
        for c in relation.columns
        if c.name in there and (c.type_oid, c.typmod) == (there[c.name].oid, there[c.name].typmod)
    }
    left = [c for c in relation.columns if c.name not in found]
    if left:
        asked = [(c.type_oid, c.typmod, _dims(c, then, there)) for c in left]
        types = zip(left, types_of(connection, asked), strict=True)
        found |= {c.name: kind for c, kind in types if kind is not None}
    return found


def _dims(column: RelationColumn, then: Mapping[str, Column], there: Mapping[str, PgType]) -> int:
    """How many dimensions a column was declared with, which a Relation message does not say."""
    if column.name in then:
        return 1 if pa.types.is_list(then[column.name].type) else 2
    return there[column.name].dims if column.name in there else 1


def evolved(
    relation: Relation,
    kinds: Mapping[str, PgType],
    known: TableSchema,
    now: PgTable | None,
    filenode: int | None,
    source: str,
) -> TableSchema:
    """The schema version of the tuples behind `relation`: `known`, or its successor.

    `kinds` are the types of the relation's columns; `now` is the catalog's table (None: it is
    gone), `filenode` the last relfilenode known."""
    refuse = _Refusal(known.name, source)
    names = tuple(c.name for c in relation.columns)
    if now is None:
        if names == tuple(c.name for c in known.columns):
            return known
        raise refuse("it changed and was then dropped or renamed")
    if now.key != known.key:
        raise refuse(f"its key is {_listed(now.key)}, it was {_listed(known.key)}")
    current = now.schema(known.version)
    matching = _Matching(known, current, names, refuse)
    columns = tuple(matching.column(name, kinds) for name in names)
    if columns == known.columns:
        return known
    _require_same_key(columns, known, refuse)
    if filenode is not None and filenode != now.filenode:
        _require_not_rewritten(columns, known, refuse)
    for new in columns:
        _require_readable(new, refuse)
        _require_carried(new, known, refuse)
    return replace(current, columns=columns, version=known.version + 1)


@dataclass(frozen=True)
class _Matching:
    """Which column a column of the relation is: one that is known, or one of the catalog's."""

    known: TableSchema
    current: TableSchema
    names: Sequence[str]
    refuse: _Refusal

    def column(self, name: str, kinds: Mapping[str, PgType]) -> Column:
        if name not in kinds:
            raise self.refuse(f"{name} has a type that is gone")
        then, there = _named(self.known, name), _named(self.current, name)
        if then is not None and there is not None and then.attnum != there.attnum:
            then = None if self._is_the_later(name, then, there, kinds[name]) else then
        if then is None and there is not None:
            numbered = [c for c in self.known.columns if c.attnum == there.attnum]
            then = replace(numbered[0], name=name) if numbered else there
        if then is None:
            raise self.refuse(f"{name} was added, and dropped or renamed before its rows were read")
        return _typed(then, kinds[name])

    def _is_the_later(self, name: str, then: Column, there: Column, kind: PgType) -> bool:
        """Whether it is the later of two columns of one name: one was dropped (or renamed), and
        another added. Told by the type, else by the other columns."""
        is_then, is_there = _typed(then, kind) == then, _typed(there, kind) == there
        if is_then != is_there:
            return is_there
        if tuple(self.names) == tuple(c.name for c in self.current.columns):
            return True
        raise self.refuse(f"{name} was dropped and another {name} added, in times of other changes")


def is_newest(schema: TableSchema, now: PgTable) -> bool:
    """Whether the version has the columns that the table has now."""
    mine = [(c.attnum, c.name, c.sql_type) for c in schema.columns]
    return mine == [(c.attnum, c.name, c.sql_type) for c in now.schema().columns]


def as_streamed(
    schema: TableSchema, kinds: Mapping[str, PgType], now: PgTable, identity: str
) -> PgTable:
    """`now` with the columns of a version of its schema, which may be an older one, and the replica
    identity of its tuples."""
    there = {c.attnum: c for c in now.columns}
    columns = []
    for c in schema.columns:
        found = there.get(c.attnum)
        toastable = _may_be_toasted(c.type) if found is None else found.toastable
        columns.append(
            PgColumn(c.name, kinds[c.name], c.nullable, c.attnum, c.missing, "", toastable)
        )
    return replace(now, key=schema.key, identity=identity, columns=tuple(columns))


def _may_be_toasted(kind: pa.DataType) -> bool:
    """Judged generously: types of variable length."""
    return not (pa.types.is_primitive(kind) and not pa.types.is_decimal(kind))


def _named(schema: TableSchema, name: str) -> Column | None:
    return next((c for c in schema.columns if c.name == name), None)


def _typed(known: Column, kind: PgType) -> Column:
    """The column with the type that the tuples have."""
    found = column(known.name, kind)
    return replace(known, type=found.type, sql_type=found.sql_type)


def _require_same_key(columns: Sequence[Column], known: TableSchema, refuse: _Refusal) -> None:
    """Bytes of the same key would be others (SEMANTICS 10)."""
    types = {c.attnum: c.sql_type for c in columns}
    for old in known.key_columns:
        new = types.get(old.attnum, "gone")
        if new != old.sql_type:
            raise refuse(f"of its key, {old.name} is {new}, it was {old.sql_type}")


def _require_not_rewritten(columns: Sequence[Column], known: TableSchema, refuse: _Refusal) -> None:
    """A table that has another file now: rows may have values that the stream never had."""
    before = {c.attnum: c for c in known.columns}
    added = [c.name for c in columns if c.attnum not in before]
    retyped = [
        (before[c.attnum], c)
        for c in columns
        if c.attnum in before and before[c.attnum].sql_type != c.sql_type
    ]
    if not added and not retyped:
        return
    changes = [f"{new.name} was made {new.sql_type}, it was {old.sql_type}" for old, new in retyped]
    changes += [f"{name} was added" for name in added]
    raise refuse(
        f"it was rewritten while {', '.join(changes)}: rows have values that the server does not "
        "send",
        SnapshotNeeded,
    )


def _require_readable(column: Column, refuse: _Refusal) -> None:
    """Readers must be able to fill older records with the default."""
    if column.missing is None:
        return
    try:
        column_value(column, column.missing)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        what = f"{column.name} was added with a default that older records cannot be given"
        raise refuse(f"{what}: {column.missing}") from error


def _require_carried(new: Column, known: TableSchema, refuse: _Refusal) -> None:
    """Older values of a retyped column must stand for the new type's, exactly."""
    for old in known.columns:
        if old.attnum != new.attnum or (old.type, old.sql_type) == (new.type, new.sql_type):
            continue
        if not _carries(old.type, new.type):
            raise refuse(f"{new.name} is {new.sql_type}, it was {old.sql_type}")


def _carries(old: pa.DataType, new: pa.DataType) -> bool:
    if old == new:
        return True
    if pa.types.is_decimal128(old):
        if pa.types.is_decimal128(new):
            return bool(old.scale == new.scale and old.precision <= new.precision)
        return new == NUMERIC_TEXT
    # With and without time zone: values are the same in UTC, or the server rewrites them.
    return pa.types.is_timestamp(old) and pa.types.is_timestamp(new)


def _listed(key: Sequence[str]) -> str:
    return f"({', '.join(key)})" if key else "gone"
