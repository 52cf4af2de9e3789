"""Real MySQL and MariaDB servers for tests.

    mysql, mariadb    session: a shared server of each kind
    my_server         session, parametrised: both, in turn
    my_database       function, parametrised: a fresh database on the shared server of each kind
    own_mysql         function: a private MySQL that the test may restart, kill or stop
    own_mariadb       function: the same, MariaDB
    new_my_server     function: starts private servers with settings of their own, as many as asked

The shared servers come from docker-compose.yml where a container engine answers, else they are
native processes; private ones are always native. All write rows with full metadata and GTIDs.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.services import compose
from tests.services.mysql import (
    FLAVOURS,
    PASSWORD,
    USER,
    Flavour,
    NativeMySql,
    StopMode,
    start_native,
)

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class MyServer:
    """A server and an account on it with all rights. `native` is None in a container."""

    flavour: Flavour
    port: int
    user: str
    password: str
    native: NativeMySql | None = None
    host: str = "127.0.0.1"

    def url(self, database: str = "") -> str:
        return f"mysql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def connect(self, database: str = "", **options: Any) -> pymysql.Connection[Any]:
        """A connection in autocommit with UTC as its time zone."""
        arguments = {"charset": "utf8mb4", "autocommit": True, **options}
        connection = pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database or None,
            **arguments,
        )
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
        return connection

    def sql(self, *statements: str) -> None:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def query(self, statement: str, arguments: Sequence[object] = ()) -> Rows:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall())

    def new_database(self, character_set: str = "utf8mb4") -> MyDatabase:
        """Create an empty database with a unique name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        self.sql(f"CREATE DATABASE {name} CHARACTER SET {character_set}")
        return MyDatabase(self, name)

    def as_user(self, *grants: str) -> MyServer:
        """The same server for a new user who has only what `grants` say: `SELECT ON shop.*`."""
        name = f"u_{uuid.uuid4().hex[:12]}"
        self.sql(
            f"CREATE USER '{name}'@'%' IDENTIFIED BY '{PASSWORD}'",
            *(f"GRANT {grant} TO '{name}'@'%'" for grant in grants),
        )
        return replace(self, user=name, password=PASSWORD)

    def start(self, *settings: str) -> None:
        self._own().start(*settings)

    def stop(self, mode: StopMode = "fast") -> None:
        self._own().stop(mode)

    def restart(self, mode: StopMode = "fast", *settings: str) -> None:
        """Restart on the same port; `settings` hold until the next one."""
        self._own().restart(mode, *settings)

    @property
    def pid(self) -> int:
        """Changes at every restart."""
        return self._own().pid

    @property
    def data_dir(self) -> Path:
        """Where the binlogs lie: `binlog.000001`, …"""
        return self._own().data_dir

    @property
    def bin_dir(self) -> Path:
        """Where mysql and mysqlbinlog of the same version lie (MySQL)."""
        return self._own().distribution.bin_dir

    def _own(self) -> NativeMySql:
        if self.native is None:
            raise RuntimeError("a shared server in a container: ask for `own_mysql` instead")
        return self.native


@dataclass(frozen=True)
class MyDatabase:
    """One database of a server."""

    server: MyServer
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    @property
    def flavour(self) -> Flavour:
        return self.server.flavour

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        return self.server.connect(self.name, **options)

    def sql(self, *statements: str, **options: Any) -> None:
        """Run statements in autocommit over one connection; several of one transaction stand
        between BEGIN and COMMIT."""
        with closing(self.connect(**options)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def insert(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """`executemany` in one transaction."""
        with closing(self.connect(autocommit=False)) as connection, connection.cursor() as cursor:
            cursor.executemany(statement, list(rows))
            connection.commit()

    def query(self, statement: str, arguments: Sequence[object] = ()) -> Rows:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall())

    def drop(self) -> None:
        self.server.sql(f"DROP DATABASE IF EXISTS {self.name}")


NewMyServer = Callable[..., MyServer]
"""`new_my_server(flavour, *settings)`."""


@contextmanager
def private_server(flavour: Flavour, *settings: str) -> Iterator[MyServer]:
    """A native server, thrown away at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"cdc-{flavour}-"))
    try:
        native = start_native(folder, flavour, *settings)
        try:
            yield MyServer(flavour, native.port, USER, PASSWORD, native)
        finally:
            native.stop("kill")
    finally:
        shutil.rmtree(folder)


def _shared(request: pytest.FixtureRequest, flavour: Flavour) -> Iterator[MyServer]:
    if compose.engine_answers():
        services = request.getfixturevalue("docker_services")
        yield MyServer(flavour, compose.port(services, flavour), "root", "mysql")
    else:
        with private_server(flavour) as server:
            yield server


@pytest.fixture(scope="session")
def mysql(request: pytest.FixtureRequest) -> Iterator[MyServer]:
    """A shared MySQL 8. Never restart it, nor leave its global settings changed."""
    yield from _shared(request, "mysql")


@pytest.fixture(scope="session")
def mariadb(request: pytest.FixtureRequest) -> Iterator[MyServer]:
    """A shared MariaDB 10.11 or newer, under the same rules."""
    yield from _shared(request, "mariadb")


@pytest.fixture(scope="session", params=FLAVOURS)
def my_server(request: pytest.FixtureRequest) -> MyServer:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, MyServer)
    return server


@pytest.fixture
def my_database(my_server: MyServer) -> Iterator[MyDatabase]:
    database = my_server.new_database()
    yield database
    database.drop()


@pytest.fixture
def own_mysql() -> Iterator[MyServer]:
    with private_server("mysql") as server:
        yield server


@pytest.fixture
def own_mariadb() -> Iterator[MyServer]:
    with private_server("mariadb") as server:
        yield server


@pytest.fixture
def new_my_server() -> Iterator[NewMyServer]:
    with ExitStack() as stack:

        def start(flavour: Flavour = "mysql", *settings: str) -> MyServer:
            return stack.enter_context(private_server(flavour, *settings))

        yield start
