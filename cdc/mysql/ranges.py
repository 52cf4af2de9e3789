"""A large table cut into ranges of its key, that several workers read.

A cut is a value of the key; ranges are what lies between two cuts, the first without a lower bound
and the last without an upper one. So whatever the cuts are, if they ascend, every row is in exactly
one range; how well they are chosen decides only how even the ranges are.

-   First key column an integer: the span from the smallest to the largest value is halved until the
    server estimates few enough rows (EXPLAIN asks the index, and reads nothing).
-   Other keys: every n-th key in the index's order, each found from the one before it, so that the
    index is passed once.
-   A small table, or one whose key has a column of another type, is read whole.

Ranges come as they are asked for, while others are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pymysql.cursors import DictCursor

from cdc.mysql.charsets import charset_of
from cdc.mysql.connection import Connection, is_mariadb, query
from cdc.mysql.tables import MyColumn, MyTable
from cdc.mysql.types import (
    DATES,
    DATETIMES,
    INTEGER_BYTES,
    STRINGS,
    TIMES,
    TIMESTAMPS,
    FieldType,
    is_binary,
)

RANGE_BYTES = 32 * 2**20
MOST_RANGES = 4096
LEAST_ROWS = 1000
_DATED = DATES | DATETIMES | TIMESTAMPS | TIMES
_FLOATING = {FieldType.FLOAT, FieldType.DOUBLE}
_NUMBERS = {*INTEGER_BYTES, *_FLOATING, FieldType.NEWDECIMAL, FieldType.BIT, FieldType.YEAR}
_ORDERED = _DATED | STRINGS | _NUMBERS
"""Types whose values compare equal to their literals; MariaDB's own are strings among them."""


@dataclass(frozen=True)
class Range:
    """Rows of a table: those for which the SQL condition holds; empty: all. `last`: of its table's
    ranges."""

    table: str
    condition: str
    last: bool = True


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return f"`{name.replace('`', '``')}`"


def forced(table: MyTable) -> str:
    """The table's name in a FROM clause that reads along its key."""
    return f"{table.quoted} FORCE INDEX ({quoted(table.key_index)})"


def cut(connection: Connection, table: MyTable) -> Iterator[Range]:
    """The table's ranges, at least one."""
    wanted = rows_wanted(table)
    key = _key(table)
    if table.rows <= wanted or not key:
        cuts: Iterator[tuple[str, ...]] = iter(())
    elif key[0].kind.code in INTEGER_BYTES:
        cuts = _halves(connection, table, key[0], wanted)
    elif all(c.kind.code in _ORDERED for c in key):
        cuts = _every_nth(connection, table, key, wanted)
    else:
        cuts = iter(())
    columns = [quoted(column.name) for column in key]
    lower: tuple[str, ...] | None = None
    for upper in cuts:
        yield Range(table.name, _between(columns, lower, upper), last=False)
        lower = upper
    yield Range(table.name, _between(columns, lower, None))


def rows_wanted(table: MyTable) -> int:
    """How many rows a range should have."""
    row_bytes = max(table.data_bytes, 1) / max(table.rows, 1)
    size = max(RANGE_BYTES, table.data_bytes / MOST_RANGES)
    return max(LEAST_ROWS, int(size / max(row_bytes, 1)))


def _key(table: MyTable) -> list[MyColumn]:
    columns = {column.name: column for column in table.columns}
    return [columns[name] for name in table.key]


def _between(
    columns: Sequence[str], lower: tuple[str, ...] | None, upper: tuple[str, ...] | None
) -> str:
    parts = []
    if lower is not None:
        parts.append(f"({_compared(columns, lower, '>', '>=')})")
    if upper is not None:
        parts.append(f"({_compared(columns, upper, '<', '<')})")
    return " AND ".join(parts)


