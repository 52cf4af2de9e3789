"""Debian's packages, unpacked into the cache without installing them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from demo.server_process import ServerFailed
from tests.services.maven import cached


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """The folder `name` of the cache, the root of a tree that holds these packages (and no others:
    what they depend on is to be there). Raises ServerFailed."""
    return cached(name, lambda folder: _unpack(folder, packages))


def libraries(tree: Path) -> dict[str, str]:
    """The environment in which programs find the libraries of an unpacked tree."""
    roots = (tree / "usr" / "lib", tree / "lib")
    found = [str(path) for root in roots for path in root.glob("*-linux-*")]
    return {"LD_LIBRARY_PATH": os.pathsep.join(found)}


def _unpack(folder: Path, packages: Sequence[str]) -> None:
    download = ["apt-get", "download", *packages]
    if not _apt(download, folder):
        _apt(["apt-get", "update"], folder)
        if not _apt(download, folder):
            raise ServerFailed(
                f"tests need Debian's {', '.join(packages)}: install them, or let "
                "`apt-get download` reach a mirror"
            )
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        package.unlink()


def _apt(command: Sequence[str], folder: Path) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
