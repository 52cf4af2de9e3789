"""Clocks and durations as text: `-04:05:06.789`, as Postgres prints the time of an interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc.ragged import Bools, Int64s


def clock(time_us: Int64s, plus: Bools | None = None) -> pa.Array:
    """The durations as hours (two digits or more), minutes, seconds, and of the fraction what is
    not zero. `plus`: where one that is not negative shows its sign."""
    # As unsigned, the magnitude of the smallest int64 is right too.
    magnitude = np.abs(time_us).astype(np.uint64)
    seconds, micros = magnitude // np.uint64(1_000_000), magnitude % np.uint64(1_000_000)
    minutes, second = seconds // np.uint64(60), seconds % np.uint64(60)
    hour, minute = minutes // np.uint64(60), minutes % np.uint64(60)
    unsigned = "" if plus is None else pc.if_else(pa.array(plus), "+", "")
    sign = pc.if_else(pa.array(time_us < 0), "-", unsigned)
    fraction = pc.utf8_rtrim(_padded(micros, 6), "0")
    point = pc.if_else(pa.array(micros != 0), ".", "")
    parts = [_padded(hour, 2), ":", _padded(minute, 2), ":", _padded(second, 2), point, fraction]
    return pc.binary_join_element_wise(sign, *parts, "")


def _padded(values: npt.NDArray[np.uint64], width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(values).cast(pa.string()), width, "0")
