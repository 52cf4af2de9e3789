"""Which of the server's refusals are tried again, and which wait for a person."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg
import pyarrow as pa
import pytest

from cdc.errors import CdcError, SourceError, SourceUnavailable
from cdc.postgres.connection import (
    connect,
    connect_replication,
    execute,
    kind_of,
    source_errors,
)
from cdc.postgres.select import snapshot_at_now
from cdc.schema import Column, TableSchema
from tests.fix_services import PostgresServer
from tests.fix_user import User

ONE = TableSchema("public.one", (Column("id", pa.int32(), "integer"),), ("id",))


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", SourceUnavailable),
        ("53300", SourceUnavailable),
        ("55006", SourceUnavailable),
        ("57P01", SourceUnavailable),
        ("57P03", SourceUnavailable),
        ("28P01", SourceError),
        ("3D000", SourceError),
        ("42501", SourceError),
        ("42704", SourceError),
        ("53400", SourceError),
        ("55000", SourceError),
        ("57P04", SourceError),
    ],
)
def test_sqlstates(state: str, kind: type[SourceError]) -> None:
    assert kind_of(state, "") is kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("connection to server at ... failed: Connection refused", SourceUnavailable),
        ("FATAL:  the database system is starting up", SourceUnavailable),
        ("FATAL:  sorry, too many clients already", SourceUnavailable),
        ("FATAL:  das Datenbanksystem startet", SourceUnavailable),
        ('FATAL:  no pg_hba.conf entry for host "::1"', SourceError),
        ("FATAL:  must be superuser or replication role to start walsender", SourceError),
    ],
)
def test_messages_of_refused_connections(message: str, kind: type[SourceError]) -> None:
    assert kind_of(None, message) is kind


def raised(call: Callable[[], object]) -> CdcError:
    with pytest.raises(CdcError) as found:
        call()
    return found.value


@pytest.mark.service
def test_connections_that_are_refused(postgres: PostgresServer, pg_database: str) -> None:
    role = f"{pg_database.rsplit('/', 1)[1]}_r"
    address = pg_database.split("@", 1)[1]
    url = f"postgresql://{role}:right@{address}"
    with psycopg.connect(pg_database, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'".encode())
        try:
            wrong = url.replace("right", "wrong")
            gone = f"postgresql://{role}:right@127.0.0.1:1/x"
            both: tuple[Callable[[str], object], ...] = (connect, connect_replication)
            for ways in both:
                assert type(raised(partial(ways, f"{url}_none"))) is SourceError
                assert type(raised(partial(ways, wrong))) is SourceError
                assert type(raised(partial(ways, gone))) is SourceUnavailable
            assert type(raised(lambda: connect_replication(url))) is SourceError  # its rights
            admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0".encode())
            assert "too many" in raised(lambda: connect(url)).what
            assert type(raised(lambda: connect(url))) is SourceUnavailable
        finally:
            admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.service
def test_connections_that_are_ended(pg_database: str) -> None:
    with psycopg.connect(pg_database, autocommit=True) as admin:
        connection = connect(pg_database)
        admin.execute("SELECT pg_terminate_backend(%s, 60000)", (connection.info.backend_pid,))

        def ask() -> None:
            with source_errors(pg_database):
                connection.execute("SELECT 1")

        assert type(raised(ask)) is SourceUnavailable
        assert type(raised(ask)) is SourceUnavailable  # the connection is closed now
        walsender = connect_replication(pg_database)
        missing = raised(lambda: execute(walsender, "START_REPLICATION SLOT no LOGICAL 0/0", "no"))
        assert type(missing) is SourceError and "does not exist" in missing.what
        admin.execute("SELECT pg_terminate_backend(%s, 60000)", (walsender.backend_pid,))
        assert type(raised(lambda: execute(walsender, "IDENTIFY_SYSTEM", "w"))) is SourceUnavailable
        with snapshot_at_now(pg_database) as read:
            pid = read.connection.info.backend_pid
            admin.execute("SELECT pg_terminate_backend(%s, 60000)", (pid,))
            assert type(raised(lambda: list(read.rows("SELECT 1 AS id", ONE)))) is SourceUnavailable


@pytest.mark.service
def test_a_table_that_needs_a_person_stops_at_once(user: User) -> None:
    user.sql("CREATE TABLE c (id int)")
    user.write_config(sinks="{s: {type: sql, url: 'duckdb:///w.duckdb', from: [shop.c]}}")
    said = user.cdc("run", "shop", expect=1).said
    assert "no primary key" in said
    assert "shop: stopped" in said and "starting again" not in said
