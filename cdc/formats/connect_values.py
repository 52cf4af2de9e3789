"""Values of our columns as Connect's values, and back: whole columns, exact or BadData.

Connect's values of one field are one of

    an Arrow array     of the type that carries them: int16 … int64, float, double, boolean,
                       string, binary
    Lists              of an array: its elements, one behind the other, and how many each row has
    Structs            of a struct: one entry per field
    Constant           the same value in every row
    Composed           of a string: parts that are put together only where they are needed so

What Debezium cannot carry and silently changes is BadData here: NaN and infinities in precise
decimals (it writes null), fractions of a millisecond where the type counts milliseconds.

Infinite dates and timestamps are what Debezium 3.7 writes for them (measured): they lie outside
of what Postgres's types hold, so they are read back as what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import json_scalars, ragged
from cdc.errors import BadData
from cdc.formats import intervals, unscaled
from cdc.formats.connect_schema import DECIMAL, Schema
from cdc.formats.debezium_schema import INTERVAL, VARIABLE_SCALE, element
from cdc.ragged import Bools, Int64s
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column


@dataclass(frozen=True, eq=False)
class Constant:
    """The same value in all rows; None is null."""

    value: bool | int | str | None


@dataclass(frozen=True, eq=False)
class Lists:
    """Row i has the next lengths[i] of `items`; a null row has none."""

    items: Values
    lengths: Int64s
    valid: Bools | None


@dataclass(frozen=True, eq=False)
class Structs:
    """Rows of a struct, as its fields' values by name."""

    fields: dict[str, Values]
    valid: Bools | None = None


@dataclass(frozen=True, eq=False)
class Composed:
    """A text in every row: its parts one behind the other, constants and string arrays. The arrays
    have no nulls, offset 0, and no character that JSON would escape."""

    parts: tuple[str | pa.Array, ...]

    def whole(self) -> pa.Array:
        return pc.binary_join_element_wise(*self.parts, "")


Values: TypeAlias = pa.Array | Constant | Lists | Structs | Composed

DATE_INFINITIES = (2_146_033_979, -2_147_472_691)
"""Days of infinity and -infinity as Debezium 3.7 writes them."""
MICROS_INFINITIES = (2**63 - 1, -(2**63))
MILLIS_INFINITIES = (9_223_372_036_825_200_000, -9_223_372_036_832_400_000)
NAMED_NUMBERS = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}
"""NUMERIC's special values in decimal.handling.mode=string."""

_UNITS: dict[str, tuple[int, int]] = {
    "io.debezium.time.Time": (1000, 1),
    "io.debezium.time.MicroTime": (1, 1),
    "io.debezium.time.NanoTime": (1, 1000),
    "org.apache.kafka.connect.data.Time": (1000, 1),
    "time-millis": (1000, 1),
    "time-micros": (1, 1),
    "io.debezium.time.Timestamp": (1000, 1),
    "io.debezium.time.MicroTimestamp": (1, 1),
    "io.debezium.time.NanoTimestamp": (1, 1000),
    "org.apache.kafka.connect.data.Timestamp": (1000, 1),
    "timestamp-millis": (1000, 1),
    "timestamp-micros": (1, 1),
    "local-timestamp-millis": (1000, 1),
    "local-timestamp-micros": (1, 1),
}
"""Per semantic type: microseconds are its count times the first, divided by the second."""


def to_connect(column: pa.Array, of: Column, kind: Schema) -> Values:
    """The column's values as `kind`, which is column_schema(of, …). BadData names the column."""
    try:
        return _to_connect(_whole(column), of, kind)
    except BadData as error:
        raise _placed(error, of) from error


def from_connect(values: Values, kind: Schema, of: Column, num_rows: int) -> pa.Array:
    """The column of Connect's values of any `kind` that the column's type can hold exactly."""
    try:
        return _from_connect(values, kind, of, num_rows)
    except BadData as error:
        raise _placed(error, of) from error
    except pa.ArrowInvalid as error:
        raise _placed(
            BadData(f"a value that {of.sql_type or of.type} cannot hold: {error}"), of
        ) from error


def _placed(error: BadData, of: Column) -> BadData:
    return BadData(error.what, where=error.where or f"column {of.name}", hint=error.hint)


def _whole(column: pa.Array) -> pa.Array:
    """With offset 0, as reading its bytes needs."""
    return pa.concat_arrays([column, column.slice(0, 0)]) if column.offset else column


def _texts(column: pa.Array) -> pa.Array:
    return json_scalars.printed(column) if len(column) else pa.array([], pa.string())


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    return json_scalars.parsed(texts, kind) if len(texts) else _nulls(kind, 0)


