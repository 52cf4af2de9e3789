"""The slot's rules (SEMANTICS 9), without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.positions import Lsn
from cdc.postgres.slot import Slot, verdict

GOOD = Slot("s", "pgoutput", "shop", None, Lsn(100), "reserved", None)


@pytest.mark.parametrize("frontier", [100, 101, 10**6])
def test_a_slot_at_or_behind_the_frontier_goes_on(frontier: int) -> None:
    assert verdict(GOOD, "s", "shop", Lsn(frontier), "crm") is None


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (None, "gone"),
        (replace(GOOD, confirmed=Lsn(201)), "ahead of the log's frontier"),
        (replace(GOOD, plugin="test_decoding"), "belongs to"),
        (replace(GOOD, database="other"), "belongs to"),
        (replace(GOOD, wal_status="lost"), "invalidated"),
        (replace(GOOD, invalidation="idle_timeout"), "idle_timeout"),
    ],
)
def test_any_other_stops_with_a_remedy(slot: Slot | None, words: str) -> None:
    error = verdict(slot, "s", "shop", Lsn(200), "crm")
    assert error is not None
    assert words in error.what
    assert "cdc remove crm" in error.hint or "`slot:`" in error.hint
