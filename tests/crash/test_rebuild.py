"""A rebuild killed by SIGKILL at every named point, while the live sink's process goes on.

Afterwards the live store is what it was or what was rebuilt, never something between; the sink's
process has not stopped; and the next rebuild, which resumes or begins anew, ends well.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from cdc.config import Config
from sinks.part import PART
from tests.crash.test_sink import (
    DEADLINE_S,
    ROOT,
    assert_no_half_cut,
    assert_whole,
    at,
    config_over,
    start_sink,
    transaction,
    wait,
)
from tests.fix_sinks import store_case
from tests.services.forked import Forked
from tests.sink_feed import ITEMS, SUMS, Shop

pytestmark = pytest.mark.crash

# Before and after a write it is what every delivery is: tests/crash/test_sink.py.
COMMON = ["sink.after_write", "rebuild.after_load", "rebuild.before_swap", "rebuild.after_swap"]
SWAPPING = {
    "duckdb": ["sink.mid_swap", "sink.after_swap"],
    "sqlite": ["sink.mid_swap", "sink.after_swap"],
    "postgres": ["sink.mid_swap", "sink.after_swap"],
    "elasticsearch": ["sink.mid_swap", "sink.after_swap"],
    "redis": ["redis.swap_begun", "redis.swap_marked", "redis.swap_renamed", "redis.swap_removed"],
}
CASES = [(kind, point) for kind, more in SWAPPING.items() for point in COMMON + more]

# argv: a pickled Config
REBUILD_PROCESS = """
import pickle, sys
from pathlib import Path
from cdc.log.open import open_log
from sinks.part import PART

config = pickle.loads(Path(sys.argv[1]).read_bytes())
PART.rebuild(config, "warehouse", open_log(config.log), lambda: False, lambda facts: None)
"""


@pytest.fixture
def config(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return config_over(tmp_path, store_case(kind, request))


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        yield shop


def start_rebuild(config: Config, fault: str = "") -> subprocess.Popen[bytes]:
    file = config.file.parent / "rebuild.pickle"
    file.write_bytes(pickle.dumps(config))
    return Forked(
        ["-c", REBUILD_PROCESS, str(file)],
        cwd=ROOT,
        env={**os.environ, "CDC_FAULT": fault},
    )


def finished(shop: Shop, rebuild: subprocess.Popen[bytes]) -> bool:
    """Whether the rebuild has ended; else changes go on."""
    if rebuild.poll() is None:
        transaction(shop, shop.txn + 1)
    return rebuild.poll() is not None


@pytest.mark.parametrize(("kind", "point"), CASES)
def test_killed_while_the_sink_runs(config: Config, shop: Shop, point: str) -> None:
    for _ in range(50):
        position = transaction(shop, shop.txn + 1)
    live = start_sink(config)
    try:
        wait(lambda: at(config, position))
        victim = start_rebuild(config, point)
        wait(partial(finished, shop, victim))
        assert victim.wait() == -signal.SIGKILL
        assert_no_half_cut(config)
        position = transaction(shop, shop.txn + 1)
        wait(lambda: at(config, position))
        assert_whole(config, shop)

        again = start_rebuild(config)
        wait(partial(finished, shop, again))
        assert again.wait() == 0
        position = transaction(shop, shop.txn + 1)
        wait(lambda: at(config, position))
        assert_whole(config, shop)
        assert shop.log.consumers() == ["warehouse"]
        assert not PART.status(config, "warehouse")["error"]
    finally:
        live.send_signal(signal.SIGTERM)
        assert live.wait(DEADLINE_S) == 0
