"""Every type, on both servers: what a snapshot reads, what the stream brings and what SELECT says
are the same. Each table of TABLES has one column of the type and a row per value; half of the rows
are there before the snapshot, others come by INSERT and by UPDATE afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fix_mysql import MyDatabase, MyServer
from tests.mysql import captured as read
from tests.mysql.captured import Captured, by, selected, source_config
from tests.mysql.type_cases import TABLES, Typed
from tests.services.mysql import FLAVOURS

PAIRS = [(f, name) for f in FLAVOURS for name, typed in TABLES.items() if f in typed.flavours]
LAX = "SET sql_mode = ''"
INSERTED, UPDATED = 1000, 2000


@dataclass(frozen=True)
class Case:
    database: MyDatabase
    pieces: Captured


@pytest.fixture(scope="module")
def case(my_server: MyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    database = my_server.new_database()
    folder = tmp_path_factory.mktemp("types")
    mine = {n: t for n, t in TABLES.items() if my_server.flavour in t.flavours}
    for name, typed in mine.items():
        database.sql(
            f"CREATE TABLE `{name}` (id INT PRIMARY KEY, v {typed.definition}) {typed.table}"
        )
    pieces = Captured(source_config(database), folder)
    database.sql(LAX, *(s for n, t in mine.items() for s in inserts(n, t, 0)))
    pieces.snapshot()
    database.sql(
        LAX, "BEGIN", *(s for n, t in mine.items() for s in inserts(n, t, INSERTED)), "COMMIT"
    )
    database.sql(LAX, "BEGIN", *(s for n, t in mine.items() for s in updates(n, t)), "COMMIT")
    pieces.stream()
    yield Case(database, pieces)
    database.drop()


def inserts(name: str, typed: Typed, first: int) -> list[str]:
    values = ", ".join(
        f"({first + at}, {value})" for at, value in enumerate((*typed.values, "NULL"), 1)
    )
    return [f"INSERT INTO `{name}` VALUES {values}"]


def updates(name: str, typed: Typed) -> list[str]:
    rows = list(enumerate((*typed.values, "NULL"), UPDATED + 1))
    return [
        f"INSERT INTO `{name}` VALUES " + ", ".join(f"({at}, NULL)" for at, _ in rows),
        *(f"UPDATE `{name}` SET v = {value} WHERE id = {at}" for at, value in rows),
    ]


@pytest.mark.parametrize(("my_server", "name"), PAIRS, indirect=["my_server"], scope="session")
def test_snapshot_and_stream_are_what_select_says(case: Case, name: str) -> None:
    typed = TABLES[name]
    meanings = {"id": read.integer, "v": typed.means}
    exact = ("v",) if typed.means is read.single else ()
    said = by(selected(case.database, name, meanings, exact))
    ours = by(case.pieces.rows(name))
    assert len(said) == 3 * (len(typed.values) + 1)
    assert repr(ours) == repr({key: said[key] for key in ours})
    assert ours.keys() == said.keys()
    for at in range(1, len(typed.values) + 2):
        assert ours[at]["v"] == ours[INSERTED + at]["v"] == ours[UPDATED + at]["v"]
