"""Streaming: a binlog from a frontier on, events to pieces.

1.  A receiving thread (receive.py) fills a list; we take all of it at once. So at light load a
    commit is handed on at once, and under load lists grow while the agent appends.
2.  The list is cut behind its last commit and around what is rare (grouping.py), and decoded
    (binlog.py). What follows waits for its own commit; above `max_piece_bytes` it is handed on in
    parts, as progress.
3.  Statements and table maps change the tables' schemas in their place (captured.py).
4.  Tables that were added later are read between the pieces (added.py).
5.  Without changes a piece at the newest position comes every `max_wait_s`. Where the position
    moved it is a barrier, at most once per BARRIER_EVERY_S: a waiter knows the server's position.

A prepared XA transaction is held back until its XA COMMIT (xa.py). A TRANSACTION_PAYLOAD is
decompressed as a stream, and is then like any other transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cdc.errors import SourceError
from cdc.frontiers import Frontier
from cdc.mysql import binlog, events, payload
from cdc.mysql.added import CatchUp
from cdc.mysql.binlog import Decoded, Open, Tables, TransactionsOf
from cdc.mysql.captured import CapturedTables
from cdc.mysql.events import Kind
from cdc.mysql.grouping import END, MAP, NOTHING, RARE, Sorted, segments, sort
from cdc.mysql.reached import reached
from cdc.mysql.receive import Receiver
from cdc.mysql.statements import of_load, words
from cdc.mysql.xa import Prepared, xid_of
from cdc.positions import NativePosition
from cdc.schema import TableSchema
from cdc.source import Piece
from cdc.transaction_pieces import Resume, Truncation, pieces_of

Adopt = Callable[[str], TableSchema | None]
"""Asked of a table that was made: its schema, if it is to be captured."""
DECODE_BYTES = 4 * 2**20
BARRIER_EVERY_S = 1.0
CHUNK_WAIT_S = 0.01
_LOADS = (Kind.QUERY, 18)
_LOAD_DATA_BLOCKS = (9, 11, 17)
"""APPEND_BLOCK, DELETE_FILE, BEGIN_LOAD_QUERY; 18 is EXECUTE_LOAD_QUERY. All are of LOAD DATA as a
statement."""


class MyStream:
    """Pieces after a frontier, for ever."""

    def __init__(
        self,
        receiver: Receiver,
        captured: CapturedTables,
        added: CatchUp,
        adopt: Adopt,
        frontier: Frontier,
        source: str,
    ) -> None:
        self._receiver, self._captured, self._source = receiver, captured, source
        self._added, self._adopt = added, adopt
        self._position: NativePosition = frontier.positions[source]
        self._reached = reached(self._position)
        self._resume = Resume.from_json(frontier.resume)
        self._tables = Tables(captured.on_table_map, captured.completion)
        self._open: Open | None = None
        self._tail = NOTHING
        self._tail_bytes = 0
        self._payload: bytes | None = None
        self._prepared = Prepared(source)
        self._told, self._told_s = self._position, 0.0

    def pieces(self, max_piece_bytes: int, max_wait_s: float) -> Iterator[Piece]:
        """See cdc.source.Source.stream."""
        while True:
            found = self._receiver.take(CHUNK_WAIT_S if self._added.incomplete else max_wait_s)
            for part in _chunks(found, min(DECODE_BYTES, max_piece_bytes)):
                yield from self._taken(part, max_piece_bytes)
            if not found:
                yield self._idle()
            if self._added.incomplete and self._between():
                yield from self._caught_up()

    def _between(self) -> bool:
        """Whether no transaction is under way, here or half published in the log."""
        return not self._tail and self._open is None and self._resume is None

    def _idle(self) -> Piece:
        if self._tail or self._open is not None:
            return Piece((), 0, self._position, 0, whole=False)
        self._position = self._reached.position()
        now_s = time.monotonic()
        barrier = self._position != self._told and now_s - self._told_s >= BARRIER_EVERY_S
        if barrier:
            self._told, self._told_s = self._position, now_s
        return self._noted(Piece((), 0, self._position, 0, barrier=barrier))

    def _caught_up(self) -> Iterator[Piece]:
        """The next rows of a table that was added, behind all that is published."""
        chunk = self._added.next(self._position)
        if chunk is None:
            return
        table, rows = chunk
        self._captured.read(rows)
        commit_us = time.time_ns() // 1000
        piece = Piece((chunk,), int(rows.num_rows > 0), self._position, commit_us)
        # Named, it is published also without rows: perhaps its table is complete by it.
        yield self._noted(replace(piece, schemas={table: rows.schema}))

    def _noted(self, piece: Piece) -> Piece:
        notes = {**self._captured.notes(), **self._added.notes(), **piece.resume}
        return replace(
            piece,
            schemas={**piece.schemas, **self._captured.taken_new()},
            resume=notes,
            incomplete=self._added.incomplete,
        )

    def _taken(self, found: Sequence[bytes], max_piece_bytes: int) -> Iterator[Piece]:
        for segment in segments(sort(found)):
            if segment.letters[0] == RARE:
                yield from self._rare(segment.events[0], max_piece_bytes)
            elif self._prepared.is_open:
                self._prepared.hold(segment)
            elif segment.letters[-1] == END:
                yield from self._flushed(segment)
            else:
                self._tail = self._tail + segment
                self._tail_bytes += segment.nbytes
                if self._tail_bytes >= max_piece_bytes:
                    yield from self._flushed()

    def _flushed(self, more: Sorted = NOTHING) -> Iterator[Piece]:
        """What waits, and `more`, decoded."""
        found, self._tail, self._tail_bytes = self._tail + more, NOTHING, 0
        if found:
            decoded = binlog.decode(found, self._tables, self._open, self._reached)
            yield from self._emitted(decoded)

    def _emitted(self, decoded: Decoded, truncations: Sequence[Truncation] = ()) -> Iterator[Piece]:
        if self._payload is not None and decoded.last is not None:
            decoded = replace(decoded, last=self._payload)
        continued = self._open is not None and self._open.next_ordinal > 0
        self._open = decoded.open
        transactions = TransactionsOf(decoded, self._reached)
        resume = self._resume
        if resume is not None and 0 <= transactions.find(resume.transaction) < decoded.ended:
            self._resume = None  # it has come past
        found = pieces_of(
            decoded.changes,
            truncations,
            transactions,
            continued,
            self._position,
            resume,
            self._source,
        )
        for piece in found:
            if piece.whole:
                self._position = piece.position
            elif not piece.num_rows and not piece.truncated:
                continue
            if piece.num_rows:
                self._told = self._position
            self._added.saw(piece.changes)
            self._added.emptied(piece.truncated)
            yield self._noted(piece)

    # What is rare

    def _rare(self, event: bytes, max_piece_bytes: int) -> Iterator[Piece]:
        kind = event[4]
        if kind == Kind.ROTATE:
            found = events.rotate(event)
            self._reached.rotated(found.file, found.position)
        elif kind == Kind.FORMAT_DESCRIPTION:
            self._server_began(event)
        elif kind == Kind.QUERY:
            yield from self._query(event)
        elif kind in _LOADS:
            yield from self._query(of_load(event))
        elif kind == Kind.XA_PREPARE:
            yield from self._xa_prepare(event)
        elif kind == Kind.TRANSACTION_PAYLOAD:
            yield from self._compressed(event, max_piece_bytes)
        elif kind == Kind.PARTIAL_UPDATE_ROWS:
            self._refuse_partial(event)
        elif kind == Kind.INCIDENT:
            raise SourceError(
                f"the server says that its binlog lacks changes: {events.incident(event)}",
                where=f"{self._source}, {_place(event)}",
                hint=f"cdc remove {self._source}, then cdc run takes a new snapshot",
            )
        elif kind == Kind.MARIA_GTID:
            yield from self._flushed()
            self._open = binlog.opened(event, self._reached)
            self._prepared.start()
        elif kind == Kind.GTID_TAGGED:
            raise events.tagged_gtid(event)
        elif kind not in _LOAD_DATA_BLOCKS:
            raise events.malformed(f"an event of the unknown type {kind}", event)

    def _server_began(self, event: bytes) -> None:
        """A new file. What an earlier run of the server left unfinished was rolled back."""
        if events.header(event).artificial or event[71:75] == bytes(4):
            return
        if self._open is not None and self._open.next_ordinal:
            raise SourceError(
                "the server was restarted in the middle of a transaction that is half published",
                where=f"{self._source}, {_place(event)}",
                hint=f"cdc remove {self._source}, then cdc run takes a new snapshot",
            )
        self._tail, self._tail_bytes, self._open = NOTHING, 0, None
        self._prepared.abandon()
        self._tables.by_id.clear()
        self._tables.forget()

    def _query(self, event: bytes) -> Iterator[Piece]:
        yield from self._flushed()
        here = self._open
        if here is None:
            raise events.malformed("a statement outside of a transaction", event)
        found = events.query(event)
        first = words(found.sql, 2)
        if first[:1] == ("XA",):
            yield from self._xa(first[1], found.sql.lower().split(maxsplit=2)[2], event)
        elif first == ("ROLLBACK",):
            self._require_no_rows(here, event)
            yield from self._ended(event)
        elif first[:1] == ("ROLLBACK",):
            self._require_no_rows(here, event)
        else:
            emptied = self._captured.statement(found, event, self._reached.position())
            self._made()
            if emptied or self._captured.is_touched():
                self._tables.forget()
            if here.begun:
                yield from self._within(here, emptied)
            else:
                yield from self._ended(event, emptied)

    def _made(self) -> None:
        """Tables that were just made, or renamed so that they are ours."""
        for name, is_empty in self._captured.taken_made().items():
            schema = self._adopt(name)
            if schema is not None:
                self._captured.begin({name: schema})
                self._tables.forget()
                if not is_empty:
                    self._added.tables.append(name)
                    self._added.require_possible()

    def _require_no_rows(self, here: Open, event: bytes) -> None:
        if here.next_ordinal:
            raise SourceError(
                f"transaction {here.name} was rolled back, and is in the binlog nevertheless: it "
                "changed tables without transactions (MyISAM) too",
                where=f"{self._source}, {_place(event)}",
                hint=f"cdc remove {self._source}, then cdc run takes a new snapshot",
            )

    def _ended(self, event: bytes, emptied: tuple[str, ...] = ()) -> Iterator[Piece]:
        """The open transaction ends with this event."""
        assert self._open is not None
        at = self._open.next_ordinal
        cuts = [Truncation(0, at, at + len(emptied), emptied)] if emptied else []
        yield from self._emitted(Decoded((), (self._open.gtid,), 1, event, None), cuts)

    def _within(self, here: Open, emptied: tuple[str, ...]) -> Iterator[Piece]:
        """A statement inside of a transaction: CREATE TABLE … SELECT."""
        if emptied:
            at = here.next_ordinal
            cut = Truncation(0, at, at + len(emptied), emptied)
            after = replace(here, next_ordinal=cut.after)
            yield from self._emitted(Decoded((), (here.gtid,), 0, None, after), [cut])

    def _xa(self, verb: str, xid: str, event: bytes) -> Iterator[Piece]:
        assert self._open is not None
        if verb in ("START", "BEGIN"):
            self._open = replace(self._open, begun=True)
            self._prepared.start()
        elif verb == "COMMIT":
            held = self._prepared.committed(xid)
            yield from self._flushed(held + Sorted([event], bytes([END])))
        elif verb == "ROLLBACK":
            self._prepared.rolled_back(xid)
            yield from self._ended(event)

    def _xa_prepare(self, event: bytes) -> Iterator[Piece]:
        xid, one_phase = xid_of(event)
        if one_phase:
            held = self._prepared.committed_at_once()
            yield from self._flushed(held + Sorted([event], bytes([END])))
        else:
            self._prepared.prepared(xid)
            yield from self._ended(event)

    def _compressed(self, event: bytes, max_piece_bytes: int) -> Iterator[Piece]:
        self._payload = event
        try:
            held: list[bytes] = []
            size = 0
            for inner in payload.payload_events(event):
                held.append(inner)
                size += len(inner)
                if size >= min(DECODE_BYTES, max_piece_bytes):
                    yield from self._taken(held, max_piece_bytes)
                    held, size = [], 0
            yield from self._taken(held, max_piece_bytes)
        finally:
            self._payload = None

    def _refuse_partial(self, event: bytes) -> None:
        number = event[binlog.TABLE_ID]
        waiting = self._tail + self._prepared.waiting
        for at, letter in enumerate(waiting.letters):
            if letter == MAP:
                found = waiting.events[at]
                self._tables.by_id[found[binlog.TABLE_ID]] = self._tables.decoder(found)
        decoder = self._tables.by_id.get(number)
        # A transaction that is too large to be held has tables that nobody has looked at.
        if decoder is not None or number not in self._tables.by_id:
            name = self._source if decoder is None else decoder.schema.name
            raise SourceError(
                "an update came as parts of its JSON values, which is not understood",
                where=f"{name}, {_place(event)}",
                hint="SET GLOBAL binlog_row_value_options = '', let every session begin anew; "
                f"then cdc remove {self._source}, and cdc run takes a new snapshot",
            )


def _place(event: bytes) -> str:
    return f"log position {events.header(event).end_position}"


def _chunks(found: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Parts of about `size` bytes: long enough vectors, small enough memory."""
    total = sum(map(len, found))
    if total <= 2 * size:
        if found:
            yield found
        return
    length = max(1, len(found) * size // total)
    for start in range(0, len(found), length):
        yield found[start : start + length]
