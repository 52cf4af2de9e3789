"""Casts between numbers, with Postgres's rounding and limits."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.schema import NUMERIC_TEXT
from views.plan import Call
from views.sql.types import typmod
from views.values import fixed, numeric, numeric_batches
from views.values.arrays import (
    Kernel,
    Result,
    Values,
    build,
    failing,
    unscaled,
    valid,
    values,
    wrap,
)
from views.values.fixed_floats import significant
from views.values.numeric_batches import Batch
from views.values.parse import lost_digits
from views.values.print import numeric_text


def integer_to_integer(call: Call) -> Kernel:
    limits = np.iinfo(f"i{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        data = values(args[0])
        bad = (data < limits.min) | (data > limits.max)
        return failing(data.astype(limits.dtype), valid(args[0]), bad, call.type)

    return run


def to_float(call: Call) -> Kernel:
    """Integers and floats to a float; out of its range raises."""
    dtype = np.dtype(f"f{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        data = values(args[0])
        with np.errstate(all="ignore"):
            cast = data.astype(dtype)
            bad = (np.isinf(cast) & np.isfinite(data)) | ((cast == 0) & (data != 0))
        return failing(cast, valid(args[0]), bad, call.type)

    return run


def float_to_integer(call: Call) -> Kernel:
    """Half to even; NaN, infinities and what is out of range raise."""
    limits = np.iinfo(f"i{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        data = np.rint(values(args[0]).astype(np.float64))
        good = (data >= float(limits.min)) & (data < -float(limits.min))
        cast = np.where(good, data, 0).astype(limits.dtype)
        return failing(cast, valid(args[0]), ~good, call.type)

    return run


def integer_to_numeric(call: Call) -> Kernel:
    if call.type == NUMERIC_TEXT:
        return lambda args, rows: (wrap(args[0].cast(pa.string()), NUMERIC_TEXT), None)
    if typmod(call.sql_type) is not None:
        return numeric_to_numeric(call)
    return lambda args, rows: (_widened(args[0], call.type), None)


def _widened(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Arrow wants room for any int64; the planner knows that there is less."""
    digits = {2: 5, 4: 10, 8: 19}[array.type.bit_width // 8]
    return array.cast(pa.decimal128(min(digits + kind.scale, 38), kind.scale)).cast(kind)


def numeric_to_numeric(call: Call) -> Kernel:
    """To another precision and scale, half away from zero; more digits than fit raise."""
    mod = typmod(call.sql_type)
    source = call.args[0].type
    if mod is not None and not _holds(source, mod):
        fit = numeric_batches.fitting(*mod)
        return numeric.elementwise(call.type, lambda x: numeric.fitted(x, *mod), fit)
    if call.type == NUMERIC_TEXT:
        return lambda args, rows: (wrap(numeric_text(args[0]), NUMERIC_TEXT), None)
    if source == NUMERIC_TEXT:
        return numeric.elementwise(call.type, lambda x: x, Batch)
    return lambda args, rows: (args[0].cast(call.type), None)


def _holds(source: pa.DataType, mod: tuple[int, int]) -> bool:
    if not pa.types.is_decimal128(source):
        return False
    return source.scale <= mod[1] and source.precision - source.scale <= mod[0] - mod[1]


def numeric_to_integer(call: Call) -> Kernel:
    limits = np.iinfo(f"i{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        if rows <= numeric.FEW:
            data, bad = np.zeros(rows, np.int64), np.ones(rows, np.bool_)
            late = np.arange(rows)
        else:
            operand = fixed.read(args[0])
            data, bad = numeric_batches.integers(operand)
            bad |= (data < limits.min) | (data > limits.max)
            late = np.flatnonzero(False if operand.rest is None else operand.rest)
        for i, value in zip(late, numeric.decimals(args[0].take(pa.array(late))), strict=True):
            finite = value is not None and value.is_finite()
            whole = int(numeric.rounded(value, 0)) if value is not None and finite else None
            if whole is not None and limits.min <= whole <= limits.max:
                data[i], bad[i] = whole, False
            else:
                data[i], bad[i] = 0, True
        return failing(data.astype(limits.dtype), valid(args[0]), bad, call.type)

    def fast(args: Sequence[pa.Array], rows: int) -> Result:
        array = args[0]
        low, whole = unscaled(array)
        unit = 10**array.type.scale
        if unit > 10**17 or not whole.all():
            return run(args, rows)
        half = np.where(low < 0, -(unit // 2), unit // 2)
        wide = (low + half).astype(np.int64)
        if (np.abs(low.astype(np.float64)) > 9.0e18).any():
            return run(args, rows)
        data = (wide - np.fmod(wide, unit)) // unit
        bad = (data < limits.min) | (data > limits.max)
        return failing(data.astype(limits.dtype), valid(array), bad, call.type)

    return fast if pa.types.is_decimal128(call.args[0].type) else run


def numeric_to_float(call: Call) -> Kernel:
    """Correctly rounded; out of range raises."""
    dtype = np.dtype(f"f{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        exact = _exact_float(args[0]) if dtype.itemsize == 8 else None
        if exact is not None:
            return build(exact, valid(args[0]), call.type), None
        texts = numeric_text(args[0])
        data = pc.fill_null(texts.cast(call.type), 1).to_numpy(zero_copy_only=False)
        zero, infinite = np.flatnonzero(data == 0), np.flatnonzero(np.isinf(data))
        bad = np.zeros(rows, np.bool_)
        if len(zero):
            bad[zero] = lost_digits(texts.take(pa.array(zero)))
        if len(infinite):
            bad[infinite] = ~np.asarray(pc.ends_with(texts.take(pa.array(infinite)), "Infinity"))
        return failing(data, valid(args[0]), bad, call.type)

    return run


def _exact_float(array: pa.Array) -> Values | None:
    """Quotients of two exact floats are correctly rounded: mantissas below 2^53, scales to 22."""
    if not pa.types.is_decimal128(array.type) or array.type.scale > 22:
        return None
    low, whole = unscaled(array)
    if not whole.all() or (np.abs(low) > 2**53).any():
        return None
    return low.astype(np.float64) / 10.0**array.type.scale


def float_to_numeric(call: Call) -> Kernel:
    """By 15 significant digits (real: 6), as Postgres does."""
    digits = 15 if call.args[0].type == pa.float64() else 6
    mod = typmod(call.sql_type)
    fit = Batch if mod is None else numeric_batches.fitting(*mod)

    def compute(value: float) -> Decimal:
        exact = Decimal(f"{value:.{digits - 1}e}").normalize(numeric.EXACT)
        plain = Decimal(numeric.text(exact))
        return plain if mod is None else numeric.fitted(plain, *mod)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        if rows <= numeric.FEW:
            return numeric.each(call.type, compute, args[0])
        texts, odd = significant(args[0], digits)
        operand = fixed.read(wrap(texts, NUMERIC_TEXT))
        batch = fit(operand)
        rest = numeric.left_over([odd, operand.rest, batch.rest], args)
        return numeric.finished(
            call.type, batch, rest, lambda at: numeric.each(call.type, compute, args[0].take(at))
        )

    return run


def boolean_to_integer(call: Call) -> Kernel:
    return lambda args, rows: (args[0].cast(call.type), None)


def integer_to_boolean(call: Call) -> Kernel:
    return lambda args, rows: (build(values(args[0]) != 0, valid(args[0]), pa.bool_()), None)
