"""A sink's bookkeeping: one document per sink in the hidden index `cdc-sinks`.

The document is replaced by compare and set (if_seq_no, if_primary_term), so whoever lost it to
another process finds out at the next write. An answer that was lost is told from that by the
document itself: if it is what was to be written, it was written.

Its `_id` is the alias that readers use, so two sinks with one alias meet here. The rebuild's entry
has `/rebuild` appended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cdc.errors import SinkError
from sinks.api import SinkPosition
from sinks.elasticsearch.server import Answer, Server, path_of, refused

BOOKKEEPING = "cdc-sinks"
_EXISTS = "resource_already_exists_exception"
_SETTINGS = {
    "index.hidden": True,
    "index.number_of_shards": 1,
    "index.auto_expand_replicas": "0-1",
}


@dataclass(frozen=True)
class Entry:
    """What a sink knows about itself.

    owner       who writes; None: nobody since `cdc remove`
    index       where its documents are; the alias points there
    generation  of the index, the upper part of its documents' versions (SEMANTICS 32)
    partitions  of its topic: offsets order the records of a key only while they stay as they are
    position    a SinkPosition's JSON; None: nothing complete is there
    shape       see mapping.shape_of
    schema      fingerprint of the input's columns
    previous    the index before the last swap, kept for people
    reload      the index that a reload fills, to be removed when it was interrupted
    loading     settings to give back to `index` after a first load
    """

    sink: str
    epoch: int = 0
    owner: str | None = None
    index: str = ""
    generation: int = 0
    partitions: int = 0
    position: str | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    schema: str = ""
    previous: str | None = None
    reload: str | None = None
    loading: dict[str, Any] | None = None

    @property
    def reached(self) -> SinkPosition | None:
        return None if self.position is None else SinkPosition.from_json(self.position)


@dataclass(frozen=True)
class Stored:
    """An entry as it stands in the store, and the state that the next write must find."""

    entry: Entry
    seq_no: int
    primary_term: int


class Entries:
    """The bookkeeping of one server. Raises StoreUnavailable, SinkError."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def prepare(self) -> None:
        """Make the index where it is missing."""
        answer = self._server.ask(
            "PUT", path_of(BOOKKEEPING), {"settings": _SETTINGS, "mappings": {"dynamic": False}}
        )
        if not answer.ok and answer.error_type != _EXISTS:
            raise refused(f"the index {BOOKKEEPING}", answer, self._server.name)

    def read(self, key: str) -> Stored | None:
        answer = self._server.ask("GET", path_of(BOOKKEEPING, "_doc", key))
        if answer.status == 404:
            return None
        if not answer.ok:
            raise refused(f"reading {BOOKKEEPING}", answer, self._server.name)
        found = answer.json()
        return Stored(Entry(**found["_source"]), found["_seq_no"], found["_primary_term"])

    def write(self, key: str, entry: Entry, before: Stored | None) -> Stored | None:
        """Replace `before` (None: no entry); None when another one stands there."""
        answer = self._server.ask("PUT", self._path(key, before), vars(entry))
        if answer.status == 409:
            found = self.read(key)
            return found if found is not None and found.entry == entry else None
        if not answer.ok:
            raise refused(f"writing {BOOKKEEPING}", answer, self._server.name)
        return self._stored(entry, answer)

    def delete(self, key: str, before: Stored) -> bool:
        """False: another entry stands there."""
        answer = self._server.ask("DELETE", self._path(key, before))
        return answer.ok or answer.status == 404

    def _stored(self, entry: Entry, answer: Answer) -> Stored:
        found = answer.json()
        return Stored(entry, found["_seq_no"], found["_primary_term"])

    def _path(self, key: str, before: Stored | None) -> str:
        if before is None:
            return path_of(BOOKKEEPING, "_doc", key, op_type="create")
        return path_of(
            BOOKKEEPING, "_doc", key, if_seq_no=before.seq_no, if_primary_term=before.primary_term
        )


def released(entry: Entry) -> Entry:
    """Nobody's, at no position: the next to open it loads anew."""
    return replace(entry, epoch=entry.epoch + 1, owner=None, position=None)


def require_same_sink(entry: Entry, sink: str, alias: str) -> None:
    """Raise SinkError where the alias is another sink's."""
    if entry.sink != sink:
        raise SinkError(
            f"index '{alias}' is written by the sink '{entry.sink}'",
            where=f"sink {sink}",
            hint="give this sink another `index:`",
        )
