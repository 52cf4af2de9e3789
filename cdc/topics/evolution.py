"""What a topic's newer schema makes of its table.

A topic may hold records of several schemas, and its partitions need not pass from one to the next
together. So a table here only grows:

    a column that is new          is added; older records have its default, or NULL
    a column that is not there    stays, and is NULL in the records that lack it (a rename is both)
    another type                  the values are read into the known type where it holds all of
                                  them; a numeric may have more digits, since the database rewrites
                                  no row for that; otherwise SchemaChanged, before anything is
                                  published
    another key                   SchemaChanged
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from cdc.errors import SchemaChanged
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

_WIDER = {pa.int16(): 2, pa.int32(): 4, pa.int64(): 8}


def extended(known: TableSchema, now: TableSchema, source: str) -> TableSchema:
    """`known`, or its next version with the columns of `now` that it lacks. Raises SchemaChanged,
    naming `source` in the remedy."""
    if now.key != known.key:
        raise _changed(known, source, f"its key is {_list(now.key)}, it was {_list(known.key)}")
    there = {column.name: column for column in known.columns}
    for column in now.columns:
        before = there.get(column.name)
        if before is None:
            there[column.name] = column
        elif _has_more_digits(before.type, column.type):
            there[column.name] = replace(before, type=column.type, sql_type=column.sql_type)
        elif not holds(before, column):
            what = f"{column.name} is {column.sql_type}, it was {before.sql_type}"
            raise _changed(known, source, what)
    columns = tuple(there.values())
    if columns == known.columns:
        return known
    return replace(known, columns=columns, version=known.version + 1)


def holds(known: Column, now: Column) -> bool:
    """Whether values of `now` can be read as those of `known` without changing them."""
    then, kind = known.type, now.type
    if then == kind:
        return True
    if then in _WIDER and kind in _WIDER:
        return _WIDER[kind] < _WIDER[then]
    if then == pa.float64():
        return bool(kind == pa.float32())
    if then == NUMERIC_TEXT:
        return bool(pa.types.is_decimal(kind))
    if pa.types.is_decimal(then) and pa.types.is_decimal(kind):
        whole = then.precision - then.scale >= kind.precision - kind.scale
        return bool(whole and then.scale >= kind.scale)
    return False


def _has_more_digits(then: pa.DataType, kind: pa.DataType) -> bool:
    if not (pa.types.is_decimal(then) and pa.types.is_decimal(kind)):
        return False
    return bool(then.scale == kind.scale and then.precision < kind.precision)


def _changed(table: TableSchema, source: str, what: str) -> SchemaChanged:
    return SchemaChanged(
        f"the topic's schema changed: {what}",
        where=table.name,
        hint=f"nothing after the change was published. cdc remove {source}, then cdc run reads "
        "the topics anew",
    )


def _list(key: tuple[str, ...]) -> str:
    return ", ".join(key) or "none"
