"""Arrow arrays as numpy values with a validity mask, and back. Shared by all kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools
from views.plan import Call

Values = npt.NDArray[Any]
Result = tuple[pa.Array, Bools | None]
"""An array, and the rows for which the function raises (null there); None: no row failed."""

Kernel = Callable[[Sequence[pa.Array], int], Result]
"""Arguments, all of that many rows, to the result."""

KernelFactory = Callable[[Call], Kernel]


def valid(array: pa.Array) -> Bools | None:
    """True where there is a value; None when there is one in every row."""
    if array.null_count == 0:
        return None
    return array.is_valid().to_numpy(zero_copy_only=False)


def both_valid(*arrays: pa.Array) -> Bools | None:
    """True where every array has a value; None when all have one in every row."""
    masks = [m for m in map(valid, arrays) if m is not None]
    if not masks:
        return None
    return np.logical_and.reduce(masks) if len(masks) > 1 else masks[0]


def values(array: pa.Array) -> Values:
    """Fixed-width values as numpy (dates and times as integers); anything where null."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    width = np.dtype(f"i{kind.bit_width // 8}") if not pa.types.is_floating(kind) else None
    dtype = width or np.dtype(f"f{kind.bit_width // 8}")
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype)[array.offset : array.offset + len(array)]


def build(data: Values, ok: Bools | None, kind: pa.DataType) -> pa.Array:
    """An array of `data`, null where not `ok`."""
    if pa.types.is_boolean(kind):
        return pa.array(data, kind, mask=None if ok is None else ~ok)
    plain = pa.array(data, mask=None if ok is None else ~ok)
    return plain if plain.type == kind else plain.view(kind)


def failing(data: Values, ok: Bools | None, bad: Bools, kind: pa.DataType) -> Result:
    """The result of a kernel that raises where `bad` (of the rows that are `ok`)."""
    if ok is not None:
        bad = bad & ok
    if not bad.any():
        return build(data, ok, kind), None
    return build(data, ~bad if ok is None else ok & ~bad, kind), bad


def storage(array: pa.Array) -> pa.Array:
    """The plain array below an extension array."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def wrap(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The inverse of `storage`."""
    return kind.wrap_array(array) if isinstance(kind, pa.ExtensionType) else array


def choose(mask: pa.Array | Bools, then: pa.Array, other: pa.Array) -> pa.Array:
    """`then` where the mask is true, else `other`. Both of one type."""
    condition = mask if isinstance(mask, pa.Array) else pa.array(mask)
    return wrap(pc.if_else(condition, storage(then), storage(other)), then.type)


def null_where(array: pa.Array, bad: Bools) -> pa.Array:
    plain = storage(array)
    return wrap(pc.if_else(pa.array(bad), pa.scalar(None, plain.type), plain), array.type)


def unscaled(array: pa.Array) -> tuple[npt.NDArray[np.int64], Bools]:
    """The low 64 bits of decimal128 values as integers, and where they are the whole value."""
    words = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)
    words = words[array.offset : array.offset + len(array)]
    low, high = words[:, 0], words[:, 1]
    return low, high == (low >> 63)


def no_failure(run: Callable[..., pa.Array]) -> KernelFactory:
    """A kernel that never raises, from a function of the argument arrays alone."""

    def kernel(args: Sequence[pa.Array], rows: int) -> Result:
        return run(*args), None

    return lambda call: kernel
