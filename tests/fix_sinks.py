"""Stores for tests of sinks.

store        function, parametrised: an empty `StoreCase` of every kind
"""

from __future__ import annotations

import uuid

import pytest

from tests.sink_feed import StoreCase

STORES = [
    "duckdb",
    pytest.param("sqlite", marks=pytest.mark.slow),
    pytest.param("postgres", marks=pytest.mark.service),
    "elasticsearch",
    "redis",
]


def store_case(kind: str, request: pytest.FixtureRequest) -> StoreCase:
    """An empty store of `kind`; its server, where it needs one, by the server's own fixture."""
    prefix = f"t{uuid.uuid4().hex[:12]}-"
    match kind:
        case "postgres":
            return StoreCase("postgres", str(request.getfixturevalue("pg_database")))
        case "elasticsearch":
            return StoreCase(kind, request.getfixturevalue("elasticsearch_url"), prefix)
        case "redis":
            return StoreCase(kind, request.getfixturevalue("redis_url"), prefix)
        case "duckdb" | "sqlite":
            return StoreCase(kind, f"{kind}:///store.{kind}")
    raise ValueError(kind)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> StoreCase:
    return store_case(request.param, request)
