"""Programs that read the stores while they are written, as any other program would.

WarehouseReader   polls the DuckDB file: never empty, never half a transaction
CacheReader       polls Redis: how long after its commit is an order there? is the leaderboard
                  always whole?
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import redis

from demo.workload import Workload

PRODUCTS = 2000
LEADERBOARD = "bestsellers"
GIVE_UP_S = 10.0


@contextmanager
def polled(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """`look` is called in a thread of its own, again and again; its error is raised at the end."""
    ended, errors = threading.Event(), list[Exception]()

    def loop() -> None:
        try:
            while not ended.wait(every_s):
                look()
        except Exception as error:  # raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:
        raise errors[0]


class WarehouseReader:
    """Opens the file whenever no write is under way. Each read compares two views over different
    tables, whose totals agree after every transaction and in the middle of none."""

    QUERY = """
        SELECT (SELECT sum(revenue) FROM sales_by_country),
               (SELECT sum(revenue) FROM sales_by_product),
               (SELECT epoch(max(placed_at)) FROM order_search)
    """

    def __init__(self, warehouse: Path) -> None:
        self.reads = self.busy = self.torn = 0
        self.age_s: list[float] = []
        self._warehouse = warehouse

    def look(self) -> None:
        try:
            with duckdb.connect(str(self._warehouse), read_only=True) as store:
                seen_at_s = time.time()
                row = store.execute(self.QUERY).fetchone()
        except duckdb.IOException:
            self.busy += 1  # a write is under way; DuckDB lets one or the other in
            return
        assert row is not None
        self.reads += 1
        if row[0] is None or row[0] != row[1]:
            self.torn += 1
        else:
            self.age_s.append(seen_at_s - row[2])


class CacheReader:
    """Waits for each newly placed order to appear in the cache. The leaderboard has every product,
    at any moment."""

    def __init__(self, url: str, workload: Workload) -> None:
        self.reads = self.torn = 0
        self.delay_s: list[float] = []
        self._redis = redis.Redis.from_url(url)
        self._workload = workload
        self._seen, _ = workload.newest

    def look(self) -> None:
        order, committed_s = self._workload.newest
        if order == self._seen:
            return
        self._seen = order
        found = False  # for long only when it was cancelled at once
        while not found and time.monotonic() < committed_s + GIVE_UP_S:
            both = self._redis.pipeline()
            both.exists(f"order:{order}")
            both.zcard(LEADERBOARD)
            found, members = both.execute()
            self.reads += 1
            self.torn += members != PRODUCTS
            if found:
                self.delay_s.append(time.monotonic() - committed_s)
            time.sleep(0.001)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all lies. Raises SystemExit when there is none."""
    if not values:
        raise SystemExit("a reader could not read once")
    return sorted(values)[int(len(values) * share)]
