"""Every type, on both servers: what a snapshot reads, what the stream brings and what SELECT says
are the same. Each table of TABLES has one column of the type and a row per value; half of the rows
are there before the snapshot, others come by INSERT and by UPDATE afterwards."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.config import ZeroDates
from cdc.errors import BadData, SourceError
from tests.fix_mysql import MyDatabase, MyServer
from tests.mysql import captured as read
from tests.mysql.captured import Captured, Meaning, by, differing, selected, source_config
from tests.mysql.type_cases import TABLES, Typed
from tests.services.mysql import FLAVOURS, Flavour

LAX = "SET sql_mode = ''"
INSERTED, UPDATED = 1000, 2000


def names_of(*flavours: Flavour) -> list[str]:
    """The types that exactly these servers have."""
    return [name for name, typed in TABLES.items() if typed.flavours == flavours]


@dataclass(frozen=True)
class Case:
    database: MyDatabase
    pieces: Captured


@pytest.fixture(scope="module")
def case(my_server: MyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """All tables of a server, captured once."""
    made = _made(my_server, tmp_path_factory.mktemp("types"))
    yield made
    made.database.drop()


def _made(server: MyServer, folder: Path) -> Case:
    database = server.new_database()
    mine = {n: t for n, t in TABLES.items() if server.flavour in t.flavours}
    for name, typed in mine.items():
        database.sql(
            f"CREATE TABLE `{name}` (id INT PRIMARY KEY, v {typed.definition}) {typed.table}"
        )
    pieces = Captured(source_config(database), folder)
    database.sql(LAX, *(s for n, t in mine.items() for s in inserts(n, t, 0)))
    pieces.snapshot()
    more = [s for n, t in mine.items() for s in inserts(n, t, INSERTED)]
    changed = [s for n, t in mine.items() for s in updates(n, t)]
    database.sql(LAX, "BEGIN", *more, "COMMIT", "BEGIN", *changed, "COMMIT")
    pieces.stream()
    return Case(database, pieces)


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


@pytest.mark.parametrize("name", names_of(*FLAVOURS))
def test_snapshot_and_stream_are_what_select_says(case: Case, name: str) -> None:
    assert_as_selected(case, name)


@pytest.mark.parametrize("my_server", ["mysql"], indirect=True, scope="session")
@pytest.mark.parametrize("name", names_of("mysql"))
def test_types_of_mysql_alone(case: Case, name: str) -> None:
    assert_as_selected(case, name)


@pytest.mark.parametrize("my_server", ["mariadb"], indirect=True, scope="session")
@pytest.mark.parametrize("name", names_of("mariadb"))
def test_types_of_mariadb_alone(case: Case, name: str) -> None:
    assert_as_selected(case, name)


def assert_as_selected(case: Case, name: str) -> None:
    typed = TABLES[name]
    meanings = {"id": read.integer, "v": typed.means}
    exact = ("v",) if typed.means is read.single else ()
    said = by(selected(case.database, name, meanings, exact))
    ours = by(case.pieces.rows(name))
    assert len(said) == 3 * (len(typed.values) + 1)
    assert not differing(ours, said)
    for at in range(1, len(typed.values) + 2):
        assert ours[at]["v"] == ours[INSERTED + at]["v"] == ours[UPDATED + at]["v"]


ZERO = (
    "CREATE TABLE z (id INT PRIMARY KEY, d DATE NOT NULL, t DATETIME(3) NOT NULL, s TIMESTAMP NULL)"
)
ZEROES = (
    "INSERT INTO z VALUES ({0}1, '0000-00-00', '0000-00-00', '0000-00-00 00:00:00')",
    "INSERT INTO z VALUES ({0}2, '2024-02-30', '2024-00-00 01:02:03', '2024-01-01')",
)
ALLOWED = "SET sql_mode = 'ALLOW_INVALID_DATES'"
EPOCH, EPOCH_DATE = dt.datetime(1970, 1, 1), dt.date(1970, 1, 1)  # noqa: DTZ001
JANUARY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("mode", "invalid"),
    [("null", (None, None, None)), ("epoch", (EPOCH_DATE, EPOCH, EPOCH.replace(tzinfo=dt.UTC)))],
)
def test_dates_that_are_none(
    my_database: MyDatabase, tmp_path: Path, mode: ZeroDates, invalid: tuple[object, ...]
) -> None:
    my_database.sql(ZERO, ALLOWED, *(row.format("") for row in ZEROES))
    pieces = Captured(source_config(my_database, zero_dates=mode), tmp_path)
    pieces.snapshot()
    my_database.sql(ALLOWED, *(row.format("1") for row in ZEROES))
    pieces.stream()
    rows = by(pieces.rows("z"))
    assert rows.keys() == {1, 2, 11, 12}
    for first, second in ((1, 2), (11, 12)):
        assert tuple(rows[first].values())[1:] == invalid
        assert tuple(rows[second].values())[1:] == (*invalid[:2], JANUARY)
    nullable = {c.name: c.nullable for c in pieces.batches("z")[0].schema.columns}
    assert nullable["d"] == nullable["t"] == (mode == "null")


@pytest.mark.parametrize("mode", ["stop", "null"], ids=["asked for", "in the key"])
def test_a_date_that_is_none_stops_where_it_cannot_be_carried(
    my_database: MyDatabase, tmp_path: Path, mode: ZeroDates
) -> None:
    key = "d" if mode == "null" else "id"
    my_database.sql(f"CREATE TABLE z (id INT NOT NULL, d DATE NOT NULL, PRIMARY KEY ({key}))")
    pieces = Captured(source_config(my_database, zero_dates=mode), tmp_path)
    pieces.snapshot()
    my_database.sql(LAX, "INSERT INTO z VALUES (1, '0000-00-00')")
    with pytest.raises(BadData) as raised:
        pieces.stream()
    assert f"{my_database.name}.z" in str(raised.value)
    with pytest.raises(BadData):
        Captured(source_config(my_database, zero_dates=mode), tmp_path).snapshot()


def test_generated_and_invisible_columns(my_database: MyDatabase, tmp_path: Path) -> None:
    """Both are in the row images, at their places."""
    my_database.sql(
        "CREATE TABLE g (a INT, virtually INT AS (a * 2) VIRTUAL, id INT PRIMARY KEY, "
        "kept VARCHAR(20) AS (CONCAT('<', b, '>')) STORED, b VARCHAR(10), "
        "hidden INT INVISIBLE DEFAULT 7)",
        "INSERT INTO g (id, a, b) VALUES (1, 5, 'x'), (2, NULL, NULL)",
    )
    pieces = Captured(source_config(my_database), tmp_path)
    pieces.snapshot()
    my_database.sql(
        "INSERT INTO g (id, a, b, hidden) VALUES (3, -1, 'y', 9), (4, 1, 'z', NULL)",
        "UPDATE g SET a = a + 1, b = 'new' WHERE id IN (1, 3)",
        "DELETE FROM g WHERE id = 2",
    )
    pieces.stream()
    meanings: dict[str, Meaning] = {
        **dict.fromkeys(("a", "virtually", "id", "hidden"), read.integer),
        **dict.fromkeys(("kept", "b"), read.text),
    }
    said = by(selected(my_database, "g", meanings))
    ours = by([{name: row[name] for name in meanings} for row in pieces.rows("g")])
    assert not differing(ours, said)
    assert ours[1]["virtually"] == 12 and ours[3]["kept"] == "<new>"


def test_a_unique_key_stands_in_for_a_primary_key(my_database: MyDatabase, tmp_path: Path) -> None:
    my_database.sql(
        "CREATE TABLE u (n INT, code VARCHAR(10) NOT NULL, UNIQUE (code))",
        "INSERT INTO u VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    )
    pieces = Captured(source_config(my_database), tmp_path)
    pieces.snapshot()
    my_database.sql(
        "UPDATE u SET code = 'd' WHERE code = 'a'",
        "DELETE FROM u WHERE code = 'b'",
        "UPDATE u SET n = 4 WHERE code = 'c'",
    )
    pieces.stream()
    said = by(selected(my_database, "u", {"n": read.integer, "code": read.text}), "code")
    assert not differing(by(pieces.rows("u"), "code"), said)


def test_a_table_without_any_key_is_refused(my_database: MyDatabase, tmp_path: Path) -> None:
    my_database.sql("CREATE TABLE k (a INT, b INT UNIQUE)")
    with pytest.raises(SourceError) as raised:
        Captured(source_config(my_database), tmp_path).snapshot()
    assert "no primary key" in str(raised.value) and "ADD PRIMARY KEY" in str(raised.value)


COLUMNS = {
    "id": ("INT", read.integer, st.integers(-(2**31), 2**31 - 1)),
    "u": ("BIGINT UNSIGNED", read.decimal, st.integers(0, 2**64 - 1)),
    "n": ("DECIMAL(20,6)", read.decimal, st.decimals(-(10**13), 10**13, places=6)),
    "w": ("DECIMAL(60,20)", read.text, st.decimals(-(10**30), 10**30, places=5)),
    "f": ("DOUBLE", read.floating, st.floats(allow_nan=False, allow_infinity=False)),
    "v": ("VARCHAR(50)", read.text, st.text(st.characters(exclude_categories=["Cs"]), max_size=50)),
    "l": (
        "VARCHAR(300) CHARACTER SET latin1",
        read.text,
        st.text(st.characters(codec="cp1252"), max_size=300),
    ),
    "b": ("VARBINARY(20)", read.blob, st.binary(max_size=20)),
    "t": ("LONGTEXT", read.text, st.text(st.characters(exclude_categories=["Cs"]))),
    "d": ("DATE", read.date, st.dates(dt.date(1000, 1, 1))),
    "m": ("DATETIME(6)", read.moment, st.datetimes(dt.datetime(1000, 1, 1))),  # noqa: DTZ001
    "i": (
        "TIME(6)",
        read.duration,
        st.timedeltas(dt.timedelta(hours=-838), dt.timedelta(hours=838)),
    ),
    "x": ("BIT(40)", read.blob, st.integers(0, 2**40 - 1)),
    "e": ("ENUM('a','b','c')", read.text, st.sampled_from("abc")),
}
ROWS = st.lists(
    st.tuples(COLUMNS["id"][2], *(st.none() | c[2] for name, c in COLUMNS.items() if name != "id")),
    min_size=1,
    max_size=40,
    unique_by=lambda row: row[0],
)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(before=ROWS, after=ROWS)
def test_random_rows(
    my_database: MyDatabase, tmp_path: Path, before: list[Any], after: list[Any]
) -> None:
    name = f"r_{uuid.uuid4().hex[:8]}"
    columns = ", ".join(f"`{n}` {kind}" for n, (kind, _, _) in COLUMNS.items())
    my_database.sql(f"CREATE TABLE {name} ({columns}, PRIMARY KEY (id))")
    values = ", ".join(["%s"] * len(COLUMNS))
    replace = f"REPLACE INTO {name} VALUES ({values})"
    my_database.insert(replace, before)
    pieces = Captured(source_config(my_database, name), tmp_path)
    pieces.snapshot()
    my_database.insert(replace, after)
    my_database.sql(f"UPDATE {name} SET v = 'changed', t = NULL, u = 1 WHERE id % 3 = 0")
    my_database.sql(f"DELETE FROM {name} WHERE id % 5 = 0")
    pieces.stream()
    said = selected(my_database, name, {n: meaning for n, (_, meaning, _) in COLUMNS.items()})
    assert not differing(by(pieces.rows(name)), by(said))
