"""Sorted events → changes of many transactions, thousands of events at once.

1.  Give every event its transaction: each GTID begins one.
2.  Look up the decoder of each table map (most repeat one that is known), and by the table's number
    the decoder of each row event. Where a number is given to another table within the events, they
    are decoded in parts.
3.  Hand all row events of a decoder to rows.decode_rows.
4.  Number the changes: within a transaction, over all tables, in the order of the events from 0. An
    UPDATE that changes the key counts as two, a delete and an insert.

A transaction may have begun before the events and end after them: `Open` carries it over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from cdc import changed_keys, ragged
from cdc.changed_keys import RowChanges
from cdc.changes import Bools, Bytes, C, ChangeBatch, D, Int64s, U
from cdc.errors import SourceError
from cdc.mysql import events, rows
from cdc.mysql.events import HEADER_BYTES, Kind
from cdc.mysql.grouping import BEGIN, CHANGE, END, GTID, MAP, Sorted
from cdc.mysql.reached import Reached
from cdc.mysql.rows import RowsOfTable, TableDecoder
from cdc.positions import NativePosition
from cdc.schema import TableSchema

OnTableMap = Callable[[bytes], TableDecoder | None]
"""Called with each TABLE_MAP that is new or may mean something else than before; returns how its
rows are read, or None to leave them out."""
LeftOut = Mapping[str, Bools]
Complete = Callable[[TableDecoder, ChangeBatch, LeftOut, LeftOut], ChangeBatch]
"""Fills in what the row images lack: see captured.Completion."""

TABLE_ID = slice(HEADER_BYTES, HEADER_BYTES + 6)
_MARIA_FLAGS = 31
_STANDALONE = 1
_MICROSECONDS = 10**6
_TIME = slice(61, 68)
_TIME_MASK = 2**55 - 1


@dataclass(frozen=True, eq=False)
class Open:
    """The transaction in which a list of events ended. `gtid` is the event; `begun`: changes may
    follow (it is not a single statement)."""

    gtid: bytes
    name: str
    commit_us: int
    next_ordinal: int
    begun: bool


@dataclass(frozen=True, eq=False)
class Decoded:
    """What events contain: changes by table name with txn_seq counting the transactions from 0.
    `gtids`: the first event of each transaction; `last`: the last event of the last that ended."""

    changes: tuple[tuple[str, ChangeBatch], ...]
    gtids: tuple[bytes, ...]
    ended: int
    last: bytes | None
    open: Open | None


@dataclass
class Tables:
    """The table maps that hold, by the table's number and by the event's bytes."""

    on_table_map: OnTableMap
    complete: Complete
    by_id: dict[bytes, TableDecoder | None] = field(default_factory=dict)
    by_body: dict[bytes, TableDecoder | None] = field(default_factory=dict)

    def forget(self) -> None:
        """A table map may mean something else from here on."""
        self.by_body.clear()

    def begin(self) -> None:
        """No transaction is open: each names its tables again, by numbers that only grow."""
        if len(self.by_id) > _MAPS_MAX:
            self.by_id.clear()

    def decoder(self, event: bytes) -> TableDecoder | None:
        body = event[HEADER_BYTES:]
        if body not in self.by_body:
            if len(self.by_body) >= _MAPS_MAX:
                self.by_body.clear()
            self.by_body[body] = self.on_table_map(event)
        return self.by_body[body]


_MAPS_MAX = 4096


def decode(found: Sorted, tables: Tables, still_open: Open | None, reached: Reached) -> Decoded:
    """All changes in the events, none of which is RARE: whole transactions, or a part of one.
    BadData names the event that is malformed or out of place, or the value that cannot be
    carried."""
    letters = np.frombuffer(found.letters, np.uint8)
    begins = letters == GTID
    ends = letters == END
    continued = still_open is not None
    if not continued:
        tables.begin()
    _require_brackets(found, letters, begins, ends, continued)
    txn = begins.cumsum() - (not continued)
    own = [found.events[at] for at in begins.nonzero()[0].tolist()]
    gtids = ([still_open.gtid] if still_open is not None else []) + own
    commit_us = _commit_times_us(gtids)
    parts = [part for span in _spans(found, tables) for part in span]
    moved = [_moved(part) for part in parts]
    total = np.zeros(len(letters) + 1, np.int64)
    for part, mask in zip(parts, moved, strict=True):
        total[1:] += np.bincount(part.event, 1.0 + mask, len(letters)).astype(np.int64)
    total = total.cumsum()
    first = total[:-1][begins]
    if still_open is not None:
        first = np.concatenate([[-still_open.next_ordinal], first])
    before_event = total[:-1] - first[txn]
    changes = tuple(
        (
            part.decoder.schema.name,
            tables.complete(
                part.decoder,
                _changes(part, mask, txn[part.event], before_event, commit_us),
                *_left_out(part, mask),
            ),
        )
        for part, mask in zip(parts, moved, strict=True)
    )
    ended = int(ends.sum())
    last = found.events[int(ends.nonzero()[0][-1])] if ended else None
    left = None
    if ended < len(gtids):
        before = still_open if len(gtids) == 1 and still_open else opened(gtids[-1], reached)
        left = _still_open(found, before, total, first)
    return Decoded(changes, tuple(gtids), ended, last, left)


def _commit_times_us(gtids: Sequence[bytes]) -> Int64s:
    if not gtids or gtids[0][4] == Kind.MARIA_GTID:
        return np.fromiter(map(commit_time_us, gtids), np.int64, len(gtids))
    times = b"\0".join([gtid[_TIME] for gtid in gtids]) + b"\0"
    return np.frombuffer(times, np.dtype("<i8")) & _TIME_MASK


def commit_time_us(gtid: bytes) -> int:
    """When the transaction was committed on this server, microseconds since 1970 UTC. MariaDB says
    only the second."""
    if gtid[4] == Kind.MARIA_GTID:
        return int.from_bytes(gtid[:4], "little") * _MICROSECONDS
    return int.from_bytes(gtid[_TIME], "little") & _TIME_MASK


def opened(gtid: bytes, reached: Reached) -> Open:
    """The transaction that a GTID event begins."""
    begun = gtid[4] == Kind.MARIA_GTID and not gtid[_MARIA_FLAGS] & _STANDALONE
    return Open(gtid, reached.name(gtid), commit_time_us(gtid), 0, begun)


def _still_open(found: Sorted, before: Open, total: Int64s, first: Int64s) -> Open:
    begun = before.begun or BEGIN in found.letters
    return replace(before, next_ordinal=int(total[-1] - first[-1]), begun=begun)


def _require_brackets(
    found: Sorted, letters: Bytes, begins: Bools, ends: Bools, continued: bool
) -> None:
    """GTID and END alternate, and rows stand between them."""
    depth = begins.cumsum() - ends.cumsum() + int(continued)
    wrong = (depth < 0) | (depth > 1)
    wrong |= ((letters == CHANGE) | (letters == MAP) | (letters == BEGIN)) & (depth == 0)
    if ragged.some(wrong):
        raise events.malformed(
            "an event that does not belong there", found.events[int(wrong.argmax())]
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of one table; `event` is the number of each change's event in the list."""

    decoder: TableDecoder
    event: Int64s
    rows: RowsOfTable


