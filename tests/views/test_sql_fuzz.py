"""Random views and transactions equal Postgres, at every step, through recoveries (SEMANTICS 20).

A seed that fails is run again, alone, by `python -m tests.views.sql_fuzz URL SEED 1 HASH_BITS`, one
over the log by `python -m tests.views.log_fuzz URL SEED 1`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.views import log_fuzz
from tests.views.sql_fuzz import connected, run_seed

pytestmark = pytest.mark.service

SEEDS = 40
LOG_SEEDS = 10


@pytest.mark.parametrize("hash_bits", [64, 4])
def test_views_equal_their_select_on_postgres(
    pg_database: str, tmp_path: Path, hash_bits: int
) -> None:
    seen: Counter[str] = Counter()
    with connected(pg_database) as connection:
        for seed in range(SEEDS):
            run_seed(connection, seed, hash_bits, tmp_path / str(seed), seen)
    assert seen["views"] > 2 * SEEDS
    assert not any(what.startswith("only Postgres") for what in seen), seen


def test_views_equal_their_select_over_a_log_that_is_compacted_at_any_time(
    pg_database: str, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()
    with connected(pg_database) as connection:
        for seed in range(LOG_SEEDS):
            log_fuzz.run_seed(connection, seed, tmp_path / str(seed), seen)
    assert seen["compactions"] > LOG_SEEDS
    assert seen["states lost"] > 0
