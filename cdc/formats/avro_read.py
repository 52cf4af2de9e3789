"""Avro's binary encoding read as columns, by the writer's schema.

The reader is compiled from the Avro schema JSON that the id of a message names, so it reads what
Debezium wrote as well as what we write: any order of fields, null first or last in a union, named
types, types that a wanted field does not have (they are stepped over).

All messages advance together, a cursor each (cdc/ragged.py). A union splits the rows: those of
the other branch keep their cursor, and the values come back with a validity. An array's elements
are read in rounds: the next element of every row that has one; then they are put in row order.

A record is read with a selection: the names of the wanted fields, each with its own selection
(None: all of it). What is not selected is stepped over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.formats import avro_few, varint
from cdc.formats.avro_few import Selection
from cdc.formats.avro_found import (
    Array,
    Found,
    Null,
    Numbers,
    Record,
    Texts,
    concatenated,
    finished,
    scattered,
    taken,
)
from cdc.formats.avro_schema import WRONG_SCHEMA, Node, compiled
from cdc.formats.connect_values import Constant, Structs, Values
from cdc.formats.envelope_read import Read
from cdc.ragged import Bytes, Int64s, Slices

_HEADER_BYTES = 5
FEW = 4
"""Up to here one message after the other costs less than all together."""


def schema_ids(messages: pa.Array) -> Int64s:
    """The schema id of every message of a binary array; -1 for null. BadData for a message that
    is not in Confluent's wire format."""
    data, places = ragged.contents(messages)
    data = np.concatenate([data, np.frombuffer(ragged.PAD, np.uint8)])
    start, length = places[:-1], np.diff(places)
    valid = np.asarray(messages.is_valid())
    good = (length >= _HEADER_BYTES) & (data[start] == 0)
    if not ragged.every(good | ~valid):
        row = int(np.flatnonzero(valid & ~good)[0])
        raise BadData(
            "a message without Confluent's header (a zero byte and the schema's id)",
            where=f"message {row} of the batch",
            hint="format: avro reads what a Confluent-compatible serializer wrote",
        )
    return np.where(valid, ragged.gather_int64(data, start + 1, ">u4"), -1)


def read(messages: pa.Array, writer: str, selection: Selection | None = None) -> Read:
    """The records of messages in Confluent's wire format, none null, all with the Avro schema
    `writer` (its JSON). BadData for bytes that are not of this schema."""
    node = compiled(writer)
    if node.kind != "record":
        raise BadData(f"records are expected, not {node.kind}", hint=WRONG_SCHEMA)
    if len(messages) <= FEW:
        values = avro_few.read(messages.to_pylist(), node, _HEADER_BYTES, selection)
        return _as_read(values, node)
    data, places = ragged.contents(messages)
    buffer = np.concatenate([data, np.frombuffer(ragged.PAD, np.uint8)])
    lanes = _Lanes(buffer, int(places[-1]))
    try:
        found, behind = _read(node, lanes, places[:-1] + _HEADER_BYTES, selection)
    except IndexError as error:
        raise BadData("Avro that ends before its last field", hint=WRONG_SCHEMA) from error
    if not np.array_equal(behind, places[1:]):
        row = int(np.flatnonzero(behind != places[1:])[0])
        raise BadData(
            "Avro with another length than its schema says",
            where=f"message {row} of the batch",
            hint=WRONG_SCHEMA,
        )
    return _as_read(finished(found), node)


def _as_read(values: Values, node: Node) -> Read:
    if isinstance(values, Constant):
        values = Structs({})
    if not isinstance(values, Structs):
        raise BadData("no records", hint=WRONG_SCHEMA)
    return Read(values, node.schema)


@dataclass(frozen=True, eq=False)
class _Lanes:
    """The padded buffer, and where the last message ends."""

    buffer: Bytes
    end: int


_ARROW: dict[str, pa.DataType] = {
    "int8": pa.int32(),
    "int16": pa.int32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}
