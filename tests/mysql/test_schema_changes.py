"""DDL while streaming: what MySQL and MariaDB do to tables, against SELECT."""

from __future__ import annotations

import re
from pathlib import Path

import pymysql
import pytest

from cdc.changes import R
from cdc.errors import SchemaChanged, SnapshotNeeded, SourceError
from tests.fix_capture import SOURCE, Capture
from tests.fix_mysql import MyDatabase, MyServer, NewMyServer
from tests.services.mysql import Flavour

pytestmark = pytest.mark.service

TABLE = "CREATE TABLE t (id int PRIMARY KEY, a int, s varchar(20))"
ROWS = "INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two'), (3, NULL, NULL)"


def made(database: MyDatabase, folder: Path) -> Capture:
    capture = Capture(database.url, folder, (f"{database.name}.t",))
    capture.sql(TABLE, ROWS)
    return capture


@pytest.fixture
def shop(my_database: MyDatabase, tmp_path: Path) -> Capture:
    return made(my_database, tmp_path)


FOLLOWED = {
    "added": ["ALTER TABLE t ADD b bigint", "UPDATE t SET b = 5 WHERE id = 1"],
    "added_with_a_default": [
        "ALTER TABLE t ADD b decimal(9,2) NOT NULL DEFAULT 1.5, ADD c varchar(9) DEFAULT 'x' FIRST",
        "UPDATE t SET a = 5 WHERE id = 1",
    ],
    "added_under_a_mode": [
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES'",
        r"ALTER TABLE t ADD b varchar(9) NOT NULL DEFAULT 'C:\new', ADD c year DEFAULT 1955, "
        "ADD d int CHECK (d IS NOT NULL OR d > 0)",
        "UPDATE t SET a = 5 WHERE id = 1",
        "SET sql_mode = DEFAULT",
    ],
    "dropped": ["ALTER TABLE t DROP a", "UPDATE t SET s = 'x' WHERE id = 1"],
    "dropped_and_added": [
        "ALTER TABLE t DROP a",
        "ALTER TABLE t ADD a varchar(5)",
        "UPDATE t SET a = 'x' WHERE id = 1",
    ],
    "renamed": [
        "ALTER TABLE t CHANGE a b int, CHANGE s r varchar(20)",
        "UPDATE t SET b = 9 WHERE id = 1",
    ],
    "names_swapped": [
        "ALTER TABLE t CHANGE a tmp int",
        "ALTER TABLE t ADD a int DEFAULT 4",
        "ALTER TABLE t DROP tmp",
        "UPDATE t SET a = 9 WHERE id = 1",
    ],
    "reordered": ["ALTER TABLE t MODIFY s varchar(20) FIRST", "DELETE FROM t WHERE id = 1"],
    "wider": [
        "ALTER TABLE t MODIFY a bigint, MODIFY s varchar(200) CHARACTER SET utf8mb4",
        "UPDATE t SET a = 5000000000 WHERE id = 1",
    ],
    "truncated": ["TRUNCATE t", "INSERT INTO t VALUES (7, 7, 'seven')"],
    "emptied_and_nothing_more": ["TRUNCATE t"],
    "dropped_and_made_again": [
        "DROP TABLE t",
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(9), z int)",
        "INSERT INTO t VALUES (7, 'seven', 7)",
    ],
    "an_index": ["CREATE INDEX i ON t (a)", "UPDATE t SET a = 6 WHERE id = 1"],
}
READ_AGAIN = {
    "rewritten": [
        "ALTER TABLE t ADD b datetime DEFAULT CURRENT_TIMESTAMP",
        "UPDATE t SET a = 1 WHERE id = 3",
    ],
    "narrower": ["ALTER TABLE t MODIFY s char(4)", "UPDATE t SET a = 5 WHERE id = 1"],
    "computed": ["ALTER TABLE t ADD b int AS (a + 1) STORED", "UPDATE t SET a = 5 WHERE id = 1"],
    "a_year_of_two_digits": [
        "ALTER TABLE t ADD b year DEFAULT 24, ADD c year NOT NULL DEFAULT '70'",
        "UPDATE t SET a = 5 WHERE id = 1",
    ],
    "labels_in_another_order": [
        "ALTER TABLE t ADD b set('a','b')",
        "UPDATE t SET b = 'a,b'",
        "ALTER TABLE t MODIFY b set('b','a')",
        "UPDATE t SET s = 'x' WHERE id = 1",
    ],
    "numbered": [
        "UPDATE t SET a = 0 WHERE id = 2",
        "ALTER TABLE t MODIFY a int NOT NULL AUTO_INCREMENT, ADD UNIQUE (a)",
    ],
    "swapped": [
        "CREATE TABLE _t_gho LIKE t",
        "ALTER TABLE _t_gho ADD b int DEFAULT 3",
        "INSERT INTO _t_gho (id, a, s) SELECT * FROM t",
        "UPDATE t SET a = 77 WHERE id = 1",
        "UPDATE _t_gho SET a = 77 WHERE id = 1",
        "RENAME TABLE t TO _t_del, _t_gho TO t",
        "INSERT INTO t VALUES (9, 9, 'nine', 9)",
    ],
}


