"""Decoded pgoutput → pieces. Pure: no connection, no clock.

A `Decoded` either ends with a Commit, then it is whole transactions (the first may have begun in
earlier pieces), or it is a part of one transaction. It is cut further only at TRUNCATE, which is a
piece of its own. Transactions without changes get no number. A restart drops what was already
appended of a large transaction: `Resume` names it by its commit LSN and counts its changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cdc.changes import ChangeBatch
from cdc.errors import SourceError
from cdc.positions import Lsn
from cdc.postgres.messages import LogicalMessage, Truncate
from cdc.postgres.pgoutput import Decoded, Open
from cdc.postgres.rows import TableRows
from cdc.source import Piece

BARRIER_PREFIX = "cdc"

ToChanges = Callable[[TableRows], ChangeBatch]
"""Rows with nothing missing; txn_seq counts as in TableRows.txn."""


@dataclass(frozen=True)
class Resume:
    """A half-published transaction: the LSN of its commit, and the changes already in the log."""

    commit_lsn: int
    changes: int

    def to_json(self) -> dict[str, Any]:
        return {"commit_lsn": str(Lsn(self.commit_lsn)), "changes": self.changes}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Resume | None:
        if "commit_lsn" not in body:
            return None
        return cls(Lsn.parse(body["commit_lsn"]).value, int(body["changes"]))


@dataclass(frozen=True)
class _Cut:
    """A TRUNCATE: its place, the ordinal after it, its tables."""

    txn: int
    ordinal: int
    after: int
    tables: tuple[str, ...]


def pieces_of(
    decoded: Decoded,
    to_changes: ToChanges,
    table_names: Mapping[int, str],
    began: Open | None,
    position: Lsn,
    resume: Resume | None,
    source: str,
) -> Iterator[Piece]:
    """The pieces of one decoded list. `began` is the transaction open before it (some of its
    changes are appended), `position` that of the last whole piece, `table_names` the captured
    tables by oid, `resume` what to drop, `source` its name."""
    changes = [(rows.schema.name, to_changes(rows)) for rows in decoded.rows]
    drop_txn = -1 if resume is None else _resumed(decoded, resume, source)
    if resume is not None and drop_txn >= 0:
        changes = [(name, _dropped(batch, drop_txn, resume.changes)) for name, batch in changes]
    cuts = [
        cut
        for cut in _cuts(decoded, table_names)
        if resume is None or cut.txn != drop_txn or cut.ordinal >= resume.changes
    ]
    done = 0
    continued = began is not None or drop_txn == 0
    for cut in cuts:
        before, changes = _split(changes, cut.txn, cut.ordinal)
        whole, part = _split(before, cut.txn, -1)
        if cut.txn > done:
            position = Lsn(int(decoded.commits.end_lsn[cut.txn - 1]))
            commit_us = int(decoded.commits.commit_us[cut.txn - 1])
            yield _whole(whole, done, cut.txn, continued, position, commit_us)
            done, continued = cut.txn, False
        lsn, commit_us = _commit(decoded, cut.txn)
        here = Resume(lsn, cut.ordinal).to_json()
        if any(batch.num_rows for _, batch in part):
            yield Piece(_based(part, done), 0, position, commit_us, False, here)
        after = Resume(lsn, cut.after).to_json()
        yield Piece(
            (), 0, position, commit_us, False, after, truncated=cut.tables, ordinal=cut.ordinal
        )
        continued = True
    if decoded.open is not None:
        lsn, at = decoded.open.final_lsn, decoded.open.next_ordinal
        if not cuts or any(batch.num_rows for _, batch in changes):
            here = Resume(lsn, at).to_json()
            commit_us = decoded.open.commit_us
            yield Piece(_based(changes, done), 0, position, commit_us, False, here)
    elif len(decoded.commits):
        position = Lsn(int(decoded.commits.end_lsn[-1]))
        commit_us = int(decoded.commits.commit_us[-1])
        total = decoded.transactions
        piece = _whole(changes, done, total, continued, position, commit_us)
        yield replace(piece, barrier=_has_barrier(decoded))


def _whole(
    changes: list[tuple[str, ChangeBatch]],
    first: int,
    last: int,
    continued: bool,
    position: Lsn,
    commit_us: int,
) -> Piece:
    """Transactions first .. last (excluded), renumbered from 0 without the empty ones."""
    used = np.zeros(last - first, np.bool_)
    used[:1] = continued
    for _, batch in changes:
        used[batch.txn_seq - first] = True
    numbers = used.cumsum() - 1
    numbered = tuple(
        (name, replace(batch, txn_seq=numbers[batch.txn_seq - first]))
        for name, batch in changes
        if batch.num_rows
    )
    return Piece(numbered, int(used.sum()), position, commit_us)


def _based(
    changes: list[tuple[str, ChangeBatch]], first: int
) -> tuple[tuple[str, ChangeBatch], ...]:
    return tuple((name, batch.shifted(-first)) for name, batch in changes if batch.num_rows)


def _resumed(decoded: Decoded, resume: Resume, source: str) -> int:
    """The number of the half-published transaction. It is the first that has changes: anything
    else there means that the history is not the one that was half published."""
    found = np.flatnonzero(decoded.commits.lsn == resume.commit_lsn)
    if len(found):
        number = int(decoded.commits.txn[found[0]])
    elif decoded.open is not None and decoded.open.final_lsn == resume.commit_lsn:
        number = decoded.transactions - 1
    else:
        number = -1
    first = min((int(rows.txn[0]) for rows in decoded.rows if len(rows.txn)), default=number)
    if first < number or (number < 0 and first >= 0):
        raise SourceError(
            f"the half-published transaction committed at {Lsn(resume.commit_lsn)} does not come "
            "again",
            hint="the server's history is another one: "
            f"cdc remove {source}, then cdc run takes a new snapshot",
        )
    return number


def _dropped(batch: ChangeBatch, txn: int, changes: int) -> ChangeBatch:
    kept = (batch.txn_seq != txn) | (batch.ordinal >= changes)
    return batch if bool(kept.all()) else batch.take(np.flatnonzero(kept))


def _split(
    changes: list[tuple[str, ChangeBatch]], txn: int, ordinal: int
) -> tuple[list[tuple[str, ChangeBatch]], list[tuple[str, ChangeBatch]]]:
    """The changes before a place, and those at or after it."""
    before, after = [], []
    for name, batch in changes:
        earlier = (batch.txn_seq < txn) | ((batch.txn_seq == txn) & (batch.ordinal < ordinal))
        at = int(earlier.sum())
        before.append((name, batch.slice(0, at)))
        after.append((name, batch.slice(at)))
    return before, after


def _cuts(decoded: Decoded, table_names: Mapping[int, str]) -> Iterator[_Cut]:
    for placed in decoded.controls:
        if isinstance(placed.message, Truncate):
            oids = placed.message.relations
            names = tuple(table_names[oid] for oid in oids if oid in table_names)
            if names:
                yield _Cut(placed.txn, placed.ordinal, placed.ordinal + len(oids), names)


def _commit(decoded: Decoded, txn: int) -> tuple[int, int]:
    """A transaction's commit LSN and time."""
    found = np.flatnonzero(decoded.commits.txn == txn)
    if len(found):
        at = int(found[0])
        return int(decoded.commits.lsn[at]), int(decoded.commits.commit_us[at])
    assert decoded.open is not None
    return decoded.open.final_lsn, decoded.open.commit_us


def _has_barrier(decoded: Decoded) -> bool:
    return any(
        isinstance(placed.message, LogicalMessage) and placed.message.prefix == BARRIER_PREFIX
        for placed in decoded.controls
    )
