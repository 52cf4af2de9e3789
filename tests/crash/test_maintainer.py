"""The maintainer killed at its worst moments, and compaction between any two of its steps.

After each, every view's topic equals the recomputation from the source's rows, and no record stands
in it twice (SEMANTICS 15, 19).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compaction.part import compact_log
from tests.views.group import Group, Shop, Watcher, config_of

POINTS = [
    "view.before_append",
    "view.after_append",
    "view.mid_checkpoint",
    "view.after_checkpoint",
]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    source = Shop(config_of(tmp_path), seed=len(tmp_path.name))
    yield source
    source.close()


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    reader = Watcher(config_of(tmp_path))
    yield reader
    reader.close()


@pytest.mark.crash
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_started_again(
    tmp_path: Path, shop: Shop, watcher: Watcher, point: str, passes: int
) -> None:
    shop.commit(60)
    victim = Group(tmp_path, f"{point}:{passes}")
    while victim.lives_on():
        shop.commit(3)
        watcher.pause()
    assert victim.wait_for_death() == -9
    shop.commit(5)
    successor = Group(tmp_path)
    try:
        watcher.wait_until(shop.position, successor)
        shop.commit(5)
        watcher.wait_until(shop.position, successor)
        watcher.check(shop.tables)
    finally:
        successor.stop()


@pytest.mark.crash
def test_compaction_between_any_two_steps(tmp_path: Path, shop: Shop, watcher: Watcher) -> None:
    config = config_of(tmp_path)
    for point in ["view.before_append:1", "view.after_append:2", "view.mid_checkpoint:2"]:
        shop.commit(60)
        compact_log(config.log, list(shop.tables))
        victim = Group(tmp_path, point)
        while victim.lives_on():
            shop.commit(3)
            compact_log(config.log, list(shop.tables))
        assert victim.wait_for_death() == -9
        shop.commit(20)
        compact_log(config.log, list(shop.tables))
    survivor = Group(tmp_path)
    try:
        for _ in range(10):
            shop.commit(10)
            compact_log(config.log, list(shop.tables))
        watcher.wait_until(shop.position, survivor)
        watcher.check(shop.tables)
    finally:
        survivor.stop()


@pytest.mark.crash
def test_a_second_group_fences_the_first(tmp_path: Path, shop: Shop, watcher: Watcher) -> None:
    shop.commit(10)
    first = Group(tmp_path)
    second = None
    try:
        watcher.wait_until(shop.position, first)
        second = Group(tmp_path)
        while first.lives_on():
            shop.commit(2)
            watcher.pause()
        assert b"Fenced" in first.errors()
        shop.commit(2)
        watcher.wait_until(shop.position, second)
        watcher.check(shop.tables)
    finally:
        first.kill()
        if second is not None:
            second.stop()
