"""Streaming from real MySQL and MariaDB servers into a log: what binlogs, servers and connections
do meanwhile. Afterwards the topics are the tables, without a duplicate and without a gap."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from cdc.errors import BadData, SlotError, SourceError, SourceUnavailable
from cdc.positions import BinlogPosition, GtidSet, MariaGtid
from tests.fix_capture import DEADLINE_S, SOURCE, Capture
from tests.fix_mysql import MyDatabase, MyServer, NewMyServer
from tests.services.mysql import FLAVOURS, Flavour
from tests.tcp_proxy import Damage, damaging

pytestmark = pytest.mark.service


@pytest.fixture
def shop(my_database: MyDatabase, tmp_path: Path) -> Capture:
    return made_shop(my_database, tmp_path)


def made_shop(database: MyDatabase, folder: Path) -> Capture:
    database.sql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text, amount decimal(12,2))",
        "CREATE TABLE unseen (id bigint PRIMARY KEY, note text)",
        "INSERT INTO orders VALUES (1, 'one', 1.5), (2, 'two', 2.5)",
    )
    return Capture(database.url, folder, (f"{database.name}.orders",))


@pytest.fixture
def own_shop(
    request: pytest.FixtureRequest, new_my_server: NewMyServer, tmp_path: Path
) -> tuple[MyServer, Capture]:
    """On a server of its own, of the flavour and settings of the parameter."""
    flavour, *settings = request.param
    server = new_my_server(flavour, *settings)
    return server, made_shop(server.new_database(), tmp_path)


both = pytest.mark.parametrize("own_shop", [(f,) for f in FLAVOURS], indirect=True, ids=FLAVOURS)


def some_changes(shop: Capture, first: int) -> None:
    shop.transaction(
        f"INSERT INTO orders VALUES ({first}, 'new', {first}), ({first + 1}, NULL, NULL)",
        f"UPDATE orders SET note = 'changed' WHERE id = {first}",
        f"INSERT INTO unseen VALUES ({first}, 'unseen')",
    )
    shop.sql(
        f"UPDATE orders SET id = {first + 5} WHERE id = {first + 1}", "DELETE FROM orders LIMIT 1"
    )


def assert_whole(shop: Capture) -> None:
    with shop.running() as agent:
        agent.caught_up()
    shop.assert_equal(shop.name("orders"))
    shop.assert_history(shop.name("orders"))


def test_rotation(shop: Capture) -> None:
    with shop.running() as agent:
        for first in (10, 20, 30):
            agent.caught_up()
            some_changes(shop, first)
            shop.sql("FLUSH BINARY LOGS")
    some_changes(shop, 40)
    assert_whole(shop)


def test_what_is_not_captured_moves_the_frontier(shop: Capture) -> None:
    with shop.running() as agent:
        before = agent.caught_up()
        shop.sql("INSERT INTO unseen VALUES (1, 'x')", "CREATE TABLE more (id int PRIMARY KEY)")
        after = agent.caught_up()
    assert after.txn_seq == before.txn_seq
    assert not before.positions.covers(after.positions)


@both
@pytest.mark.parametrize("mode", ["fast", "kill"])
def test_the_server_restarts(own_shop: tuple[MyServer, Capture], mode: str) -> None:
    server, shop = own_shop
    with shop.running() as agent:
        agent.caught_up()
        some_changes(shop, 10)
        server.restart(mode)  # type: ignore[arg-type]
        assert isinstance(agent.failed(), SourceUnavailable)
    some_changes(shop, 20)
    assert_whole(shop)


@both
def test_checksums_go_and_come(own_shop: tuple[MyServer, Capture]) -> None:
    server, shop = own_shop
    with shop.running() as agent:
        for first, checksum in ((10, "NONE"), (20, "CRC32"), (30, "NONE")):
            some_changes(shop, first)
            agent.caught_up()
            server.sql(f"SET GLOBAL binlog_checksum = {checksum}")
    some_changes(shop, 40)
    assert_whole(shop)


WITHOUT_GTIDS = ("mysql", "--gtid-mode=OFF", "--enforce-gtid-consistency=OFF")


@pytest.mark.parametrize("own_shop", [WITHOUT_GTIDS], indirect=True, ids=["mysql"])
def test_a_server_without_gtids(own_shop: tuple[MyServer, Capture], mysql: MyServer) -> None:
    server, shop = own_shop
    with shop.running() as agent:
        agent.caught_up()
        some_changes(shop, 10)
        shop.sql("FLUSH BINARY LOGS")
        some_changes(shop, 20)
        frontier = agent.caught_up()
    assert isinstance(frontier.positions[SOURCE], BinlogPosition)
    some_changes(shop, 30)
    assert_whole(shop)
    some_changes(shop, 50)
    purge(server)
    assert "its oldest binlog is" in shop.ends()


def test_gtids_of_each_flavour(shop: Capture, my_database: MyDatabase) -> None:
    with shop.running() as agent:
        position = agent.caught_up().positions[SOURCE]
    assert isinstance(position, MariaGtid if my_database.flavour == "mariadb" else GtidSet)


def purge(server: MyServer) -> None:
    """Begin a new binlog, and remove the older ones. A dump that has ended may still be holding one
    of them until the server next has something to say to it."""
    server.sql("FLUSH BINARY LOGS")
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        ((newest, *_),) = server.query("SHOW MASTER STATUS")
        server.sql(f"PURGE BINARY LOGS TO '{newest}'")
        if len(server.query("SHOW BINARY LOGS")) == 1:
            return
        dumps = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'"
        for (number,) in server.query(dumps):
            server.sql(f"KILL {number}")
    raise AssertionError


@both
def test_a_purged_binlog(own_shop: tuple[MyServer, Capture]) -> None:
    server, shop = own_shop
    with shop.running() as agent:
        agent.caught_up()
    some_changes(shop, 10)
    purge(server)
    with shop.running() as agent:
        error = agent.failed()
    assert isinstance(error, SlotError)
    assert f"cdc remove {SOURCE}" in str(error)


def replicate(flavour: Flavour, source: MyServer, replica: MyServer) -> None:
    """All of the source's history, onto an empty replica."""
    where = f"HOST='127.0.0.1', {{0}}_PORT={source.port}, {{0}}_USER='cdc', {{0}}_PASSWORD='cdc'"
    if flavour == "mysql":
        replica.sql(
            f"CHANGE REPLICATION SOURCE TO SOURCE_{where.format('SOURCE')}, "
            "SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1",
            "START REPLICA",
        )
        ((executed,),) = source.query("SELECT @@GLOBAL.gtid_executed")
        assert replica.query("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 60)", (executed,)) == [(0,)]
    else:
        replica.sql(
            f"CHANGE MASTER TO MASTER_{where.format('MASTER')}, MASTER_USE_GTID=slave_pos",
            "START SLAVE",
        )
        ((executed,),) = source.query("SELECT @@GLOBAL.gtid_binlog_pos")
        assert replica.query("SELECT MASTER_GTID_WAIT(%s, 60)", (executed,)) == [(0,)]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_failover_to_a_replica_by_gtid(
    flavour: Flavour, new_my_server: NewMyServer, tmp_path: Path
) -> None:
    source = new_my_server(flavour)
    replica = new_my_server(flavour, "--server-id=2", "--log-slave-updates=ON")
    shop = made_shop(source.new_database(), tmp_path)
    with shop.running() as agent:
        agent.caught_up()
    some_changes(shop, 10)
    replicate(flavour, source, replica)
    database = shop.url.rsplit("/", 1)[1]
    source.stop("kill")
    there = Capture(replica.url(database), tmp_path, shop.tables)
    some_changes(there, 20)
    assert_whole(there)


