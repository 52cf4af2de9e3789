"""Real Redis and Valkey servers for tests.

    redis_url       function: the URL of an emptied database on the session's server
    redis_flavour   function, parametrised: the same, on Valkey and on Redis (for a few tests)
    own_redis       function: a private Valkey that keeps every write, to stop, kill and restart
    forgetful_redis function: the same, without anything on disk

The session's server comes from docker-compose.yml where a container engine answers, else it is a
native Valkey.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from demo.embedded_redis import EmbeddedRedis
from tests.services import compose
from tests.services.redis import FLAVOURS, start_native


def _native(flavour: str, *settings: str) -> Iterator[EmbeddedRedis]:
    folder = Path(tempfile.mkdtemp(prefix=f"cdc-{flavour}-"))
    try:
        server = start_native(folder, flavour, *settings)
        try:
            yield server
        finally:
            server.stop("kill")
    finally:
        shutil.rmtree(folder)


def _emptied(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server for all tests of this worker. Ask for `redis_url`."""
    if compose.engine_answers():
        services = request.getfixturevalue("docker_services")
        yield f"redis://127.0.0.1:{compose.port(services, 'redis')}/0"
    else:
        for server in _native("valkey"):
            yield server.url


@pytest.fixture(scope="session", params=FLAVOURS)
def redis_native(request: pytest.FixtureRequest) -> Iterator[str]:
    """A native server of each flavour, in turn."""
    for server in _native(request.param):
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    return _emptied(redis_server)


@pytest.fixture
def redis_flavour(redis_native: str) -> str:
    return _emptied(redis_native)


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """Keeps every write over a crash: appendfsync always."""
    yield from _native("valkey", "--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def forgetful_redis() -> Iterator[EmbeddedRedis]:
    """A private Valkey that keeps nothing over a restart."""
    yield from _native("valkey")
