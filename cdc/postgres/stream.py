"""Streaming: START_REPLICATION from a frontier, payloads to pieces.

1.  A receiving thread (receive.py) fills a list; we take all of it at once. So at light load a
    commit is handed on at once, and under load lists grow while the agent appends.
2.  The list is cut behind its last Commit, and decoded. What follows waits for its own commit;
    above `max_piece_bytes` it is handed on in parts, as progress.
3.  Unchanged TOAST values are completed from the old tuple, else from a store (cdc.completion).
4.  Without changes a piece at the newest known position comes every `max_wait_s`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cdc.changes import Bools, ChangeBatch, D
from cdc.completion import ValueStore
from cdc.errors import SchemaChanged
from cdc.frontiers import Frontier
from cdc.positions import Lsn
from cdc.postgres.catalog import PgTable, read_named
from cdc.postgres.changed_keys import filled_from_old, to_changes
from cdc.postgres.connection import Connection
from cdc.postgres.evolution import as_streamed, evolved, is_newest, relation_types
from cdc.postgres.messages import Relation
from cdc.postgres.pgoutput import Open, decode
from cdc.postgres.pieces import pieces_of
from cdc.postgres.receive import Received, Receiver
from cdc.postgres.rewrites import RewriteWatch
from cdc.postgres.rows import TableDecoder, TableRows, compile_table
from cdc.postgres.toast import left_out
from cdc.schema import TableSchema
from cdc.source import Piece
from cdc.transaction_pieces import Resume

DECODE_BYTES = 4 * 2**20
_KIND = 25
_COMMIT, _BEGIN = ord("C"), ord("B")


def start_command(slot: str, publication: str, position: Lsn, binary: bool) -> str:
    """START_REPLICATION with the options that decoding expects."""
    quoted = publication.replace('"', '""').replace("'", "''")
    return (
        f"START_REPLICATION SLOT \"{slot}\" LOGICAL {position} (proto_version '1', "
        f"publication_names '\"{quoted}\"', messages 'true', "
        f"binary '{'true' if binary else 'false'}')"
    )


@dataclass
class TableState:
    """What streaming knows of the tables of `source`; evolves with Relation messages."""

    source: str
    schemas: dict[str, TableSchema]
    tables: dict[str, PgTable]
    watch: RewriteWatch
    binary: bool
    new: dict[str, TableSchema] = field(default_factory=dict)

    @property
    def names(self) -> dict[int, str]:
        return {table.oid: name for name, table in self.tables.items()}


class PgStream:
    """Pieces after a frontier, for ever."""

    def __init__(
        self,
        receiver: Receiver,
        catalog: Connection,
        state: TableState,
        toast: ValueStore,
        frontier: Frontier,
        position: Lsn,
    ) -> None:
        self._receiver, self._catalog, self._state, self._toast = receiver, catalog, state, toast
        self._position = position
        self._resume = Resume.from_json(frontier.resume)
        self._decoders: dict[int, TableDecoder | None] = {}
        self._streamed: dict[tuple[str, int], PgTable] = {}
        self._open: Open | None = None
        self._tail: list[bytes] = []
        self._tail_bytes = 0

    def pieces(self, max_piece_bytes: int, max_wait_s: float) -> Iterator[Piece]:
        """See cdc.source.Source.stream."""
        while True:
            received = self._receiver.take(max_wait_s)
            if received.payloads:
                yield from self._decoded(received.payloads, max_piece_bytes)
            if not self._tail and self._open is None:
                yield from self._idle(received)
            elif not received.payloads:
                yield Piece((), 0, self._position, 0, whole=False)
            self._state.watch.check(self._catalog, self._state.tables, self._position)

    def _idle(self, received: Received) -> Iterator[Piece]:
        """Nothing is under way: the newest keepalive's position is reached."""
        if received.position > self._position.value:
            self._position = Lsn(received.position)
        if not received.payloads or received.urgent:
            piece = Piece((), 0, self._position, 0, barrier=received.urgent)
            yield replace(piece, resume=self._notes())

    def _decoded(self, payloads: list[bytes], max_piece_bytes: int) -> Iterator[Piece]:
        for part in _chunks(payloads):
            end = _last_commit(part)
            if end:
                ready, self._tail = self._tail + part[:end], part[end:]
                self._tail_bytes = sum(map(len, self._tail))
                yield from self._pieces(ready)
                continue
            self._tail = self._tail + part
            self._tail_bytes += sum(map(len, part))
            if self._tail_bytes >= max_piece_bytes:
                ready, self._tail, self._tail_bytes = self._tail, [], 0
                yield from self._pieces(ready)

    def _pieces(self, payloads: list[bytes]) -> Iterator[Piece]:
        began, position = self._open, self._position
        decoded = decode(payloads, self._decoders, self._on_relation, self._open)
        self._open = decoded.open
        resume = self._resume
        names = self._state.names
        for piece in pieces_of(
            decoded, self._changes, names, began, position, resume, self._state.source
        ):
            new, self._state.new = self._state.new, {}
            self._forget_filenodes(piece)
            if piece.whole:
                self._position = Lsn.parse(str(piece.position))
            notes = self._notes() if piece.whole else piece.resume
            yield replace(piece, schemas=new, resume=notes)
        # A half-published transaction has come past, or the part of it that is still open.
        if resume is not None and len(decoded.commits):
            lsn = Lsn.parse(resume.transaction).value
            passed = bool((decoded.commits.lsn == lsn).any())
            self._resume = None if passed else resume

    def _notes(self) -> dict[str, object]:
        watch = self._state.watch
        return {"filenodes": dict(watch.filenodes), "marks": dict(watch.marks)}

    def _forget_filenodes(self, piece: Piece) -> None:
        """TRUNCATE gives a table a new file; that is no rewriting."""
        for name in piece.truncated:
            fresh = read_named(self._catalog, [name]).get(name)
            if fresh is not None:
                self._state.watch.filenodes[name] = fresh.filenode

    def _on_relation(self, relation: Relation) -> TableDecoder | None:
        state = self._state
        name = next((n for n, t in state.tables.items() if t.oid == relation.oid), None)
        if name is None:
            return None
        # By oid, so that a renamed table is seen as such.
        if relation.table != name:
            raise SchemaChanged(
                f"the table is now called {relation.table}",
                where=name,
                hint="rename it back, or capture it under its new name from a new snapshot",
            )
        now = read_named(self._catalog, [name]).get(name)
        if now is not None and now.oid != relation.oid:
            now = None  # another table of that name
        known = state.schemas[name]
        kinds = relation_types(self._catalog, relation, known, now)
        filenode = state.watch.filenodes.get(name)
        schema = evolved(relation, kinds, known, now, filenode, state.source)
        table = as_streamed(schema, kinds, now or state.tables[name], relation.identity)
        if schema is not known:
            if state.binary and not table.binary:
                raise SchemaChanged(
                    "a column was added whose type is carried as text",
                    where=name,
                    hint="run again: the stream then starts in text form",
                )
            state.schemas[name] = state.new[name] = schema
            if now is not None and is_newest(schema, now):
                state.watch.filenodes[name] = now.filenode
        state.tables[name] = self._streamed[name, schema.version] = table
        return compile_table(relation, schema, {c.name: c.kind for c in table.columns})

    def _changes(self, rows: TableRows) -> ChangeBatch:
        table = self._streamed[rows.schema.name, rows.schema.version]
        filled = filled_from_old(rows)
        if not filled.unchanged:
            changes = to_changes(filled)
            if table.toastable and table.identity != "f":
                self._toast.remember(left_out(table), changes)
            return changes
        changes = to_changes(replace(filled, unchanged={}))
        return self._toast.complete(left_out(table), changes, _unchanged(filled, changes))


def _unchanged(rows: TableRows, changes: ChangeBatch) -> Mapping[str, Bools]:
    """The masks of `rows.unchanged` by column name, per change instead of per new row."""
    live = np.flatnonzero(changes.op != D)
    masks = {}
    for number, mask in rows.unchanged.items():
        spread = np.zeros(changes.num_rows, np.bool_)
        spread[live] = mask
        masks[rows.schema.columns[number].name] = spread
    return masks


def _chunks(payloads: list[bytes]) -> Iterator[list[bytes]]:
    """Parts of about DECODE_BYTES: long enough vectors, small enough memory."""
    total = sum(map(len, payloads))
    if total <= 2 * DECODE_BYTES:
        yield payloads
        return
    length = max(1, len(payloads) * DECODE_BYTES // total)
    for start in range(0, len(payloads), length):
        yield payloads[start : start + length]


def _last_commit(payloads: list[bytes]) -> int:
    """How many payloads stand up to and with the last Commit; 0: none commits."""
    for index in range(len(payloads) - 1, -1, -1):
        if payloads[index][_KIND] == _COMMIT:
            return index + 1
    return 0


__all__ = ["PgStream", "TableState", "start_command"]
