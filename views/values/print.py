"""Casts to text: values as Postgres spells them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import Bools
from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY
from views.plan import Call
from views.sql.types import typmod
from views.values import fixed
from views.values.arrays import Kernel, Result, Values, storage, valid, values
from views.values.time import DAY_US, civil


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
    return lambda args, rows: (numeric_text(args[0]), None)


def numeric_text(array: pa.Array) -> pa.Array:
    """NUMERICs, however carried, as Postgres prints them."""
    return fixed.plain_text(array) if pa.types.is_decimal(array.type) else storage(array)


def float_to_text(call: Call) -> Kernel:
    """The shortest text that reads back equal; an exponent from 10^15 (real: 10^6) on."""
    double = call.args[0].type == pa.float64()

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        texts = args[0].cast(pa.string())
        odd = _spelled_otherwise(values(args[0]), double)
        if (ok := valid(args[0])) is not None:
            odd &= ok
        if not odd.any():
            return texts, None
        given = values(args[0])[odd]
        late = [_double_text(x) for x in given.tolist()] if double else map(_real_text, given)
        return pc.replace_with_mask(texts, pa.array(odd), pa.array(late, pa.string())), None

    return run


# From here on two floats' middle is an integer, below the end one with zeros to spare.
_DOUBLE_MIDDLES, _REAL_MIDDLES = (2.0**54, 1e41), (2.0**25, 1e21)
_SPELLED = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _spelled_otherwise(data: Values, double: bool) -> Bools:
    """Where Arrow's text is not Postgres's: NaN and infinities, exponents (Arrow's from 10^10 on
    and below 10^-6), and the texts that `_strict` is about."""
    size = np.abs(data)
    same = (size >= 1e-4) & (size < (1e10 if double else 1e6))
    if double:
        first, last = _DOUBLE_MIDDLES
        same |= (size >= 1e15) & (size < first) | (size >= last) & (size < np.inf)
    odd: Bools = ~(same | (data == 0))
    return odd


def _double_text(value: float) -> str:
    printed = repr(value).removesuffix(".0")
    if _DOUBLE_MIDDLES[0] <= abs(value) < _DOUBLE_MIDDLES[1]:
        return _strict(printed, value, int(math.ulp(value)))
    return _SPELLED.get(printed, printed)


def _real_text(value: np.float32) -> str:
    mantissa, _, exponent = np.format_float_scientific(value, trim="-").partition("e")
    if not exponent:
        return _SPELLED[mantissa]
    sign = "-" if exponent.startswith("-") else "+"
    printed = f"{mantissa}e{sign}{abs(int(exponent)):02d}"
    if _REAL_MIDDLES[0] <= abs(value) < _REAL_MIDDLES[1]:
        return _strict(printed, float(value), int(np.spacing(abs(value))))
    return printed


def _strict(printed: str, value: float, ulp: int) -> str:
    """The shortest text nearer to `value` than to any other float; `printed` may be as near to the
    next one, which reads back where halves go to even. Postgres does not count on that
    (STRICTLY_SHORTEST in src/common/d2s.c and f2s.c)."""
    exact = abs(int(value))
    above = 2 * ulp
    below = ulp if math.frexp(value)[0] in (0.5, -0.5) else above
    digits = len(printed.partition("e")[0].lstrip("-").replace(".", ""))
    while not -below < 4 * (abs(int(Decimal(printed))) - exact) < above:
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        printed = f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
        digits += 1
    return printed


_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)


def bytes_to_text(call: Call) -> Kernel:
    return lambda args, rows: (_hex_text(args[0]), None)


def _hex_text(array: pa.Array) -> pa.Array:
    """\\x and two hexadecimal digits a byte."""
    data, places = ragged.contents(array)
    lengths = 2 * (places[1:] - places[:-1]) + 2
    out = np.empty(int(lengths.sum()), np.uint8)
    digits = np.ones(len(out), np.bool_)
    start = lengths.cumsum() - lengths
    digits[start] = digits[start + 1] = False
    out[start], out[start + 1] = ord("\\"), ord("x")
    out[digits] = _HEX[data[places[0] : places[-1]]].view(np.uint8)
    return ragged.strings_of(out, lengths, valid(array))


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