_WIDTHS = {"float": ("<f4", 4, pa.float32()), "double": ("<f8", 8, pa.float64())}


def _read(
    node: Node, lanes: _Lanes, at: Int64s, selection: Selection | None
) -> tuple[Found, Int64s]:
    """The values at the cursors, and the cursors behind them."""
    kind = node.kind
    if kind == "record":
        return _read_record(node, lanes, at, selection)
    if kind == "union":
        return _read_union(node, lanes, at, selection)
    if kind in ("int", "long"):
        values, at = varint.decoded(lanes.buffer, at)
        arrow = _ARROW.get(node.schema.type, pa.int64())
        narrow = values.astype(np.int32) if arrow == pa.int32() else values
        return Numbers(narrow, arrow), at
    if kind in ("string", "bytes"):
        slices, at = _read_slices(lanes, at)
        return Texts(slices, kind == "string"), at
    if kind in _WIDTHS:
        dtype, width, arrow = _WIDTHS[kind]
        return Numbers(ragged.gather(lanes.buffer, at, dtype), arrow), at + width
    if kind == "boolean":
        return Numbers(lanes.buffer[at] != 0, pa.bool_()), at + 1
    if kind == "null":
        return Null(len(at)), at
    if kind == "enum":
        values, at = varint.decoded(lanes.buffer, at)
        return Numbers(values, pa.int64(), symbols=node.symbols), at
    if kind == "fixed":
        behind = _inside(lanes, at, np.full(len(at), node.size, np.int64))
        return Texts(Slices(lanes.buffer, at, behind - at), False), behind
    if kind == "array":
        return _read_array(node, lanes, at, selection)
    raise BadData(f"an Avro {kind} cannot be read as a column", hint="exclude the column")


def _read_slices(lanes: _Lanes, at: Int64s) -> tuple[Slices, Int64s]:
    lengths, start = varint.decoded(lanes.buffer, at)
    behind = _inside(lanes, start, lengths)
    return Slices(lanes.buffer, start, lengths), behind


def _inside(lanes: _Lanes, start: Int64s, lengths: Int64s) -> Int64s:
    """The cursors behind bytes of these lengths. BadData when they leave the messages."""
    if len(lengths) and (int(lengths.min()) < 0 or int(lengths.max()) > lanes.end):
        raise BadData("an Avro length that cannot be", hint=WRONG_SCHEMA)
    behind = start + lengths
    if len(behind) and int(behind.max()) > lanes.end:
        raise BadData("Avro that ends before its last field", hint=WRONG_SCHEMA)
    return behind


def _read_record(
    node: Node, lanes: _Lanes, at: Int64s, selection: Selection | None
) -> tuple[Found, Int64s]:
    found: dict[str, Found] = {}
    count = len(at)
    for name, inner in node.fields:
        if selection is None or name in selection:
            chosen = None if selection is None else selection[name]
            found[name], at = _read(inner, lanes, at, chosen)
        else:
            at = _skip(inner, lanes, at)
    return Record(found, count), at


def _read_union(
    node: Node, lanes: _Lanes, at: Int64s, selection: Selection | None
) -> tuple[Found, Int64s]:
    branch, at = _branches(node, lanes, at)
    if len(node.branches) == 1:
        return _read(node.branches[0], lanes, at, selection)
    nulls = [i for i, b in enumerate(node.branches) if b.kind == "null"]
    if len(node.branches) > 2 or not nulls:
        raise BadData(
            "an Avro union of several types cannot be read as a column", hint="exclude the column"
        )
    valid = branch != nulls[0]
    if not ragged.some(valid):
        return Null(len(at)), at
    inner = node.branches[1 - nulls[0]]
    if ragged.every(valid):
        return _read(inner, lanes, at, selection)
    rows = np.flatnonzero(valid)
    found, behind = _read(inner, lanes, at[rows], selection)
    cursors = at.copy()
    cursors[rows] = behind
    return scattered(found, rows, valid, at), cursors


