"""Changes of many transactions → pieces. Pure: no connection, no clock.

What a source has decoded either ends with a commit, then it is whole transactions (the first may
have begun in earlier pieces), or it is a part of one transaction. It is cut further only at
TRUNCATE, which is a piece of its own. Transactions without changes get no number. A restart drops
what was already appended of a large transaction: `Resume` names it and counts its changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cdc.changes import ChangeBatch
from cdc.errors import SourceError
from cdc.positions import NativePosition
from cdc.source import Piece

Changes = Sequence[tuple[str, ChangeBatch]]
"""By table name, in order per table; txn_seq counts the list's transactions from 0."""


@dataclass(frozen=True)
class Resume:
    """A half-published transaction, by its name in the source's history, and how many of its
    changes are in the log."""

    transaction: str
    changes: int

    def to_json(self) -> dict[str, Any]:
        return {"transaction": self.transaction, "changes": self.changes}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Resume | None:
        if "transaction" not in body:
            return None
        return cls(str(body["transaction"]), int(body["changes"]))


class Transactions(Protocol):
    """The transactions of a list, numbered from 0; the last may be open at its end."""

    @property
    def ended(self) -> int:
        """How many end in the list."""
        ...

    @property
    def open_ordinal(self) -> int | None:
        """The ordinal of the next change of the transaction that is open at the end; None: none
        is open."""
        ...

    def position(self, number: int) -> NativePosition:
        """Everything up to the end of transaction `number`, which ends in the list."""
        ...

    def commit_us(self, number: int) -> int: ...

    def name(self, number: int) -> str:
        """What names the transaction in the source's history, for `Resume`."""
        ...

    def find(self, name: str) -> int:
        """The number of the transaction of that name; -1: it is not in the list."""
        ...


@dataclass(frozen=True)
class Truncation:
    """A TRUNCATE: its transaction, its place there, the ordinal after it, its tables."""

    txn: int
    ordinal: int
    after: int
    tables: tuple[str, ...]


def pieces_of(
    changes: Changes,
    truncations: Sequence[Truncation],
    transactions: Transactions,
    continued: bool,
    position: NativePosition,
    resume: Resume | None,
    source: str,
) -> Iterator[Piece]:
    """The pieces of one list. `continued`: its first transaction began before it (some of its
    changes are appended). `position` is that of the last whole piece, `resume` what to drop,
    `source` the source's name, for errors."""
    drop_txn = -1
    if resume is not None:
        drop_txn = _resumed(changes, transactions, resume, source)
        changes = [(name, _dropped(batch, drop_txn, resume.changes)) for name, batch in changes]
        truncations = [
            cut for cut in truncations if cut.txn != drop_txn or cut.ordinal >= resume.changes
        ]
    done = 0
    continued = continued or drop_txn == 0
    for cut in truncations:
        before, changes = _split(changes, cut.txn, cut.ordinal)
        whole, part = _split(before, cut.txn, -1)
        if cut.txn > done:
            position = transactions.position(cut.txn - 1)
            commit_us = transactions.commit_us(cut.txn - 1)
            yield _whole(whole, done, cut.txn, continued, position, commit_us)
            done, continued = cut.txn, False
        name, commit_us = transactions.name(cut.txn), transactions.commit_us(cut.txn)
        here = Resume(name, cut.ordinal).to_json()
        if any(batch.num_rows for _, batch in part):
            yield Piece(_based(part, done), 0, position, commit_us, False, here)
        after = Resume(name, cut.after).to_json()
        yield Piece(
            (), 0, position, commit_us, False, after, truncated=cut.tables, ordinal=cut.ordinal
        )
        continued = True
    if transactions.open_ordinal is not None:
        last = transactions.ended
        if not truncations or any(batch.num_rows for _, batch in changes):
            here = Resume(transactions.name(last), transactions.open_ordinal).to_json()
            commit_us = transactions.commit_us(last)
            yield Piece(_based(changes, done), 0, position, commit_us, False, here)
    elif transactions.ended:
        last = transactions.ended - 1
        position, commit_us = transactions.position(last), transactions.commit_us(last)
        yield _whole(changes, done, last + 1, continued, position, commit_us)


def _whole(
    changes: Changes,
    first: int,
    last: int,
    continued: bool,
    position: NativePosition,
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


def _based(changes: Changes, first: int) -> tuple[tuple[str, ChangeBatch], ...]:
    return tuple((name, batch.shifted(-first)) for name, batch in changes if batch.num_rows)


def _resumed(changes: Changes, transactions: Transactions, resume: Resume, source: str) -> int:
    """The number of the half-published transaction. It is the first that has changes: anything
    else there means that the history is not the one that was half published."""
    number = transactions.find(resume.transaction)
    first = min((int(batch.txn_seq[0]) for _, batch in changes if batch.num_rows), default=number)
    if first < number or (number < 0 and first >= 0):
        raise SourceError(
            f"the half-published transaction {resume.transaction} does not come again",
            hint="the server's history is another one: "
            f"cdc remove {source}, then cdc run takes a new snapshot",
        )
    return number


def _dropped(batch: ChangeBatch, txn: int, changes: int) -> ChangeBatch:
    kept = (batch.txn_seq != txn) | (batch.ordinal >= changes)
    return batch if bool(kept.all()) else batch.take(np.flatnonzero(kept))


def _split(changes: Changes, txn: int, ordinal: int) -> tuple[Changes, Changes]:
    """The changes before a place, and those at or after it."""
    before, after = [], []
    for name, batch in changes:
        earlier = (batch.txn_seq < txn) | ((batch.txn_seq == txn) & (batch.ordinal < ordinal))
        at = int(earlier.sum())
        before.append((name, batch.slice(0, at)))
        after.append((name, batch.slice(at)))
    return before, after
