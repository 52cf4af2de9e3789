"""Source positions that somebody waits for: taken at the sources, looked for in the sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cdc.cli import parts
from cdc.cli.context import opened_source
from cdc.config import Config
from cdc.errors import StoreUnavailable
from cdc.positions import Vector

POLL_MIN_S, POLL_MAX_S = 0.002, 0.02


def positions_now(config: Config, sources: Iterable[str]) -> Vector:
    """Each source's position now, and a barrier so that also a quiet source comes past it."""
    found = {}
    for name in sources:
        with opened_source(config, name) as source:
            found[name] = source.place_barrier()
    return Vector.of(found)


def sink_vector(config: Config, sink: str) -> Vector:
    """What the sink reflects, as its own store says; empty before the first cut."""
    position = parts.sinks().position(config, sink)
    return Vector() if position is None or position.chunk else position.vector


def wait_for(
    config: Config, sink: str, target: Vector, timeout_s: float, until: Callable[[], bool]
) -> tuple[bool, Vector]:
    """Poll the sink until it covers `target`; False after `timeout_s`, or when `until()` holds.

    Between two looks it rests for as long as a look takes, 2 to 20 ms: the store is left alone.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        reached = vector_or_none(config, sink)
        if reached is not None and reached.covers(target):
            return True, reached
        if until() or time.monotonic() >= deadline:
            return False, reached or Vector()
        time.sleep(min(POLL_MAX_S, max(POLL_MIN_S, time.monotonic() - began)))


def vector_or_none(config: Config, sink: str) -> Vector | None:
    """As `sink_vector`; None while the store cannot be read (not there yet, or busy)."""
    try:
        return sink_vector(config, sink)
    except StoreUnavailable:
        return None
