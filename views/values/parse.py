"""Casts from text: what Postgres's input functions take, and where they raise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools
from cdc.schema import NUMERIC_TEXT
from views.plan import Call
from views.sql.types import typmod
from views.values import fixed, numeric, numeric_batches
from views.values.arrays import Kernel, Result, failing, valid, wrap
from views.values.numeric_batches import Batch

_BLANKS = " \t\n\r\f\v"
_INTEGER_TEXT = r"\A[+-]?[0-9]{1,18}\z"
_NUMERIC_TEXT_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.A)
_PLAIN_NUMBER = r"\A[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\z"
_NUMBER = r"\A[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\z"
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
    fit = None if mod is None else numeric_batches.fitting(*mod)

    def compute(given: str) -> Decimal:
        value = read_numeric(given)
        return value if mod is None else numeric.fitted(value, *mod)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        if rows <= numeric.FEW:
            return numeric.each(call.type, compute, args[0])
        texts = pc.utf8_trim(args[0], characters=_BLANKS)
        plain = pc.match_substring_regex(texts, pattern=_PLAIN_NUMBER)
        cleaned = pc.ascii_ltrim(pc.if_else(plain, texts, None), characters="+")
        operand = fixed.read(wrap(cleaned, NUMERIC_TEXT))
        odd = ~np.asarray(pc.fill_null(plain, True))
        batch = Batch(operand) if fit is None else fit(operand)
        rest = numeric.left_over([odd, operand.rest, batch.rest], args)
        return numeric.finished(
            call.type, batch, rest, lambda at: numeric.each(call.type, compute, args[0].take(at))
        )

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

    def one_by_one(texts: pa.Array) -> Result:
        read = [0 if x is None else read_float(x.strip(_BLANKS), dtype) for x in texts.to_pylist()]
        data = np.array([0 if x is None else x for x in read], dtype)
        return failing(data, valid(texts), np.array([x is None for x in read], np.bool_), call.type)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        if rows <= numeric.FEW:
            return one_by_one(args[0])
        texts = pc.utf8_trim(args[0], characters=_BLANKS)
        plain = pc.match_substring_regex(texts, pattern=_NUMBER)
        cast = pc.fill_null(pc.if_else(plain, texts, None).cast(call.type), 1)
        data = cast.to_numpy(zero_copy_only=False).copy()
        bad = np.zeros(rows, np.bool_)
        late = np.isinf(data) | ~np.asarray(pc.fill_null(plain, True))
        late[np.flatnonzero(data == 0)] = lost_digits(texts.filter(pa.array(data == 0)))
        for i in np.flatnonzero(late):
            value = read_float(texts[i].as_py(), dtype)
            bad[i] = value is None
            data[i] = 0 if value is None else value
        return failing(data, valid(args[0]), bad, call.type)

    return run


def lost_digits(texts: pa.Array) -> Bools:
    """Which texts of floats that were read as 0 say another number."""
    lost: Bools = np.asarray(pc.match_substring_regex(texts, pattern=r"\A[^eE]*[1-9]"))
    return lost


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
        words = pc.ascii_lower(pc.utf8_trim(args[0], characters=_BLANKS))
        true, false = (np.asarray(pc.is_in(words, value_set=s)) for s in (_TRUE_SET, _FALSE_SET))
        return failing(true, valid(args[0]), ~(true | false), call.type)

    return run


_TRUE_SET, _FALSE_SET = (pa.array(sorted(words)) for words in (_TRUE, _FALSE))
