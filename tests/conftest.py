"""Every `fix_<thing>.py` beside this file is loaded; tests that use a server are marked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services import compose

pytest_plugins = [f"tests.{file.stem}" for file in sorted(Path(__file__).parent.glob("fix_*.py"))]

SERVICES = {"postgres", "own_postgres", "postgres_major", "kafka_bootstrap"}


@pytest.hookimpl(tryfirst=True)  # before pytest's own hook chooses by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        used = SERVICES & set(getattr(item, "fixturenames", ()))
        if used:
            item.add_marker("service")
        if "postgres_major" in used:
            item.add_marker("slow")
        group = _xdist_group(used)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


def _xdist_group(used: set[str]) -> str | None:
    """Tests that must share one worker: a broker is too heavy to be started twice, and a compose
    project belongs to one worker. Native Postgres servers are cheap: each worker has its own."""
    if used & {"postgres", "kafka_bootstrap"} and compose.engine_answers():
        return "compose"
    return "kafka" if "kafka_bootstrap" in used else None
