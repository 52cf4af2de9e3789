"""The end of a snapshot whose read views lie between two positions (read_views.py, way 3).

Its rows have everything up to `low`, and some of what came after. So the changes from `low` up to
`high` are published behind them, as further changes of the snapshot's one transaction: applied in
order, those that a row has already make no difference to the last row of its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cdc.errors import SnapshotNeeded, SourceUnavailable
from cdc.positions import NativePosition
from cdc.source import Piece


def caught_up(stream: Iterator[Piece], high: NativePosition, next_ordinal: int) -> Iterator[Piece]:
    """The stream's changes as parts of the snapshot, until `high` is covered; the last piece is
    empty and has the position reached. `next_ordinal` follows the snapshot's rows."""
    for piece in _begun_again(stream):
        if piece.truncated or piece.schemas:
            raise SourceUnavailable(
                "a table was altered or emptied while it was read",
                where=", ".join((*piece.truncated, *piece.schemas)),
                hint=_AGAIN,
            )
        if piece.num_rows:
            yield _appended(piece, next_ordinal)
            next_ordinal += piece.num_rows
        if piece.whole and piece.position.covers(high):
            yield Piece((), 0, piece.position, 0, whole=False)
            return


def _begun_again(stream: Iterator[Piece]) -> Iterator[Piece]:
    """Where the stream needs a snapshot, it is this one that does not do."""
    try:
        yield from stream
    except SnapshotNeeded as change:
        raise SourceUnavailable(change.what, where=change.where, hint=_AGAIN) from change


_AGAIN = "the snapshot is begun again: nothing of it counts yet"


def _appended(piece: Piece, first: int) -> Piece:
    """The changes numbered on from `first`, in the order of all tables together."""
    txn = np.concatenate([batch.txn_seq for _, batch in piece.changes])
    ordinal = np.concatenate([batch.ordinal for _, batch in piece.changes])
    numbers = np.empty(len(txn), np.int64)
    numbers[np.lexsort((ordinal, txn))] = np.arange(first, first + len(txn))
    ends = np.cumsum([batch.num_rows for _, batch in piece.changes])
    parts = np.split(numbers, ends[:-1])
    changes = tuple(
        (name, replace(batch, txn_seq=np.zeros(batch.num_rows, np.int64), ordinal=part))
        for (name, batch), part in zip(piece.changes, parts, strict=True)
    )
    return replace(piece, changes=changes, transactions=0, whole=False, resume={})