def _to_connect(column: pa.Array, of: Column, kind: Schema) -> Values:
    if kind.items is not None:
        valid = np.asarray(column.is_valid()) if column.null_count else None
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
        return Lists(_to_connect(_whole(column.flatten()), element(of), kind.items), lengths, valid)
    if kind.name == VARIABLE_SCALE:
        return _variable_scale(_numeric_texts(column))
    if kind.name == DECIMAL:
        return _unscaled(column, int(kind.parameter("scale") or 0))
    if _is_decimal(column.type):
        return _doubles(column) if kind.type == "double" else _printed(column)
    if pa.types.is_temporal(column.type):
        return _moments(column, kind)
    return intervals.to_iso(column) if kind.name == INTERVAL else column


def _is_decimal(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.ExtensionType) or pa.types.is_decimal(kind) or kind == pa.uint64()


def _numeric_texts(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.ExtensionType) else _texts(column)


def _variable_scale(texts: pa.Array) -> Structs:
    scales, values = unscaled.scaled_parts(texts)
    valid = np.asarray(texts.is_valid()) if texts.null_count else None
    return Structs({"scale": pa.array(scales.astype(np.int32)), "value": values}, valid)


def _unscaled(column: pa.Array, scale: int) -> pa.Array:
    if isinstance(column.type, pa.ExtensionType):
        return unscaled.texts_to_bytes(column.storage, scale)
    if column.type == pa.uint64():
        column = column.cast(pa.decimal128(20, 0))
    return unscaled.to_bytes(column)


def _printed(column: pa.Array) -> pa.Array:
    texts = _texts(column)
    if isinstance(column.type, pa.ExtensionType):
        for ours, theirs in NAMED_NUMBERS.items():
            named = pc.equal(texts, ours)
            if named.true_count:
                texts = pc.if_else(named, theirs, texts)
    return texts


def _doubles(column: pa.Array) -> pa.Array:
    return _numeric_texts(column).cast(pa.float64())


def _moments(column: pa.Array, kind: Schema) -> pa.Array:
    if kind.type == "string":
        return _texts(column)
    if pa.types.is_date(column.type):
        days = column.view(pa.int32())
        return _exchanged(days, (DATE_INFINITY, -DATE_INFINITY), DATE_INFINITIES)
    micros = column.view(pa.int64())
    infinities = (TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY)
    if _UNITS[kind.name][0] == 1:
        return (
            micros
            if pa.types.is_time(column.type)
            else _exchanged(micros, infinities, MICROS_INFINITIES)
        )
    counts = _counts(micros)
    infinite = np.abs(counts) == TIMESTAMP_INFINITY
    if ragged.some((counts % 1000 != 0) & ~infinite):
        raise BadData(
            f"a moment with microseconds, of which {kind.name} has none",
            hint="set time.precision.mode to adaptive, or declare the column with precision 3",
        )
    millis = counts // 1000
    if ragged.some(infinite):
        millis = np.where(infinite, np.where(counts > 0, *MILLIS_INFINITIES), millis)
    width = np.dtype(np.int32 if kind.type == "int32" else np.int64)
    valid = np.asarray(column.is_valid()) if column.null_count else None
    return ragged.fixed(_ARROW[kind.type], millis.astype(width), valid)


_ARROW = {"int32": pa.int32(), "int64": pa.int64()}


def _counts(column: pa.Array) -> Int64s:
    """The integers of an int64 array, 0 where null."""
    found = np.frombuffer(column.buffers()[1], np.int64)[
        column.offset : column.offset + len(column)
    ]
    return found * np.asarray(column.is_valid()) if column.null_count else found


def _exchanged(column: pa.Array, these: tuple[int, int], those: tuple[int, int]) -> pa.Array:
    """The column with the first value of `these` as that of `those`, and the second so."""
    values = np.frombuffer(
        column.buffers()[1],
        column.type.to_pandas_dtype(),
        len(column),
        column.offset * column.type.bit_width // 8,
    )
    for old, new in zip(these, those, strict=True):
        if old != new and ragged.some(values == old):
            column = pc.if_else(pc.equal(column, old), pa.scalar(new, column.type), column)
    return column


def _from_connect(values: Values, kind: Schema, of: Column, num_rows: int) -> pa.Array:
    if isinstance(values, Constant):
        if values.value is None:
            return _nulls(of.type, num_rows)
        values = pa.repeat(pa.scalar(values.value), num_rows)
    target = of.type
    if pa.types.is_list(target):
        return _lists(values, kind, of)
    if _is_decimal(target):
        return _decimals(values, kind, of, num_rows)
    if isinstance(values, pa.Array):
        if pa.types.is_temporal(target):
            return _temporals(values, kind, target)
        if of.sql_type == "interval" and kind.name in _INTERVALS:
            return _INTERVALS[kind.name](values)
        if values.type == target:
            return values
        if _widens(values.type, target):
            return values.cast(target)
    raise _not_readable(kind, of)


