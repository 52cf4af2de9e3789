"""MySQL's and MariaDB's connections and catalog: errors, server facts, tables and their keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pymysql
import pytest

from cdc.errors import ConfigError, SourceError, SourceUnavailable
from cdc.mysql import catalog
from cdc.mysql.columns import labels
from cdc.mysql.connection import Connection, close, connect, query, source_errors
from cdc.mysql.tables import MyTable
from tests.fix_mysql import MyDatabase, MyServer


@pytest.fixture
def connection(my_database: MyDatabase) -> Iterator[Connection]:
    opened = connect(my_database.url)
    yield opened
    close(opened)


def table(connection: Connection, database: MyDatabase, name: str) -> MyTable:
    return catalog.read_tables(connection, [name])[f"{database.name}.{name}"]


@pytest.mark.service
def test_a_wrong_password_is_named_and_never_shown(my_server: MyServer) -> None:
    url = my_server.url().replace(f":{my_server.password}@", ":sesame@")
    with pytest.raises(SourceError) as error:
        connect(url)
    assert not isinstance(error.value, SourceUnavailable)
    assert "sesame" not in str(error.value)
    assert "user and password" in error.value.hint


@pytest.mark.service
def test_an_unknown_database_is_no_passing_error(my_server: MyServer) -> None:
    with pytest.raises(SourceError, match="Unknown database") as error:
        connect(my_server.url("no_such_database"))
    assert not isinstance(error.value, SourceUnavailable)


def test_a_server_that_does_not_answer_may_answer_later() -> None:
    with pytest.raises(SourceUnavailable, match="connect"):
        connect("mysql://cdc:secret@127.0.0.1:1/")


def test_a_url_that_is_none_is_refused() -> None:
    for url in ("mysql://host/db", "postgresql://a:b@c/d", "mysql://a:b@c/d?nonsense=1"):
        with pytest.raises(ConfigError):
            connect(url)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_no_passing_error(
    tmp_path: Path, content: str | None
) -> None:
    """Trying again would not help."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SourceError, match=r"certificates.*cannot be read") as error:
        connect(f"mysql://u:sesame@localhost:1/shop?ssl-mode=VERIFY_CA&ssl-ca={path}")
    assert not isinstance(error.value, SourceUnavailable)
    assert "ssl-ca" in error.value.hint
    assert "sesame" not in str(error.value)


@pytest.mark.service
def test_a_killed_session_is_worth_another_try(
    my_database: MyDatabase, connection: Connection
) -> None:
    ((number,),) = query(connection, "SELECT connection_id()")
    my_database.sql(f"KILL {number}")
    with pytest.raises(SourceUnavailable), source_errors(my_database.url):
        query(connection, "SELECT 1")
    with pytest.raises(SourceUnavailable), source_errors(my_database.url):
        query(connection, "SELECT 1")


@pytest.mark.service
def test_a_session_reads_values_as_they_are(connection: Connection) -> None:
    ((zone, mode, charset),) = query(
        connection, "SELECT @@time_zone, @@sql_mode, @@character_set_results"
    )
    assert (zone, mode, charset) == ("+00:00", "", "utf8mb4")


@pytest.mark.service
def test_server_facts(my_database: MyDatabase, connection: Connection) -> None:
    found = catalog.server(connection)
    assert found.flavour == my_database.flavour
    assert found.database == my_database.name
    assert found.gtid
    assert found.log_bin
    assert (found.binlog_format, found.row_image, found.row_metadata) == ("ROW", "FULL", "FULL")
    assert bool(found.uuid) == (found.flavour == "mysql")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("8.0.33", (8, 0, 33)),
        ("5.5.5-10.11.19-MariaDB-log", (10, 11, 19)),
        ("11.4-MariaDB", (11, 4, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, int, int]) -> None:
    assert catalog.parse_version(text) == version


@pytest.mark.service
def test_the_position_moves_with_every_commit(
    my_database: MyDatabase, connection: Connection
) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    server = catalog.server(connection)
    before = catalog.current_point(connection, server.flavour).position(server)
    my_database.sql("INSERT INTO t VALUES (1)")
    after = catalog.current_point(connection, server.flavour).position(server)
    assert after.covers(before)
    assert not before.covers(after)


@pytest.mark.service
def test_the_key_is_the_primary_key_or_a_unique_index_as_good(
    my_database: MyDatabase, connection: Connection
) -> None:
    my_database.sql(
        "CREATE TABLE a (x int, y int, PRIMARY KEY (y, x), UNIQUE KEY u (x))",
        "CREATE TABLE b (x int NOT NULL, y varchar(9) NOT NULL, z int,"
        " UNIQUE KEY a_nullable (z), UNIQUE KEY b_prefix (y(3)), UNIQUE KEY c_whole (y, x))",
        "CREATE TABLE c (x int, UNIQUE KEY (x), KEY (x))",
    )
    assert table(connection, my_database, "a").key == ("y", "x")
    found = table(connection, my_database, "b")
    assert (found.key, found.key_index) == (("y", "x"), "c_whole")
    with pytest.raises(SourceError, match="no primary key") as error:
        catalog.require_keys(catalog.read_tables(connection, ["c"]))
    assert "ADD PRIMARY KEY" in error.value.hint