@pytest.mark.parametrize("live", [True, False], ids=["live", "while_away"])
def test_followed(my_database: MyDatabase, tmp_path: Path, live: bool) -> None:
    """Every change in a table of its own, all in one stream."""
    shop = Capture(my_database.url, tmp_path, tuple(f"{my_database.name}.{n}" for n in FOLLOWED))
    for name in FOLLOWED:
        shop.sql(*(of_table(line, name) for line in (TABLE, ROWS)))
    statements = [of_table(line, name) for name, lines in FOLLOWED.items() for line in lines]
    with shop.running() as agent:
        agent.caught_up()
        if live:
            shop.sql(*statements)
            agent.caught_up()
    if not live:
        shop.sql(*statements)
    with shop.running() as agent:
        agent.caught_up()
    for name in map(shop.name, FOLLOWED):
        shop.assert_equal(name)
        assert times_read(shop, name) == 1
    shop.assert_history(*map(shop.name, FOLLOWED))


def of_table(statement: str, name: str) -> str:
    return re.sub(r"\bt\b", f"`{name}`", statement)


def times_read(shop: Capture, table: str) -> int:
    return sum(int((batch.op == R).sum()) for batch in shop.batches(table)) // 3


@pytest.mark.parametrize("name", READ_AGAIN)
def test_read_again(shop: Capture, name: str) -> None:
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(*READ_AGAIN[name])
        agent.caught_up()
    with shop.running() as agent:
        agent.caught_up()
    shop.assert_equal(shop.name("t"))
    shop.assert_history(shop.name("t"))
    assert times_read(shop, shop.name("t")) > 1


@pytest.mark.parametrize(
    "clause", ["MODIFY b int AS (a * 3) STORED", "CHANGE c d int GENERATED ALWAYS AS (a * 3)"]
)
def test_a_generated_column_is_redefined(shop: Capture, clause: str) -> None:
    shop.sql("ALTER TABLE t ADD b int AS (a * 2) STORED, ADD c int AS (a * 2) VIRTUAL")
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(f"ALTER TABLE t {clause}")
        agent.caught_up()
    shop.assert_equal(shop.name("t"))


def test_a_table_becomes_a_partition(mariadb: MyServer, tmp_path: Path) -> None:
    shop = made(mariadb.new_database(), tmp_path)
    shop.sql(
        "ALTER TABLE t PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (10))",
        "CREATE TABLE more (id int PRIMARY KEY, a int, s varchar(20))",
        "INSERT INTO more VALUES (15, 5, 'more')",
    )
    with shop.running() as agent:
        agent.caught_up()
        shop.sql("ALTER TABLE t CONVERT TABLE more TO PARTITION q VALUES LESS THAN (20)")
        agent.caught_up()
    shop.assert_equal(shop.name("t"))


def test_a_view_is_renamed_to_what_a_glob_matches(my_database: MyDatabase, tmp_path: Path) -> None:
    shop = Capture(my_database.url, tmp_path, (f"{my_database.name}.*",))
    shop.sql(TABLE, ROWS, "CREATE VIEW v AS SELECT * FROM t")
    with shop.running() as agent:
        agent.caught_up()
        shop.sql("RENAME TABLE v TO w", "UPDATE t SET a = 5 WHERE id = 1")
        agent.caught_up()
    shop.assert_equal(shop.name("t"))


def test_killed_between_an_alter_and_its_first_rows(shop: Capture) -> None:
    with shop.running() as agent:
        agent.caught_up()
        shop.sql("ALTER TABLE t CHANGE a b int")
        agent.caught_up()
    shop.sql("ALTER TABLE t CHANGE b c int", "UPDATE t SET c = 8 WHERE id = 2")
    with shop.running() as agent:
        agent.caught_up()
    shop.assert_equal(shop.name("t"))
    reader = shop.log.reader()
    numbers = {c.name: c.attnum for c in reader.schema(f"{SOURCE}.{shop.name('t')}").columns}
    reader.close()
    assert numbers == {"id": 1, "c": 2, "s": 3}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE t MODIFY id bigint", "its key is"),
        ("RENAME TABLE t TO u", "is now called"),
    ],
)
def test_stops(shop: Capture, statement: str, said: str) -> None:
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(statement)
        if "key" in said:
            shop.sql("UPDATE t SET a = 1 WHERE id = 2")
        error = agent.failed()
    assert isinstance(error, SchemaChanged) and said in error.what


