"""The seam between a database and the capture agent.

A Source turns its database's history into pieces of change batches; the agent (cdc.capture)
numbers transactions, appends to the log, and acknowledges. A source never writes to the log and
never decides where to resume: the agent hands it the newest frontier.

Obligations, proved by tests/contract/test_source.py:

1.  `snapshot` followed by `stream` from its position has every committed change exactly once: no
    gap, no overlap.
2.  Pieces come in commit order; the rows of one transaction stand together, `ordinal` counting its
    changes over all tables from 0 in execution order.
3.  Within a piece, `txn_seq` counts from 0; the agent adds the log's base.
4.  No value is "missing" (SEMANTICS 11); keys are never null.
5.  Nothing is acknowledged to the database except through `acknowledge`.
6.  `snapshot` rows equal, byte for byte, what `stream` gives for an insert of the same row.

Not promised: that a piece is small (it is at most about `max_piece_bytes`), or that `stream`
yields while nothing changes (a Heartbeat comes when the position moved, or a barrier was seen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cdc.changes import ChangeBatch
from cdc.frontiers import Frontier
from cdc.positions import NativePosition
from cdc.schema import TableSchema

ADDED_NOTE, ALTERED_NOTE = "added", "altered"
"""Names in `Piece.resume`: tables that are not complete; what statements said of tables whose rows
have not shown it. A frontier is due when the second changes."""
KEPT_NOTES = ("filenodes", "marks", ADDED_NOTE)
"""What holds on until a piece says otherwise."""

Progress = Callable[..., None]
"""Told facts of a snapshot by keyword, from any thread; cheap."""


def no_progress(**facts: object) -> None:
    """Progress that nobody looks at."""


History = Callable[[str], Iterator[ChangeBatch]]
"""All changes that a table's topic holds, oldest first, in bounded batches."""


@dataclass(frozen=True)
class Finding:
    """One line of `cdc check`. `remedy` is what to do; for severity "ok" it may be empty."""

    severity: Literal["ok", "warning", "error"]
    where: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, eq=False)
class Piece:
    """Changes, and how far they bring us.

    changes       (table name as in TableSchema.name, batch), txn_seq from 0, in order per table
    transactions  how many source transactions *end* in this piece
    position      everything up to here is contained in this and earlier pieces
    commit_us     commit time of the last transaction that ends here
    whole         False: the piece ends inside a transaction or a snapshot; progress, not a cut
    resume        what `stream`/`snapshot` need in frontier.resume to go on from here exactly
    incomplete    tables whose snapshot is not complete after this piece
    schemas       schema versions that begin with this piece, by table name; a table that the log
                  does not know yet begins with its first version
    """

    changes: tuple[tuple[str, ChangeBatch], ...]
    transactions: int
    position: NativePosition
    commit_us: int
    whole: bool = True
    resume: Mapping[str, Any] = field(default_factory=dict)
    incomplete: tuple[str, ...] = ()
    schemas: Mapping[str, TableSchema] = field(default_factory=dict)
    reconcile: tuple[str, ...] = ()
    """Tables whose snapshot ends with this piece: keys not read by it must leave the topic."""
    truncated: tuple[str, ...] = ()
    """Tables emptied by TRUNCATE. Such a piece has no changes and is not whole: at its place in its
    transaction, `ordinal`, every key that is live in the topic gets a delete."""
    ordinal: int = 0
    barrier: bool = False
    """Somebody waits for this position: publish a frontier even without changes."""

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for _, batch in self.changes)


class Source(Protocol):
    """One database to capture from. Every method but `check` raises SourceError."""

    name: str
    catches_up: bool
    """Whether tables added after the first snapshot are read while `stream` runs: their pieces are
    `incomplete` until then. Otherwise they are refused."""

    def check(self) -> list[Finding]:
        """Everything that capture would need, one finding each; never raises."""
        ...

    def identity(self) -> str:
        """What positions belong to, for Frontier.identity."""
        ...

    def tables(self) -> Mapping[str, TableSchema]:
        """The captured tables as they are now, by `schema.table`."""
        ...

    def open(
        self,
        frontier: Frontier | None,
        schemas: Mapping[str, TableSchema] | None = None,
        history: History | None = None,
    ) -> None:
        """Prepare to continue after `frontier` (None: from nothing): slot, publication, rules of
        SEMANTICS 9. `schemas` are the topics' newest schema versions, by table name; `history`
        reads a table's topic. Raises SlotError when the slot cannot continue without losing
        changes."""
        ...

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        """All rows of `tables` as R changes at one position; only the last piece is whole."""
        ...

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        """Changes after `frontier`, for ever. Yields at least once per `max_wait_s` (an empty
        piece at the newest position known) so that the agent can stop or publish progress."""
        ...

    def acknowledge(self, position: NativePosition) -> None:
        """The log durably has everything up to `position`: the database may forget it."""
        ...

    def current_position(self) -> NativePosition:
        """The position now: all that was committed before the call lies at or before it."""
        ...

    def place_barrier(self) -> NativePosition:
        """Make `stream` come past a point at or after now, also when nothing changes; its
        position (SEMANTICS 5)."""
        ...

    def remove(self) -> list[str]:
        """Drop what `open` made on the server (slot, publication); what was dropped."""
        ...

    def close(self) -> None: ...
