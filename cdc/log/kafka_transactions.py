"""Debezium's transaction metadata: what `provide.transaction.metadata=true` adds (3.7, recorded).

    envelope.transaction     {id, total_order, data_collection_order}, both orders from 1, over
                             the transaction's events in all tables and in the event's own
    <source>.transaction     before the first event {"status": "BEGIN", "id": …}, after the last
                             {"status": "END", "id": …, "event_count": n, "data_collections":
                             [{"data_collection": "public.orders", "event_count": n}, …]}; ts_ms
                             is the commit's; the key is {"id": …}

The id is our txn_seq: Debezium promises a text that is unique, and its own differs between a
transaction's BEGIN and END. A snapshot's rows belong to no transaction, as with Debezium; what is
deleted when a snapshot is reconciled (SEMANTICS 8) does, and so do TRUNCATE's deletes. Tombstones
are not counted. A transaction without captured changes has no events.

How a producer uses it, once per append:

    found = described(batches, frontier.txn_seq, self.open)
    envelope_records(changes, …, details=found.details[i])   for the i-th batch
    keys, values = found.events.encoded(form)                to the transaction topic
    self.open = found.open                                   when the append is committed

`complete` is the newest transaction that the append's frontier covers; a partial record repeats
its predecessor's, so what lies behind it is still open and stands in the tally, `found.open`. A
producer that starts where there is a partial record reads that transaction's changes again and
hands them to `reopened`.

1.  Events are put in order by (txn_seq, ordinal); a place is the distance to the start of its
    run of equal txn_seq, and the same in each table's events, which are in order as they come.
2.  Run lengths, with the tally's, are the counts per transaction and table.
3.  A transaction has a BEGIN unless the tally has it, and an END when it is complete or a later
    one has begun.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.changes import ChangeBatch, R
from cdc.formats.connect_schema import Schema, avro_json, optional
from cdc.formats.connect_values import Lists, Structs
from cdc.formats.envelope import NO_DETAILS, Details
from cdc.formats.records import AvroWriter, Form, encoded
from cdc.ragged import Bools, Int64s

KEY_SCHEMA = Schema(
    "struct",
    name="io.debezium.connector.common.TransactionMetadataKey",
    version=1,
    fields=(("id", Schema("string")),),
)
_COLLECTION = Schema(
    "struct",
    True,
    "event.collection",
    1,
    fields=(("data_collection", Schema("string")), ("event_count", Schema("int64"))),
)
VALUE_SCHEMA = Schema(
    "struct",
    name="io.debezium.connector.common.TransactionMetadataValue",
    version=1,
    fields=(
        ("status", Schema("string")),
        ("id", Schema("string")),
        ("event_count", optional(Schema("int64"))),
        ("data_collections", Schema("array", True, items=_COLLECTION)),
        ("ts_ms", Schema("int64")),
    ),
)
_FEW = 12
"""Up to here Python is cheaper than Arrow's fixed costs."""


@dataclass(frozen=True)
class OpenTransaction:
    """The tally of a transaction of which parts are published: events so far, by table."""

    txn_seq: int
    commit_us: int
    events: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Events:
    """BEGIN and END events in order, as columns of Connect values."""

    num_rows: int
    keys: Structs
    values: Structs

    def encoded(self, form: Form) -> tuple[pa.Array, pa.Array]:
        """The records' keys and values, as binary arrays."""
        return (
            encoded(KEY_SCHEMA, self.keys, self.num_rows, form, key=True),
            encoded(VALUE_SCHEMA, self.values, self.num_rows, form, key=False),
        )


@dataclass(frozen=True, eq=False)
class Described:
    """One append's metadata: `details[i]` is of its i-th batch; `open` is the tally after it."""

    details: tuple[Details, ...]
    events: Events
    open: OpenTransaction | None


def topic_name(source: str) -> str:
    return f"{source}.transaction"


def avro_schemas() -> AvroWriter:
    """What a registry is given for the topic's subjects."""
    return AvroWriter(json.dumps(avro_json(KEY_SCHEMA)), json.dumps(avro_json(VALUE_SCHEMA)))


def described(
    batches: Sequence[tuple[str, ChangeBatch]],
    complete: int,
    before: OpenTransaction | None = None,
) -> Described:
    """The metadata of an append of (topic, changes), behind which transactions up to `complete`
    have ended. The batches of one table stand in the order of its changes; `before` is what the
    append before this one left open."""
    parts = [_Part.of(changes) for _, changes in batches]
    counts = _counts(parts, before)
    commits = _commits(parts, counts.txn_seq, before)
    still = before.txn_seq if before is not None else None
    ended = (counts.txn_seq <= complete) | (np.arange(len(commits)) < len(commits) - 1)
    events = _events(counts, commits, counts.txn_seq != still, ended)
    left = None
    if len(ended) and not ended[-1]:
        left = OpenTransaction(int(counts.txn_seq[-1]), int(commits[-1]), counts.of_last())
    return Described(_details(parts, before), events, left)


