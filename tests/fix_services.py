"""Real servers for tests. Start them with these fixtures; how they run is decided here.

    postgres          session: a shared Postgres 18
    pg_database       function: URL of a fresh database on it, dropped afterwards with its slots
    own_postgres      function: a private Postgres 18 that the test may restart, kill or stop
    postgres_major    parametrised over 14 to 18: one server per version, for version tests (slow)
    kafka_bootstrap   session: "127.0.0.1:PORT" of a real broker

Where a container engine answers, the shared servers come from docker-compose.yml, otherwise they
are native processes; tests cannot tell which. Servers that a test owns, or needs of a certain
version, are always native: they must have a pid to kill and a directory to damage.

A test that asks for one of these is marked `service` (tests/conftest.py). A server that does not
start fails the test; nothing is skipped.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from demo.embedded_postgres import EmbeddedPostgres, StopMode
from demo.embedded_postgres import start_postgres as start_embedded
from tests.services import compose
from tests.services.kafka import start_kafka
from tests.services.postgres_versions import bin_dir_of

MAJORS = (14, 15, 16, 17, 18)
QUICK: dict[str, object] = {"fsync": "off"}
"""Tests kill processes, not machines: what was written is there afterwards. A commit takes a tenth
of a millisecond, not three."""


@dataclass(frozen=True)
class PostgresServer:
    """A Postgres with wal_level=logical and a superuser. `native` is None in a container."""

    host: str
    port: int
    user: str
    password: str
    native: EmbeddedPostgres | None = None

    def url(self, dbname: str = "postgres") -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{dbname}"

    @property
    def superuser_url(self) -> str:
        return self.url("postgres")

    def new_database(self) -> str:
        """Create an empty database with a unique name; returns the name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database together with its replication slots and whoever is connected to it."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            _drop_slots(connection, name)
            statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(name)))

    def restart(self, mode: StopMode = "fast") -> None:
        """Restart on the same port. `immediate` and `kill` are crashes."""
        self._own().restart(mode)

    def start(self) -> None:
        self._own().start()

    def stop(self, mode: StopMode = "fast") -> None:
        self._own().stop(mode)

    @property
    def pid(self) -> int:
        """The postmaster's process id; changes at every restart."""
        return self._own().pid

    @property
    def data_dir(self) -> Path:
        return self._own().data_dir

    @property
    def bin_dir(self) -> Path:
        """Where psql, pg_recvlogical, pg_basebackup, … of the same version lie."""
        return self._own().bin_dir

    def _own(self) -> EmbeddedPostgres:
        if self.native is None:
            raise RuntimeError("a shared server in a container: ask for `own_postgres` instead")
        return self.native


def start_postgres(data_dir: Path, major: int = 18, **settings: object) -> PostgresServer:
    """A native server over `data_dir`, of any version in MAJORS. The caller stops it. Raises
    ServerFailed."""
    native = start_embedded(data_dir, major, bin_dir=bin_dir_of(major), **{**QUICK, **settings})
    return PostgresServer(native.host, native.port, native.user, native.password, native)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A shared Postgres 18. Use `pg_database` for a database of your own; never restart it."""
    if compose.engine_answers():
        services = request.getfixturevalue("docker_services")
        port = compose.port(services, "postgres")
        yield PostgresServer("127.0.0.1", port, "postgres", "postgres")
    else:
        yield from _private_postgres(18)


@pytest.fixture
def pg_database(postgres: PostgresServer) -> Iterator[str]:
    """The superuser's URL of a fresh, empty database."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A private Postgres 18, thrown away after the test."""
    yield from _private_postgres(18)


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def postgres_major(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """One server per supported version, in turn."""
    yield from _private_postgres(request.param)


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """The bootstrap address of a one-node broker; topics and groups want unique names."""
    if compose.engine_answers():
        services = request.getfixturevalue("docker_services")
        yield f"127.0.0.1:{compose.port(services, 'kafka')}"
        return
    folder = Path(tempfile.mkdtemp(prefix="cdc-kafka-"))
    try:
        broker = start_kafka(folder, quick=True)
        try:
            yield broker.bootstrap
        finally:
            broker.stop()
    finally:
        shutil.rmtree(folder)


def _private_postgres(major: int) -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix=f"cdc-pg{major}-"))
    try:
        server = start_postgres(folder / "data", major)
        try:
            yield server
        finally:
            server.stop("immediate")  # its data are thrown away: no need for a checkpoint
    finally:
        shutil.rmtree(folder)


def _drop_slots(connection: psycopg.Connection[tuple[object, ...]], database: str) -> None:
    """End each slot's reader first: a slot in use cannot be dropped."""
    held = "SELECT active_pid FROM pg_replication_slots WHERE database = %s AND active"
    while True:
        pids = [row[0] for row in connection.execute(held, (database,))]
        if not pids:
            break
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
    connection.execute(f"{drop} WHERE database = %s", (database,))


@pytest.fixture(scope="session")
def docker_compose_file(pytestconfig: pytest.Config) -> str:
    """pytest-docker: which file."""
    return str(pytestconfig.rootpath / "docker-compose.yml")


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """pytest-docker: start only what the tests use, at ports of our own."""
    compose.choose_ports()
    return [f"up --wait --wait-timeout 180 {' '.join(compose.SERVICES)}"]
