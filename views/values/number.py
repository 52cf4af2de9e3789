"""Arithmetic with Postgres's overflow checks: a row that raises there is flagged here."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools
from cdc.schema import NUMERIC_TEXT
from views.plan import Call, Constant
from views.values import numeric, numeric_batches
from views.values.arrays import Kernel, Result, Values, both_valid, build, failing, valid, values
from views.values.numeric_batches import Batched

Arith = Callable[[Values, Values, "np.iinfo[Any]"], tuple[Values, Bools]]


def integer(op: str) -> Callable[[Call], Kernel]:
    """+ - * / % of two integers of one width."""
    compute = _INTEGER[op]

    def factory(call: Call) -> Kernel:
        limits = np.iinfo(np.dtype(f"i{call.type.bit_width // 8}"))

        def run(args: Sequence[pa.Array], rows: int) -> Result:
            a, b = args
            data, bad = compute(values(a).astype(np.int64), values(b).astype(np.int64), limits)
            return failing(data.astype(limits.dtype), both_valid(a, b), bad, call.type)

        return run

    return factory


def _outside(data: Values, limits: np.iinfo[Any]) -> Bools:
    return (data < limits.min) | (data > limits.max)


def _add(x: Values, y: Values, limits: np.iinfo[Any]) -> tuple[Values, Bools]:
    data = x + y
    return data, ((x ^ data) & (y ^ data)) < 0 if limits.bits == 64 else _outside(data, limits)


def _subtract(x: Values, y: Values, limits: np.iinfo[Any]) -> tuple[Values, Bools]:
    data = x - y
    return data, ((x ^ y) & (x ^ data)) < 0 if limits.bits == 64 else _outside(data, limits)


def _multiply(x: Values, y: Values, limits: np.iinfo[Any]) -> tuple[Values, Bools]:
    data = x * y
    if limits.bits < 64:
        return data, _outside(data, limits)
    near = np.abs(x.astype(np.float64) * y.astype(np.float64)) > 2.0**62
    bad = np.zeros(len(x), np.bool_)
    for i in np.flatnonzero(near):
        bad[i] = not limits.min <= int(x[i]) * int(y[i]) <= limits.max
    return data, bad


def _divide(x: Values, y: Values, limits: np.iinfo[Any]) -> tuple[Values, Bools]:
    bad = (y == 0) | ((x == limits.min) & (y == -1))
    safe = np.where(bad, 1, y)
    return (x - np.fmod(x, safe)) // safe, bad


def _modulo(x: Values, y: Values, limits: np.iinfo[Any]) -> tuple[Values, Bools]:
    bad = y == 0
    return np.where(y == -1, 0, np.fmod(x, np.where(bad | (y == -1), 1, y))), bad


_INTEGER: dict[str, Arith] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "%": _modulo,
}


def floating(op: str) -> Callable[[Call], Kernel]:
    """+ - * / of two floats of one width, computed in that width."""

    def factory(call: Call) -> Kernel:
        def run(args: Sequence[pa.Array], rows: int) -> Result:
            a, b = args
            x, y = values(a), values(b)
            with np.errstate(all="ignore"):
                data, bad = _FLOATING[op](x, y)
                data[np.isnan(data)] = np.nan  # One NaN, with one sign: equal rows are equal bits.
            return failing(data, both_valid(a, b), bad, call.type)

        return run

    return factory


def _overflow(data: Values, x: Values, y: Values) -> Bools:
    return np.isinf(data) & ~np.isinf(x) & ~np.isinf(y)


def _float_multiply(x: Values, y: Values) -> tuple[Values, Bools]:
    data = x * y
    return data, _overflow(data, x, y) | ((data == 0) & (x != 0) & (y != 0))


def _float_divide(x: Values, y: Values) -> tuple[Values, Bools]:
    data = x / y
    zero = (y == 0) & ~np.isnan(x)
    tiny = (data == 0) & (x != 0) & ~np.isinf(y)
    return data, zero | (np.isinf(data) & ~np.isinf(x)) | tiny


_FLOATING: dict[str, Callable[[Values, Values], tuple[Values, Bools]]] = {
    "+": lambda x, y: (x + y, _overflow(x + y, x, y)),
    "-": lambda x, y: (x - y, _overflow(x - y, x, y)),
    "*": _float_multiply,
    "/": _float_divide,
}


def exact(op: str) -> Callable[[Call], Kernel]:
    """+ - * / % of two NUMERICs; + - * stay decimal128 where the result's carrier is."""
    plain = {"+": pc.add, "-": pc.subtract, "*": pc.multiply}.get(op)

    def factory(call: Call) -> Kernel:
        if plain is None or call.type == NUMERIC_TEXT:
            return numeric.elementwise(call.type, _EXACT[op], _BATCHED[op])

        def run(args: Sequence[pa.Array], rows: int) -> Result:
            result = plain(*args)
            return result if result.type == call.type else result.cast(call.type), None

        return run

    return factory


