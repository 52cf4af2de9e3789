"""Servers whose row images are not complete: what they leave out is completed before the append."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cdc.config import SourceConfig
from cdc.errors import SourceError
from tests.fix_capture import SOURCE, Capture
from tests.fix_mysql import NewMyServer
from tests.services.mysql import FLAVOURS, Flavour

pytestmark = pytest.mark.service


@dataclass
class Accepting(Capture):
    """A source that accepts minimal row images."""

    @property
    def config(self) -> SourceConfig:
        config = super().config
        assert config.mysql is not None
        return replace(config, mysql=replace(config.mysql, minimal_row_image=True))


@pytest.fixture(params=[(f, i) for f in FLAVOURS for i in ("NOBLOB", "MINIMAL")], ids="-".join)
def capture(
    request: pytest.FixtureRequest, new_my_server: NewMyServer, tmp_path: Path
) -> Accepting:
    flavour, image = request.param
    database = new_my_server(flavour, f"--binlog-row-image={image}").new_database()
    made = Accepting(database.url, tmp_path, (f"{database.name}.t",))
    made.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int, d int NOT NULL DEFAULT 7, "
        "s varchar(20) DEFAULT 'none', x text, j json, b blob)",
        "INSERT INTO t SELECT g, g, g, 'start', repeat('x', g), '[1]', repeat('b', g) "
        f"FROM {made.database.series(1, 200)}",
    )
    return made


def test_left_out_values_are_completed(capture: Accepting) -> None:
    table = capture.name("t")
    with capture.running() as agent:
        agent.caught_up()
        capture.transaction(
            "UPDATE t SET n = n + 1 WHERE id < 50",
            "UPDATE t SET x = 'changed' WHERE id < 10",
            "UPDATE t SET id = id + 1000 WHERE id < 5",
            "DELETE FROM t WHERE id = 20",
        )
        capture.sql(
            "INSERT INTO t (id) VALUES (300)",
            "INSERT INTO t (id, x) VALUES (301, 'some'), (302, NULL)",
            "UPDATE t SET s = 'later' WHERE id >= 300",
            "UPDATE t SET j = '{}' WHERE id = 1001",
        )
        agent.caught_up()
        capture.assert_equal(table)
    for clean in (True, False):  # the store resumes, and is rebuilt from the topic when it is lost
        if not clean:
            (capture.folder / "state" / f"{SOURCE}.values.sqlite").unlink()
        with capture.running() as agent:
            capture.sql("UPDATE t SET n = n + 1", "UPDATE t SET id = id + 5000 WHERE id < 100")
            agent.caught_up()
        capture.assert_equal(table)
    capture.assert_history(table)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_minimal_images_are_refused_unless_accepted(
    flavour: Flavour, new_my_server: NewMyServer, tmp_path: Path
) -> None:
    database = new_my_server(flavour, "--binlog-row-image=MINIMAL").new_database()
    capture = Capture(database.url, tmp_path, (f"{database.name}.t",))
    capture.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with capture.running() as agent:
        error = agent.failed()
    assert isinstance(error, SourceError) and "binlog_row_image is 'MINIMAL'" in error.what
