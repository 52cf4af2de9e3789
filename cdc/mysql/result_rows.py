"""Result rows in the binary protocol → record batches.

Source: MySQL's client/server protocol, "Binary Protocol Resultset Row": a byte 0, a bitmap of NULLs
whose first two bits are not used, then the values that are not NULL, one after the other.

One cursor per row; column by column all cursors read the value's length, if it has one, and pass
the value. A cursor that does not end where its row ends, or a length beyond it, is BadData.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.mysql.prepared import Packets
from cdc.mysql.result_values import PACKED_LENGTH, ResultColumn, compile_column
from cdc.mysql.tables import MyTable, MyType
from cdc.mysql.types import ZeroDates
from cdc.ragged import Bools, Int64s, Slices
from cdc.schema import TableSchema

_UNUSED_BITS = 2
_HEAD_BYTES = 1
_SHOWN_BYTES = 64


@dataclass(frozen=True, eq=False)
class ResultDecoder:
    """How the rows of one SELECT become rows of `schema`."""

    schema: TableSchema
    columns: tuple[ResultColumn, ...]


def compile_result(
    schema: TableSchema, types: Sequence[MyType], zero_dates: ZeroDates
) -> ResultDecoder:
    """The decoder of a SELECT of the schema's columns in order, which have these types. In the key,
    invalid dates always stop."""
    return ResultDecoder(
        schema,
        tuple(
            compile_column(
                f"{schema.name}.{column.name}",
                kind,
                "stop" if column.name in schema.key else zero_dates,
            )
            for column, kind in zip(schema.columns, types, strict=True)
        ),
    )


def types_of(table: MyTable, schema: TableSchema) -> list[MyType]:
    """The types of the schema's columns."""
    kinds = {column.name: column.kind for column in table.columns}
    return [kinds[column.name] for column in schema.columns]


class _Misfit(Exception):
    """A row that its columns do not fill exactly."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def decode_result(decoder: ResultDecoder, packets: Packets) -> pa.RecordBatch:
    """The rows. BadData for a malformed row, or a value that cannot be carried."""
    try:
        fields = _walk(decoder, packets)
    except _Misfit as misfit:
        raise _malformed(decoder, packets, misfit.row) from misfit
    except IndexError as error:
        raise _malformed(decoder, packets, 0) from error
    columns = [c.decode(slices) for c, slices in zip(decoder.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=decoder.schema.arrow)


def _walk(decoder: ResultDecoder, packets: Packets) -> list[Slices]:
    """Where every column's values are."""
    nulls = _nulls(packets, len(decoder.columns))
    bitmap_bytes = (len(decoder.columns) + _UNUSED_BITS + 7) // 8
    cursor = packets.start + (_HEAD_BYTES + bitmap_bytes)
    found = []
    for column, valid in zip(decoder.columns, nulls, strict=True):
        slices = _field(packets, column.size, cursor, valid)
        found.append(slices)
        cursor = slices.start + slices.length
    if not np.array_equal(cursor, packets.end):
        raise _Misfit(int((cursor != packets.end).argmax()))
    return found


def _field(packets: Packets, size: int, cursor: Int64s, valid: Bools | None) -> Slices:
    """The values that the cursors stand before."""
    buffer = packets.buffer
    if size >= 0:
        length = np.full(len(cursor), size, np.int64)
    else:
        length = buffer[cursor].astype(np.int64)
        if valid is not None:
            length *= valid
        behind_head = cursor + 1
        if size == PACKED_LENGTH and int(length.max(initial=0)) > 250:
            length, head_bytes = _packed(packets, cursor, length)
            behind_head = cursor + head_bytes
        cursor = behind_head if valid is None else np.where(valid, behind_head, cursor)
        over = (cursor + length > packets.end) | (length < 0)
        if ragged.some(over):
            raise _Misfit(int(over.argmax()))
    if size >= 0 and valid is not None:
        length *= valid
    return Slices(buffer, cursor, length, valid)


def _packed(packets: Packets, cursor: Int64s, first: Int64s) -> tuple[Int64s, Int64s]:
    """Length-encoded integers: the numbers, and the bytes that they take."""
    head = np.ones(len(cursor), np.int64)
    length = first.copy()
    for mark, size in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        rows = np.flatnonzero(first == mark)
        if len(rows):
            stored = ragged.gather_int64(packets.buffer, cursor[rows] + 1, "<i8")
            length[rows] = stored & ((1 << 8 * size) - 1) if size < 8 else stored
            head[rows] = 1 + size
    return length, head


def _nulls(packets: Packets, count: int) -> list[Bools | None]:
    """Per column which values are not NULL; None: all."""
    found: list[Bools | None] = []
    any_null = 0
    words: list[Int64s] = []
    for place in range(0, count + _UNUSED_BITS, 56):
        word = ragged.gather_int64(
            packets.buffer, packets.start + (_HEAD_BYTES + place // 8), "<i8"
        ) & ((1 << min(56, count + _UNUSED_BITS - place)) - 1)
        any_null |= int(np.bitwise_or.reduce(word, initial=0)) << place
        words.append(word)
    for column in range(_UNUSED_BITS, count + _UNUSED_BITS):
        if any_null >> column & 1:
            found.append((words[column // 56] >> (column % 56)) & 1 == 0)
        else:
            found.append(None)
    return found


def _malformed(decoder: ResultDecoder, packets: Packets, row: int) -> BadData:
    first, last = int(packets.start[row]), int(packets.end[row])
    shown = packets.buffer[first : min(last, first + _SHOWN_BYTES)].tobytes().hex(" ")
    return BadData(
        f"a result row of {last - first} bytes that does not fit: {shown}",
        where=decoder.schema.name,
        hint="was the table altered meanwhile?",
    )
