"""Servers from docker-compose.yml, where a container engine answers."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Protocol

from demo.server_process import free_port

# What the tests use of docker-compose.yml.
SERVICES = {
    "postgres": 5432,
    "kafka": 9092,
    "elasticsearch": 9200,
    "redis": 6379,
    "mysql": 3306,
    "mariadb": 3306,
}


class Services(Protocol):
    """What pytest-docker's `docker_services` offers."""

    def port_for(self, service: str, container_port: int) -> int: ...


@functools.cache
def engine_answers() -> bool:
    """Whether `docker info` and `docker compose` work here."""
    if shutil.which("docker") is None:
        return False
    return all(
        subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
        for command in (["docker", "info"], ["docker", "compose", "version"])
    )


def port(services: Services, name: str) -> int:
    """The port on 127.0.0.1 of one service in SERVICES."""
    return services.port_for(name, SERVICES[name])


def choose_ports() -> None:
    """Let docker-compose.yml publish at free ports, beside a stack that somebody runs already.
    Kafka tells its clients its own address, so its port is known before it starts."""
    for name in SERVICES:
        os.environ[f"{name.upper()}_PORT"] = str(free_port())