def _branches(node: Node, lanes: _Lanes, at: Int64s) -> tuple[Int64s, Int64s]:
    branch, at = varint.decoded(lanes.buffer, at)
    if len(branch) and not 0 <= int(branch.min()) <= int(branch.max()) < len(node.branches):
        raise BadData("a branch that the Avro union does not have", hint=WRONG_SCHEMA)
    return branch, at


def _read_array(
    node: Node, lanes: _Lanes, at: Int64s, selection: Selection | None
) -> tuple[Found, Int64s]:
    pieces: list[Found] = []
    places: list[Int64s] = []

    def element(rows: Int64s, cursors: Int64s) -> Int64s:
        found, behind = _read(node.branches[0], lanes, cursors, selection)
        pieces.append(found)
        places.append(rows)
        return behind

    lengths, at = _blocks(lanes, at, element)
    if not pieces:
        return Array(Null(0), lengths), at
    rows = np.concatenate(places)
    order = np.argsort(rows, kind="stable")
    return Array(taken(concatenated(pieces), order), lengths), at


def _blocks(
    lanes: _Lanes, at: Int64s, element: Callable[[Int64s, Int64s], Int64s]
) -> tuple[Int64s, Int64s]:
    """Walk the blocks of arrays or maps: `element` reads the next element of some rows. Returns how
    many each row had, and the cursors behind the empty block."""
    cursors, lengths = at.copy(), np.zeros(len(at), np.int64)
    rows = np.arange(len(at))
    while len(rows):
        counts, behind = varint.decoded(lanes.buffer, cursors[rows])
        sized = counts < 0
        if ragged.some(sized):
            # A negative count is followed by the block's size in bytes.
            _, behind[sized] = varint.decoded(lanes.buffer, behind[sized])
            counts = np.abs(counts)
        if int(counts.max()) > lanes.end:
            raise BadData("an Avro array longer than its message", hint=WRONG_SCHEMA)
        cursors[rows] = behind
        rows, counts = rows[counts > 0], counts[counts > 0]
        lengths[rows] += counts
        for done in range(int(counts.max(initial=0))):
            here = rows[counts > done]
            cursors[here] = element(here, cursors[here])
            if int(cursors[here].max()) > lanes.end:
                raise BadData("Avro that ends before its last field", hint=WRONG_SCHEMA)
    return lengths, cursors


def _skip(node: Node, lanes: _Lanes, at: Int64s) -> Int64s:
    """The cursors behind the values."""
    kind = node.kind
    if kind == "null":
        return at
    if kind == "boolean":
        return at + 1
    if kind in _WIDTHS:
        return at + _WIDTHS[kind][1]
    if kind in ("string", "bytes"):
        return _read_slices(lanes, at)[1]
    if kind in ("int", "long", "enum"):
        return varint.decoded(lanes.buffer, at)[1]
    if kind == "fixed":
        return _inside(lanes, at, np.full(len(at), node.size, np.int64))
    if kind == "record":
        for _, inner in node.fields:
            at = _skip(inner, lanes, at)
        return at
    if kind == "union":
        return _skip_union(node, lanes, at)
    return _blocks(lanes, at, lambda _, cursors: _skip_element(node, lanes, cursors))[1]


def _skip_element(node: Node, lanes: _Lanes, at: Int64s) -> Int64s:
    if node.kind == "map":
        at = _read_slices(lanes, at)[1]
    return _skip(node.branches[0], lanes, at)


def _skip_union(node: Node, lanes: _Lanes, at: Int64s) -> Int64s:
    branch, at = _branches(node, lanes, at)
    behind = at.copy()
    for number, inner in enumerate(node.branches):
        if inner.kind != "null":
            rows = np.flatnonzero(branch == number)
            if len(rows):
                behind[rows] = _skip(inner, lanes, at[rows])
    return behind
