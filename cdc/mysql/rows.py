"""Row events of one table → its rows, thousands of events at once.

A row event (Rows_log_event in the servers' sql/log_event.h) is, behind the 19 bytes of its header:
table id (6 bytes), flags (2), in MySQL's second form a length of extra data with itself (2) and
that data; the number of columns, length-encoded; a bitmap of the columns that its images have, for
an update another one for the new images; then the rows, for an update each as old and new image.

1. Join the events, read the heads, put together those with equal kinds and bitmaps (`_Part`):
   nearly always there is one part.
2. Find the rows of each part (lanes.py).
3. All old and new images are then one list of positions, in order; decode each column of it
   (values.py). Images with different columns (NOBLOB, MINIMAL) are decoded apart and put in order.

An event whose rows do not fill it exactly is BadData: it says where it is and how it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc import ragged
from cdc.changes import C, D, U
from cdc.errors import BadData, SchemaChanged
from cdc.mysql.events import DELETES, HEADER_BYTES, ROWS, UPDATES, WRITES, Kind, header, malformed
from cdc.mysql.lanes import Images, Layout, Misfit, Reader, fields, layout, row_starts
from cdc.mysql.tables import MyTable
from cdc.mysql.types import ZeroDates
from cdc.mysql.values import ColumnDecoder, compile_column, width
from cdc.ragged import Bools, Bytes, Int64s
from cdc.schema import TableSchema

Number = TypeVar("Number", bound=np.generic)
_KIND_AT = 4
_HEAD = HEADER_BYTES + 8
"""Header, table id and flags."""
_SECOND_FORM = frozenset({Kind.WRITE_ROWS, Kind.UPDATE_ROWS, Kind.DELETE_ROWS})


@dataclass(frozen=True, eq=False)
class TableDecoder:
    """How one table's row events become rows of one schema version: see `compile_table`.

    columns    a decoder per column of the schema
    places     for each, its number among the table's columns
    arrow      the schema's
    """

    table: MyTable
    schema: TableSchema
    columns: tuple[ColumnDecoder, ...]
    places: tuple[int, ...]
    arrow: pa.Schema
    shapes: dict[bytes, _Shape] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class RowsOfTable:
    """n changes of one table, in order.

    event[n]         index into the events; ascending
    op[n]            C, U or D
    rows             the row after the change; for D the one before it
    before           for U and D the row before the change, null where C; None if all are C
    has_before[n]    op is U or D
    missing_rows     by column number of the schema: the rows whose image in `rows` lacks the column
                     (null there); only columns that any image lacks
    missing_before   the same for `before`
    """

    table: TableDecoder
    event: Int64s
    op: Bytes
    rows: pa.RecordBatch
    before: pa.RecordBatch | None
    has_before: Bools
    missing_rows: Mapping[int, Bools]
    missing_before: Mapping[int, Bools]

    @property
    def schema(self) -> TableSchema:
        return self.table.schema


def compile_table(table: MyTable, schema: TableSchema, zero_dates: ZeroDates) -> TableDecoder:
    """The decoder of a table whose row images have `table`'s columns. Columns are matched by name;
    those that the schema lacks are skipped. In the key, invalid dates always stop. SchemaChanged
    when the table lacks a column of the schema; SourceError when a type is refused."""
    numbers = {column.name: number for number, column in enumerate(table.columns)}
    missing = [column.name for column in schema.columns if column.name not in numbers]
    if missing:
        raise SchemaChanged(
            f"the rows of {schema.name} have no column {', '.join(missing)}",
            where=table.name,
            hint="it was dropped or renamed",
        )
    places = tuple(numbers[column.name] for column in schema.columns)
    columns = tuple(
        compile_column(
            f"{schema.name}.{column.name}",
            table.columns[place].kind,
            "stop" if column.name in schema.key else zero_dates,
        )
        for column, place in zip(schema.columns, places, strict=True)
    )
    return TableDecoder(table, schema, columns, places, schema.arrow)


def decode_rows(events: Sequence[bytes], table: TableDecoder) -> RowsOfTable:
    """The rows of the events, all of this table and of kinds in events.ROWS, in order.

    BadData names the event that is malformed, or the column whose value cannot be carried and the
    log positions between which it is.
    """
    if not events:
        raise ValueError("no events")
    buffer, starts, ends = ragged.join(events)
    reader = Reader(buffer)
    found = [_rows_of(part, events, reader, ends) for part in _parts(events, table, buffer, starts)]
    try:
        return _assembled(found, table, reader)
    except BadData as error:
        first, last = header(events[0]).end_position, header(events[-1]).end_position
        place = f"{error.where}, in the events that end at log positions {first} to {last}"
        raise BadData(error.what, where=place, hint=error.hint) from error


@dataclass(frozen=True, eq=False)
class _Shape:
    """An image: its layout, and for each column of the schema its number among the image's
    columns, -1 where it lacks it."""

    layout: Layout
    places: tuple[int, ...]


def _shape(table: TableDecoder, present: bytes) -> _Shape:
    """The shape of images with the columns of that bitmap."""
    known = table.shapes.get(present)
    if known is None:
        known = table.shapes[present] = _shape_of(table, int.from_bytes(present, "little"))
    return known


def _shape_of(table: TableDecoder, present: int) -> _Shape:
    own = [number for number in range(len(table.table.columns)) if present >> number & 1]
    order = {number: place for place, number in enumerate(own)}
    return _Shape(
        layout([width(table.table.columns[number].kind) for number in own]),
        tuple(order.get(number, -1) for number in table.places),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """Events (their indexes) with one op and equal shapes; where their rows begin."""

    op: int
    index: Int64s
    body: Int64s
    shapes: tuple[_Shape, ...]

    @property
    def images(self) -> Images:
        return tuple(shape.layout for shape in self.shapes)


_OPS: Mapping[int, int] = {
    **dict.fromkeys(WRITES, C),
    **dict.fromkeys(UPDATES, U),
    **dict.fromkeys(DELETES, D),
}


def _parts(
    events: Sequence[bytes], table: TableDecoder, buffer: Bytes, starts: Int64s
) -> Iterator[_Part]:
    """The events by their kinds and bitmaps."""
    kind, bitmaps, behind = _head(events[0], table)
    if len(events) == 1 or _all_begin_alike(events[0], kind, behind, buffer, starts):
        yield _part(table, kind, bitmaps, np.arange(len(events)), starts + behind)
        return
    heads: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
    for number, event in enumerate(events):
        kind, bitmaps, behind = _head(event, table)
        heads.setdefault((kind, bitmaps), []).append((number, behind))
    for (kind, bitmaps), members in heads.items():
        index, behinds = np.array(members, np.int64).T.copy()
        yield _part(table, kind, bitmaps, index, starts[index] + behinds)


def _part(table: TableDecoder, kind: int, bitmaps: bytes, index: Int64s, body: Int64s) -> _Part:
    size = _bitmap_bytes(table)
    cuts = range(0, len(bitmaps), size)
    shapes = tuple(_shape(table, bitmaps[cut : cut + size]) for cut in cuts)
    return _Part(_OPS[kind], index, body, shapes)


def _all_begin_alike(first: bytes, kind: int, behind: int, buffer: Bytes, starts: Int64s) -> bool:
    """Whether all events have the first one's kind, and behind their flags its bytes."""
    if not ragged.every(buffer[starts + _KIND_AT] == kind):
        return False
    # An event that is shorter compares bytes of the next one: then its rows will not fit.
    heads = ragged.gather(buffer, starts + _HEAD, f"V{behind - _HEAD}")
    same: Bools = heads == np.frombuffer(first[_HEAD:behind], heads.dtype)[0]
    return ragged.every(same)


