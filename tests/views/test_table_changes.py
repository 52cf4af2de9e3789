"""A table changes under views that read it: those that do not use the column notice nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.config import Config
from cdc.errors import ViewError
from cdc.log.open import open_log
from cdc.schema import Column, TableSchema
from tests.fix_capture import DEADLINE_S, AgentThread, Capture
from tests.fix_log import kafka_config
from tests.views.group import config_of
from tests.views.model import Views, plans_of
from views.maintainer import maintain
from views.status import read_status
from views.table_changes import table_change

VIEWS: Views = {
    "uses_a": "SELECT id, a FROM shop.t",
    "over": "SELECT a, count(*) AS n FROM uses_a GROUP BY a",
    "uses_b": "SELECT id, b, n FROM shop.t",
}


class Maintained:
    """A group on a thread, beside a capture agent."""

    def __init__(self, config: Config) -> None:
        self._config, self._stop = config, threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with closing(open_log(self._config.log)) as log:
                maintain(self._config, "main", log, self._stop.is_set)
        except BaseException as error:
            self.error = error

    @property
    def facts(self) -> dict[str, Any]:
        return read_status(self._config.state.path, "main")

    def why(self, view: str) -> str:
        found: str = self.facts.get("views", {}).get(view, {}).get("why", "")
        return found

    def until(self, holds: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            if self.error is not None:
                raise self.error
            assert time.monotonic() < deadline_s, self.facts
            threading.Event().wait(0.02)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)


@contextmanager
def maintained(config: Config) -> Iterator[Maintained]:
    group = Maintained(config)
    try:
        yield group
    finally:
        group.stop()


class Looking:
    """What stands in the views' topics."""

    def __init__(self, config: Config) -> None:
        self._reader = open_log(config.log).reader()

    def follows(self, view: str, agent: AgentThread, group: Maintained) -> None:
        """Wait until the view reflects everything that was committed."""
        reached = agent.caught_up().positions

        def there() -> bool:
            frontier = self._reader.newest_frontier(f"view.{view}")
            return frontier is not None and frontier.positions.covers(reached)

        group.until(there)

    def rows(self, view: str) -> list[dict[str, Any]]:
        """Every record that ever stood in the topic."""
        topic = f"view.{view}"
        ends = self._reader.end_offsets(topic)
        return [
            row
            for partition, end in enumerate(ends)
            for batch in self._reader.read(topic, partition, 0, end)
            for row in batch.changes.rows.to_pylist()
        ]

    def close(self) -> None:
        self._reader.close()


@pytest.fixture(
    params=["embedded", pytest.param("kafka", marks=pytest.mark.xdist_group("kafka"))],
)
def config(request: pytest.FixtureRequest, capture: Capture, tmp_path: Path) -> Config:
    made = config_of(tmp_path, VIEWS, interval_s=0.2)
    if request.param == "kafka":
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        made = replace(made, log=kafka_config(bootstrap, tmp_path / "log"))
    capture.into = made.log
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int, n numeric(10,2), c int)",
        "INSERT INTO t SELECT g, 'a' || g, g, g, g FROM generate_series(1, 5) g",
    )
    return made


