"""A group in this process: resuming, reloading, editing; what the log and people see of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.errors import Fenced, ViewError
from cdc.log.api import Producer
from cdc.log.embedded_reader import EmbeddedReader
from cdc.log.open import open_log
from compaction.part import compact_log
from tests.views.group import VIEWS, Shop, Watcher, config_of
from tests.views.model import Views
from views.maintainer import maintain
from views.status import read_status


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    source = Shop(config_of(tmp_path), seed=7)
    yield source
    source.close()


def run_until(home: Path, position: int, views: Views = VIEWS, interval_s: float = 1000) -> Watcher:
    """Maintain the group until every view reflects the position; the caller closes the watcher."""
    config = config_of(home, views, interval_s)
    log, watcher = open_log(config.log), Watcher(config, views)
    maintain(config, "main", log, lambda: watcher.is_at(position))
    log.close()
    return watcher


def records(watcher: Watcher, views: Views = VIEWS) -> dict[str, int]:
    return {name: watcher.count(f"view.{name}") for name in views}


def test_resuming_goes_on_where_it_stopped(tmp_path: Path, shop: Shop) -> None:
    for count in (30, 5, 0, 40):
        shop.commit(count)
        watcher = run_until(tmp_path, shop.position)
        watcher.check(shop.tables)
        watcher.close()


def test_lost_state_is_rebuilt_and_only_differences_are_published(
    tmp_path: Path, shop: Shop
) -> None:
    shop.commit(60)
    before = records(run_until(tmp_path, shop.position))
    shutil.rmtree(tmp_path / "state")
    shop.commit(0)
    watcher = run_until(tmp_path, shop.position)
    assert records(watcher) == before
    shutil.rmtree(tmp_path / "state")
    shop.commit(10)
    compact_log(config_of(tmp_path).log, list(shop.tables))
    watcher = run_until(tmp_path, shop.position)
    watcher.check(shop.tables)


def test_an_edited_view_publishes_the_difference(tmp_path: Path, shop: Shop) -> None:
    shop.commit(80)
    old: Views = {"few": "SELECT id, v FROM shop.a WHERE v > 2"}
    new: Views = {"few": "SELECT id, v FROM shop.a WHERE v > 1"}
    first = records(run_until(tmp_path, shop.position, old), old)
    shop.commit(0)
    watcher = run_until(tmp_path, shop.position, new)
    watcher.check(shop.tables)
    added = sum(row["v"] == 2 for row in shop.tables["shop.public.a"].values())
    assert records(watcher, new)["few"] == first["few"] + added


def test_an_edit_that_changes_the_key_is_refused(tmp_path: Path, shop: Shop) -> None:
    shop.commit(10)
    run_until(tmp_path, shop.position, {"few": "SELECT id, v FROM shop.a"})
    shop.commit(0)
    with pytest.raises(ViewError, match="key") as refused:
        run_until(tmp_path, shop.position, {"few": "SELECT DISTINCT v FROM shop.a"})
    assert "cdc remove few" in refused.value.hint


def test_a_successor_fences_a_group_that_still_runs(tmp_path: Path, shop: Shop) -> None:
    shop.commit(10)
    config = config_of(tmp_path)
    log, successor = open_log(config.log), open_log(config.log)
    watcher = Watcher(config)
    taken: list[Producer] = []

    def stop() -> bool:
        if watcher.is_at(shop.position) and not taken:
            taken.append(successor.producer("view.main"))
            shop.commit(1)
        return False

    with pytest.raises(Fenced):
        maintain(config, "main", log, stop)
    watcher.close()


def test_status_and_positions_say_where_it_stands(tmp_path: Path, shop: Shop) -> None:
    shop.commit(30)
    config = config_of(tmp_path)
    run_until(tmp_path, shop.position).close()
    facts = read_status(config.state.path, "main")
    assert facts["state"] == "running"
    assert facts["views"]["grouped"]["position"] == f"shop@0/{shop.position:X}"
    log = open_log(config.log)
    assert log.positions("view.main").keys() == {(topic, 0) for topic in shop.tables}
    assert log.floors().keys() == {"view.main"}


def _is_waiting(state: Path) -> bool:
    return read_status(state, "main").get("waiting_for", "") != ""


def test_nothing_is_published_before_every_table_is_complete(tmp_path: Path, shop: Shop) -> None:
    shop.commit(30, incomplete=("public.b",))
    config = config_of(tmp_path)
    log, watcher = open_log(config.log), Watcher(config)
    maintain(config, "main", log, lambda: _is_waiting(config.state.path))
    assert set(records(watcher).values()) == {0}
    assert "shop.public.b" in str(read_status(config.state.path, "main"))
    shop.commit(5)
    run_until(tmp_path, shop.position).check(shop.tables)


def test_tables_that_appear_while_views_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source makes its topics and says so behind the look at what there is."""
    config = config_of(tmp_path)
    topics_of, made = EmbeddedReader.topics, list[Shop]()

    def overtaken(reader: EmbeddedReader) -> list[str]:
        found = topics_of(reader)
        if not made:
            made.append(Shop(config, seed=7))
            made[0].commit(30)
        return found

    monkeypatch.setattr(EmbeddedReader, "topics", overtaken)
    log, watcher = open_log(config.log), Watcher(config)
    maintain(config, "main", log, lambda: bool(made) and watcher.is_at(made[0].position))
    watcher.check(made[0].tables)
    made[0].close()


def test_a_misspelt_table_is_an_error_once_the_tables_are_known(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"few": "SELECT id, v FROM shop.aa"})
    log, shops = open_log(config.log), list[Shop]()

    def stop() -> bool:
        if _is_waiting(config.state.path) and not shops:
            shops.append(Shop(config, seed=7))
            shops[0].commit(0)
        return False

    with pytest.raises(ViewError, match=r"no captured table or view shop\.aa"):
        maintain(config, "main", log, stop)
    shops[0].close()
