"""What a rebuild promises of every store (sinks/rebuild.py), over real stores and a real log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdc.config import Config, StateConfig
from cdc.errors import CheckFailed, Fenced
from cdc.log.api import DeadLetter
from cdc.positions import Vector
from sinks import rebuild, rebuild_compare
from sinks.api import InputChanges, Sink, SinkCut, SinkInput
from sinks.chunks import Limits
from sinks.delivery import deliver
from sinks.locks import hold_lock, is_locked, locked, rebuild_lock
from sinks.part import PART, feed_of, status_file
from sinks.progress import Progress, read_status
from sinks.rebuild import Interrupted, Rebuilt, consumer
from sinks.stores import sink_of
from tests.contract.test_sink import NULL_KEYS, ONE_ROW, TYPED, typed_rows
from tests.sink_feed import (
    ITEMS,
    Row,
    Shop,
    StoreCase,
    batch_of,
    config_for,
    item,
    run_until,
    stored,
    until,
)

pytestmark = pytest.mark.slow

SOURCE = SinkInput("shop.items", "shop.public.items", ITEMS)


@pytest.fixture
def config(tmp_path: Path, store: StoreCase) -> Config:
    return config_for(tmp_path, store, ITEMS)


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS)) as shop:
        yield shop


def rebuilt(
    config: Config,
    shop: Shop,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Mapping[str, Any]], None] = lambda facts: None,
) -> Rebuilt:
    found = PART.rebuild(config, "warehouse", shop.log, stop, tell)
    assert isinstance(found, Rebuilt)
    return found


def by_id(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["id"]))


def damage(
    sink: Sink, upserts: Sequence[dict[str, Any]], deletes: Sequence[dict[str, Any]] = ()
) -> None:
    """Change the store's rows and leave its position."""
    position = sink.open([SOURCE])
    assert position is not None
    later = 2**40
    changes = InputChanges(
        SOURCE,
        batch_of(upserts),
        batch_of(deletes).select(["id"]),
        np.full(len(upserts), later, np.int64),
        np.full(len(deletes), later, np.int64),
    )
    sink.apply(SinkCut((changes,), position), _no_letters)


def _no_letters(letters: Sequence[DeadLetter]) -> None:
    raise AssertionError(letters)


def test_what_was_damaged_is_right_again(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(i, f"n{i}") for i in range(100)]))
    shop.delete("public.items", [item(5)])
    position = shop.put("public.items", [item(7, "new", None), item(200)])
    run_until(config, shop, position)
    before = stored(config)
    with closing(sink_of(config, "warehouse")) as sink:
        damage(sink, [item(-1, "stray"), item(9, "other")], [item(10)])
    assert stored(config) != before
    found = rebuilt(config, shop)
    assert found.rows == {"shop.items": 100} and not found.refused and not found.resumed
    assert stored(config) == before
    run_until(config, shop, shop.put("public.items", [item(9, "later"), item(300)]))
    after = {row["id"]: row for row in before} | {9: item(9, "later"), 300: item(300)}
    assert stored(config) == by_id(list(after.values()))
    assert shop.log.consumers() == ["warehouse"]


@pytest.mark.slow
def test_a_sink_that_never_ran_is_built(config: Config, shop: Shop) -> None:
    position = shop.put("public.items", [item(1), item(2)])
    assert rebuilt(config, shop).rows == {"shop.items": 2}
    assert stored(config) == [item(1), item(2)]
    with closing(sink_of(config, "warehouse")) as sink:
        reached = sink.position()
    assert reached is not None and reached.vector == position


def test_nothing_is_rebuilt_before_there_is_anything(config: Config, shop: Shop) -> None:
    with pytest.raises(CheckFailed, match="no complete data yet"):
        rebuilt(config, shop)