def test_a_server_that_lacks_what_the_log_has(
    mysql: MyServer, new_my_server: NewMyServer, tmp_path: Path
) -> None:
    database = mysql.new_database()
    shop = made_shop(database, tmp_path)
    with shop.running() as agent:
        agent.caught_up()
    other = new_my_server("mysql")
    other.sql(
        f"CREATE DATABASE {database.name}", f"CREATE TABLE {database.name}.orders (id int KEY)"
    )
    there = Capture(other.url(database.name), tmp_path, shop.tables)
    assert "lacks transactions that the log has" in there.ends()
    database.drop()


COMPRESSED = (("mysql",), ("mariadb", "--log-bin-compress=ON", "--log-bin-compress-min-len=10"))


@pytest.mark.parametrize("own_shop", COMPRESSED, indirect=True, ids=FLAVOURS)
def test_compressed_transactions(own_shop: tuple[MyServer, Capture]) -> None:
    server, shop = own_shop
    if server.flavour == "mysql":
        server.sql("SET GLOBAL binlog_transaction_compression = ON")
    many = shop.database.series(1000, 150_000)
    with shop.running() as agent:
        agent.caught_up()
        some_changes(shop, 10)
        shop.sql(f"INSERT INTO orders SELECT g, repeat('long', 30), g FROM {many}")
        some_changes(shop, 20)
        agent.caught_up()
    assert_whole(shop)