def _nulls(kind: pa.DataType, count: int) -> pa.Array:
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(pa.nulls(count, kind.storage_type))
    return pa.nulls(count, kind)


def _not_readable(kind: Schema, of: Column) -> BadData:
    return BadData(
        f"{kind.name or kind.type} cannot be read as {of.sql_type or of.type} without changing it",
        hint="declare the column with a type that holds these values",
    )


def _widens(here: pa.DataType, target: pa.DataType) -> bool:
    if pa.types.is_integer(here) and pa.types.is_integer(target):
        return True
    return pa.types.is_floating(here) and target == pa.float64()


_INTERVALS: dict[str, Callable[[pa.Array], pa.Array]] = {
    INTERVAL: intervals.from_iso,
    "io.debezium.time.MicroDuration": intervals.from_micros,
}


def _lists(values: Values, kind: Schema, of: Column) -> pa.Array:
    if not isinstance(values, Lists) or kind.items is None:
        raise _not_readable(kind, of)
    count = int(values.lengths.sum())
    flat = _from_connect(values.items, kind.items, element(of), count)
    mask = None if values.valid is None else pa.array(~values.valid)
    offsets = pa.array(ragged.offsets_of(values.lengths))
    return pa.ListArray.from_arrays(offsets, flat, of.type, mask=mask)


def _decimals(values: Values, kind: Schema, of: Column, num_rows: int) -> pa.Array:
    target = of.type
    if isinstance(values, Structs):
        if kind.name != VARIABLE_SCALE:
            raise _not_readable(kind, of)
        found = _from_variable_scale(values)
    elif isinstance(values, Lists):
        raise _not_readable(kind, of)
    elif kind.name == DECIMAL:
        scale = int(kind.parameter("scale") or 0)
        if not isinstance(target, pa.ExtensionType) and 0 <= scale <= unscaled.DIGITS:
            return unscaled.from_bytes(values, scale).cast(target)
        found = unscaled.texts_from_bytes(values, np.full(num_rows, scale, np.int64))
    else:
        found = _parsed(_number_texts(values, kind, of), NUMERIC_TEXT)
    return found if found.type == target else _parsed(found.storage, target)


def _from_variable_scale(values: Structs) -> pa.Array:
    scales, parts = values.fields["scale"], values.fields["value"]
    if isinstance(scales, Constant | Lists | Structs | Composed) or isinstance(parts, Constant):
        raise BadData("a VariableScaleDecimal without scale or value")
    texts = unscaled.texts_from_bytes(parts, np.asarray(scales.fill_null(0)).astype(np.int64))
    if values.valid is None:
        return texts
    masked = pc.if_else(pa.array(values.valid), texts.storage, pa.scalar(None, pa.string()))
    return NUMERIC_TEXT.wrap_array(masked)


def _number_texts(values: pa.Array, kind: Schema, of: Column) -> pa.Array:
    if pa.types.is_string(values.type):
        for ours, theirs in NAMED_NUMBERS.items():
            values = pc.if_else(pc.equal(values, theirs), ours, values)
        return values
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _texts(values)
    raise _not_readable(kind, of)


def _temporals(values: pa.Array, kind: Schema, target: pa.DataType) -> pa.Array:
    if pa.types.is_string(values.type):
        return _parsed(values, target)
    if pa.types.is_date(target):
        days = _exchanged(values.cast(pa.int32()), DATE_INFINITIES, (DATE_INFINITY, -DATE_INFINITY))
        return days.view(target)
    unit = _UNITS.get(kind.name)
    if unit is None or not pa.types.is_integer(values.type):
        raise BadData(f"{kind.name or kind.type} is not a moment", hint="")
    times, divided = unit
    infinities = (TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY)
    counts = _counts(values.cast(pa.int64()))
    if times == 1 and divided == 1:
        if pa.types.is_timestamp(target):
            values = _exchanged(values, MICROS_INFINITIES, infinities)
        return values.cast(pa.int64()).view(target)
    if divided != 1 and ragged.some(counts % divided != 0):
        raise BadData("a moment with nanoseconds, which the column's type does not have")
    lowest, highest = -(2**63 - 1) // times, (2**63 - 1) // times
    beyond = (counts < lowest) | (counts > highest)
    micros = np.where(beyond, 0, counts) * times // divided
    for sentinel, infinity in zip(MILLIS_INFINITIES, infinities, strict=True):
        is_infinite = beyond & (counts == sentinel)
        micros[is_infinite] = infinity
        beyond &= ~is_infinite
    if ragged.some(beyond):
        raise BadData("a moment beyond what microseconds in 64 bits can count")
    valid = np.asarray(values.is_valid()) if values.null_count else None
    return ragged.fixed(target, micros, valid)