@pytest.mark.service
def test_of_several_keys_it_is_the_one_that_the_server_takes(
    my_database: MyDatabase, connection: Connection
) -> None:
    """As SHOW INDEX sorts them: table maps and row images have this one."""
    my_database.sql(
        "CREATE TABLE a (x int NOT NULL, y int NOT NULL, UNIQUE z (y), UNIQUE a (x))",
        "CREATE TABLE b (x int, y int NOT NULL, UNIQUE a (x), UNIQUE z (y))",
        "ALTER TABLE b MODIFY x int NOT NULL",
        "CREATE TABLE c (x int NOT NULL, y int NOT NULL, z int NOT NULL, UNIQUE z (z, y),"
        " UNIQUE a (x))",
    )
    assert table(connection, my_database, "a").key == ("y",)
    assert table(connection, my_database, "b").key == ("y",)
    found = table(connection, my_database, "c")
    assert (found.key, found.key_index) == (("z", "y"), "z")


@pytest.mark.service
def test_a_view_is_no_table(my_database: MyDatabase, connection: Connection) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)", "CREATE VIEW v AS SELECT * FROM t")
    names = [f"{my_database.name}.{name}" for name in ("t", "v")]
    assert list(catalog.read_named(connection, names)) == names[:1]
    assert not catalog.read_named(connection, names[1:])


@pytest.mark.service
def test_a_table_without_transactions_is_refused(
    my_database: MyDatabase, connection: Connection
) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY) ENGINE = MyISAM")
    with pytest.raises(SourceError, match="no transactions") as error:
        catalog.require_keys(catalog.read_tables(connection, ["t"]))
    assert "InnoDB" in error.value.hint


@pytest.mark.service
def test_a_table_with_a_hidden_column_is_refused(
    my_database: MyDatabase, connection: Connection
) -> None:
    hashed = "CREATE TABLE t (id int PRIMARY KEY, k text, UNIQUE wide (k))"
    if my_database.flavour == "mysql":
        with pytest.raises(pymysql.Error, match="without a key length"):
            my_database.sql(hashed)
        return
    my_database.sql(hashed, hashed.replace("TABLE t", "TABLE u").replace("(k)", "(k(20))"))
    catalog.require_keys(catalog.read_tables(connection, ["u"]))
    with pytest.raises(SourceError, match="unique index wide is a hash"):
        catalog.require_keys(catalog.read_tables(connection, ["t"]))


@pytest.mark.service
def test_columns_with_their_particulars(my_database: MyDatabase, connection: Connection) -> None:
    my_database.sql(
        "CREATE TABLE t (id bigint unsigned PRIMARY KEY, s int AS (1) STORED, v int AS (2) VIRTUAL,"
        " h int INVISIBLE DEFAULT 7, e enum('it''s', 'back\\\\slash', 'a,b', 'Ä') DEFAULT 'a,b',"
        " j json, d varchar(9) DEFAULT 'NULL', n varchar(9) DEFAULT NULL,"
        " c timestamp DEFAULT current_timestamp, b varbinary(3) DEFAULT 'x')"
    )
    columns = {c.name: c for c in table(connection, my_database, "t").columns}
    assert list(columns) == ["id", "s", "v", "h", "e", "j", "d", "n", "c", "b"]
    assert columns["id"].kind.unsigned
    assert not columns["id"].nullable
    assert [columns[name].generated for name in "svh"] == ["stored", "virtual", ""]
    assert columns["h"].invisible
    assert columns["e"].kind.labels == ("it's", "back\\slash", "a,b", "Ä")
    assert columns["j"].kind.json == (my_database.flavour == "mariadb")
    defaults = [columns[name].default for name in "hednc"]
    assert defaults == ["7", "a,b", "NULL", None, None]


def test_labels_of_every_escape() -> None:
    assert labels(r"enum('a\\b','it''s','x\ny','','q\0')") == (
        "a\\b",
        "it's",
        "x\ny",
        "",
        "q\0",
    )


@pytest.mark.service
def test_patterns(my_database: MyDatabase, connection: Connection) -> None:
    my_database.sql(
        "CREATE TABLE orders_1 (id int PRIMARY KEY)",
        "CREATE TABLE orders_2 (id int PRIMARY KEY)",
        "CREATE TABLE other (id int PRIMARY KEY)",
        "CREATE VIEW orders_view AS SELECT 1",
    )
    name = my_database.name

    def found(*patterns: str) -> list[str]:
        return [n.split(".")[1] for n in catalog.read_tables(connection, patterns)]

    assert found("orders_*") == ["orders_1", "orders_2"]
    assert found(f"{name}.*") == ["orders_1", "orders_2", "other"]
    assert found("other", f"{name}.orders_1") == ["orders_1", "other"]
    for nothing in ("orders_view", "missing", "mysql.*", "information_schema.TABLES"):
        with pytest.raises(SourceError, match="no table matches"):
            found("other", nothing)


@pytest.mark.service
def test_a_table_needs_a_database(my_server: MyServer) -> None:
    with (
        closing(connect(my_server.url())) as connection,
        pytest.raises(SourceError, match="names no database"),
    ):
        catalog.read_tables(connection, ["orders"])