def test_xa_transactions_count_from_their_commit_on(shop: Capture) -> None:
    name = shop.url.rsplit("/", 1)[1]

    def prepare(xid: str, row: int) -> tuple[str, ...]:
        xid = f"'{name}-{xid}'"
        return (
            f"XA START {xid}",
            f"INSERT INTO orders VALUES ({row}, 'xa', 1)",
            f"XA END {xid}",
            f"XA PREPARE {xid}",
        )

    with shop.running() as agent:
        agent.caught_up()
        shop.sql(*prepare("gone", 101), f"XA ROLLBACK '{name}-gone'")
        shop.sql(*prepare("kept", 102), f"XA COMMIT '{name}-kept'")
        shop.sql(*prepare("once", 103)[:3], f"XA COMMIT '{name}-once' ONE PHASE")
        some_changes(shop, 10)
        agent.caught_up()
    shop.assert_equal(shop.name("orders"))
    shop.assert_history(shop.name("orders"))
    assert 101 not in shop.batches(shop.name("orders"))[-1].rows.column("id").to_pylist()


def test_an_xa_transaction_prepared_before_the_capture_is_read_again(shop: Capture) -> None:
    xid = f"'{shop.url.rsplit('/', 1)[1]}'"
    shop.sql(
        f"XA START {xid}",
        "INSERT INTO orders VALUES (101, 'xa', 1)",
        f"XA END {xid}",
        f"XA PREPARE {xid}",
    )
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(f"XA COMMIT {xid}")
        some_changes(shop, 10)
        agent.caught_up()
    shop.assert_equal(shop.name("orders"))


@pytest.fixture
def plain(shop: Capture) -> tuple[Capture, int]:
    """The shop without TLS, and its server's port."""
    port = int(shop.url.rsplit(":", 1)[1].split("/")[0])
    shop.url += "?ssl-mode=DISABLED"
    return shop, port


@pytest.mark.parametrize("offset", [0, 7, 60])
def test_a_connection_cut_within_an_event(plain: tuple[Capture, int], offset: int) -> None:
    shop, port = plain
    with shop.running() as agent:
        agent.caught_up()
    some_changes(shop, 10)
    shop.sql(f"INSERT INTO orders VALUES (77, '{'marked' * 30}', 1)")
    some_changes(shop, 20)
    with damaging(port, Damage(b"markedmarked", "cut", offset)) as broken:
        through = Capture(shop.url.replace(f":{port}/", f":{broken}/"), shop.folder, shop.tables)
        with through.running() as agent:
            assert isinstance(agent.failed(), SourceUnavailable)
    assert_whole(shop)


def test_an_event_with_a_flipped_bit(plain: tuple[Capture, int]) -> None:
    shop, port = plain
    with shop.running() as agent:
        agent.caught_up()
    some_changes(shop, 10)
    shop.sql(f"INSERT INTO orders VALUES (77, '{'marked' * 30}', 1)")
    with damaging(port, Damage(b"markedmarked", "flip", 3)) as broken:
        through = Capture(shop.url.replace(f":{port}/", f":{broken}/"), shop.folder, shop.tables)
        with through.running() as agent:
            error = agent.failed()
    assert isinstance(error, BadData)
    assert "does not fit its checksum" in str(error)
    assert "log position" in str(error) and "binlog." in str(error) and "begins with" in str(error)
    assert_whole(shop)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET note = 'x'",
        "UPDATE (SELECT 1 AS id) s JOIN unseen u ON u.id = s.id JOIN orders o SET o.note = 'x'",
        "DELETE o FROM unseen u JOIN unseen v ON u.id = v.id JOIN orders AS o ON o.id = u.id",
    ],
)
def test_changes_that_were_logged_as_statements(shop: Capture, statement: str) -> None:
    with shop.running() as agent:
        agent.caught_up()
        shop.sql("SET SESSION binlog_format = STATEMENT", statement)
        error = agent.failed()
    assert isinstance(error, SourceError) and "binlog_format" in str(error)


BESIDES = {
    "a_trigger": (
        "CREATE TRIGGER seen AFTER INSERT ON unseen FOR EACH ROW UPDATE orders SET note = 'x'",
        "INSERT INTO unseen VALUES (1, 'x')",
    ),
    "a_function": (
        "CREATE FUNCTION touched() RETURNS int DETERMINISTIC MODIFIES SQL DATA "
        "BEGIN UPDATE orders SET note = 'x'; RETURN 1; END",
        "DO touched()",
    ),
    "a_view": ("CREATE VIEW seen AS SELECT * FROM orders", "UPDATE seen SET note = 'x'"),
}


@pytest.mark.parametrize("besides", BESIDES)
def test_changes_besides_those_that_a_statement_names(shop: Capture, besides: str) -> None:
    made, statement = BESIDES[besides]
    shop.sql(made)
    with shop.running() as agent:
        agent.caught_up()
        shop.sql("SET SESSION binlog_format = STATEMENT", statement)
        error = agent.failed()
    assert isinstance(error, SourceError) and "binlog_format" in str(error)


