"""Casts between types, with Postgres's rounding, limits and spelling of values as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY
from views import numeric
from views.arrays import (
    Kernel,
    Result,
    Values,
    build,
    failing,
    storage,
    unscaled,
    valid,
    values,
    wrap,
)
from views.kernels_time import DAY_US, civil
from views.plan import Call
from views.types import typmod


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
        return numeric.elementwise(call.type, lambda x: numeric.fitted(x, *mod))
    if call.type == NUMERIC_TEXT:
        return lambda args, rows: (_as_text_numeric(args[0]), None)
    if source == NUMERIC_TEXT:
        return numeric.elementwise(call.type, lambda x: x)
    return lambda args, rows: (args[0].cast(call.type), None)


def _holds(source: pa.DataType, mod: tuple[int, int]) -> bool:
    if not pa.types.is_decimal128(source):
        return False
    return source.scale <= mod[1] and source.precision - source.scale <= mod[0] - mod[1]


def _as_text_numeric(array: pa.Array) -> pa.Array:
    return wrap(_numeric_text(array), NUMERIC_TEXT)


def numeric_to_integer(call: Call) -> Kernel:
    limits = np.iinfo(f"i{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        data = np.zeros(rows, np.int64)
        bad = np.zeros(rows, np.bool_)
        for i, value in enumerate(numeric.decimals(args[0])):
            whole = None if value is None or not value.is_finite() else numeric.rounded(value, 0)
            if whole is not None and limits.min <= whole <= limits.max:
                data[i] = int(whole)
            else:
                bad[i] = value is not None
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
        items = numeric.decimals(args[0])
        texts = [0.0 if x is None else _float_of(x, dtype) for x in items]
        data = np.array(texts, dtype)
        finite = np.array([x is not None and x.is_finite() for x in items], np.bool_)
        zero = np.array([x is None or not x for x in items], np.bool_)
        bad = finite & (np.isinf(data) | ((data == 0) & ~zero))
        return failing(data, valid(args[0]), bad, call.type)

    return run


def _float_of(value: Decimal, dtype: np.dtype[Any]) -> Any:
    with np.errstate(all="ignore"):
        return float(value) if dtype.itemsize == 8 else np.float32(numeric.text(value))


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

    def compute(value: float) -> Decimal:
        exact = Decimal(f"{value:.{digits - 1}e}").normalize(numeric.EXACT)
        plain = Decimal(numeric.text(exact))
        return plain if mod is None else numeric.fitted(plain, *mod)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        out: list[Decimal | None] = [None] * rows
        bad = np.zeros(rows, np.bool_)
        for i, value in enumerate(args[0].to_pylist()):
            if value is None:
                continue
            try:
                out[i] = compute(value)
            except numeric.Raises:
                bad[i] = True
            if call.type != NUMERIC_TEXT and out[i] is not None and not out[i].is_finite():  # type: ignore[union-attr]
                out[i], bad[i] = None, True
        return numeric.from_decimals(out, call.type), bad if bad.any() else None

    return run


def boolean_to_integer(call: Call) -> Kernel:
    return lambda args, rows: (args[0].cast(call.type), None)


def integer_to_boolean(call: Call) -> Kernel:
    return lambda args, rows: (build(values(args[0]) != 0, valid(args[0]), pa.bool_()), None)


def unchanged(call: Call) -> Kernel:
    return lambda args, rows: (args[0], None)


def trimmed(call: Call) -> Kernel:
    """char(n) as text: without the blanks at its end."""
    return lambda args, rows: (pc.utf8_rtrim(args[0], characters=" "), None)


def to_varchar(inner: Callable[[Call], Kernel]) -> Callable[[Call], Kernel]:
    """An explicit cast to varchar(n) cuts silently."""

    def factory(call: Call) -> Kernel:
        run = inner(call)
        mod = typmod(call.sql_type)
        if mod is None:
            return run

        def cut(args: Sequence[pa.Array], rows: int) -> Result:
            texts, bad = run(args, rows)
            return pc.utf8_slice_codeunits(texts, 0, mod[0]), bad

        return cut

    return factory


def plain_text(call: Call) -> Kernel:
    return lambda args, rows: (args[0].cast(pa.string()), None)


def boolean_to_text(call: Call) -> Kernel:
    return lambda args, rows: (pc.if_else(args[0], "true", "false"), None)


def numeric_to_text(call: Call) -> Kernel:
    return lambda args, rows: (_numeric_text(args[0]), None)


def _numeric_text(array: pa.Array) -> pa.Array:
    if not pa.types.is_decimal(array.type):
        return storage(array)
    texts = array.cast(pa.string())
    if pc.any(pc.match_substring(texts, "E")).as_py():
        return storage(numeric.from_decimals(numeric.decimals(array), NUMERIC_TEXT))
    return texts


def float_to_text(call: Call) -> Kernel:
    """The shortest text that reads back equal; an exponent from 10^15 (real: 10^6) on."""
    dtype, wide = (np.float64, 15) if call.args[0].type == pa.float64() else (np.float32, 6)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        ok = valid(args[0])
        texts = [float_text(dtype(x), wide) for x in values(args[0])]
        return pa.array(texts, pa.string(), mask=None if ok is None else ~ok), None

    return run


def float_text(value: Any, wide: int) -> str:
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0" if np.signbit(value) else "0"
    mantissa, _, exponent = np.format_float_scientific(value, trim="-").partition("e")
    if -4 <= int(exponent) < wide:
        return str(np.format_float_positional(value, trim="-"))
    sign = "-" if exponent.startswith("-") else "+"
    return f"{mantissa}e{sign}{abs(int(exponent)):02d}"


def bytes_to_text(call: Call) -> Kernel:
    def run(args: Sequence[pa.Array], rows: int) -> Result:
        texts = [None if x is None else "\\x" + x.hex() for x in args[0].to_pylist()]
        return pa.array(texts, pa.string()), None

    return run


_FRACTION = r"(\.[0-9]*[1-9])0+$|\.0+$"


def time_to_text(call: Call) -> Kernel:
    return lambda args, rows: (_time_text(args[0]), None)


def _time_text(array: pa.Array) -> pa.Array:
    """Postgres has a 24:00:00, which Arrow can carry but not print."""
    last = pc.equal(array.view(pa.int64()), DAY_US)
    if not pc.any(last).as_py():
        return _short(array.cast(pa.string()))
    plain = pc.if_else(last, pa.scalar(None, array.type), array)
    return pc.if_else(last, "24:00:00", _short(plain.cast(pa.string())))


def _short(texts: pa.Array) -> pa.Array:
    """Without the zeros at the end of the fraction."""
    return pc.replace_substring_regex(texts, pattern=_FRACTION, replacement="\\1")


def date_to_text(call: Call) -> Kernel:
    """ISO, in the zone UTC; years before Christ and beyond 9999 as Postgres prints them."""
    zone = "+00" if call.args[0].sql_type == "timestamp with time zone" else ""

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        array = args[0]
        odd = _odd(array)
        plain = (
            array if odd is None else pc.if_else(pa.array(odd), pa.scalar(None, array.type), array)
        )
        texts = _iso(plain, zone)
        if odd is None:
            return texts, None
        rest = [
            odd_date(v, array.type, zone) if o else None
            for v, o in zip(values(array), odd, strict=True)
        ]
        return pc.if_else(pa.array(odd), pa.array(rest, pa.string()), texts), None

    return run


def _iso(array: pa.Array, zone: str) -> pa.Array:
    if pa.types.is_date(array.type):
        return array.cast(pa.string())
    texts = _short(array.view(pa.int64()).view(pa.timestamp("us")).cast(pa.string()))
    return pc.binary_join_element_wise(texts, zone, "") if zone else texts


def _odd(array: pa.Array) -> Bools | None:
    """Outside the years 1 to 9999, or infinite."""
    unit = 1 if pa.types.is_date(array.type) else DAY_US
    data = values(array)
    odd = (data < -719_162 * unit) | (data >= 2_932_897 * unit)
    return odd if odd.any() else None


def odd_date(value: int, kind: pa.DataType, zone: str) -> str:
    """One date or timestamp in full generality."""
    date = pa.types.is_date(kind)
    limit = DATE_INFINITY if date else TIMESTAMP_INFINITY
    if abs(int(value)) == limit:
        return "infinity" if value > 0 else "-infinity"
    days, us = (int(value), 0) if date else divmod(int(value), DAY_US)
    year, month, day = (int(x[0]) for x in civil(np.array([days], np.int64)))
    era = " BC" if year <= 0 else ""
    text = f"{1 - year if year <= 0 else year:04d}-{month:02d}-{day:02d}"
    if not date:
        seconds, fraction = divmod(us, 1_000_000)
        text += f" {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        text += (f".{fraction:06d}".rstrip("0") if fraction else "") + zone
    return text + era


_BLANKS = " \t\n\r\f\v"
_INTEGER_TEXT = r"\A[+-]?[0-9]{1,18}\z"
_NUMERIC_TEXT_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.A)
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "infinity": "Infinity"}


def text_to_integer(call: Call) -> Kernel:
    limits = np.iinfo(f"i{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        texts = pc.utf8_trim(args[0], characters=_BLANKS)
        short = pc.match_substring_regex(texts, pattern=_INTEGER_TEXT)
        picked = pc.if_else(short, texts, None)
        data = pc.utf8_ltrim(picked, characters="+").cast(pa.int64())
        bad = pc.fill_null(pc.invert(short), False).to_numpy(zero_copy_only=False).copy()
        whole = pc.fill_null(data, 0).to_numpy(zero_copy_only=False).copy()
        for i in np.flatnonzero(bad):
            given = texts[i].as_py()
            if re.fullmatch(r"[+-]?[0-9]+", given, re.A) and limits.min <= int(given) <= limits.max:
                whole[i], bad[i] = int(given), False
        bad |= (whole < limits.min) | (whole > limits.max)
        return failing(whole.astype(limits.dtype), valid(args[0]), bad, call.type)

    return run


def text_to_numeric(call: Call) -> Kernel:
    mod = typmod(call.sql_type)

    def compute(given: str) -> Decimal:
        value = read_numeric(given)
        return value if mod is None else numeric.fitted(value, *mod)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        out: list[Decimal | None] = [None] * rows
        bad = np.zeros(rows, np.bool_)
        for i, given in enumerate(args[0].to_pylist()):
            try:
                out[i] = None if given is None else compute(given)
            except numeric.Raises:
                bad[i] = True
            if call.type != NUMERIC_TEXT and out[i] is not None and not out[i].is_finite():  # type: ignore[union-attr]
                out[i], bad[i] = None, True
        return numeric.from_decimals(out, call.type), bad if bad.any() else None

    return run


def read_numeric(given: str) -> Decimal:
    """NUMERIC's input. Raises numeric.Raises."""
    given = given.strip(_BLANKS)
    special = _SPECIAL.get(given.lower().lstrip("+-"))
    if special and not (special == "NaN" and given[0] in "+-"):
        return Decimal(("-" if given.startswith("-") else "") + special)
    if not _NUMERIC_TEXT_PATTERN.fullmatch(given):
        raise numeric.Raises("invalid input syntax for type numeric")
    value = numeric.EXACT.create_decimal(given)
    if numeric.scale_of(value) > numeric.SCALE_MAX:
        raise numeric.Raises("value overflows numeric format")
    return numeric.checked(Decimal(numeric.text(value)))


