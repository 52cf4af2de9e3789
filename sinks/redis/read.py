"""Rows from Redis: every key that the template makes, read in pages.

1. SCAN with the template's literals finds all keys that stand there from beginning to end, some of
   them twice, and others by chance: names are made unique, and only those kept that the template
   gives again (Pattern.parse).
2. Values are read in pages by MGET, HMGET or ZSCAN, and typed as in the input's schema. A key that
   has gone meanwhile is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import BadData, SinkError
from cdc.json_rows import rows_from_json, values_from_plain
from cdc.schema import Column
from sinks.redis.connection import Connection
from sinks.redis.layout import Layout, Places
from sinks.redis.patterns import glob_escaped
from sinks.redis.protocol import Commands
from sinks.redis.write import Area

PAGE = 1000
SCANNED = 5000
"""Keys that SCAN looks at per call: about a millisecond, during which others wait."""


def scan(connection: Connection, glob: str, redis_type: str = "") -> Iterator[list[bytes]]:
    """Pages of the keys that match, possibly some twice."""
    kind: list[str] = ["TYPE", redis_type] if redis_type else []
    cursor: bytes | int = 0
    while True:
        cursor, keys = connection.call("SCAN", cursor, "MATCH", glob, "COUNT", SCANNED, *kind)
        if keys:
            yield keys
        if int(cursor) == 0:
            return


def names_in(
    connection: Connection, layout: Layout, area: Area, *, any_type: bool = False
) -> Iterator[pa.StringArray]:
    """Pages of the names that the template makes (without the area's prefix), of the layout's type
    or of any; possibly some twice."""
    glob = glob_escaped(area.prefix) + layout.keys.glob
    for keys in scan(connection, glob, "" if any_type else layout.redis_type):
        names = pa.array([key[len(area.prefix.encode()) :] for key in keys if _is_text(key)])
        if len(names):
            names = names.view(pa.string())
            kept, _ = layout.keys.parse(names)
            if kept.any():
                yield names.filter(pa.array(kept))


def all_names(connection: Connection, layout: Layout, area: Area) -> pa.StringArray:
    """`names_in`, each once."""
    found = list(names_in(connection, layout, area))
    return pc.unique(pa.concat_arrays(found)) if found else pa.array([], pa.string())


def rows_in(connection: Connection, layout: Layout, area: Area) -> Iterator[pa.RecordBatch]:
    """All rows, with the layout's readable columns."""
    names = all_names(connection, layout, area)
    reader = {"json": _json, "hash": _hashes, "string": _strings, "sorted_set": _sets}
    for first in range(0, len(names), PAGE):
        page = names.slice(first, PAGE)
        yield from reader[layout.settings.value](connection, layout, area, page)
    if layout.settings.value in {"string", "sorted_set"}:
        yield from _nulls(connection, layout, area)


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fetched(connection: Connection, keys: pa.StringArray) -> pa.Array:
    commands = Commands()
    commands.rows(["MGET"], keys)
    answers = connection.pipeline(commands)
    return pa.array([one for many in answers for one in many], pa.binary())


def _json(
    connection: Connection, layout: Layout, area: Area, names: pa.StringArray
) -> Iterator[pa.RecordBatch]:
    texts = _fetched(connection, area.keys(names)).drop_null()
    try:
        yield rows_from_json(texts, layout.schema)
    except BadData as error:
        raise _not_ours(layout, error) from error


def _hashes(
    connection: Connection, layout: Layout, area: Area, names: pa.StringArray
) -> Iterator[pa.RecordBatch]:
    columns = layout.schema.columns
    commands = Commands()
    for key in area.keys(names).to_pylist():
        commands.add("HMGET", key, "", *(column.name for column in columns))
    answers = [row for row in connection.pipeline(commands) if any(v is not None for v in row)]
    values = list(zip(*answers, strict=True))[1:] if answers else [()] * len(columns)
    arrays = [_typed(v, c, layout) for v, c in zip(values, columns, strict=True)]
    yield pa.RecordBatch.from_arrays(arrays, schema=layout.schema.arrow)


def _strings(
    connection: Connection, layout: Layout, area: Area, names: pa.StringArray
) -> Iterator[pa.RecordBatch]:
    texts = _fetched(connection, area.keys(names))
    there = texts.is_valid()
    column = layout.schema.column(layout.settings.column)
    values = _typed(texts.filter(there).to_pylist(), column, layout)
    yield _row_batch(layout, Places(names.filter(there)), column, values)


def _sets(
    connection: Connection, layout: Layout, area: Area, names: pa.StringArray
) -> Iterator[pa.RecordBatch]:
    column = layout.schema.column(layout.settings.score)
    for name in names.to_pylist():
        scores: dict[bytes, bytes] = {}
        cursor: bytes | int = 0
        while True:
            cursor, flat = connection.call("ZSCAN", area.prefix + name, cursor, "COUNT", PAGE)
            scores.update(zip(flat[::2], flat[1::2], strict=True))
            if int(cursor) == 0:
                break
        members = pa.array([m.decode() for m in scores], pa.string())
        places = Places(pa.array([name] * len(members), pa.string()), members)
        yield _row_batch(layout, places, column, _scores(list(scores.values()), column))


def _nulls(connection: Connection, layout: Layout, area: Area) -> Iterator[pa.RecordBatch]:
    """The rows whose value or score is NULL."""
    found: set[bytes] = set()
    cursor: bytes | int = 0
    while True:
        cursor, page = connection.call("SSCAN", area.nulls, cursor, "COUNT", PAGE)
        found.update(page)
        if int(cursor) == 0:
            break
    if found:
        texts = pa.array(sorted(found), pa.binary()).view(pa.string())
        column = layout.schema.column(layout.settings.column or layout.settings.score)
        places = Places.from_texts(texts, layout.members is not None)
        yield _row_batch(layout, places, column, pa.nulls(len(texts), column.type))


def _row_batch(layout: Layout, places: Places, column: Column, values: pa.Array) -> pa.RecordBatch:
    """Rows from their places and one column's values."""
    kept, rows = layout.keys.parse(places.keys)
    parts = [rows]
    if layout.members is not None:
        members = places.members if places.members is not None else places.keys
        right, others = layout.members.parse(members.filter(pa.array(kept)))
        parts = [part.filter(pa.array(right)) for part in parts]
        parts.append(others)
        kept[np.flatnonzero(kept)[~right]] = False
    arrays = {
        name: part.column(name)
        for part in parts
        for name in part.schema.names
        if name in layout.readable
    }
    arrays[column.name] = values.filter(pa.array(kept))
    fields = pa.schema([pa.field(n, layout.schema.column(n).type) for n in layout.readable])
    return pa.RecordBatch.from_arrays([arrays[n] for n in layout.readable], schema=fields)


def _typed(values: Sequence[bytes | None], column: Column, layout: Layout) -> pa.Array:
    texts = pa.array(list(values), pa.binary()).view(pa.string())
    try:
        return values_from_plain(texts, column)
    except BadData as error:
        raise _not_ours(layout, error) from error


def _scores(texts: Sequence[bytes], column: Column) -> pa.Array:
    """Redis's doubles in the column's type, rounded to its scale."""
    kind = column.type
    numbers = [float(text) for text in texts]
    if pa.types.is_floating(kind):
        return pa.array(numbers, kind)
    if pa.types.is_integer(kind):
        limit = 2 ** (kind.bit_width - 1) - 1
        return pa.array([max(min(int(n), limit), -limit - 1) for n in numbers], kind)
    exact = [Decimal(repr(n)) for n in numbers]
    if isinstance(kind, pa.ExtensionType):
        texts_ = [format(n, "f").removesuffix(".0") if n.is_finite() else str(n) for n in exact]
        return kind.wrap_array(pa.array(texts_, pa.string()))
    unit = Decimal(1).scaleb(-kind.scale)
    return pa.array([n.quantize(unit) for n in exact], kind)


def _not_ours(layout: Layout, error: BadData) -> SinkError:
    return SinkError(
        f"a key of '{layout.settings.key}' holds what no row of {layout.schema.name} is: "
        f"{error.where} {error.what}",
        hint="somebody else has written it: remove it, or `cdc rebuild` the sink",
    )
