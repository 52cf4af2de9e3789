"""Readers of topics that a real broker compacts while they read, and whose tombstones it removes.

The broker's cleaner runs all the time here; topics keep what is superseded for a second, and
tombstones hardly longer. So whoever sleeps, or reads slowly, misses something; what must hold is
that they notice (SEMANTICS 15).
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.changes import C, ChangeBatch, D, U
from cdc.config import Config, LogConfig
from cdc.cuts import Cut, CutReader, DeletesGone
from cdc.log.api import Reader
from cdc.log.kafka import KafkaLog
from cdc.log.kafka_client import Broker
from cdc.log.kafka_producer import KafkaProducer
from cdc.positions import Vector
from sinks.delivery import deliver
from sinks.part import feed_of, status_file
from sinks.progress import Progress
from sinks.stores import sink_of
from tests.fix_log import SPEC, TOPIC, changes, frontier, ids_of, kafka_config, notes_by_id
from tests.services.kafka import start_kafka
from tests.sink_feed import ITEMS, Shop, config_of, item, run_until, stored
from tests.views.group import Group, Watcher
from tests.views.group import Shop as Tables
from tests.views.group import config_of as config_of_views
from tests.views.model import TABLES

pytestmark = [pytest.mark.service, pytest.mark.xdist_group("kafka")]

DEADLINE_S = 60.0
LAG_S = 1.0
RETENTION_S = 1.0
KEPT = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.0001",
    "segment.ms": "100",
    "min.compaction.lag.ms": str(int(LAG_S * 1000)),
}
FILLER = 1000


@pytest.fixture(scope="module")
def busy_cleaner() -> Iterator[str]:
    """The address of a broker that looks for something to clean ten times a second."""
    folder = Path(tempfile.mkdtemp(prefix="cdc-kafka-"))
    try:
        broker = start_kafka(folder, {"log.cleaner.backoff.ms": "100"}, quick=True)
        try:
            yield broker.bootstrap
        finally:
            broker.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def config(busy_cleaner: str, tmp_path: Path) -> LogConfig:
    """A file whose day of lag and retention the topics do not have."""
    return kafka_config(busy_cleaner, tmp_path / "log")


def make(config: LogConfig, topic: str, retention_s: float = RETENTION_S) -> None:
    """A topic that somebody else has set up."""
    kept = {**KEPT, "delete.retention.ms": str(int(retention_s * 1000))}
    Broker(config).create(topic, 1, kept)


class Table:
    """The table `orders`: its writer, and what it held at each transaction."""

    def __init__(self, config: LogConfig) -> None:
        self.producer: KafkaProducer = KafkaLog(config).producer("shop")
        self.producer.create_topics([SPEC])
        self.rows: dict[int, str] = {}
        self.history: list[dict[int, str]] = [{}]

    def commit(self, *parts: ChangeBatch) -> None:
        for part in parts:
            for op, key, note in zip(
                part.op.tolist(),
                part.rows.column("id").to_pylist(),
                part.rows.column("note").to_pylist(),
                strict=True,
            ):
                self.rows.pop(key, None)
                if op != D:
                    self.rows[key] = note
        number = len(self.history)
        self.history.append(dict(self.rows))
        self.producer.append([(TOPIC, part) for part in parts], [frontier(number)])

    def put(self, ids: range, note: str) -> None:
        self.commit(changes(ids, op=C, note=note, txn_seq=len(self.history)))

    def delete(self, ids: range) -> None:
        self.commit(changes(ids, op=D, txn_seq=len(self.history)))

    def fill(self) -> None:
        """Something behind the others: only what is not at the end is cleaned."""
        self.put(range(FILLER, FILLER + 1), f"v{len(self.history)}")


@pytest.fixture
def table(config: LogConfig, request: pytest.FixtureRequest) -> Iterator[Table]:
    """Parametrised: how long tombstones are kept, in seconds."""
    make(config, TOPIC, request.param)
    made = Table(config)
    yield made
    made.producer.close()


def until(holds: Callable[[], bool], do: Callable[[], None]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "the broker did not clean in time"
        do()


def is_gone(reader: Reader, topic: str, keys: set[int], end: int | None = None) -> bool:
    """Whether nothing of these keys is left below `end`, not even that they were deleted."""
    (last,) = reader.end_offsets(topic)
    found = {
        key
        for batch in reader.read(topic, 0, 0, last if end is None else end)
        for key in batch.changes.rows.column("id").to_pylist()
    }
    return not found & keys


def read(cut: Cut, rows: dict[int, str], pause: Callable[[], None] = lambda: None) -> None:
    """Apply a cut; `pause` half-way."""
    batches = cut.batches(TOPIC, max_rows=100)
    for number, batch in enumerate(batches):
        if number == 1:
            pause()
        for key in ids_of([batch]):
            rows.pop(key, None)
        rows.update(notes_by_id([batch]))


def next_of(cuts: CutReader) -> Cut:
    cut = cuts.next_cut(DEADLINE_S)
    assert cut is not None
    return cut


@pytest.mark.parametrize("table", [60.0], indirect=True)
def test_replays_while_the_cleaner_runs(config: LogConfig, table: Table) -> None:
    """The cleaner takes what a replay has still to read: it ends with a younger cut, exactly."""
    for number in range(3):
        table.put(range(400), f"v{number}")
    table.delete(range(50))
    with closing(KafkaLog(config).reader()) as reader, closing(KafkaLog(config).reader()) as other:
        for number in range(2):
            cuts = CutReader(reader, {"shop": [TOPIC]})
            rows: dict[int, str] = {}
            held = 0
            cut = next_of(cuts)
            read(cut, rows, lambda: supersede(table, other, number))  # noqa: B023
            while not cuts.exact(cut):
                held += 1
                table.fill()
                cut = next_of(cuts)
                read(cut, rows)
            assert held, "the cut had lost records"
            assert rows == table.history[cut.frontiers["shop"].txn_seq]
        last = CutReader(reader, {"shop": [TOPIC]})
        cut, rows = next_of(last), {}
        read(cut, rows)
        assert last.exact(cut) and rows == table.rows


def supersede(table: Table, reader: Reader, number: int) -> None:
    """Change and delete rows that stand in the topic, until the cleaner has taken the old ones."""
    (end,) = reader.end_offsets(TOPIC)

    table.put(range(100, 400), f"w{number}")
    table.delete(range(50 + number, 60 + number))
    until(lambda: is_gone(reader, TOPIC, {300, 55}, end), table.fill)


@pytest.mark.parametrize("table", [RETENTION_S], indirect=True)
def test_a_reader_that_sleeps_through_a_tombstone(config: LogConfig, table: Table) -> None:
    table.put(range(20), "v")
    with closing(KafkaLog(config).reader()) as reader, closing(KafkaLog(config).reader()) as other:
        cuts = CutReader(reader, {"shop": [TOPIC]})
        cut = next_of(cuts)
        rows: dict[int, str] = {}
        read(cut, rows)
        assert cuts.exact(cut) and rows == table.rows

        table.delete(range(5))
        until(lambda: is_gone(other, TOPIC, set(range(5))), table.fill)
        late = next_of(cuts)
        read(late, rows)
        assert rows.keys() - table.rows.keys() == set(range(5)), "it cannot know"
        with pytest.raises(DeletesGone):
            cuts.exact(late)


@pytest.fixture
def items(config: LogConfig, tmp_path: Path) -> Iterator[tuple[Config, Shop]]:
    make(config, "shop.public.items")
    whole = replace(config_of(tmp_path, "duckdb:///s.duckdb", ["shop.items"]), log=config)
    with closing(Shop(whole, ITEMS)) as shop:
        yield whole, shop


def forget(config: Config, shop: Shop, keys: range) -> None:
    """Delete rows, and wait until nothing tells of them any more."""
    shop.delete("public.items", [item(key) for key in keys])
    with closing(shop.log.reader()) as reader:
        until(
            lambda: is_gone(reader, "shop.public.items", set(keys)),
            lambda: (shop.put("public.items", [item(FILLER, str(shop.txn))]), None)[1],
        )


def test_a_sink_that_was_away(items: tuple[Config, Shop]) -> None:
    """Stopped while tombstones came and went; then while it stood between two cuts."""
    config, shop = items
    run_until(config, shop, shop.put("public.items", [item(n) for n in range(30)]))
    forget(config, shop, range(5))
    run_until(config, shop, shop.put("public.items", [item(40)]))
    assert {row["id"] for row in stored(config)} == {*range(5, 30), 40, FILLER}

    held = False
    progress = Progress("warehouse", shop.log, status_file(config, "warehouse"), record_every_s=0)

    def hold() -> bool:
        """Once it has come so far, the sink is kept from its store while deletes vanish."""
        nonlocal held
        if not held and progress.position is not None:
            held = True
            forget(config, shop, range(5, 10))
        return False

    def stop() -> bool:
        reached = progress.position
        return held and reached is not None and reached.vector.covers(newest_of(shop))

    with closing(sink_of(config, "warehouse")) as sink:
        deliver(sink, feed_of(config, "warehouse"), shop.log, stop, progress, hold=hold)
    assert {row["id"] for row in stored(config)} == {*range(10, 30), 40, FILLER}


def newest_of(shop: Shop) -> Vector:
    with closing(shop.log.reader()) as reader:
        newest = reader.newest_frontier("shop")
    assert newest is not None
    return newest.positions


def forget_rows(config: Config, shop: Tables, keys: range) -> None:
    """As `forget`, in all tables."""
    shop.apply({topic: [(D, {"id": key}) for key in keys] for topic in TABLES})
    filler = {topic: [(U, {"id": FILLER, "name": str(shop.position)})] for topic in TABLES}
    with closing(KafkaLog(config.log).reader()) as reader:
        until(
            lambda: all(is_gone(reader, topic, set(keys)) for topic in TABLES),
            lambda: shop.apply(filler),
        )


def test_a_maintainer_that_was_away(config: LogConfig, tmp_path: Path) -> None:
    """Asleep, and then dead, while tombstones came and went."""
    for topic in TABLES:
        make(config, topic)
    whole = replace(config_of_views(tmp_path), log=config)
    with closing(Tables(whole, seed=3)) as shop, closing(Watcher(whole)) as watcher:
        shop.commit(150)
        group = Group(tmp_path, log=config)
        try:
            watcher.wait_until(shop.position, group)
            group.signal(signal.SIGSTOP)
            forget_rows(whole, shop, range(10))
            group.signal(signal.SIGCONT)
            watcher.wait_until(shop.position, group)
            watcher.check(shop.tables)
        finally:
            group.signal(signal.SIGCONT)
            group.kill()
        forget_rows(whole, shop, range(10, 20))
        group = Group(tmp_path, log=config)
        try:
            watcher.wait_until(shop.position, group)
            watcher.check(shop.tables)
        finally:
            group.stop()
