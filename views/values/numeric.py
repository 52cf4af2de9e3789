"""NUMERIC beyond decimal128, with Postgres's scale rules.

One row at a time on Python's decimal (libmpdec), which defines the results; whole batches by
views.values.numeric_batches, which leaves what does not fit (NaN, infinities, very long numbers) to
here.

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
import pyarrow.compute as pc

from cdc.changes import Bools, Int64s
from cdc.schema import NUMERIC_TEXT
from views.values import fixed, numeric_batches
from views.values.arrays import Kernel, Result, both_valid, storage, wrap
from views.values.fixed import Fixed
from views.values.numeric_batches import Batch, Batched

FEW = 128
"""Up to so many rows Decimals are faster than Arrow's fixed costs."""

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


def elementwise(
    kind: pa.DataType, compute: Callable[..., Decimal], batched: Batched | None = None
) -> Kernel:
    """A kernel of NUMERICs that gives `kind`; a row that raises is flagged.

    `compute` takes one row's Decimals; `batched` does the same for whole batches, where it can.
    """

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        if batched is None or rows <= FEW:
            return _one_by_one(kind, compute, args)
        operands = [fixed.read(a) for a in args]
        batch = batched(*operands)
        rest = left_over([batch.rest, *(o.rest for o in operands)], args)
        return finished(
            kind, batch, rest, lambda at: _one_by_one(kind, compute, [a.take(at) for a in args])
        )

    return run


def finished(
    kind: pa.DataType,
    batch: Batch,
    rest: Bools | None,
    one_by_one: Callable[[pa.Array], Result],
) -> Result:
    """The batch as `kind`; the rows of `rest` from `one_by_one`, which is given their numbers."""
    out = _carrier(batch.values, kind)
    if rest is None:
        return out, batch.bad
    index = np.flatnonzero(rest)
    late, late_bad = one_by_one(pa.array(index))
    bad = np.zeros(len(rest), np.bool_) if batch.bad is None else batch.bad
    if late_bad is not None:
        bad[index] = late_bad
    plain = pc.replace_with_mask(storage(out), pa.array(rest), storage(late))
    return wrap(plain, kind), bad if bad.any() else None


def left_over(rests: Sequence[Bools | None], args: Sequence[pa.Array]) -> Bools | None:
    """The rows that some operand or result left over and whose arguments all have values."""
    given = [r for r in rests if r is not None]
    if not given:
        return None
    ok = both_valid(*args)
    rest: Bools = np.logical_or.reduce(given)
    rest = rest if ok is None else rest & ok
    return rest if rest.any() else None


def _carrier(given: Fixed | pa.Array, kind: pa.DataType) -> pa.Array:
    if not isinstance(given, Fixed):
        return wrap(given, kind) if kind == NUMERIC_TEXT else given.cast(kind)
    return wrap(fixed.text(given), kind) if kind == NUMERIC_TEXT else fixed.decimal(given, kind)


def _one_by_one(
    kind: pa.DataType, compute: Callable[..., Decimal], args: Sequence[pa.Array]
) -> Result:
    columns = [decimals(a) for a in args]
    out: list[Decimal | None] = [None] * len(columns[0])
    bad = np.zeros(len(out), np.bool_)
    for i, row in enumerate(zip(*columns, strict=True)):
        if None in row:
            continue
        try:
            out[i] = checked(compute(*row))
        except Raises:
            bad[i] = True
    return carried(out, bad, kind)


def each(kind: pa.DataType, compute: Callable[..., Decimal], array: pa.Array) -> Result:
    """`compute` of every value that is not NULL, as `kind`; a row that raises is flagged."""
    out: list[Decimal | None] = [None] * len(array)
    bad = np.zeros(len(array), np.bool_)
    for i, value in enumerate(array.to_pylist()):
        try:
            out[i] = None if value is None else compute(value)
        except Raises:
            bad[i] = True
    return carried(out, bad, kind)


def carried(out: list[Decimal | None], bad: Bools, kind: pa.DataType) -> Result:
    """Decimals as `kind`; decimal128 has no NaN, so such a row is flagged."""
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
    divisors = pa.array(counts, mask=counts == 0)
    return _AVERAGE([sums, divisors], len(sums))[0]


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


_AVERAGE = elementwise(NUMERIC_TEXT, divide, numeric_batches.divide)
