"""Who has a sink: the name that stands as owner in the sink's entry, whatever the store.

Whoever opens a sink puts its name there; a rebuild puts one that says so, because it hands the sink
on: whoever had it opens it again, where everybody else has lost it (SEMANTICS 6).
"""

from __future__ import annotations

import os
import socket
import uuid

from cdc.errors import Fenced
from sinks.api import Swapped

_REBUILD = "rebuild "


def new_owner() -> str:
    """A name for one opening of a sink, which tells people where it runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def rebuilding(owner: str) -> str:
    """The name under which a rebuild by `owner` hands a sink on."""
    return _REBUILD + owner


def is_rebuild(owner: str | None) -> bool:
    return owner is not None and owner.startswith(_REBUILD)


def replaced(sink: str, owner: str | None) -> Fenced:
    """What to raise where `owner` has the sink now (None or empty: nobody); Swapped if that is a
    rebuild."""
    where = f"sink {sink}"
    if is_rebuild(owner):
        return Swapped(f"this sink was swapped by {owner}", where=where)
    return Fenced(
        f"this sink was taken over by {owner or '`cdc remove`'}",
        where=where,
        hint="run each sink in one `cdc run` only",
    )
