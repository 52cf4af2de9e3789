"""Real Elasticsearch servers for tests.

    elasticsearch_url       function: URL of a shared server, emptied after the test
    secured_elasticsearch   module: a private server that asks for a user or an API key; a test may
                            stop it and start it again
    elasticsearch_version   a server of the oldest version (slow); the shared one has the newest
                            that a JDK here runs

The shared one comes from docker-compose.yml where a container engine answers, else it is a native
process. All tests of one run share one worker and one server (tests/conftest.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.services import compose
from tests.services.elasticsearch import (
    ElasticsearchServer,
    runnable_versions,
    start_elasticsearch,
)

PASSWORD = "not-a-secret"
# Elasticsearch's file realm; a hash that is none of its algorithms' is the password itself.
_USERS = {
    "users": f"admin:{PASSWORD}\nreader:{PASSWORD}\n",
    "users_roles": "superuser:admin\nviewer:reader\n",
}


def ask(url: str, path: str, body: object = None, method: str = "GET") -> dict[str, object]:
    """The server's JSON answer, without the client under test."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{url}{path}", data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, object] = json.loads(answer.read() or b"{}")
    return found


@pytest.fixture(scope="session")
def elasticsearch_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the shared server. Ask for `elasticsearch_url`."""
    if compose.engine_answers():
        services = request.getfixturevalue("docker_services")
        yield f"http://127.0.0.1:{compose.port(services, 'elasticsearch')}"
        return
    with _private() as server:
        yield server.url


@pytest.fixture
def elasticsearch_url(elasticsearch_server: str) -> Iterator[str]:
    yield elasticsearch_server
    _empty(elasticsearch_server)


@pytest.fixture(scope="module", params=runnable_versions()[:1])
def elasticsearch_version(request: pytest.FixtureRequest) -> Iterator[str]:
    with _private(request.param) as server:
        yield server.url


def _empty(url: str) -> None:
    names = [n for n in ask(url, "/_alias?expand_wildcards=all") if not n.startswith(".")]
    for name in names:
        ask(url, f"/{name}", method="DELETE")


@pytest.fixture(scope="module")
def secured_elasticsearch() -> Iterator[ElasticsearchServer]:
    """A server with security: `admin` may do everything, `reader` may read; see PASSWORD."""
    with _private(settings=["xpack.security.enabled: true"], files=_USERS) as server:
        yield server


@contextmanager
def _private(version: str | None = None, **more: Any) -> Iterator[ElasticsearchServer]:
    folder = Path(tempfile.mkdtemp(prefix="cdc-elasticsearch-"))
    try:
        server = start_elasticsearch(folder, version, quick=True, **more)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