@pytest.mark.parametrize("schema", [TYPED, NULL_KEYS, ONE_ROW], ids=lambda schema: schema.name)
@pytest.mark.slow
def test_all_types_and_keys_compare_equal(store: StoreCase, tmp_path: Path, schema: Any) -> None:
    if schema is TYPED:
        rows = typed_rows()
    elif schema is NULL_KEYS:
        keys = [("x", 1), ("x", None), (None, 1), (None, None), ("", 0)]
        rows = batch_of([{"a": a, "b": b, "n": i} for i, (a, b) in enumerate(keys)], schema)
    else:
        rows = batch_of([{"n": 3}], schema)
    config = config_for(tmp_path, store, schema)
    with closing(Shop(config, schema)) as shop:
        run_until(config, shop, shop.load(schema.name, rows))
        found = rebuilt(config, shop)
        assert sum(found.rows.values()) + found.refused == rows.num_rows


@pytest.mark.slow
def test_while_changes_go_on_nobody_sees_it_empty_or_half(
    config: Config, shop: Shop, store: StoreCase
) -> None:
    """The live sink delivers, a reader polls, and every transaction changes every row."""
    count = 200
    model = {i: item(i, "n0", 0) for i in range(count)}
    run_until(config, shop, shop.put("public.items", list(model.values())))
    stop, failed = threading.Event(), list[BaseException]()
    found: list[Rebuilt] = []
    live = _in_thread(lambda: PART.deliver(config, "warehouse", shop.log, stop.is_set), failed)
    work = _in_thread(lambda: found.append(rebuilt(config, shop)), failed)
    transaction, looks, position = 0, 0, Vector()
    spin = until(lambda: not work.is_alive() and looks > 5, 60)
    while not spin():
        transaction += 1
        model = {i: item(i, f"n{transaction}", transaction) for i in range(count)}
        position = shop.put("public.items", list(model.values()))
        if transaction % 5 == 0:
            rows = stored(config)
            looks += 1
            assert [row["id"] for row in rows] == sorted(range(count), key=str)
            if store.type == "sql":
                assert len({row["amount"] for row in rows}) == 1
    assert not failed and found[0].rows == {"shop.items": count}
    assert live.is_alive()
    file = status_file(config, "warehouse")
    spin = until(lambda: read_status(file)["position"] == str(position), 30)
    while not spin():
        stop.wait(0.01)
    stop.set()
    live.join(30)
    assert not failed and stored(config) == by_id(list(model.values()))


def _in_thread(work: Callable[[], object], failed: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "LIMITS", Limits(rows=100))
    monkeypatch.setattr(rebuild_compare, "PENDING_ROWS_MAX", 100)


def interrupted(config: Config, shop: Shop, rows: int = 300) -> None:
    """A rebuild that is told to stop when it has written so many rows."""
    told: list[int] = []
    with pytest.raises(Interrupted, match="live store is untouched"):
        rebuilt(
            config,
            shop,
            stop=lambda: bool(told) and told[-1] >= rows,
            tell=lambda facts: told.append(facts["rows"]),
        )


def filled(config: Config, shop: Shop) -> list[Any]:
    position = Vector()
    for start in range(0, 1000, 50):
        position = shop.put("public.items", [item(i) for i in range(start, start + 50)])
    run_until(config, shop, position)
    return stored(config)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_interrupted_it_leaves_all_as_it_was_and_is_resumed(config: Config, shop: Shop) -> None:
    before = filled(config, shop)
    interrupted(config, shop)
    assert stored(config) == before
    assert not is_locked(rebuild_lock(config, "warehouse"))
    run_until(config, shop, shop.put("public.items", [item(1, "live goes on")]))
    found = rebuilt(config, shop)
    assert found.resumed and found.changes < 1000
    assert stored(config) == by_id([*(row for row in before if row["id"] != 1), stored_one(config)])


