"""pgoutput (protocol version 1) → rows of each table, thousands of messages at once.

`decode` takes the payloads of CopyData messages as libpq hands them out: each an XLogData ('w', 24
bytes of positions and time, then one pgoutput message); keepalives were taken out before. Steps:

1. Join the payloads, read all kind bytes, give every message its transaction.
2. Parse what is rare (Relation, Type, Origin, Message, Truncate) one by one; Begin and Commit with
   one gather per field.
3. Cut where a Relation message redefines a table that was known before; within such a span, per
   table, walk old and new tuples (tuples.py) and decode each column (values.py).
4. Number the changes: within a transaction, over all tables, from 0. An UPDATE that changes the key
   counts as two changes, a delete and an insert; a Truncate as one per relation.

A transaction may have begun before the payloads and end after them: `Open` carries it over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.changes import C, D, U
from cdc.postgres import changed_keys, messages
from cdc.postgres.messages import PG_EPOCH_US, Control, Relation, Truncate
from cdc.postgres.rows import NO_OLD, OLD_FULL, OLD_KEY, TableDecoder, TableRows
from cdc.postgres.tuples import Field, Misfit, malformed, walk
from cdc.ragged import Bools, Bytes, Int64s

_HEADER_BYTES = 25
_BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE = (ord(letter) for letter in "BCIUD")
_NEW = ord("N")
_OPS = np.zeros(256, np.uint8)
_OPS[[_INSERT, _UPDATE, _DELETE]] = C, U, D


OnRelation = Callable[[Relation], TableDecoder | None]
"""Called with each Relation message that is new or differs from the table's known one; returns how
its rows are read from there on, or None to leave the table's rows out."""


@dataclass(frozen=True, slots=True)
class Open:
    """The transaction in which a list of payloads ended. LSNs as integers."""

    xid: int
    final_lsn: int
    commit_us: int
    next_ordinal: int


