"""Decoded pgoutput → pieces: what a list of payloads means to cdc/transaction_pieces.py.

A transaction is named by the LSN of its commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cdc.changes import ChangeBatch
from cdc.positions import Lsn
from cdc.postgres.messages import LogicalMessage, Truncate
from cdc.postgres.pgoutput import Decoded, Open
from cdc.postgres.rows import TableRows
from cdc.source import Piece
from cdc.transaction_pieces import Resume, Truncation
from cdc.transaction_pieces import pieces_of as pieces_of_transactions

BARRIER_PREFIX = "cdc"

ToChanges = Callable[[TableRows], ChangeBatch]
"""Rows with nothing missing; txn_seq counts as in TableRows.txn."""


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
    truncations = list(_truncations(decoded, table_names))
    transactions = _Transactions(decoded)
    for piece in pieces_of_transactions(
        changes, truncations, transactions, began is not None, position, resume, source
    ):
        last = piece.whole and piece.position == Lsn(int(decoded.commits.end_lsn[-1]))
        yield replace(piece, barrier=last and _has_barrier(decoded))


@dataclass(frozen=True)
class _Transactions:
    """See cdc.transaction_pieces.Transactions."""

    decoded: Decoded

    @property
    def ended(self) -> int:
        return self.decoded.transactions - (self.decoded.open is not None)

    @property
    def open_ordinal(self) -> int | None:
        return None if self.decoded.open is None else self.decoded.open.next_ordinal

    def position(self, number: int) -> Lsn:
        return Lsn(int(self.decoded.commits.end_lsn[number]))

    def commit_us(self, number: int) -> int:
        if number < self.ended:
            return int(self.decoded.commits.commit_us[number])
        assert self.decoded.open is not None
        return self.decoded.open.commit_us

    def name(self, number: int) -> str:
        if number < self.ended:
            return str(Lsn(int(self.decoded.commits.lsn[number])))
        assert self.decoded.open is not None
        return str(Lsn(self.decoded.open.final_lsn))

    def find(self, name: str) -> int:
        lsn = Lsn.parse(name).value
        found = np.flatnonzero(self.decoded.commits.lsn == lsn)
        if len(found):
            return int(found[0])
        still_open = self.decoded.open
        return self.ended if still_open is not None and still_open.final_lsn == lsn else -1


def _truncations(decoded: Decoded, table_names: Mapping[int, str]) -> Iterator[Truncation]:
    for placed in decoded.controls:
        if isinstance(placed.message, Truncate):
            oids = placed.message.relations
            names = tuple(table_names[oid] for oid in oids if oid in table_names)
            if names:
                yield Truncation(placed.txn, placed.ordinal, placed.ordinal + len(oids), names)


def _has_barrier(decoded: Decoded) -> bool:
    return any(
        isinstance(placed.message, LogicalMessage) and placed.message.prefix == BARRIER_PREFIX
        for placed in decoded.controls
    )
