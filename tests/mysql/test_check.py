"""`cdc check` of a MySQL source: each finding with its remedy, by a server that has the fault."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from cdc.config import MySqlConfig, Place, SourceConfig
from cdc.config_mysql import derived_server_id
from cdc.mysql.check import check_source
from cdc.mysql.connection import internals
from cdc.mysql.foreign_keys import foreign_key_actions
from cdc.source import Finding
from tests.fix_mysql import MyDatabase, MyServer, NewMyServer

TABLE = "CREATE TABLE orders (id BIGINT PRIMARY KEY, note VARCHAR(20))"


def config_of(url: str, *tables: str, server_id: int = 0, minimal: bool = False) -> SourceConfig:
    mysql = MySqlConfig(server_id or derived_server_id("crm"), minimal_row_image=minimal)
    place = Place("connectors.yaml", 1, 1)
    return SourceConfig("crm", "mysql", url, tables, "initial", "", "", place, mysql=mysql)


def findings(database: MyDatabase, user: MyServer | None = None, **options: bool) -> list[Finding]:
    url = (user or database.server).url(database.name)
    return check_source(config_of(url, f"{database.name}.*", **options))


def serious(found: list[Finding]) -> list[str]:
    return [f"{f.what}|{f.remedy}" for f in found if f.severity != "ok"]


@contextmanager
def with_global(server: MyServer, name: str, value: str) -> Iterator[None]:
    ((before,),) = server.query(f"SELECT @@global.{name}")
    server.sql(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        server.sql(f"SET GLOBAL {name} = '{before}'")


def rights_of(server: MyServer, database: str) -> list[str]:
    """The least that the documentation asks for."""
    if server.flavour == "mariadb":
        return ["REPLICATION SLAVE, BINLOG MONITOR ON *.*", f"SELECT ON {database}.*"]
    return ["REPLICATION SLAVE, REPLICATION CLIENT ON *.*", f"SELECT ON {database}.*"]


def test_a_user_with_the_documented_rights_is_enough(my_database: MyDatabase) -> None:
    my_database.sql(TABLE)
    user = my_database.server.as_user(*rights_of(my_database.server, my_database.name))
    found = findings(my_database, user)
    assert serious(found) == []
    product = "MariaDB" if my_database.flavour == "mariadb" else "MySQL"
    assert found[0].what.startswith(f"{product} ")
    assert found[0].what.endswith(f", database {my_database.name}")
    assert found[-1].where == f"crm.{my_database.name}.orders"
    assert found[-1].what == "key (id), about 0 rows"


def test_each_missing_right_is_named_with_what_it_is_for(my_database: MyDatabase) -> None:
    my_database.sql(TABLE)
    user = my_database.server.as_user(f"SELECT ON {my_database.name}.*")
    told = "\n".join(serious(findings(my_database, user)))
    assert "may not read the binlog|GRANT REPLICATION SLAVE ON *.* to it" in told
    client = "BINLOG MONITOR" if my_database.flavour == "mariadb" else "REPLICATION CLIENT"
    assert f"which a snapshot begins with|GRANT {client} ON *.* to it" in told


@pytest.mark.parametrize("right", ["RELOAD", "FLUSH_TABLES"])
def test_without_a_right_to_lock_it_says_how_a_snapshot_is_taken(
    mysql: MyServer, right: str
) -> None:
    database = mysql.new_database()
    database.sql(TABLE)
    rights = rights_of(mysql, database.name)
    said = "a snapshot of a busy server takes no lock: the user may not"
    assert said in [f.what for f in findings(database, mysql.as_user(*rights))]
    may = mysql.as_user(*rights, f"{right} ON *.*")
    assert said not in [f.what for f in findings(database, may)]
    database.drop()


def test_rights_of_a_role_count(mysql: MyServer) -> None:
    database = mysql.new_database()
    database.sql(TABLE)
    role = f"r_{database.name}"
    mysql.sql(f"CREATE ROLE {role}")
    for right in ("REPLICATION SLAVE ON *.*", "REPLICATION CLIENT ON *.*", "RELOAD ON *.*"):
        mysql.sql(f"GRANT {right} TO {role}")
    user = mysql.as_user(f"SELECT ON {database.name}.*")
    mysql.sql(f"GRANT {role} TO '{user.user}'@'%'", f"SET DEFAULT ROLE ALL TO '{user.user}'@'%'")
    assert serious(findings(database, user)) == []
    mysql.sql(f"DROP ROLE {role}")
    database.drop()


def test_a_table_of_which_only_columns_may_be_read_is_refused(my_database: MyDatabase) -> None:
    my_database.sql(TABLE)
    rights = [r for r in rights_of(my_database.server, my_database.name) if "ON *.*" in r]
    user = my_database.server.as_user(*rights, f"SELECT (id) ON {my_database.name}.orders")
    (what,) = [f.what for f in findings(my_database, user) if f.severity == "error"]
    assert what == "the user may not read it"


SETTINGS = {
    ("binlog_format", "MIXED"): "binlog_format is MIXED: the binlog has statements instead of rows",
    ("binlog_row_image", "MINIMAL"): "binlog_row_image is MINIMAL: values that did not change",
    ("binlog_row_image", "NOBLOB"): "binlog_row_image is NOBLOB: unchanged texts and blobs",
    ("binlog_row_metadata", "MINIMAL"): "binlog_row_metadata is MINIMAL: the binlog does not name",
}


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_a_wrong_setting_is_named_with_the_statement_that_corrects_it(
    my_database: MyDatabase, name: str, value: str
) -> None:
    my_database.sql(TABLE)
    with with_global(my_database.server, name, f"'{value}'"):
        (told,) = serious(findings(my_database))
    assert told.startswith(SETTINGS[name, value])
    scope = "GLOBAL" if my_database.flavour == "mariadb" else "PERSIST"
    right = "ROW" if name == "binlog_format" else "FULL"
    assert f"SET {scope} {name} = {right}" in told


def test_minimal_images_may_be_asked_for(my_database: MyDatabase) -> None:
    my_database.sql(TABLE)
    with with_global(my_database.server, "binlog_row_image", "'MINIMAL'"):
        found = findings(my_database, minimal=True)
    assert [f.severity for f in found if f.severity != "ok"] == ["warning"]


def test_parts_of_json_values_are_refused(mysql: MyServer) -> None:
    database = mysql.new_database()
    database.sql(TABLE)
    with with_global(mysql, "binlog_row_value_options", "'PARTIAL_JSON'"):
        (told,) = serious(findings(database))
    assert told.startswith("binlog_row_value_options is PARTIAL_JSON")
    database.drop()


def test_a_server_without_binlog_or_gtids(new_my_server: NewMyServer) -> None:
    for setting, said in (
        ("--skip-log-bin", "the server writes no binlog"),
        ("--gtid-mode=OFF", "gtid_mode is OFF: positions are those of this server's files"),
    ):
        server = new_my_server("mysql", setting, "--binlog-expire-logs-seconds=7200")
        database = server.new_database()
        database.sql(TABLE)
        told = "\n".join(serious(findings(database)))
        assert said in told
        assert ("kept for 2 hours" in told) == (setting == "--gtid-mode=OFF")
        user = server.as_user(*rights_of(server, database.name))
        lock = "the user may not lock: a snapshot begins only when nobody commits"
        assert (lock in "\n".join(serious(findings(database, user)))) == (
            setting == "--gtid-mode=OFF"
        )
        server.stop("kill")


def test_databases_that_the_binlog_leaves_out(new_my_server: NewMyServer) -> None:
    server = new_my_server("mariadb", "--binlog-ignore-db=unlogged", "--gtid-strict-mode=0")
    server.sql("CREATE DATABASE unlogged")
    database = MyDatabase(server, "unlogged")
    database.sql(TABLE)
    told = "\n".join(serious(findings(database)))
    assert "the server leaves this database out of its binlog" in told
    assert "gtid_strict_mode is OFF" in told


def test_a_server_id_that_another_has(my_database: MyDatabase) -> None:
    my_database.sql(TABLE)
    ((own,),) = my_database.query("SELECT @@server_id")
    url = my_database.url
    (told,) = serious(check_source(config_of(url, f"{my_database.name}.orders", server_id=own)))
    assert told.startswith(f"server_id {own} is the server's own")


@pytest.mark.parametrize("host", ["elsewhere", "cdc-crm"])
def test_who_reads_the_binlog_under_our_server_id(my_database: MyDatabase, host: str) -> None:
    """A capture that runs under the same name is ours."""
    my_database.sql(TABLE)
    number = derived_server_id(my_database.name)
    named = host.encode()
    register = struct.pack("<IB", number, len(named)) + named + struct.pack("<2xHII", 0, 0, 0)
    with closing(my_database.connect()) as replica:
        wire = internals(replica)
        wire._execute_command(0x15, register)  # COM_REGISTER_SLAVE
        wire._read_packet()
        found = check_source(
            config_of(my_database.url, f"{my_database.name}.orders", server_id=number)
        )
    told = [f.what for f in found if f.severity == "error"]
    if host == "cdc-crm":
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(f"server_id {number} is that of another replica (elsewhere)")


TABLES = {
    "no key": ("CREATE TABLE t (a INT)", "no primary key: rows cannot be told apart"),
    "no transactions": ("CREATE TABLE t (a INT PRIMARY KEY) ENGINE=MyISAM", "no transactions"),
    "a nullable unique key": ("CREATE TABLE t (a INT UNIQUE)", "no primary key"),
    "dates in the key": ("CREATE TABLE t (a DATE PRIMARY KEY)", "dates in the key: a"),
    "a key that folds": (
        "CREATE TABLE t (a VARCHAR(9) PRIMARY KEY)",
        "the key's a compares without case or accents here",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_captured_or_not_as_one_thinks(
    my_database: MyDatabase, name: str
) -> None:
    statement, said = TABLES[name]
    my_database.sql(statement)
    (told,) = serious(findings(my_database))
    assert said in told


def test_an_exact_collation_is_no_matter(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (a VARCHAR(9) COLLATE utf8mb4_bin PRIMARY KEY)")
    assert serious(findings(my_database)) == []


def test_what_foreign_keys_do_is_not_in_the_binlog(my_database: MyDatabase) -> None:
    """The proof: after the delete the table has no row, and the binlog does not say so."""
    my_database.sql(
        "CREATE TABLE parent (id INT PRIMARY KEY)",
        "CREATE TABLE plain (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id))",
        "CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) "
        "ON DELETE CASCADE ON UPDATE SET NULL)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (1, 1)",
    )
    ((file, offset, *_),) = my_database.query("SHOW MASTER STATUS")
    my_database.sql("DELETE FROM parent")
    events = my_database.query(f"SHOW BINLOG EVENTS IN '{file}' FROM {offset}")
    assert my_database.query("SELECT count(*) FROM child") == [(0,)]
    assert sum("elete_rows" in event[2] for event in events) == 1
    errors = [f for f in findings(my_database) if f.severity == "error"]
    assert [f.where for f in errors] == [f"crm.{my_database.name}.child"]
    assert "ON DELETE CASCADE, ON UPDATE SET NULL" in errors[0].what


def test_names_that_look_like_actions() -> None:
    text = "CREATE TABLE `on delete cascade` (`a` int COMMENT 'ON DELETE CASCADE', `t` timestamp "
    assert foreign_key_actions(text + "ON UPDATE CURRENT_TIMESTAMP)") == []


def test_a_pattern_that_matches_nothing_and_a_server_that_is_not_there(mysql: MyServer) -> None:
    database = mysql.new_database()
    (told,) = serious(findings(database))
    assert "no table matches" in told
    database.drop()
    (told,) = serious(check_source(config_of("mysql://u:geheim@127.0.0.1:1/x", "x.t")))
    assert "geheim" not in told