@dataclass(frozen=True, eq=False)
class Commits:
    """The transactions that end in the payloads, in order; `txn` as in TableRows."""

    index: Int64s
    txn: Int64s
    lsn: Int64s
    end_lsn: Int64s
    commit_us: Int64s

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Placed:
    """A rare message: its index among the payloads, its transaction (−1: outside of one), the
    ordinal of the next change there, its WAL position (the XLogData header's)."""

    index: int
    txn: int
    ordinal: int
    lsn: int
    message: Control


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a list of payloads contains. `rows` is in order per table; a table stands there again
    after it was redefined. `transactions`: how many txn numbers are used, an open one included."""

    rows: tuple[TableRows, ...]
    controls: tuple[Placed, ...]
    commits: Commits
    transactions: int
    open: Open | None


def decode(
    payloads: Sequence[bytes],
    tables: MutableMapping[int, TableDecoder | None],
    on_relation: OnRelation,
    still_open: Open | None = None,
) -> Decoded:
    """All rows, controls and commits in `payloads`, XLogData messages in order.

    `tables` has the decoder of every relation announced so far in this connection, by oid; it is
    kept between calls and updated here. BadData names the message that is malformed, or the
    column whose value cannot be carried.
    """
    if not payloads:
        return Decoded((), (), _NO_COMMITS, int(still_open is not None), still_open)
    frame = _frame(payloads, still_open)
    found: list[_Rows] = []
    controls: list[tuple[int, Control]] = []
    for start, stop in _spans(frame, tables, on_relation, controls):
        found.extend(_span_rows(frame, tables, start, stop))
    begins = _begins(frame, still_open)
    ordinals = _ordinals(frame, found, controls, still_open)
    rows = tuple(_numbered(frame, begins, ordinals, part) for part in found)
    placed = tuple(_placed(frame, ordinals, index, message) for index, message in controls)
    return Decoded(
        rows,
        placed,
        _commits(frame),
        len(begins.commit_us),
        _still_open(frame, begins, ordinals),
    )


@dataclass(frozen=True, eq=False)
class _Frame:
    """The payloads as one buffer. Per message: where its body begins (its kind byte), where it
    ends, its kind, its transaction, and how many transactions are open behind it (0 or 1).
    `opened`: one was open at the start."""

    payloads: Sequence[bytes]
    buffer: Bytes
    body: Int64s
    ends: Int64s
    kinds: Bytes
    txn: Int64s
    depth: Int64s
    opened: bool

    def malformed(self, index: int, what: str) -> Exception:
        return malformed(what, self.payloads[index][_HEADER_BYTES:], index)


def _frame(payloads: Sequence[bytes], still_open: Open | None) -> _Frame:
    buffer, starts, ends = ragged.join(payloads)
    body = starts + _HEADER_BYTES
    fits = (buffer[starts] == ord("w")) & (body < ends)
    if not ragged.every(fits):
        bad = int(fits.argmin())
        raise malformed("not an XLogData message", payloads[bad], bad)
    kinds = buffer[body]
    begins = kinds == _BEGIN
    opened = still_open is not None
    begun = begins.cumsum()
    depth = begun - (kinds == _COMMIT).cumsum() + int(opened)
    frame = _Frame(payloads, buffer, body, ends, kinds, begun - (not opened), depth, opened)
    _require_brackets(frame)
    return frame


def _require_brackets(frame: _Frame) -> None:
    """Begin and Commit alternate, and rows stand between them."""
    out_of_order = (frame.depth < 0) | (frame.depth > 1)
    if ragged.some(out_of_order):
        raise frame.malformed(int(out_of_order.argmax()), "Begin or Commit out of order")
    outside = (_OPS[frame.kinds] != 0) & (frame.depth == 0)
    if ragged.some(outside):
        raise frame.malformed(int(outside.argmax()), "a row outside of a transaction")


def _spans(
    frame: _Frame,
    tables: MutableMapping[int, TableDecoder | None],
    on_relation: OnRelation,
    controls: list[tuple[int, Control]],
) -> Iterator[tuple[int, int]]:
    """Ranges of messages within which every table has one definition; parses the controls."""
    rare = (_OPS[frame.kinds] == 0) & (frame.kinds != _BEGIN) & (frame.kinds != _COMMIT)
    start = 0
    for index in rare.nonzero()[0].tolist():
        body = frame.payloads[index][_HEADER_BYTES:]
        message = messages.parse(body, where=f"message {index}")
        controls.append((index, message))
        if not isinstance(message, Relation):
            continue
        known = tables.get(message.oid)
        if known is not None and known.relation == message:
            continue
        if message.oid in tables and index > start:
            yield start, index
            start = index
        tables[message.oid] = on_relation(message)
    yield start, len(frame.kinds)


@dataclass(frozen=True, eq=False)
class _Rows:
    """TableRows before their changes are numbered."""

    table: TableDecoder
    index: Int64s
    op: Bytes
    new: pa.RecordBatch
    unchanged: Mapping[int, Bools]
    old: pa.RecordBatch | None
    old_kind: Bytes
    moved: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))


def _span_rows(
    frame: _Frame, tables: Mapping[int, TableDecoder | None], start: int, stop: int
) -> Iterator[_Rows]:
    """Each table's rows among the messages start .. stop."""
    index = _OPS[frame.kinds[start:stop]].nonzero()[0] + start
    if not len(index):
        return
    body = frame.body[index]
    short = body + 8 > frame.ends[index]
    if ragged.some(short):
        raise frame.malformed(int(index[int(short.argmax())]), "a row message that is too short")
    oids = ragged.gather_int64(frame.buffer, body + 1, ">u4")
    for oid, own in _by_table(oids, index):
        if oid not in tables:
            raise frame.malformed(int(own[0]), f"a row of relation {oid}, which was not announced")
        table = tables[oid]
        if table is not None:
            yield _table_rows(frame, table, own)


