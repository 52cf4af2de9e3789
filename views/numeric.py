"""NUMERIC beyond decimal128: Postgres's scale rules, on Python's decimal (libmpdec)."""

from __future__ import annotations

import pyarrow as pa

from cdc.changes import Int64s


def finish_avg(sums: pa.Array, counts: Int64s) -> pa.Array:
    """avg = sum / count by Postgres's division rule, as a NUMERIC_TEXT array.

    `sums`: int64, decimal128, NUMERIC_TEXT or a list-backed string array of canonical numerics;
    null where the group has no non-null value, which gives NULL. For avg of floats divide
    yourself: Postgres returns double precision there.
    """
    raise NotImplementedError
