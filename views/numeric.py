"""NUMERIC beyond decimal128, with Postgres's scale rules, on Python's decimal (libmpdec).

Postgres keeps a display scale with every value. Sums and differences take the larger scale,
products the sum of both, exactly; a quotient gets at least 16 significant digits by
`select_div_scale` (src/backend/utils/adt/numeric.c), rounded half away from zero. NaN is equal to
itself and greater than everything; there is no negative zero.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa

from cdc.changes import Bools, Int64s
from cdc.schema import NUMERIC_TEXT
from views.arrays import Kernel, Result, storage
from views.plan import Call

INTEGER_DIGITS_MAX = 131072
SCALE_MAX = 16383
_DIVISION_DIGITS_MIN = 16
_DIVISION_SCALE_MAX = 1000
_BASE_DIGITS = 4
_NAN = Decimal("NaN")

EXACT = decimal.Context(
    prec=400_000,
    rounding=decimal.ROUND_HALF_UP,
    traps=[],
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
)


class Raises(Exception):
    """This value makes Postgres raise."""


def decimals(array: pa.Array) -> list[Decimal | None]:
    """Integers, decimal128 or NUMERIC_TEXT as Decimals whose exponent is the display scale."""
    items = storage(array).to_pylist()
    if pa.types.is_decimal(array.type):
        return items
    return [None if item is None else Decimal(item) for item in items]


def text(value: Decimal) -> str:
    """As Postgres prints it: no exponent, no negative zero."""
    if value.is_finite():
        return format(value if value else value.copy_abs(), "f")
    return "NaN" if value.is_nan() else str(value)


def from_decimals(items: Iterable[Decimal | None], kind: pa.DataType) -> pa.Array:
    """The inverse of `decimals`, as NUMERIC_TEXT or decimal128 (whose scale must hold them)."""
    if kind == NUMERIC_TEXT:
        texts = [None if item is None else text(item) for item in items]
        return pa.ExtensionArray.from_storage(NUMERIC_TEXT, pa.array(texts, pa.string()))
    return pa.array(list(items), kind)


def divide(a: Decimal, b: Decimal) -> Decimal:
    """a / b. Raises Raises for division by zero."""
    if a.is_nan() or b.is_nan():
        return _NAN
    if not b:
        raise Raises("division by zero")
    if a.is_infinite() or b.is_infinite():
        return _infinite_quotient(a, b)
    scale = division_scale(a, b)
    (a_int, a_scale), (b_int, b_scale) = _split(a), _split(b)
    shift = scale - a_scale + b_scale
    top, bottom = abs(a_int), abs(b_int)
    if shift >= 0:
        top *= 10**shift
    else:
        bottom *= 10**-shift
    quotient = (2 * top + bottom) // (2 * bottom)
    return EXACT.scaleb(Decimal(quotient if (a_int < 0) == (b_int < 0) else -quotient), -scale)


def division_scale(a: Decimal, b: Decimal) -> int:
    """The display scale of a / b: select_div_scale."""
    (a_weight, a_first), (b_weight, b_first) = _leading(a), _leading(b)
    weight = a_weight - b_weight - (a_first <= b_first)
    scale = _DIVISION_DIGITS_MIN - weight * _BASE_DIGITS
    return min(max(scale, scale_of(a), scale_of(b), 0), _DIVISION_SCALE_MAX)


def remainder(a: Decimal, b: Decimal) -> Decimal:
    """a % b: the sign of a, the larger scale."""
    if a.is_nan() or b.is_nan():
        return _NAN
    if not b:
        raise Raises("division by zero")
    if a.is_infinite():
        return _NAN
    if b.is_infinite():
        return a
    scale = max(scale_of(a), scale_of(b))
    left, right = (int(EXACT.scaleb(x, scale)) for x in (a, b))
    rest = abs(left) % abs(right)
    return EXACT.scaleb(Decimal(-rest if left < 0 else rest), -scale)


def scale_of(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def rounded(value: Decimal, scale: int, rounding: str = decimal.ROUND_HALF_UP) -> Decimal:
    """`value` with that many digits after the point (negative: zeros before it, scale 0)."""
    if not value.is_finite():
        return value
    cut = value.quantize(Decimal(1).scaleb(-scale), rounding=rounding, context=EXACT)
    return cut if scale >= 0 else cut.quantize(Decimal(1), context=EXACT)


def fitted(value: Decimal, precision: int, scale: int) -> Decimal:
    """`value` as numeric(precision, scale). Raises Raises when its digits do not fit."""
    if value.is_nan():
        return value
    cut = rounded(value, scale)
    if value.is_infinite() or (cut and cut.adjusted() >= precision - scale):
        raise Raises("numeric field overflow")
    return cut


def checked(value: Decimal) -> Decimal:
    """`value`, or Raises where it has more digits than NUMERIC can hold."""
    if value.is_finite() and value and value.adjusted() >= INTEGER_DIGITS_MAX:
        raise Raises("value overflows numeric format")
    return value


def order_key(value: Decimal) -> tuple[int, Decimal]:
    """A key that sorts as Postgres sorts: NaN last and equal to itself."""
    return (1, Decimal(0)) if value.is_nan() else (0, value)


def elementwise(call: Call, compute: Callable[..., Decimal]) -> Kernel:
    """A kernel that computes each row of Decimals; a row that raises is flagged."""

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        columns = [decimals(a) for a in args]
        out: list[Decimal | None] = [None] * rows
        bad = np.zeros(rows, np.bool_)
        for i, row in enumerate(zip(*columns, strict=True)):
            if None in row:
                continue
            try:
                out[i] = checked(compute(*row))
            except Raises:
                bad[i] = True
        return _carried(out, bad, call.type)

    return run


def _carried(out: list[Decimal | None], bad: Bools, kind: pa.DataType) -> Result:
    if kind != NUMERIC_TEXT:
        for i, value in enumerate(out):
            if value is not None and not value.is_finite():
                out[i], bad[i] = None, True
    return from_decimals(out, kind), bad if bad.any() else None


def finish_avg(sums: pa.Array, counts: Int64s) -> pa.Array:
    """avg = sum / count by Postgres's division rule, as a NUMERIC_TEXT array.

    `sums`: int64, decimal128 or NUMERIC_TEXT, null for a group without a non-null value, which
    gives NULL. The average of floats is double precision in Postgres: divide those yourself.
    """
    averages = [
        None if total is None or not count else divide(total, Decimal(int(count)))
        for total, count in zip(decimals(sums), counts.tolist(), strict=True)
    ]
    return from_decimals(averages, NUMERIC_TEXT)


def _infinite_quotient(a: Decimal, b: Decimal) -> Decimal:
    if a.is_infinite() and b.is_infinite():
        return _NAN
    if b.is_infinite():
        return Decimal(0)
    return a if b > 0 else -a


def _split(value: Decimal) -> tuple[int, int]:
    """(unscaled integer, scale)."""
    scale = scale_of(value)
    return int(EXACT.scaleb(value, scale)), scale


def _leading(value: Decimal) -> tuple[int, int]:
    """Weight and value of the first base-10000 digit; (0, 0) for zero."""
    if not value:
        return 0, 0
    place = value.adjusted()
    weight = place // _BASE_DIGITS
    first = EXACT.scaleb(value.copy_abs(), -weight * _BASE_DIGITS)
    return weight, int(first)
