"""Who writes a sink: its entry, held by one process at a time.

Whoever opens the sink replaces the entry, with a higher epoch and its own name; the former owner's
next write of the entry finds another one there and fails. A process that opens again, after an
error, does not take the sink back from a newer owner, unless that is a rebuild, which hands it on.

Documents are written before the entry is, so a former owner may still write some. They are the
log's own, at their own versions, which the new owner writes again. Only a write that arrives after
Elasticsearch has forgotten a newer delete (index.gc_deletes, a minute) could bring a document back:
so an owner that has not written its entry for PROVE_S reads it before it writes documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cdc.errors import Fenced
from sinks.elasticsearch.entry import Entries, Entry, Stored
from sinks.owners import is_rebuild, new_owner, replaced

PROVE_S = 10.0


class Tenure:
    """One process's hold of the entry `key`. Raises Fenced, Swapped."""

    def __init__(self, entries: Entries, key: str, sink: str) -> None:
        self.key = key
        self.owner = new_owner()
        self._entries, self._sink = entries, sink
        self._stored: Stored | None = None
        self._proved_at = 0.0

    @property
    def entry(self) -> Entry:
        """As we wrote it last. Only after `take`."""
        assert self._stored is not None, "open the sink first"
        return self._stored.entry

    def read(self) -> Stored | None:
        """The entry as it stands, without holding it."""
        return self._entries.read(self.key)

    def take(self, fits: Callable[[Entry], object]) -> None:
        """Own the entry, as it stands, if `fits(entry)` does not raise. The former owner may be
        writing it at the same time: then it is read again."""
        written = None
        while written is None:
            stored = self.read()
            self._require_takeable(stored)
            entry = stored.entry if stored else Entry(self._sink)
            fits(entry)
            owned = replace(entry, epoch=entry.epoch + 1, owner=self.owner)
            written = self._entries.write(self.key, owned, stored)
        self._set(written)

    def _require_takeable(self, stored: Stored | None) -> None:
        """Raise Fenced where another process took over since this one took the entry."""
        owner = stored.entry.owner if stored else None
        if self._stored is not None and owner != self.owner and not is_rebuild(owner):
            raise self._fenced(stored)

    def update(self, **changes: Any) -> None:
        """Replace parts of the entry, if it is still ours."""
        self._set(self._entries.write(self.key, replace(self.entry, **changes), self._stored))

    def prove(self, *, at_most_s: float = PROVE_S) -> None:
        """See that the entry is still ours, if that was not seen lately."""
        if time.monotonic() - self._proved_at <= at_most_s:
            return
        stored = self.read()
        if stored is None or stored.entry != self.entry:
            raise self._fenced(stored)
        self._proved_at = time.monotonic()

    def _set(self, written: Stored | None) -> None:
        if written is None:
            raise self._fenced(self.read())
        self._stored, self._proved_at = written, time.monotonic()

    def _fenced(self, stored: Stored | None) -> Fenced:
        return replaced(self._sink, stored.entry.owner if stored else None)
