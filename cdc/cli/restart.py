"""When a connector that ended is started again: policy as data, no clock and no process here.

A process ends in one of four ways. `done`: it was told to, or had nothing more to do. `failed`: it
stopped on purpose, and running again would change nothing before a person has (a vanished slot, a
missing right or key, a table that does not fit, damaged data, SQL that is refused, another owner).
`unavailable`: the other side could not be reached, and may come back. `crashed`: it was killed, or
died of a defect.

The last two are started again, after a delay that doubles up to a ceiling. Trying ends after
`tries` starts in a row that never ran for `steady_s`; one that did run is tried for ever, because
a database that is away for an hour is no reason to stop (unless somebody waits for the end).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from cdc.errors import CdcError, LogError, SourceUnavailable, StoreUnavailable


class Exit(IntEnum):
    """Exit statuses of a connector's process; anything else is a crash."""

    DONE = 0
    FAILED = 3
    UNAVAILABLE = 4
    DEFECT = 70


Ending = Literal["done", "failed", "unavailable", "crashed"]

# What may pass by itself. A plain LogError is a disk that is full or cannot be written, a broker
# that is away; its subclasses say why for good, as every other error does.
TRANSIENT = (SourceUnavailable, LogError, StoreUnavailable)


@dataclass(frozen=True)
class RestartPolicy:
    first_delay_s: float = 0.2
    max_delay_s: float = 30.0
    tries: int = 8
    steady_s: float = 20.0
    for_ever: bool = True


@dataclass(frozen=True)
class Attempts:
    """What is remembered of one connector: starts in a row that did not last."""

    short: int = 0
    was_steady: bool = False


def ending(returncode: int) -> Ending:
    match returncode:
        case Exit.DONE:
            return "done"
        case Exit.FAILED:
            return "failed"
        case Exit.UNAVAILABLE:
            return "unavailable"
    return "crashed"


def exit_of(error: CdcError) -> Exit:
    """How a process ends that stops on this error."""
    return Exit.UNAVAILABLE if type(error) in TRANSIENT else Exit.FAILED


def after(policy: RestartPolicy, seen: Attempts, ran_s: float) -> tuple[Attempts, float | None]:
    """The new memory and the delay before the next start; None: give up."""
    steady = ran_s >= policy.steady_s
    now = replace(seen, short=1 if steady else seen.short + 1, was_steady=seen.was_steady or steady)
    if now.short >= policy.tries and not (policy.for_ever and now.was_steady):
        return now, None
    return now, min(policy.max_delay_s, policy.first_delay_s * 2 ** min(now.short - 1, 20))