_EXACT: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": numeric.EXACT.add,
    "-": numeric.EXACT.subtract,
    "*": numeric.EXACT.multiply,
    "/": numeric.divide,
    "%": numeric.remainder,
}


_BATCHED: dict[str, Batched] = {
    "%": numeric_batches.remainder,
    "+": numeric_batches.add,
    "-": numeric_batches.subtract,
    "*": numeric_batches.multiply,
    "/": numeric_batches.divide,
}


def negate(call: Call) -> Kernel:
    return _unary(call, np.negative, numeric.EXACT.minus, numeric_batches.negate, pc.negate)


def absolute(call: Call) -> Kernel:
    return _unary(call, np.abs, Decimal.copy_abs, numeric_batches.absolute, pc.abs)


def _unary(
    call: Call,
    on_numbers: Callable[[Values], Values],
    on_decimals: Callable[[Decimal], Decimal],
    on_batches: Batched,
    on_decimal128: Callable[[pa.Array], pa.Array],
) -> Kernel:
    if call.type == NUMERIC_TEXT:
        return numeric.elementwise(call.type, on_decimals, on_batches)
    if pa.types.is_decimal(call.type):
        return lambda args, rows: (on_decimal128(args[0]), None)
    low = None if pa.types.is_floating(call.type) else np.iinfo(f"i{call.type.bit_width // 8}").min

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        x = values(args[0])
        bad = np.zeros(rows, np.bool_) if low is None else x == low
        with np.errstate(all="ignore"):
            return failing(on_numbers(x), valid(args[0]), bad, call.type)

    return run


_ROUNDINGS = {
    "round": decimal.ROUND_HALF_UP,
    "trunc": decimal.ROUND_DOWN,
    "ceil": decimal.ROUND_CEILING,
    "floor": decimal.ROUND_FLOOR,
}
_ARROW_ROUNDINGS = {
    "round": "half_towards_infinity",
    "trunc": "towards_zero",
    "ceil": "up",
    "floor": "down",
}
_FLOAT_ROUNDINGS = {"round": np.rint, "trunc": np.trunc, "ceil": np.ceil, "floor": np.floor}


def places(call: Call) -> int:
    """The constant number of decimal places of round and trunc; 0 when not given."""
    if len(call.args) < 2:
        return 0
    given = call.args[1]
    assert isinstance(given, Constant) and isinstance(given.value, int)
    return given.value


def round_numeric(call: Call) -> Kernel:
    digits = places(call)
    source = call.args[0].type
    if NUMERIC_TEXT in (call.type, source):
        rounding = _ROUNDINGS[call.name]
        inner = numeric.elementwise(
            call.type,
            lambda x: numeric.rounded(x, digits, rounding),
            numeric_batches.rounding(call.name, digits),
        )
        return lambda args, rows: inner(args[:1], rows)
    scale = call.type.scale
    wide = pa.decimal128(38, source.scale)
    mode = _ARROW_ROUNDINGS[call.name]

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        if digits >= source.scale:
            return args[0].cast(call.type), None
        cut = pc.round(args[0].cast(wide), ndigits=digits, round_mode=mode)
        return cut.cast(pa.decimal128(38, scale)).cast(call.type), None

    return run


def round_float(call: Call) -> Kernel:
    compute = _FLOAT_ROUNDINGS[call.name]

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        with np.errstate(all="ignore"):
            return build(compute(values(args[0])), valid(args[0]), call.type), None

    return run
