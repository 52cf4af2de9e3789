"""The servers that other tests stand on do start, and are what those tests expect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer

from demo.embedded_postgres import StopMode
from demo.server_process import wait_until
from tests.fix_mysql import MyDatabase, NewMyServer
from tests.fix_services import MAJORS, PostgresServer
from tests.services.mysql import FLAVOURS as MY_FLAVOURS
from tests.services.mysql import Flavour as MyFlavour

ROOT = Path(__file__).parent.parent


def setting(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_a_fresh_database_can_be_captured(pg_database: str) -> None:
    assert setting(pg_database, "wal_level") == "logical"
    assert int(setting(pg_database, "server_version_num")) // 10000 == 18


def test_a_database_goes_with_its_slots_and_its_connections(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    with psycopg.connect(postgres.url(name), autocommit=True) as left_open:
        slot = f"slot_{name}"
        left_open.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        postgres.drop_database(name)
        with psycopg.connect(postgres.superuser_url) as connection:
            left = """SELECT datname FROM pg_database WHERE datname = %(name)s
                      UNION ALL
                      SELECT slot_name FROM pg_replication_slots WHERE database = %(name)s"""
            assert connection.execute(left, {"name": name}).fetchall() == []


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_private_server_restarts_with_its_data(
    own_postgres: PostgresServer, mode: StopMode
) -> None:
    with psycopg.connect(own_postgres.superuser_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    before = own_postgres.pid
    own_postgres.restart(mode)
    assert own_postgres.pid != before
    with psycopg.connect(own_postgres.superuser_url) as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]


def test_a_killed_server_starts_again_once_its_children_are_gone(
    own_postgres: PostgresServer,
) -> None:
    """A backend in the middle of its work does not notice, and holds the shared memory."""
    busy = """DO $$ DECLARE ends timestamptz := clock_timestamp() + '1 s';
              BEGIN WHILE clock_timestamp() < ends LOOP END LOOP; END $$"""
    with closing(psycopg.connect(own_postgres.superuser_url)) as connection:
        connection.pgconn.send_query(busy.encode())
        with psycopg.connect(own_postgres.superuser_url, autocommit=True) as other:
            active = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
            pid = connection.info.backend_pid
            wait_until(
                lambda: other.execute(active, (pid,)).fetchone() is not None,
                timeout_s=60,
                what="the backend to work",
            )
        own_postgres.restart("kill")
    with psycopg.connect(own_postgres.superuser_url) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_every_supported_version_starts(postgres_major: PostgresServer) -> None:
    url = postgres_major.superuser_url
    assert int(setting(url, "server_version_num")) // 10000 in MAJORS
    assert setting(url, "wal_level") == "logical"
    assert (postgres_major.bin_dir / "postgres").exists()


@pytest.mark.slow
def test_a_server_ends_when_its_program_is_killed(tmp_path: Path) -> None:
    """The demo killed by `kill -9` leaves no Postgres behind."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from demo.embedded_postgres import start_postgres
        print(start_postgres(Path(sys.argv[1])).pid, flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        pid = int(running.stdout.readline())
        assert is_alive(pid)
        running.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), timeout_s=60, what="Postgres to end")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_message_goes_through_the_broker(kafka_bootstrap: str) -> None:
    topic = f"t-{uuid.uuid4().hex}"
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "acks": "all"})
    producer.produce(topic, key=b"k", value=b"v")
    assert producer.flush(30) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": kafka_bootstrap,
            "group.id": topic,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(30)
        assert message is not None and message.error() is None
        assert (message.key(), message.value()) == (b"k", b"v")
    finally:
        consumer.close()


def test_both_kinds_of_mysql_write_whole_rows_with_names_and_gtids(my_database: MyDatabase) -> None:
    wanted = ("log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata")
    names = ", ".join(f"@@global.{name}" for name in wanted)
    assert my_database.query(f"SELECT {names}") == [(1, "ROW", "FULL", "FULL")]
    my_database.sql("CREATE TABLE t (a INT)", "INSERT INTO t VALUES (7)")
    assert my_database.query("SELECT a FROM t") == [(7,)]
    mysql = my_database.flavour == "mysql"
    ((gtids,),) = my_database.query(
        f"SELECT @@global.{'gtid_executed' if mysql else 'gtid_binlog_pos'}"
    )
    assert gtids


@pytest.mark.parametrize("flavour", MY_FLAVOURS)
def test_a_mysql_of_ones_own_survives_its_crash_and_has_the_settings_asked_for(
    new_my_server: NewMyServer, flavour: MyFlavour
) -> None:
    server = new_my_server(flavour, "--server-id=77")
    database = server.new_database()
    database.sql("CREATE TABLE kept (id INT)", "INSERT INTO kept VALUES (1)")
    pid = server.pid
    server.restart("kill")
    assert server.pid != pid
    assert database.query("SELECT id, @@server_id FROM kept") == [(1, 77)]
