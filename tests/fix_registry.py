"""A real schema registry for tests.

schema_registry   session: its URL. Subjects want unique names; its global level stays NONE
own_registry      module: a registry that the test may kill, restart and configure
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.registry import Registry, running_registry


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[str]:
    with running_registry() as registry:
        yield registry.url


@pytest.fixture(scope="module")
def own_registry() -> Iterator[Registry]:
    with running_registry() as registry:
        yield registry