@pytest.mark.service
def test_views_over_a_table_that_changes(capture: Capture, config: Config) -> None:
    with capture.running() as agent, closing(Looking(config)) as topics:
        with maintained(config) as group:
            for view in VIEWS:
                topics.follows(view, agent, group)
            before = {view: topics.rows(view) for view in VIEWS}

            # Nobody uses c, or what is new.
            capture.sql("ALTER TABLE t DROP c, ADD d int DEFAULT 1, ADD e numeric(5,2)")
            capture.sql("UPDATE t SET d = 2, e = 1")
            agent.caught_up()  # a column that goes before its rows are read stops capture
            capture.sql("ALTER TABLE t ALTER e TYPE numeric(9,2)", "UPDATE t SET e = 1234567.25")
            agent.caught_up()
            capture.sql("ALTER TABLE t RENAME d TO f", "UPDATE t SET f = 3")
            for view in VIEWS:
                topics.follows(view, agent, group)
            assert {view: topics.rows(view) for view in VIEWS} == before

            capture.sql("UPDATE t SET a = 'last' WHERE id = 1", "ALTER TABLE t DROP a")
            capture.sql("UPDATE t SET b = 10 WHERE id = 2")
            topics.follows("uses_b", agent, group)
            group.until(lambda: group.why("uses_a") and group.facts["state"] == "blocked")
            assert "column a of shop.public.t was dropped" in group.why("uses_a")
            assert "uses_a" in group.why("over") and not group.why("uses_b")
            after = topics.rows("uses_a")
            assert len(topics.rows("uses_b")) == len(before["uses_b"]) + 1
            assert all(row["a"] for row in after)

        with maintained(config) as group:  # planned again, without the two
            capture.sql("UPDATE t SET b = 20 WHERE id = 2")
            topics.follows("uses_b", agent, group)
            group.until(lambda: group.why("uses_a"))
            assert "a" in group.why("uses_a") and "uses_a" in group.why("over")
            assert len(topics.rows("uses_b")) == len(before["uses_b"]) + 2
            assert topics.rows("uses_a") == after

        capture.sql("ALTER TABLE t ADD a text DEFAULT 'anew'", "UPDATE t SET a = 'x' WHERE id = 1")
        agent.caught_up()
        with maintained(config) as group:
            topics.follows("over", agent, group)
            group.until(lambda: group.facts["state"] == "running")
        assert {row["id"]: row["a"] for row in topics.rows("uses_a")} == {
            1: "x", 2: "anew", 3: "anew", 4: "anew", 5: "anew",
        }  # fmt: skip


@pytest.mark.service
def test_a_column_that_a_view_uses_is_another_one(capture: Capture, config: Config) -> None:
    with (
        capture.running() as agent,
        closing(Looking(config)) as topics,
        maintained(config) as group,
    ):
        topics.follows("uses_b", agent, group)
        capture.sql("ALTER TABLE t DROP a, ADD a text", "UPDATE t SET a = 'y' WHERE id = 1")
        topics.follows("uses_a", agent, group)
        assert {row["id"]: row["a"] for row in topics.rows("uses_a")}[2] is None
        capture.sql("ALTER TABLE t ALTER n TYPE numeric(14,2)")
        capture.sql("UPDATE t SET n = 123456789012.25 WHERE id = 1")
        topics.follows("uses_a", agent, group)
        group.until(lambda: "type of n" in group.why("uses_b"))


def schema(*columns: tuple[int, str, str], version: int) -> TableSchema:
    types = {"text": pa.string(), "varchar(9)": pa.string(), "integer": pa.int32()}
    made = tuple(Column(name, types[kind], kind, attnum=number) for number, name, kind in columns)
    return TableSchema("public.a", (Column("id", pa.int64(), "bigint", False, 1), *made), ("id",),
                       version)  # fmt: skip


THEN = schema((2, "v", "integer"), (3, "name", "varchar(9)"), version=1)


@pytest.mark.parametrize(
    ("now", "refused", "replan"),
    [
        (schema((2, "v", "integer"), (3, "name", "text"), (4, "w", "text"), version=2), {}, False),
        (schema((2, "v", "integer"), version=2), {"named": "was dropped"}, False),
        (schema((2, "v", "integer"), (3, "n", "text"), version=2), {"named": "called n"}, False),
        (schema((2, "v", "text"), (3, "name", "text"), version=2), {}, True),
        (schema((2, "v", "integer"), (4, "name", "text"), version=2), {}, True),
    ],
)
def test_what_a_change_means(now: TableSchema, refused: dict[str, str], replan: bool) -> None:
    topic = "shop.public.a"
    plans = plans_of(
        {"named": f"SELECT id, name FROM {topic}", "valued": f"SELECT id, v FROM {topic}"}
    )
    found = table_change(plans, topic, THEN, now)
    assert found.replan == replan and found.refused.keys() == refused.keys()
    for view, why in refused.items():
        assert why in found.refused[view] and "column name of shop.public.a" in found.refused[view]


def test_a_view_that_never_ran_is_an_error(tmp_path: Path, capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with capture.running() as agent:
        agent.caught_up()
    config = config_of(
        tmp_path, {"wrong": "SELECT id, x FROM shop.t", "ok": "SELECT id FROM shop.t"}
    )
    with closing(open_log(config.log)) as log, pytest.raises(ViewError, match="x"):
        maintain(config, "main", log, lambda: False)
