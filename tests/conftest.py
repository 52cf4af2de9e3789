"""Every `fix_<thing>.py` beside this file is loaded; tests that use a server are marked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services import compose

pytest_plugins = [f"tests.{file.stem}" for file in sorted(Path(__file__).parent.glob("fix_*.py"))]
pytest.register_assert_rewrite(*pytest_plugins)  # one of them may import another first

SERVICES = {
    *("postgres", "own_postgres", "postgres_major", "kafka_bootstrap", "connect", "flink"),
    *("elasticsearch_url", "elasticsearch_version", "secured_elasticsearch"),
    *("redis_url", "own_redis", "forgetful_redis", "redis_flavour"),
    *("schema_registry", "own_registry", "own_kafka", "secure_kafka"),
    *("mysql", "mariadb", "my_server", "own_mysql", "own_mariadb", "new_my_server"),
}
VERSIONS = {"postgres_major", "elasticsearch_version", "redis_flavour"}
SHARED = {"postgres", "kafka_bootstrap", "elasticsearch_url", "redis_url", "mysql", "mariadb"}
HEAVY = (
    *("elasticsearch", "secured_elasticsearch", "kafka", "own_kafka", "secure_kafka"),
    *("mysql", "mariadb"),
)
STORES = {"postgres": "postgres", "elasticsearch": "elasticsearch_url", "redis": "redis_url"}
"""Tests over every kind of store ask for the server's fixture by the parameter's value."""


@pytest.hookimpl(tryfirst=True)  # before pytest's own hook chooses by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        used = _services(item)
        if used:
            item.add_marker("service")
        if used & VERSIONS:
            item.add_marker("slow")
        group = _xdist_group(used)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


def _services(item: pytest.Item) -> set[str]:
    """The fixtures with a server that a test uses."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    named = {value for value in parameters if isinstance(value, str)}
    stores = {STORES[value] for value in named & STORES.keys()} | (SERVICES & named)
    return stores | (SERVICES & set(getattr(item, "fixturenames", ())))


def _xdist_group(used: set[str]) -> str | None:
    """Tests that must share one worker: a broker or a search engine is too heavy to be started
    twice, and a compose project belongs to one worker. Native Postgres and Redis servers are cheap:
    each worker has its own."""
    if used & SHARED and compose.engine_answers():
        return "compose"
    if used & {"schema_registry", "own_registry"}:
        return "kafka"
    for heavy in HEAVY:
        if any(name.startswith(heavy) for name in used):
            return heavy
    return None