def _by_table(oids: Int64s, index: Int64s) -> Iterator[tuple[int, Int64s]]:
    first = oids[0]
    if ragged.every(oids == first):
        yield int(first), index
        return
    order = np.argsort(oids, kind="stable")
    ordered = oids[order]
    cuts = (ordered[1:] != ordered[:-1]).nonzero()[0] + 1
    for part in np.split(order, cuts):
        yield int(oids[part[0]]), index[part]


def _table_rows(frame: _Frame, table: TableDecoder, index: Int64s) -> _Rows:
    kinds = frame.kinds[index]
    mark_at = frame.body[index] + 5
    mark = frame.buffer[mark_at]
    has_old = (mark == OLD_KEY) | (mark == OLD_FULL)
    fits = np.where(kinds == _INSERT, mark == _NEW, has_old | (mark == _NEW))
    fits &= (kinds != _DELETE) | has_old
    if not ragged.every(fits):
        raise frame.malformed(int(index[int(fits.argmin())]), "a row without its tuple")
    old_kind = np.where(has_old, mark, np.uint8(NO_OLD))
    op = _OPS[kinds]
    new_at = mark_at + 1
    old = None
    if ragged.some(has_old):
        old, old_end = _old_rows(frame, table, index, mark_at, has_old, kinds)
        new_at[has_old] = old_end + 1
    if (kinds == _DELETE).any():
        has_new = kinds != _DELETE
        fields = _walk(frame, table, index[has_new], new_at[has_new])
    else:
        fields = _walk(frame, table, index, new_at)
    new, unchanged = _rows(table, fields)
    rows = _Rows(table, index, op, new, unchanged, old, old_kind)
    moved = changed_keys.moved(table.schema, op, old_kind, new, unchanged, old)
    return replace(rows, moved=moved)


def _old_rows(
    frame: _Frame,
    table: TableDecoder,
    index: Int64s,
    mark_at: Int64s,
    has_old: Bools,
    kinds: Bytes,
) -> tuple[pa.RecordBatch, Int64s]:
    """The old tuples, and where each ends."""
    own = index[has_old]
    fields, at = _walk_from(frame, table, own, mark_at[has_old] + 1)
    deleted = kinds[has_old] == _DELETE
    last = at == frame.ends[own]
    followed = ~last & (frame.buffer[at] == _NEW)
    fits = np.where(deleted, last, followed)
    if not ragged.every(fits):
        raise frame.malformed(int(own[int(fits.argmin())]), "an old tuple that does not end well")
    rows, _ = _rows(table, fields)
    return rows, at


def _walk(frame: _Frame, table: TableDecoder, index: Int64s, at: Int64s) -> list[Field]:
    """The tuples that begin at `at` and end with their messages."""
    fields, end = _walk_from(frame, table, index, at)
    if not np.array_equal(end, frame.ends[index]):
        bad = int((end != frame.ends[index]).argmax())
        raise frame.malformed(int(index[bad]), "bytes left over behind a tuple")
    return fields


def _walk_from(
    frame: _Frame, table: TableDecoder, index: Int64s, at: Int64s
) -> tuple[list[Field], Int64s]:
    try:
        return walk(frame.buffer, at, frame.ends[index], len(table.relation.columns))
    except Misfit as misfit:
        bad = int(index[misfit.row])
        raise frame.malformed(bad, f"a tuple that does not fit {table.relation.table}") from misfit


def _rows(
    table: TableDecoder, fields: Sequence[Field]
) -> tuple[pa.RecordBatch, Mapping[int, Bools]]:
    columns, unchanged = [], {}
    for number, (place, decoder) in enumerate(zip(table.places, table.columns, strict=True)):
        found = fields[place]
        columns.append(decoder.decode(found.slices, found.kinds))
        if found.unchanged is not None:
            unchanged[number] = found.unchanged
    return pa.RecordBatch.from_arrays(columns, schema=table.schema.arrow), unchanged


@dataclass(frozen=True, eq=False)
class _Begins:
    """By transaction: what its Begin says, the one open at the start included."""

    index: Int64s
    xid: Int64s
    final_lsn: Int64s
    commit_us: Int64s


