"""The seam between the delivery loop and a store.

Obligations of every store, proved by tests/contract/test_sink.py:

1.  `open` fences: it raises the owner epoch stored beside the position (compare and set); a later
    `apply` of an older owner raises Fenced and changes nothing.
2.  `apply` makes the store's rows equal to the cut for all keys that it names, and stores the
    position, in one transaction where the store has one; else idempotently.
3.  Applying the same cut twice leaves the same store.
4.  Inputs of one cut become visible together where the store has transactions over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from cdc.positions import Vector
from cdc.schema import TableSchema
from cdc.source import Finding


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
    """

    vector: Vector
    offsets: Mapping[str, tuple[int, ...]]
    generations: Mapping[str, str]
    commit_us: int = 0
    chunk: int = 0
    appended_us: int = 0

    def to_json(self) -> str:
        body = {
            "vector": str(self.vector),
            "offsets": {t: list(o) for t, o in self.offsets.items()},
            "generations": dict(self.generations),
            "commit_us": self.commit_us,
            "chunk": self.chunk,
            "appended_us": self.appended_us,
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
        )


@dataclass(frozen=True, eq=False)
class InputChanges:
    """One input's part of a cut, at most one change per key: rows to have, keys to lose."""

    input: SinkInput
    upserts: pa.RecordBatch
    deletes: pa.RecordBatch
    """Key columns only, in key order."""


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
    """After `open`: no table of the sink existed, so that plain inserts are enough."""

    @property
    def rest_ratio(self) -> float:
        """How long to leave the store alone after a write, as a multiple of the write's time."""
        ...

    def check(self, inputs: Sequence[SinkInput]) -> list[Finding]: ...

    def open(self, inputs: Sequence[SinkInput]) -> SinkPosition | None:
        """Fence older owners, make tables that are missing, add columns that are new. The stored
        position; None when there is none, or when a table had to be made: load from zero."""
        ...

    def apply(self, cut: SinkCut) -> None: ...

    def position(self) -> SinkPosition | None:
        """The stored position, without fencing (for status, wait and verify)."""
        ...

    def rows(self, name: str) -> Iterator[pa.RecordBatch]:
        """All rows of one input as the store has them, columns as in the input's schema."""
        ...

    def query(self, text: str) -> QueryResult:
        """Ask the store in its own language, reading only."""
        ...

    def remove(self) -> list[str]:
        """Forget the sink's own bookkeeping (never people's tables); what was removed."""
        ...

    def close(self) -> None: ...
