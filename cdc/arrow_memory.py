"""Which allocator Arrow has in a process of capture: the environment that it is started with.

Arrow's default, mimalloc, has a heap per thread. Batches that one thread makes and another lets go
of, as rows are read by some threads and appended by others, leave holes in all of these: of a
snapshot's agent they were 90 MiB. The C library gives back, and is no slower here (bench/mysql.py).
"""

from __future__ import annotations

import os

POOL = "ARROW_DEFAULT_MEMORY_POOL"
"""Looked at once, when Arrow is loaded."""


def lean_environment() -> dict[str, str]:
    """This process's environment, in which Arrow takes the C library's allocator, unless another is
    named."""
    return {POOL: "system", **os.environ}