def _head(event: bytes, table: TableDecoder) -> tuple[int, bytes, int]:
    """A row event's kind, its bitmaps of columns, and where its rows begin."""
    kind = event[_KIND_AT] if len(event) >= _HEAD else 0
    if kind not in ROWS:
        raise malformed("an event that is no row event", event)
    at = _HEAD
    if kind in _SECOND_FORM:
        at += int.from_bytes(event[at : at + 2], "little")
    count = _packed(len(table.table.columns))
    bitmaps_at = at + len(count)
    behind = bitmaps_at + _bitmap_bytes(table) * (2 if kind in UPDATES else 1)
    if event[at:bitmaps_at] != count or behind > len(event):
        raise malformed(f"a row event that does not fit {table.table.name}", event)
    return kind, event[bitmaps_at:behind], behind


def _bitmap_bytes(table: TableDecoder) -> int:
    return (len(table.table.columns) + 7) // 8


def _packed(number: int) -> bytes:
    """A length-encoded integer; a table has at most 4096 columns."""
    return bytes([number]) if number < 251 else b"\xfc" + number.to_bytes(2, "little")


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of one part: which event each is of, where its images begin."""

    part: _Part
    event: Int64s
    at: tuple[Int64s, ...]


def _rows_of(part: _Part, events: Sequence[bytes], reader: Reader, ends: Int64s) -> _Rows:
    limits = ends[part.index]
    try:
        at = row_starts(reader, part.images, part.body, limits)
    except Misfit as misfit:
        raise _first_misfit(part, events, reader, limits) from misfit
    counts = np.searchsorted(at[0], limits)
    counts[1:] -= counts[:-1].copy()
    return _Rows(part, np.repeat(part.index, counts), tuple(at))


def _first_misfit(part: _Part, events: Sequence[bytes], reader: Reader, limits: Int64s) -> BadData:
    for place, number in enumerate(part.index.tolist()):
        one = slice(place, place + 1)
        try:
            row_starts(reader, part.images, part.body[one], limits[one])
        except Misfit:
            return malformed("a row event whose rows do not fill it exactly", events[number])
    return malformed("row events that cannot be read", events[int(part.index[0])])


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of one shape: the change that each belongs to, and its position."""

    shape: _Shape
    change: Int64s
    at: Int64s


