"""Comparisons with Postgres's order: NaN equal to itself and above all, text by its bytes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.schema import NUMERIC_TEXT
from views.plan import Call
from views.values import fixed, numeric, numeric_batches
from views.values.arrays import Kernel, Result, both_valid, build, choose, values

_ARROW: dict[str, Callable[[Any, Any], pa.Array]] = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_NUMPY: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal,
    "<>": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_PYTHON: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def comparison(call: Call) -> Kernel:
    """= <> < <= > >= of two values of one Postgres type; NULL when either is."""
    compare = comparer(call.args[0].type, call.args[1].type, call.name)
    return lambda args, rows: (compare(args[0], args[1]), None)


def comparer(
    left: pa.DataType, right: pa.DataType, op: str
) -> Callable[[pa.Array, pa.Array], pa.Array]:
    if NUMERIC_TEXT in (left, right):
        return lambda a, b: _compare_text_numeric(a, b, op)
    if pa.types.is_decimal(left) and left != right:
        wide = _both(left, right)
        return lambda a, b: _ARROW[op](a.cast(wide), b.cast(wide))
    if pa.types.is_floating(left):
        return lambda a, b: _compare_floats(a, b, op)
    if pa.types.is_boolean(left) or pa.types.is_temporal(left):
        return lambda a, b: _compare_numbers(a, b, op)
    return _ARROW[op]


def _both(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    scale = max(left.scale, right.scale)
    precision = max(left.precision - left.scale, right.precision - right.scale) + scale
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _compare_numbers(a: pa.Array, b: pa.Array, op: str) -> pa.Array:
    return build(_NUMPY[op](values(a), values(b)), both_valid(a, b), pa.bool_())


def _compare_floats(a: pa.Array, b: pa.Array, op: str) -> pa.Array:
    x, y = values(a), values(b)
    data = _NUMPY[op](x, y)
    odd = np.isnan(x) | np.isnan(y)
    if odd.any():
        data = np.where(odd, _NUMPY[op](np.isnan(x).astype(int), np.isnan(y).astype(int)), data)
    return build(data, both_valid(a, b), pa.bool_())


def _compare_text_numeric(a: pa.Array, b: pa.Array, op: str) -> pa.Array:
    if len(a) <= numeric.FEW:
        return _compare_one_by_one(a, b, op)
    left, right = fixed.read(a), fixed.read(b)
    out = _ARROW[op](*numeric_batches.common(left, right))
    rest = numeric.left_over([left.rest, right.rest], (a, b))
    if rest is None:
        return out
    at = pa.array(np.flatnonzero(rest))
    late = _compare_one_by_one(a.take(at), b.take(at), op)
    return pc.replace_with_mask(out, pa.array(rest), late)


def _compare_one_by_one(a: pa.Array, b: pa.Array, op: str) -> pa.Array:
    compare = _PYTHON[op]
    out = [
        None if x is None or y is None else compare(numeric.order_key(x), numeric.order_key(y))
        for x, y in zip(numeric.decimals(a), numeric.decimals(b), strict=True)
    ]
    return pa.array(out, pa.bool_())


def distinct(call: Call) -> Kernel:
    """IS DISTINCT FROM: never NULL; two NULLs are not distinct."""
    compare = comparer(call.args[0].type, call.args[1].type, "<>")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        differ = compare(args[0], args[1])
        one_null = pc.xor(args[0].is_null(), args[1].is_null())
        return pc.or_(pc.fill_null(differ, False), one_null), None

    return run


def extreme(op: str) -> Callable[[Call], Kernel]:
    """GREATEST (op ">") and LEAST ("<"): NULLs are ignored, NULL when all are."""

    def factory(call: Call) -> Kernel:
        compare = comparer(call.type, call.type, op)

        def run(args: Sequence[pa.Array], rows: int) -> Result:
            best = args[0]
            for other in args[1:]:
                better = pc.or_(pc.fill_null(compare(other, best), False), best.is_null())
                best = choose(better, other, best)
            return best, None

        return run

    return factory


def nullif(call: Call) -> Kernel:
    """args: the value that is returned, then the two that are compared."""
    compare = comparer(call.args[1].type, call.args[2].type, "=")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        same = pc.fill_null(compare(args[1], args[2]), False)
        return choose(same, pa.nulls(rows, call.type), args[0]), None

    return run


def in_list(call: Call) -> Kernel:
    """x IN (a, b, …): true, else NULL if x or any element is NULL, else false."""
    compare = comparer(call.args[0].type, call.args[1].type, "=")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        found = compare(args[0], args[1])
        for item in args[2:]:
            found = pc.or_kleene(found, compare(args[0], item))
        return found, None

    return run