def reopened(batches: Iterable[tuple[str, ChangeBatch]], complete: int) -> OpenTransaction | None:
    """The tally of the transaction behind `complete`, from its changes in the log: all that lies
    beyond the end offsets of the newest whole frontier. None: nothing of it is published."""
    found: OpenTransaction | None = None
    for _, changes in batches:
        here = (changes.txn_seq > complete) & (changes.op != R)
        count = int(np.count_nonzero(here))
        if count:
            first = int(np.argmax(here))
            events = dict(found.events) if found is not None else {}
            events[changes.schema.name] = events.get(changes.schema.name, 0) + count
            number, commit_us = int(changes.txn_seq[first]), int(changes.commit_us[first])
            found = OpenTransaction(number, commit_us, events)
    return found


@dataclass(frozen=True, eq=False)
class _Part:
    """A batch's events: its changes without a snapshot's rows. `event` is None where all are."""

    table: str
    num_rows: int
    event: Bools | None
    txn_seq: Int64s
    ordinal: Int64s
    commit_us: Int64s

    @classmethod
    def of(cls, changes: ChangeBatch) -> _Part:
        name, count = changes.schema.name, changes.num_rows
        columns = (changes.txn_seq, changes.ordinal, changes.commit_us)
        event: Bools = changes.op != R
        if ragged.every(event):
            return cls(name, count, None, *columns)
        return cls(name, count, event, *(column[event] for column in columns))


def _joined(columns: Sequence[Int64s]) -> Int64s:
    if len(columns) == 1:
        return columns[0]
    return np.concatenate(columns) if columns else np.zeros(0, np.int64)


# Places


def _details(parts: Sequence[_Part], before: OpenTransaction | None) -> tuple[Details, ...]:
    total = _split(_total_order(parts, before), parts)
    own: list[Int64s] = [_NONE] * len(parts)
    for table, members in _by_table(parts).items():
        mine = [parts[i] for i in members]
        already = before.events.get(table, 0) if before is not None else 0
        places = _places(_joined([p.txn_seq for p in mine]), before, already)
        for i, place in zip(members, _split(places, mine), strict=True):
            own[i] = place
    return tuple(_detail(*found) for found in zip(parts, total, own, strict=True))


_NONE = np.zeros(0, np.int64)


def _ids(txn_seq: Int64s) -> pa.Array:
    if len(txn_seq) <= _FEW:
        return pa.array([str(number) for number in txn_seq.tolist()], pa.string())
    return pa.array(txn_seq).cast(pa.string())


def _detail(part: _Part, total: Int64s, own: Int64s) -> Details:
    if not len(total):
        return NO_DETAILS
    ids = _ids(part.txn_seq)
    if part.event is None:
        return Details(transaction_id=ids, total_order=total, data_collection_order=own)
    event = np.flatnonzero(part.event)
    place = np.full(part.num_rows, -1)
    place[event] = np.arange(len(event))
    spread = [np.zeros(part.num_rows, np.int64) for _ in range(2)]
    for column, values in zip(spread, (total, own), strict=True):
        column[event] = values
    ids = ids.take(pa.array(place, mask=~part.event))
    return Details(transaction_id=ids, total_order=spread[0], data_collection_order=spread[1])