def _assembled(found: Sequence[_Rows], table: TableDecoder, reader: Reader) -> RowsOfTable:
    """All parts' rows in the order of the events."""
    event = _joined([rows.event for rows in found])
    op = _joined([np.full(len(rows.event), rows.part.op, np.uint8) for rows in found])
    changes = [np.arange(len(rows.event)) for rows in found]
    if len(found) > 1:
        order = np.argsort(event, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        changes = np.split(place, np.cumsum([len(rows.event) for rows in found])[:-1])
        event, op = event[order], op[order]
    new = [
        _Images(rows.part.shapes[-1], own, rows.at[-1])
        for rows, own in zip(found, changes, strict=True)
    ]
    old = [
        _Images(rows.part.shapes[0], own, rows.at[0])
        for rows, own in zip(found, changes, strict=True)
        if rows.part.op != C
    ]
    rows, missing_rows = _batch(new, table, reader, len(op))
    before: pa.RecordBatch | None = None
    missing_before: Mapping[int, Bools] = {}
    if all(part.part.op == D for part in found):
        before, missing_before = rows, missing_rows
    elif old:
        before, missing_before = _batch(old, table, reader, len(op))
    return RowsOfTable(table, event, op, rows, before, op != C, missing_rows, missing_before)


def _joined(parts: Sequence[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _batch(
    images: Sequence[_Images], table: TableDecoder, reader: Reader, count: int
) -> tuple[pa.RecordBatch, Mapping[int, Bools]]:
    """A row per change, null where it has no image; and by column the rows whose image lacks it."""
    groups = _by_shape(images)
    parts = [_columns(group, table, reader) for group in groups]
    missing: dict[int, Bools] = {}
    for group in groups:
        for number, place in enumerate(group.shape.places):
            if place < 0:
                missing.setdefault(number, np.zeros(count, np.bool_))[group.change] = True
    if len(groups) == 1 and len(groups[0].change) == count:
        return pa.RecordBatch.from_arrays(parts[0], schema=table.arrow), missing
    place_of = np.full(count, -1, np.int64)
    place_of[_joined([group.change for group in groups])] = np.arange(
        sum(len(group.change) for group in groups)
    )
    index = pa.array(place_of, mask=place_of < 0)
    columns = [pa.concat_arrays(same).take(index) for same in zip(*parts, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=table.arrow), missing


def _by_shape(images: Sequence[_Images]) -> list[_Images]:
    """The images put together by their shapes, each in order."""
    shapes: dict[int, list[_Images]] = {}
    for each in images:
        shapes.setdefault(id(each.shape), []).append(each)
    found = []
    for same in shapes.values():
        change, at = _joined([s.change for s in same]), _joined([s.at for s in same])
        if len(same) > 1:
            order = np.argsort(change)
            change, at = change[order], at[order]
        found.append(_Images(same[0].shape, change, at))
    return found


def _columns(images: _Images, table: TableDecoder, reader: Reader) -> list[pa.Array]:
    slices = fields(reader, images.shape.layout, images.at)
    return [
        decoder.decode(slices[place]) if place >= 0 else pa.nulls(len(images.at), decoder.type)
        for decoder, place in zip(table.columns, images.shape.places, strict=True)
    ]