def test_a_statement_that_changes_nothing_else(mariadb: MyServer, tmp_path: Path) -> None:
    """Known to a user who may see all triggers, functions and views; and as long as none that the
    statement met may have been dropped since."""
    database = mariadb.new_database()
    shop = made_shop(database, tmp_path)
    seeing = mariadb.as_user("SELECT, TRIGGER, REPLICATION SLAVE, BINLOG MONITOR ON *.*")
    blind = mariadb.as_user(
        f"SELECT ON {database.name}.*", "REPLICATION SLAVE, BINLOG MONITOR ON *.*"
    )
    harmless = ("SET SESSION binlog_format = STATEMENT", "INSERT INTO unseen VALUES (7, 'x')")
    with Capture(seeing.url(database.name), tmp_path, shop.tables).running() as agent:
        agent.caught_up()
        shop.sql(*harmless, "SET STATEMENT max_statement_time = 9 FOR DELETE FROM unseen")
        some_changes(shop, 10)
        agent.caught_up()
        shop.sql(BESIDES["a_trigger"][0], *harmless)
        assert "triggers" in str(agent.failed())
    shop.sql("DROP TRIGGER seen")
    with Capture(blind.url(database.name), tmp_path / "blind", shop.tables).running() as agent:
        agent.caught_up()
        shop.sql(harmless[0], "DELETE FROM unseen")
        assert "SELECT and TRIGGER" in str(agent.failed())
    database.drop()


def test_what_a_statement_met_was_dropped_since(mariadb: MyServer, tmp_path: Path) -> None:
    """Read again, since the catalog no longer tells."""
    database = mariadb.new_database()
    shop = made_shop(database, tmp_path)
    with shop.running() as agent:
        agent.caught_up()
    shop.sql(
        BESIDES["a_trigger"][0],
        "SET SESSION binlog_format = STATEMENT",
        BESIDES["a_trigger"][1],
        "DROP TRIGGER seen",
    )
    some_changes(shop, 10)
    assert_whole(shop)
    database.drop()


def test_a_statement_under_settings_of_its_own(mariadb: MyServer, tmp_path: Path) -> None:
    database = mariadb.new_database()
    shop = made_shop(database, tmp_path)
    with shop.running() as agent:
        agent.caught_up()
        shop.sql("SET STATEMENT max_statement_time = 9 FOR TRUNCATE orders")
        some_changes(shop, 10)
        agent.caught_up()
    assert_whole(shop)
    database.drop()


@pytest.mark.parametrize("xa", [False, True], ids=["plain", "xa"])
def test_partial_updates_of_json(mysql: MyServer, tmp_path: Path, xa: bool) -> None:
    with closing(_Dropped(mysql.new_database())) as made:
        made.database.sql(
            "CREATE TABLE orders (id int PRIMARY KEY, body json)",
            "INSERT INTO orders VALUES (1, json_object('a', repeat('a', 100), 'b', 1))",
        )
        made.database.sql("CREATE TABLE other LIKE orders", "INSERT INTO other TABLE orders")
        shop = Capture(made.database.url, tmp_path, (f"{made.database.name}.orders",))
        xid = f"'{made.database.name}'"
        around = (f"XA START {xid}", f"XA END {xid}", f"XA PREPARE {xid}", f"XA COMMIT {xid}")
        before, behind = (around[:1], around[1:]) if xa else ((), ())
        partial = "SET SESSION binlog_row_value_options = PARTIAL_JSON"
        update = "UPDATE {} SET body = JSON_SET(body, '$.b', 2)"
        with shop.running() as agent:
            agent.caught_up()
            shop.sql(partial, *before, update.format("other"), *behind)
            agent.caught_up()
            shop.sql(partial, *before, update.format("orders"), *behind)
            error = agent.failed()
    assert isinstance(error, SourceError) and "binlog_row_value_options" in str(error)


class _Dropped:
    def __init__(self, database: MyDatabase) -> None:
        self.database = database

    def close(self) -> None:
        self.database.drop()


def test_two_captures_under_one_server_id(shop: Capture, tmp_path: Path) -> None:
    other = Capture(shop.url, tmp_path / "other", shop.tables)
    with shop.running() as agent:
        agent.caught_up()
        with other.running() as second:
            second.caught_up()
            error = agent.failed()
    assert isinstance(error, SourceError) and "server_id" in str(error)


def test_large_values_in_events_of_several_packets(shop: Capture, my_database: MyDatabase) -> None:
    """A row of 20 MiB, an event of two packets."""
    with closing(my_database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@GLOBAL.max_allowed_packet")
        (allowed,) = cursor.fetchone()
    count = min(20, int(allowed) // 2**20 - 1)
    my_database.sql("ALTER TABLE orders MODIFY note longtext")
    with shop.running() as agent:
        agent.caught_up()
        shop.sql(f"INSERT INTO orders VALUES (55, repeat('x', {count} * 1048576), 1)")
        some_changes(shop, 10)
        agent.caught_up()
    shop.assert_equal(shop.name("orders"))