def stored_one(config: Config) -> Any:
    (row,) = (row for row in stored(config) if row["id"] == 1)
    assert row["name"] == "live goes on"
    return row


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_what_differs_is_named_and_not_swapped(config: Config, shop: Shop) -> None:
    before = filled(config, shop)
    interrupted(config, shop)
    with closing(sink_of(config, "warehouse")) as live, closing(live.beside()) as beside:
        damage(beside, [item(-1, "stray"), item(3, "other")], [item(2)])
    with pytest.raises(CheckFailed) as caught:
        rebuilt(config, shop)
    said = str(caught.value)
    assert "1 missing, 1 extra, 1 different of 1,000 rows" in said
    for sample in ("missing [2]", "extra [-1]", "different [3] (name: x expected, other found)"):
        assert sample in said
    assert stored(config) == before
    assert consumer("warehouse") not in shop.log.consumers()
    assert not rebuilt(config, shop).resumed
    assert stored(config) == before


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_a_key_that_the_store_refused_is_left_out(config: Config, shop: Shop) -> None:
    filled(config, shop)
    interrupted(config, shop)
    with closing(sink_of(config, "warehouse")) as live, closing(live.beside()) as beside:
        damage(beside, [], [item(2)])
    shop.log.dead_letter([DeadLetter("warehouse", "here", "too large", b"[2]", b"")])
    found = rebuilt(config, shop)
    assert found.refused == 1 and found.rows == {"shop.items": 999}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_removing_the_sink_forgets_an_interrupted_rebuild(config: Config, shop: Shop) -> None:
    filled(config, shop)
    interrupted(config, shop)
    PART.remove(config, "warehouse")
    with closing(sink_of(config, "warehouse")) as live, closing(live.beside()) as beside:
        assert live.position() is None and beside.position() is None
    assert not rebuilt(config, shop).resumed


def test_a_second_rebuild_is_refused(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    with (
        locked(rebuild_lock(config, "warehouse")),
        pytest.raises(CheckFailed, match="running already"),
    ):
        rebuilt(config, shop)
    assert "rebuild" not in PART.status(config, "warehouse")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_a_second_rebuild_from_elsewhere_fences_the_first(
    config: Config, shop: Shop, tmp_path: Path
) -> None:
    """Its locks are not ours: another machine, or another state path."""
    before = filled(config, shop)
    elsewhere = replace(config, state=StateConfig(tmp_path / "elsewhere"))
    waiting, go_on = threading.Event(), threading.Event()

    def wait_once(facts: Mapping[str, Any]) -> None:
        if facts["rows"] and not waiting.is_set():
            waiting.set()
            assert go_on.wait(30)

    failed: list[BaseException] = []
    first = _in_thread(lambda: rebuilt(config, shop, tell=wait_once), failed)
    assert waiting.wait(30)
    rebuilt(elsewhere, shop)
    go_on.set()
    first.join(30)
    assert isinstance(failed[0], Fenced), failed
    assert stored(config) == before


@pytest.mark.slow
def test_status_tells_of_a_rebuild_that_runs(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    told: list[Any] = []

    def look(_: Mapping[str, Any]) -> None:
        told.append(PART.status(config, "warehouse").get("rebuild", {}))

    rebuilt(config, shop, tell=look)
    assert {facts.get("phase") for facts in told} <= {None, "loading", "comparing", "swapping"}
    assert any(facts.get("phase") for facts in told)
    assert "rebuild" not in PART.status(config, "warehouse")


@pytest.mark.slow
def test_a_running_sink_holds_still_when_asked(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    hold = hold_lock(config, "warehouse")
    progress = Progress("warehouse", shop.log, config.state.path / "p.json", record_every_s=0)
    asked: list[bool] = []

    def held() -> bool:
        asked.append(is_locked(hold))
        return asked[-1]

    stop, failed = threading.Event(), list[BaseException]()

    def work() -> None:
        with closing(sink_of(config, "warehouse")) as sink:
            deliver(sink, feed_of(config, "warehouse"), shop.log, stop.is_set, progress, hold=held)

    with locked(hold):
        thread = _in_thread(work, failed)
        position = shop.put("public.items", [item(2)])
        spin = until(lambda: len(asked) > 10)
        while not spin():
            stop.wait(0.01)
        assert stored(config) == [item(1)]
    spin = until(lambda: progress.position is not None and progress.position.vector == position)
    while not spin():
        stop.wait(0.01)
    stop.set()
    thread.join(30)
    assert not failed and stored(config) == [item(1), item(2)]
