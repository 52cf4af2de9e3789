"""The seam between the delivery loop and a store.

Obligations of every store, proved by tests/contract/test_sink.py:

1.  `open` fences: it raises the owner epoch stored beside the position (compare and set); a later
    `apply` of an older owner raises Fenced and changes nothing that a reader could see for long:
    at most keys that it names, which the new owner writes again.
2.  `apply` makes the store's rows equal to the cut for all keys that it names, and stores the
    position, in one transaction where the store has one; else idempotently, the position last.
3.  Applying the same cut twice leaves the same store.
4.  Inputs of one cut become visible together where the store has transactions over them.
5.  A rebuild goes on in `beside()`: the same sink in another place, with a position of its own,
    that no reader sees. `swap` puts it in the live one's place; whoever has the live one open is
    told by Swapped at its next `apply`, and opens again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from cdc.changes import Int64s
from cdc.errors import Fenced
from cdc.log.api import DeadLetter
from cdc.positions import Vector
from cdc.schema import TableSchema
from cdc.source import Finding


class Swapped(Fenced):
    """A rebuild put other data in the live one's place: open again and go on from there."""


Reject = Callable[[Sequence[DeadLetter]], None]
"""Makes dead letters durable, and counts them. Called before the position is stored."""


@dataclass(frozen=True)
class SinkInput:
    """One topic that a sink reads. `name` is as the YAML's `from:` has it (`shop.orders`)."""

    name: str
    topic: str
    schema: TableSchema


@dataclass(frozen=True)
class SinkPosition:
    """How far a sink has come; stored in the store, as JSON, with the data.

    offsets      per topic, per partition: next offset to read
    generations  per topic: its identity; another value means the topic was made anew
    chunk        0: the whole cut; n: n chunks of an oversized cut were applied (SEMANTICS 34);
                 `vector` is then still that of the last whole cut, `offsets` are further on
    appended_us  append time of the oldest frontier reflected, for compaction's floor
    replays      per topic that is still being read from offset zero, its mark (cdc.log.api)
    """

    vector: Vector
    offsets: Mapping[str, tuple[int, ...]]
    generations: Mapping[str, str]
    commit_us: int = 0
    chunk: int = 0
    appended_us: int = 0
    replays: Mapping[str, int] = field(default_factory=dict)

    def covers(self, other: SinkPosition | None) -> bool:
        """Whether nothing is lost by going from `other` to this, which is a whole cut.

        Topics that only `other` reads do not count. Offsets of a topic that was made anew cannot
        be compared: then the later frontier is further.
        """
        if self.chunk or other is None:
            return self.chunk == 0
        shared = [topic for topic in other.offsets if topic in self.offsets]
        if any(self.generations.get(t) != other.generations.get(t) for t in shared):
            return self.appended_us >= other.appended_us
        return all(
            mine >= theirs
            for topic in shared
            for mine, theirs in zip(self.offsets[topic], other.offsets[topic], strict=True)
        )

    def to_json(self) -> str:
        body = {
            "vector": str(self.vector),
            "offsets": {t: list(o) for t, o in self.offsets.items()},
            "generations": dict(self.generations),
            "commit_us": self.commit_us,
            "chunk": self.chunk,
            "appended_us": self.appended_us,
            "replays": dict(self.replays),
        }
        return json.dumps(body, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SinkPosition:
        body = json.loads(text)
        return cls(
            Vector.parse(body["vector"]),
            {t: tuple(o) for t, o in body["offsets"].items()},
            body["generations"],
            body["commit_us"],
            body["chunk"],
            body.get("appended_us", 0),
            body.get("replays", {}),
        )


@dataclass(frozen=True, eq=False)
class InputChanges:
    """One input's part of a cut, at most one change per key: rows to have, keys to lose.

    The offsets are those of the keys' last records in the log: they only grow, per key.
    """

    input: SinkInput
    upserts: pa.RecordBatch
    deletes: pa.RecordBatch
    """Key columns only, in key order."""
    upsert_offsets: Int64s
    delete_offsets: Int64s


@dataclass(frozen=True, eq=False)
class SinkCut:
    changes: tuple[InputChanges, ...]
    position: SinkPosition
    first_load: bool = False
    """The store is empty and this is the first cut: plain inserts are enough."""
    replace: bool = False
    """A reload: once its last chunk (position.chunk 0) is applied, the store holds exactly the
    rows of this and the chunks before it. Until then readers see the old rows, and the stored
    position stays the old one: a reload that was interrupted begins anew."""


@dataclass(frozen=True)
class QueryResult:
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class Sink(Protocol):
    """One store. Raises SinkError (with what to do), StoreUnavailable (try again) and Fenced."""

    empty: bool
    """After `open`: nothing of the sink was in the store, so that plain inserts are enough."""

    @property
    def rest_ratio(self) -> float:
        """How long to leave the store alone after a write, as a multiple of the write's time."""
        ...

    def check(self, inputs: Sequence[SinkInput]) -> list[Finding]:
        """Findings about the store. Settings that changed since the data were written, so that
        only a rebuild would apply them, are an error whose remedy is `cdc rebuild NAME`."""
        ...

    def open(self, inputs: Sequence[SinkInput]) -> SinkPosition | None:
        """Fence older owners, make places that are missing, add columns that are new. The stored
        position; None when there is none, or when a place had to be made: load from zero."""
        ...

    def apply(self, cut: SinkCut, reject: Reject) -> None:
        """`reject` is told what the store refuses to take, one by one; the rest goes on."""
        ...

    def position(self) -> SinkPosition | None:
        """The stored position, without fencing (for status, wait and verify)."""
        ...

    def prepare_reading(self, inputs: Sequence[SinkInput]) -> None:
        """Know the inputs without opening (no fencing), for `rows` and `readable_columns`."""
        ...

    def readable_columns(self, name: str) -> tuple[str, ...]:
        """The columns of an input that the store can give back, its key among them."""
        ...

    def rows(self, name: str) -> Iterator[pa.RecordBatch]:
        """All rows of one input as the store has them now: its readable columns, typed as in the
        input's schema. Sees every `apply` that has returned."""
        ...

    def query(self, text: str) -> QueryResult:
        """Ask the store in its own language, reading only."""
        ...

    def beside(self) -> Sink:
        """This sink in another place of the same store, for a rebuild: `open` goes on where an
        interrupted one stopped, if settings and inputs are still the same, else begins anew."""
        ...

    def swap(self, rebuilt: Sink, inputs: Sequence[SinkInput]) -> bool:
        """Put what `rebuilt` (from `beside()`) holds in this sink's place, position included, so
        that no reader finds it empty or half (per key where the store has nothing larger). What
        was there is kept until the next rebuild. False: this sink has come further meanwhile; let
        `rebuilt` catch up and try again. Interrupted, it is completed by the next `open`, or has
        changed nothing."""
        ...

    def discard(self) -> list[str]:
        """Of a sink from `beside()`: remove it all; what was removed. The live one is untouched."""
        ...

    def remove(self) -> list[str]:
        """Forget the sink's own bookkeeping, and what a rebuild left beside (never people's
        tables, indexes or keys); what was removed."""
        ...

    def close(self) -> None: ...