def text_to_float(call: Call) -> Kernel:
    dtype = np.dtype(f"f{call.type.bit_width // 8}")

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        data = np.zeros(rows, dtype)
        bad = np.zeros(rows, np.bool_)
        for i, given in enumerate(args[0].to_pylist()):
            if given is not None:
                value = read_float(given.strip(_BLANKS), dtype)
                bad[i] = value is None
                data[i] = 0 if value is None else value
        return failing(data, valid(args[0]), bad, call.type)

    return run


def read_float(given: str, dtype: np.dtype[Any]) -> Any:
    special = _SPECIAL.get(given.lower().lstrip("+-"))
    if special:
        return dtype.type(("-" if given.startswith("-") else "") + special)
    if not _NUMERIC_TEXT_PATTERN.fullmatch(given):
        return None
    with np.errstate(all="ignore"):
        value = dtype.type(given)
    lost = not np.isfinite(value) or (
        value == 0 and any(c in "123456789" for c in given.lower().split("e")[0])
    )
    return None if lost else value


_TRUE = {"t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"}
_FALSE = {"f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"}


def read_boolean(given: str) -> bool | None:
    """BOOLEAN's input; None where Postgres raises."""
    word = given.strip(_BLANKS).lower()
    return True if word in _TRUE else False if word in _FALSE else None


def text_to_boolean(call: Call) -> Kernel:
    def run(args: Sequence[pa.Array], rows: int) -> Result:
        read = [None if x is None else read_boolean(x) for x in args[0].to_pylist()]
        bad = np.array([x is None for x in read], np.bool_)
        data = np.array([bool(x) for x in read], np.bool_)
        return failing(data, valid(args[0]), bad, call.type)

    return run
