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
    return made(new_my_server, flavour, image, tmp_path)


def made(new_my_server: NewMyServer, flavour: Flavour, image: str, folder: Path) -> Accepting:
    database = new_my_server(flavour, f"--binlog-row-image={image}").new_database()
    found = Accepting(database.url, folder, (f"{database.name}.t",))
    found.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int, d int NOT NULL DEFAULT 7, "
        "s varchar(20) DEFAULT 'none', x text, j json, b blob, "
        "at datetime DEFAULT CURRENT_TIMESTAMP, f int DEFAULT (1 + 1))",
        "INSERT INTO t (id, n, d, s, x, j, b) "
        "SELECT g, g, g, 'start', repeat('x', g), '[1]', repeat('b', g) "
        f"FROM {found.database.series(1, 200)}",
    )
    return found


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


def test_a_table_whose_key_is_one_of_several_unique_indexes(
    capture: Accepting, tmp_path: Path
) -> None:
    other = Accepting(capture.url, tmp_path / "u", (capture.name("u"),))
    other.sql(
        "CREATE TABLE u (a int NOT NULL, b int NOT NULL, v int, UNIQUE z (b), UNIQUE y (a))",
        "INSERT INTO u VALUES (1, 11, 5), (2, 12, 5), (3, 13, 5)",
    )
    with other.running() as agent:
        agent.caught_up()
        other.sql(
            "DELETE FROM u WHERE a = 1",
            "UPDATE u SET a = 20, v = 6 WHERE b = 12",
            "UPDATE u SET b = 30 WHERE a = 3",
            "INSERT INTO u VALUES (1, 14, 7)",
        )
        agent.caught_up()
    other.assert_equal(other.name("u"))


CHANGED = {
    "set": (
        "ALTER TABLE t ALTER d SET DEFAULT 8, MODIFY s varchar(20) DEFAULT 'other'",
        "INSERT INTO t (id) VALUES (310)",
    ),
    "dropped_and_added": (
        "ALTER TABLE t DROP s, ADD more int DEFAULT 3, ADD c varchar(9) NOT NULL DEFAULT 'c'",
        "INSERT INTO t (id) VALUES (320), (321)",
    ),
    "renamed": (
        "ALTER TABLE t RENAME COLUMN more TO most",
        "INSERT INTO t (id) VALUES (330)",
        "UPDATE t SET most = 5 WHERE id = 320",
    ),
    "made_again": (
        "DROP TABLE t",
        "CREATE TABLE t (id int PRIMARY KEY, d int NOT NULL DEFAULT 1, x text, e varchar(9) "
        "DEFAULT 'e')",
        "INSERT INTO t (id) VALUES (340)",
    ),
}


@pytest.mark.parametrize("live", [True, False], ids=["live", "while_away"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_defaults_that_are_changed(
    flavour: Flavour, new_my_server: NewMyServer, tmp_path: Path, live: bool
) -> None:
    """What an insert does not name has the default of that moment, not of when capture began."""
    capture = made(new_my_server, flavour, "MINIMAL", tmp_path)
    with capture.running() as agent:
        agent.caught_up()
    for statements in CHANGED.values():
        before = ("INSERT INTO t (id) VALUES (300)", *statements)
        if live:
            with capture.running() as agent:
                agent.caught_up()
                capture.sql(*before)
                agent.caught_up()
        else:
            capture.sql(*before)
            with capture.running() as agent:
                agent.caught_up()
        capture.assert_equal(capture.name("t"))
        if "DROP TABLE t" not in statements:
            capture.sql("DELETE FROM t WHERE id = 300")
    capture.assert_history(capture.name("t"))


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