KEYLESS = {
    "dropped": "ALTER TABLE t DROP PRIMARY KEY",
    "made_anew": "CREATE OR REPLACE TABLE t (id int NOT NULL, a int, s varchar(20))",
    "dropped_and_made": "CREATE TABLE t (id int NOT NULL, a int, s varchar(20))",
    "index_dropped": "DROP INDEX u ON t",
    "nullable": "ALTER TABLE t MODIFY id int NULL",
}


@pytest.mark.parametrize("how", KEYLESS)
def test_stops_where_rows_can_no_longer_be_told_apart(
    my_database: MyDatabase, tmp_path: Path, how: str
) -> None:
    statement = KEYLESS[how]
    if "REPLACE" in statement and my_database.flavour == "mysql":
        with pytest.raises(pymysql.err.ProgrammingError, match="syntax"):
            my_database.sql(statement)
        return
    capture = Capture(my_database.url, tmp_path, (f"{my_database.name}.t",))
    unique = how in ("index_dropped", "nullable")
    made = "CREATE TABLE t (id int NOT NULL, a int, s varchar(20), UNIQUE u (id))"
    capture.sql(made if unique else TABLE, ROWS)
    with capture.running() as agent:
        agent.caught_up()
        capture.sql(*(["DROP TABLE t"] if how == "dropped_and_made" else []), statement)
        one = "NULL" if how == "nullable" else "7"
        capture.sql(f"INSERT INTO t VALUES ({one}, 1, 'x')", f"INSERT INTO t VALUES ({one}, 2, '')")
        error = agent.failed()
    assert isinstance(error, SnapshotNeeded) and "may have been dropped" in error.what
    live = capture.live(capture.name("t")).column("id").to_pylist()
    assert live == ([] if "CREATE" in statement else [1, 2, 3])
    with capture.running() as agent:
        again = agent.failed()
    assert isinstance(again, SourceError) and "no primary key" in again.what


def test_a_key_that_rows_do_not_say_is_looked_up_once(mysql: MyServer, tmp_path: Path) -> None:
    database = mysql.new_database()
    capture = Capture(database.url, tmp_path, (f"{database.name}.t",))
    capture.sql("CREATE TABLE t (a int, k int AS (a + 1) VIRTUAL NOT NULL UNIQUE, KEY i (a))")
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("INSERT INTO t (a) VALUES (1)")
        agent.caught_up()
        assert all((batch.op != R).all() for batch in capture.batches(capture.name("t")))
        capture.sql("DROP INDEX i ON t", "UPDATE t SET a = 2")
        agent.caught_up()
        capture.sql("UPDATE t SET a = 3")
        agent.caught_up()
    capture.assert_equal(capture.name("t"))
    assert sum(int((batch.op == R).sum()) for batch in capture.batches(capture.name("t"))) == 1


ACTING = {
    "added": ["ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES t (id) ON DELETE CASCADE"],
    "made_again": [
        "DROP TABLE t",
        f"{TABLE[:-1]}, FOREIGN KEY (a) REFERENCES t (id) ON DELETE CASCADE)",
        "INSERT INTO t (id) VALUES (1), (2)",
    ],
}


@pytest.mark.parametrize("how", ACTING)
def test_stops_where_a_foreign_key_begins_to_change_rows(shop: Capture, how: str) -> None:
    """Both rows go, and the binlog has one delete."""
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(*ACTING[how], "UPDATE t SET a = 1 WHERE id = 2", "DELETE FROM t WHERE id = 1")
        error = agent.failed()
    assert isinstance(error, SourceError)
    assert "ON DELETE CASCADE" in error.what
    assert "drop the action" in error.hint


@pytest.mark.parametrize(
    ("flavour", "value"), [("mysql", "MINIMAL"), ("mariadb", "MINIMAL"), ("mariadb", "NO_LOG")]
)
def test_rows_that_do_not_name_their_columns(
    flavour: Flavour, value: str, new_my_server: NewMyServer, tmp_path: Path
) -> None:
    server = new_my_server(flavour, f"--binlog-row-metadata={value}")
    shop = made(server.new_database(), tmp_path)
    shop.sql(
        "ALTER TABLE t ADD d decimal(9,2) unsigned DEFAULT 1.5, ADD f double unsigned DEFAULT 2.5, "
        "ADD e enum('x', 'ü') DEFAULT 'ü', ADD z set('p', 'q') DEFAULT 'p,q', ADD y year"
    )
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(
            "UPDATE t SET a = 5 WHERE id = 1",
            "ALTER TABLE t ADD u int unsigned DEFAULT 4000000000, CHANGE a b int",
            "UPDATE t SET b = 6 WHERE id = 2",
            "ALTER TABLE t DROP s",
            "UPDATE t SET b = 7 WHERE id = 3",
        )
        agent.caught_up()
    shop.assert_equal(shop.name("t"))
    shop.assert_history(shop.name("t"))