def _total_order(parts: Sequence[_Part], before: OpenTransaction | None) -> Int64s:
    """The place of every event in its transaction, over all tables."""
    txn_seq = _joined([p.txn_seq for p in parts])
    already = sum(before.events.values()) if before is not None else 0
    if sum(len(p.txn_seq) > 0 for p in parts) <= 1:
        return _places(txn_seq, before, already)
    ordinal = _joined([p.ordinal for p in parts])
    # One number to sort by: stable sorting is quick on the ascending runs that the batches are.
    at = (txn_seq - txn_seq.min()) * (ordinal.max() + 1) + ordinal
    order = np.argsort(at, kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = _places(txn_seq[order], before, already)
    return places


def _places(txn_seq: Int64s, before: OpenTransaction | None, already: int) -> Int64s:
    """1, 2, … within each run of equal numbers; the open transaction goes on behind `already`."""
    starts = _starts(txn_seq)
    places = np.arange(1, len(txn_seq) + 1)
    places -= starts.repeat(_lengths(starts, len(txn_seq)))
    if before is not None and already:
        places += already * (txn_seq == before.txn_seq)
    return places


def _starts(values: Int64s) -> Int64s:
    """Where each run of equal values starts."""
    new = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new.nonzero()[0]


def _lengths(starts: Int64s, end: int) -> Int64s:
    """How long each run is; the last ends at `end`."""
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = end - starts[-1:]
    return lengths


def _by_table(parts: Sequence[_Part]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        found.setdefault(part.table, []).append(i)
    return found


def _split(column: Int64s, parts: Sequence[_Part]) -> list[Int64s]:
    ends = list(accumulate(len(p.txn_seq) for p in parts))
    return [column[start:end] for start, end in pairwise([0, *ends])]


# Counts


@dataclass(frozen=True, eq=False)
class _Counts:
    """Events per transaction and table: transaction k has entries first[k] : first[k] + tables[k],
    in the order of the tables' names."""

    txn_seq: Int64s
    first: Int64s
    tables: Int64s
    total: Int64s
    table: tuple[str, ...]
    code: Int64s
    count: Int64s

    def of_last(self) -> dict[str, int]:
        start = int(self.first[-1])
        codes, counts = self.code[start:].tolist(), self.count[start:].tolist()
        return {self.table[code]: count for code, count in zip(codes, counts, strict=True)}


def _counts(parts: Sequence[_Part], before: OpenTransaction | None) -> _Counts:
    known = before.events if before is not None else {}
    names = tuple(sorted({*(p.table for p in parts), *known}))
    code_of = {name: code for code, name in enumerate(names)}
    runs = [_runs(part, code_of[part.table]) for part in parts if len(part.txn_seq)]
    if before is not None:
        codes = np.array([code_of[name] for name in known], np.int64)
        here = np.full(len(codes), before.txn_seq, np.int64)
        runs.append((here, codes, np.array(list(known.values()), np.int64)))
    txn_seq, code, count = (_joined([run[i] for run in runs]) for i in range(3))
    if len(runs) > 1 or before is not None:
        txn_seq, code, count = _summed(txn_seq, code, count)
    first = _starts(txn_seq)
    total = np.add.reduceat(count, first) if len(count) else count
    tables = _lengths(first, len(txn_seq))
    return _Counts(txn_seq[first], first, tables, total, names, code, count)


def _runs(part: _Part, code: int) -> tuple[Int64s, Int64s, Int64s]:
    starts = _starts(part.txn_seq)
    codes = np.full(len(starts), code, np.int64)
    return part.txn_seq[starts], codes, _lengths(starts, len(part.txn_seq))


def _summed(txn_seq: Int64s, code: Int64s, count: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """One entry per transaction and table, in order."""
    order = np.lexsort((code, txn_seq))
    txn_seq, code, count = txn_seq[order], code[order], count[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (txn_seq[1:] != txn_seq[:-1]) | (code[1:] != code[:-1])
    first = np.flatnonzero(new)
    return txn_seq[first], code[first], np.add.reduceat(count, first)


def _commits(parts: Sequence[_Part], numbers: Int64s, before: OpenTransaction | None) -> Int64s:
    """The commit time of each of the transactions `numbers`, ascending."""
    found = np.zeros(len(numbers), np.int64)
    for part in parts:
        starts = _starts(part.txn_seq)
        at = np.searchsorted(numbers, part.txn_seq[starts])
        found[at] = part.commit_us[starts]
    if before is not None:
        found[np.searchsorted(numbers, before.txn_seq)] = before.commit_us
    return found


# Events


def _events(counts: _Counts, commit_us: Int64s, begun: Bools, ended: Bools) -> Events:
    """Per transaction its BEGIN and its END, where it has them."""
    wanted = np.empty((len(begun), 2), np.bool_)
    wanted[:, 0], wanted[:, 1] = begun, ended
    chosen = wanted.ravel().nonzero()[0]
    number, end = chosen >> 1, (chosen & 1).astype(np.bool_)
    entries = ended.repeat(counts.tables)
    names = pa.array(counts.table, pa.string()).take(pa.array(counts.code[entries]))
    collections = {"data_collection": names, "event_count": pa.array(counts.count[entries])}
    ids = _ids(counts.txn_seq[number])
    values = {
        "status": _STATUS.take(pa.array(chosen & 1)),
        "id": ids,
        "event_count": pa.array(counts.total[number], mask=~end),
        "data_collections": Lists(Structs(collections), counts.tables[number] * end, end),
        "ts_ms": pa.array(commit_us[number] // 1000),
    }
    return Events(len(chosen), Structs({"id": ids}), Structs(values))


_STATUS = pa.array(["BEGIN", "END"])