def _begins(frame: _Frame, still_open: Open | None) -> _Begins:
    index = (frame.kinds == _BEGIN).nonzero()[0]
    at = frame.body[index]
    _require_length(frame, index, 21)
    final_lsn = ragged.gather_int64(frame.buffer, at + 1, ">i8")
    commit_us = ragged.gather_int64(frame.buffer, at + 9, ">i8") + PG_EPOCH_US
    xid = ragged.gather_int64(frame.buffer, at + 17, ">u4")
    if still_open is None:
        return _Begins(index, xid, final_lsn, commit_us)
    return _Begins(
        np.concatenate([[-1], index]),
        np.concatenate([[still_open.xid], xid]),
        np.concatenate([[still_open.final_lsn], final_lsn]),
        np.concatenate([[still_open.commit_us], commit_us]),
    )


def _commits(frame: _Frame) -> Commits:
    index = (frame.kinds == _COMMIT).nonzero()[0]
    if not len(index):
        return _NO_COMMITS
    _require_length(frame, index, 26)
    at = frame.body[index]
    return Commits(
        index,
        frame.txn[index],
        ragged.gather_int64(frame.buffer, at + 2, ">i8"),
        ragged.gather_int64(frame.buffer, at + 10, ">i8"),
        ragged.gather_int64(frame.buffer, at + 18, ">i8") + PG_EPOCH_US,
    )


_NONE = np.zeros(0, np.int64)
_NO_COMMITS = Commits(_NONE, _NONE, _NONE, _NONE, _NONE)


def _require_length(frame: _Frame, index: Int64s, length: int) -> None:
    wrong = frame.ends[index] - frame.body[index] != length
    if ragged.some(wrong):
        bad = int(index[int(wrong.argmax())])
        raise frame.malformed(bad, "Begin or Commit of another length")


def _ordinals(
    frame: _Frame,
    found: Sequence[_Rows],
    controls: Sequence[tuple[int, Control]],
    still_open: Open | None,
) -> Int64s:
    """Per message, and once behind the last: changes of its transaction before it."""
    weight = np.zeros(len(frame.kinds) + 1, np.int64)
    weight[1:] = _OPS[frame.kinds] != 0
    for part in found:
        if ragged.some(part.moved):
            weight[part.index + 1] += part.moved
    for index, message in controls:
        if isinstance(message, Truncate):
            weight[index + 1] = len(message.relations)
    total = weight.cumsum()
    begins = (frame.kinds == _BEGIN).nonzero()[0]
    base = total[begins]
    first = -(still_open.next_ordinal if still_open else 0)
    bases = np.concatenate([[first], base]) if frame.opened else np.concatenate([base, [0]])
    # A message before the first transaction has number −1: the 0 at the end.
    total[:-1] -= bases[frame.txn]
    total[-1] -= bases[frame.txn[-1]]
    return total


def _numbered(frame: _Frame, begins: _Begins, ordinals: Int64s, part: _Rows) -> TableRows:
    txn = frame.txn[part.index]
    return TableRows(
        part.table,
        part.index,
        part.op,
        txn,
        ordinals[part.index],
        begins.commit_us[txn],
        part.new,
        part.unchanged,
        part.old,
        part.old_kind,
        part.moved,
    )


def _placed(frame: _Frame, ordinals: Int64s, index: int, message: Control) -> Placed:
    header = frame.payloads[index]
    lsn = int.from_bytes(header[1:9], "big")
    inside = bool(frame.depth[index])
    txn = int(frame.txn[index]) if inside else -1
    return Placed(index, txn, int(ordinals[index]) if inside else 0, lsn, message)


def _still_open(frame: _Frame, begins: _Begins, ordinals: Int64s) -> Open | None:
    if not frame.depth[-1]:
        return None
    return Open(
        int(begins.xid[-1]),
        int(begins.final_lsn[-1]),
        int(begins.commit_us[-1]),
        int(ordinals[-1]),
    )
