"""Pieces and change batches as they are appended: numbered, and not in needlessly many parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cdc.changes import ChangeBatch, concat
from cdc.source import Piece

SMALL_BATCH_ROWS = 8192


def merged(group: Sequence[Piece]) -> list[Piece]:
    """A snapshot's waiting pieces as one append: each costs a disk sync."""
    if any(piece.truncated for piece in group):
        return list(group)
    parts = [piece for piece in group if not piece.whole]
    rest = [piece for piece in group if piece.whole]
    if not parts:
        return rest
    changes = tuple(change for piece in parts for change in piece.changes)
    return [replace(parts[-1], changes=changes), *rest]


def placed(changes: ChangeBatch, base: int, shift: int) -> ChangeBatch:
    """With the log's transaction numbers; `shift` is for the first transaction only."""
    placed = changes.shifted(base)
    if not shift:
        return placed
    first = changes.txn_seq == 0
    return replace(placed, ordinal=placed.ordinal + shift * first)


def joined(batches: Mapping[str, Sequence[ChangeBatch]]) -> list[tuple[str, ChangeBatch]]:
    """Neighbouring small batches of a topic and a schema as one: each has a fixed cost."""
    found: list[tuple[str, ChangeBatch]] = []
    for topic, parts in batches.items():
        held: list[ChangeBatch] = []
        for part in parts:
            small = held and part.schema is held[0].schema
            if held and not (small and sum(h.num_rows for h in held) < SMALL_BATCH_ROWS):
                found.append((topic, concat(held)))
                held = []
            held.append(part)
        if held:
            found.append((topic, concat(held)))
    return found