def _spans(found: Sorted, tables: Tables) -> Iterator[list[_Part]]:
    """Parts of the events within which each table number means one table."""
    start = 0
    for at in _places(found.letters, MAP, 0, len(found)):
        event = found.events[at]
        number, decoder = event[TABLE_ID], tables.decoder(event)
        if at > start and tables.by_id.get(number, decoder) is not decoder:
            yield list(_parts(found, tables, start, at))
            start = at
        tables.by_id[number] = decoder
    yield list(_parts(found, tables, start, len(found)))


def _places(letters: bytes, letter: int, start: int, stop: int) -> list[int]:
    here = np.frombuffer(letters, np.uint8)[start:stop]
    return ((here == letter).nonzero()[0] + start).tolist()


def _parts(found: Sorted, tables: Tables, start: int, stop: int) -> Iterator[_Part]:
    changes = _places(found.letters, CHANGE, start, stop)
    numbers = [found.events[at][TABLE_ID] for at in changes]
    places: dict[TableDecoder, list[int]] = {}
    if len(set(numbers)) == 1:
        decoder = _decoder(tables, numbers[0], found.events[changes[0]])
        if decoder is not None:
            places[decoder] = changes
    else:
        for number, at in zip(numbers, changes, strict=True):
            decoder = _decoder(tables, number, found.events[at])
            if decoder is not None:
                places.setdefault(decoder, []).append(at)
    for decoder, own in places.items():
        decoded = rows.decode_rows([found.events[at] for at in own], decoder)
        if len(decoded.op):
            if decoded.missing_rows or decoded.missing_before:
                _require_key(decoded, decoder.schema)
                decoded = _filled_from_before(decoded)
            yield _Part(decoder, np.array(own, np.int64)[decoded.event], decoded)


def _decoder(tables: Tables, number: bytes, event: bytes) -> TableDecoder | None:
    if number not in tables.by_id:
        raise events.malformed("rows of a table without a table map", event)
    return tables.by_id[number]


def _require_key(found: RowsOfTable, schema: TableSchema) -> None:
    """An old row with less than the key cannot be told apart."""
    for number, mask in found.missing_before.items():
        name = schema.columns[number].name
        if name in schema.key and ragged.some(mask):
            raise SourceError(
                f"the old row of a change came without {name}, a column of its key: the server's "
                "own key is another",
                where=schema.name,
                hint="give the table a primary key, or SET GLOBAL binlog_row_image = FULL and let "
                "every session begin anew; then cdc remove, and cdc run takes a new snapshot",
            )


