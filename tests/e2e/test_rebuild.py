"""`cdc rebuild` in the whole house: Postgres → log → views → DuckDB and Postgres, under load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.e2e.house import DUCK, MIRROR, VIEW_SELECTS, VIEWS, House, built
from tests.fix_services import PostgresServer

pytestmark = [pytest.mark.service, pytest.mark.slow]


@pytest.fixture
def house(postgres: PostgresServer, tmp_path: Path) -> Iterator[House]:
    with built(postgres, tmp_path / "house", seed=20) as house:
        yield house


def rebuild(house: House, *words: str, status: int = 0) -> str:
    """While the source changes; what it said."""
    house.command("rebuild", *words)
    said = house.ends(("command", "rebuild"), status=status)
    del house.children["command", "rebuild"]
    return said


def records_of_views(house: House) -> dict[str, tuple[int, ...]]:
    with closing(house.capture.log.reader()) as reader:
        return {name: reader.end_offsets(f"view.{name}") for name in VIEW_SELECTS}


def test_both_sinks_are_rebuilt_while_everything_runs(house: House) -> None:
    house.work(200)
    run = house.run("one")
    house.caught_up()
    with psycopg.connect(house.mirror_url) as mirror:
        mirror.execute("UPDATE per_country SET orders = -1")
        mirror.execute("DELETE FROM orders WHERE id % 3 = 0")
    for _, sink in (DUCK, MIRROR):
        said = rebuild(house, sink)
        assert f"{sink}: " in said and "rows equal to its topic" in said
        assert "kept as <table>__cdc_old" in said
    house.check()
    said = rebuild(house, DUCK[1], "--view")
    assert "computing the views of group main anew" in said
    house.check()
    assert run.is_alive and "stopped" not in run.said() and "failed" not in run.said()
    house.stop_all()


def test_views_computed_anew_publish_only_what_differs(house: House) -> None:
    """By the process that maintains them, or, when nobody does, by the command itself."""
    house.work(200)
    house.start_all()
    house.caught_up()
    before = records_of_views(house)
    assert house.cdc("rebuild", DUCK[1], "--view") == 0
    assert records_of_views(house) == before
    house.check()
    house.stop_all()
    assert house.cdc("rebuild", DUCK[1], "--view") == 0
    assert records_of_views(house) == before
    house.children.clear()
    house.start_all()
    house.work(50)
    house.check()
    house.stop_all()


def test_a_maintainer_killed_during_its_reload_does_it_again(house: House) -> None:
    house.work(200)
    house.start_all()
    house.caught_up()
    house.restart(VIEWS, fault="view.before_append:3")
    maintainer = house.children[VIEWS]
    house.work_until(
        lambda: house.is_owner(VIEWS) or not maintainer.is_alive, "the maintainer to work"
    )
    house.command("rebuild", DUCK[1], "--view")
    house.dies(VIEWS)
    house.start(VIEWS)
    house.ends(("command", "rebuild"), status=0)
    del house.children["command", "rebuild"]
    house.check()
    house.stop_all()


def test_a_sink_over_tables_has_no_views_to_compute(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    text = house.file.read_text()
    house.file.write_text(text.replace("[order_search, per_country, per_order, ", "["))
    assert house.cdc("rebuild", DUCK[1], "--view") == 2
    assert "reads tables only" in capsys.readouterr().err
