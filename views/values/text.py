"""Text functions, in collation C: case folding is of ASCII letters, order is by bytes.

Patterns, positions and replaced strings are constants: they are compiled once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from views.plan import Call, Constant
from views.values.arrays import Kernel, Result


def constant_int(call: Call, at: int) -> int:
    given = call.args[at]
    assert isinstance(given, Constant) and isinstance(given.value, int)
    return given.value


def constant_text(call: Call, at: int) -> str:
    given = call.args[at]
    assert isinstance(given, Constant) and isinstance(given.value, str)
    return given.value


def _of_first(run: Callable[[pa.Array], pa.Array]) -> Kernel:
    return lambda args, rows: (run(args[0]), None)


def length(call: Call) -> Kernel:
    return _of_first(pc.utf8_length)


def octet_length(call: Call) -> Kernel:
    return _of_first(pc.binary_length)


def lower(call: Call) -> Kernel:
    return _of_first(pc.ascii_lower)


def upper(call: Call) -> Kernel:
    return _of_first(pc.ascii_upper)


def concatenate(call: Call) -> Kernel:
    """a || b: NULL if either is."""
    return lambda args, rows: (pc.binary_join_element_wise(*args, ""), None)


def concat(call: Call) -> Kernel:
    """concat(a, …): NULLs are empty."""

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        joined = pc.binary_join_element_wise(
            *args, "", null_handling="replace", null_replacement=""
        )
        return joined, None

    return run


def substring(call: Call) -> Kernel:
    """substring(s, start[, count]): positions from 1, those before it count but hold nothing."""
    start = constant_int(call, 1)
    if len(call.args) == 2:
        return _of_first(lambda a: pc.utf8_slice_codeunits(a, max(start, 1) - 1))
    stop = max(start + constant_int(call, 2), 1)
    return _of_first(lambda a: pc.utf8_slice_codeunits(a, max(start, 1) - 1, max(stop - 1, 0)))


def left(call: Call) -> Kernel:
    """left(s, n); n below 0: all but the last -n."""
    count = constant_int(call, 1)
    return _of_first(lambda a: pc.utf8_slice_codeunits(a, 0, count))


def right(call: Call) -> Kernel:
    """right(s, n); n below 0: all but the first -n."""
    count = constant_int(call, 1)
    if count == 0:
        return _of_first(lambda a: pc.utf8_slice_codeunits(a, 0, 0))
    return _of_first(lambda a: pc.utf8_slice_codeunits(a, -count))


def trim(call: Call) -> Kernel:
    run = {"btrim": pc.utf8_trim, "ltrim": pc.utf8_ltrim, "rtrim": pc.utf8_rtrim}[call.name]
    characters = constant_text(call, 1)
    if not characters:
        return _of_first(lambda a: a)
    return _of_first(lambda a: run(a, characters=characters))


def replace(call: Call) -> Kernel:
    old, new = constant_text(call, 1), constant_text(call, 2)
    if not old:
        return _of_first(lambda a: a)
    return _of_first(lambda a: pc.replace_substring(a, pattern=old, replacement=new))


def starts_with(call: Call) -> Kernel:
    prefix = constant_text(call, 1)
    return _of_first(lambda a: pc.starts_with(a, pattern=prefix))


def reverse(call: Call) -> Kernel:
    return _of_first(pc.utf8_reverse)


def like(call: Call) -> Kernel:
    """LIKE and ILIKE (ASCII letters folded) with a constant pattern and \\ as escape."""
    pattern = constant_text(call, 1)
    if call.name == "ilike":
        folded = like_regex(pattern.translate(_ASCII_LOWER))
        return _of_first(lambda a: pc.match_substring_regex(pc.ascii_lower(a), pattern=folded))
    regex = like_regex(pattern)
    return _of_first(lambda a: pc.match_substring_regex(a, pattern=regex))


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def like_regex(pattern: str) -> str:
    """The RE2 expression of a LIKE pattern. Raises ValueError when it ends in a lone escape."""
    out, at = [], 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            at += 1
            if at == len(pattern):
                raise ValueError("LIKE pattern must not end with escape character")
            out.append(_quoted(pattern[at]))
        else:
            out.append({"%": ".*", "_": "."}.get(letter) or _quoted(letter))
        at += 1
    return "(?s)\\A" + "".join(out) + "\\z"


def _quoted(letter: str) -> str:
    return re.escape(letter) if letter.isascii() else letter