def _filled_from_before(found: RowsOfTable) -> RowsOfTable:
    """New rows with what they lack taken from the old ones, where these have it. An old row that
    is not complete is no `before`."""
    missing: dict[int, Bools] = {}
    columns = list(found.rows.columns)
    live = found.op != D
    for number, mask in found.missing_rows.items():
        lacking = mask & live
        old = found.missing_before.get(number)
        fillable = lacking & found.has_before & (True if old is None else ~old)
        if found.before is not None and ragged.some(fillable):
            both = pa.concat_arrays([columns[number], found.before.column(number)])
            at = np.arange(len(mask)) + np.where(fillable, len(mask), 0)
            columns[number] = both.take(pa.array(at))
        if ragged.some(lacking & ~fillable):
            missing[number] = lacking & ~fillable
    partial = np.zeros(len(found.op), np.bool_)
    for mask in found.missing_before.values():
        partial |= mask
    return replace(
        found,
        rows=pa.RecordBatch.from_arrays(columns, schema=found.rows.schema),
        missing_rows=missing,
        missing_before={0: partial} if ragged.some(partial) else {},
    )


def _moved(part: _Part) -> Bools:
    """Which changes are updates of the key."""
    found = part.rows
    updated = (found.op == U) & found.has_before
    moved = np.zeros(len(found.op), np.bool_)
    if found.before is None or not ragged.some(updated):
        return moved
    schema = part.decoder.schema
    for number, column in enumerate(schema.columns):
        if column.name in schema.key:
            moved |= changed_keys.distinct(found.before.column(number), found.rows.column(number))
    return moved & updated


def _changes(
    part: _Part, moved: Bools, txn: Int64s, before_event: Int64s, commit_us: Int64s
) -> ChangeBatch:
    """The part as changes. `before_event`: per event, the changes of its transaction before it."""
    found, schema = part.rows, part.decoder.schema
    count = len(found.op)
    weight = 1 + moved
    place = weight.cumsum() - weight
    fresh = np.ones(count, np.bool_)
    fresh[1:] = part.event[1:] != part.event[:-1]
    place -= np.maximum.accumulate(np.where(fresh, place, 0))
    ordinal = before_event[part.event] + place
    when = commit_us[txn]
    deleted = found.op == D
    if not ragged.some(moved) and not ragged.some(deleted):
        before, has_before = found.before, _full(found)
        kept = before is not None and ragged.some(has_before)
        return ChangeBatch(
            schema,
            found.op,
            txn,
            ordinal,
            when,
            found.rows,
            before if kept else None,
            has_before if kept else None,
        )
    at = np.arange(count, dtype=np.int64)
    old = found.rows if found.before is None else found.before
    changes = RowChanges(
        schema,
        found.op,
        txn,
        ordinal,
        when,
        moved,
        found.rows,
        np.where(deleted, -1, at),
        old,
        np.where(found.op == C, -1, at),
        _full(found),
    )
    return changed_keys.to_changes(changes)


def _full(found: RowsOfTable) -> Bools:
    """Which changes have an old row with all of its columns."""
    partial = found.missing_before.get(0)
    return found.has_before if partial is None else found.has_before & ~partial


def _left_out(part: _Part, moved: Bools) -> tuple[LeftOut, LeftOut]:
    """By column: the changes of updates whose row lacks it, and those of inserts."""
    found = part.rows
    unchanged: dict[str, Bools] = {}
    unnamed: dict[str, Bools] = {}
    if not found.missing_rows:
        return unchanged, unnamed
    change = np.repeat(np.arange(len(found.op)), 1 + moved)
    second = np.zeros(len(change), np.bool_)
    second[1:] = change[1:] == change[:-1]
    deleted = moved[change] & ~second
    inserted = found.op[change] == C
    for number, mask in found.missing_rows.items():
        name = part.decoder.schema.columns[number].name
        lacking = mask[change] & ~deleted
        for masks, chosen in ((unchanged, lacking & ~inserted), (unnamed, lacking & inserted)):
            if ragged.some(chosen):
                masks[name] = chosen
    return unchanged, unnamed


@dataclass(frozen=True, eq=False)
class TransactionsOf:
    """The transactions of decoded events: see cdc.transaction_pieces.Transactions. Only the
    position behind the last is asked for, and once: then they count as reached."""

    decoded: Decoded
    reached: Reached

    @property
    def ended(self) -> int:
        return self.decoded.ended

    @property
    def open_ordinal(self) -> int | None:
        return None if self.decoded.open is None else self.decoded.open.next_ordinal

    def position(self, number: int) -> NativePosition:
        assert number == self.ended - 1 and self.decoded.last is not None
        self.reached.ended(self.decoded.gtids[: self.ended], self.decoded.last)
        return self.reached.position()

    def commit_us(self, number: int) -> int:
        return commit_time_us(self.decoded.gtids[number])

    def name(self, number: int) -> str:
        return self.reached.name(self.decoded.gtids[number])

    def find(self, name: str) -> int:
        names = (self.reached.name(gtid) for gtid in self.decoded.gtids)
        return next((number for number, found in enumerate(names) if found == name), -1)