def _compared(columns: Sequence[str], values: Sequence[str], sign: str, last: str) -> str:
    """(columns) `sign` (values), `last` the sign of the last column. Spelled out, because the
    optimizer finds no range in a comparison of rows."""
    pairs = list(zip(columns, values, strict=False))
    column, value = pairs[-1]
    text = f"{column} {last} {value}"
    for column, value in reversed(pairs[:-1]):
        text = f"{column} {sign} {value} OR ({column} = {value} AND ({text}))"
    return text


def _halves(
    connection: Connection, table: MyTable, column: MyColumn, wanted: int
) -> Iterator[tuple[str, ...]]:
    """Cuts of an integer column, ascending."""
    name = quoted(column.name)
    ((low, high),) = query(connection, f"SELECT MIN({name}), MAX({name}) FROM {table.quoted}")
    if low is None:
        return
    gathered = 0
    for first, rows in _leaves(connection, table, name, int(low), int(high), wanted):
        # Neighbours with few rows stay together.
        if gathered and gathered + rows > wanted:
            yield (str(first),)
            gathered = 0
        gathered += rows


def _leaves(
    connection: Connection, table: MyTable, name: str, low: int, high: int, wanted: int
) -> Iterator[tuple[int, int]]:
    """Spans of low .. high with few enough rows: where each begins, and its rows."""
    pending = [(low, high)]
    while pending:
        first, last = pending.pop()
        rows = _estimated(connection, table, f"{name} BETWEEN {first} AND {last}")
        if rows <= wanted or first == last:
            yield first, rows
        else:
            middle = (first + last) // 2
            pending += [(middle + 1, last), (first, middle)]


def _estimated(connection: Connection, table: MyTable, condition: str) -> int:
    """How many rows the server expects."""
    with connection.cursor(DictCursor) as cursor:
        # Named, MySQL's format does not depend on a setting; MariaDB has but the one.
        form = "" if is_mariadb(connection) else "FORMAT=TRADITIONAL "
        cursor.execute(f"EXPLAIN {form}SELECT 1 FROM {forced(table)} WHERE {condition}")
        row = cursor.fetchone()
    return int((row or {}).get("rows") or 0)


def _every_nth(
    connection: Connection, table: MyTable, key: Sequence[MyColumn], wanted: int
) -> Iterator[tuple[str, ...]]:
    """Every n-th key in the index's order."""
    columns = [quoted(column.name) for column in key]
    shown = ", ".join(_shown(column) for column in key)
    lower: tuple[str, ...] | None = None
    while True:
        condition = _between(columns, lower, None)
        rows = query(
            connection,
            f"SELECT {shown} FROM {forced(table)} {f'WHERE {condition}' if condition else ''} "
            f"ORDER BY {', '.join(columns)} LIMIT 1 OFFSET {wanted}",
        )
        if not rows:
            return
        lower = tuple(_literal(c, v) for c, v in zip(key, rows[0], strict=True))
        yield lower


def _shown(column: MyColumn) -> str:
    """The column's value as text, which `_literal` makes a literal of."""
    name = quoted(column.name)
    if column.kind.code in STRINGS and not column.kind.native:
        return f"HEX({name})"
    if column.kind.code in _FLOATING:  # all digits; SELECT rounds a FLOAT
        return f"CAST({name} + 0e0 AS CHAR)"
    return f"CAST({name}{' + 0' if column.kind.code == FieldType.BIT else ''} AS CHAR)"


def _literal(column: MyColumn, value: str) -> str:
    """A value in SQL that compares by the column's own collation. Text has the column's character
    set: converted, a byte that is no character would be another key, and cuts would not ascend."""
    if column.kind.native or column.kind.code in _DATED:
        return f"'{value}'"
    if column.kind.code in _FLOATING:
        return value if "e" in value else f"{value}e0"
    if column.kind.code not in STRINGS:
        return value
    if is_binary(column.kind):
        return f"X'{value}'"
    return f"_{charset_of(column.kind.collation).name} X'{value}'"
