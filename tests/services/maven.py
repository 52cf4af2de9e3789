"""Server binaries from Maven, kept in a cache folder of the user's."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.server_process import ServerFailed

_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
# The last that takes an artifact without reading its pom.xml and the parents of that.
_PLUGIN_ALONE = "org.apache.maven.plugins:maven-dependency-plugin:2.8"


def cache_dir() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "cdc-views"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `make(folder)` fills it the first time. Complete or absent,
    also when several test processes ask at once or one is killed half-way."""
    folder = cache_dir() / name
    with _locked(cache_dir() / f"{name}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            make(partial)
            partial.rename(folder)
    return folder


def copy_artifact(
    coordinates: str, folder: Path, *, alone: bool = False, keep: bool = True
) -> None:
    """Put one artifact (group:artifact:version:type[:classifier]) into `folder`. `alone`: also
    when its pom.xml has a parent that was never published. `keep` False: Maven's own repository
    does not keep a second copy, which counts for a large one."""
    plugin = _PLUGIN_ALONE if alone else _PLUGIN
    goal = (f"{plugin}:copy", f"-Dartifact={coordinates}", f"-DoutputDirectory={folder}")
    if keep:
        _maven(*goal)
        return
    repository = folder / "repository"
    _maven(*goal, f"-Dmaven.repo.local={repository}")
    shutil.rmtree(repository)


def pom(name: str, *dependencies: str) -> str:
    """A pom.xml whose dependencies are those (group:artifact:version)."""
    listed = "".join(map(_dependency, dependencies))
    return f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>cdc</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{listed}</dependencies>
</project>
"""


def _dependency(coordinates: str) -> str:
    tags = zip(("groupId", "artifactId", "version"), coordinates.split(":"), strict=True)
    return f"<dependency>{''.join(f'<{tag}>{value}</{tag}>' for tag, value in tags)}</dependency>"


def copy_dependencies(project: str, folder: Path) -> None:
    """Put every runtime dependency of a project (the text of its pom.xml) into `folder`."""
    file = folder / "pom.xml"
    file.write_text(project)
    _maven(
        f"{_PLUGIN}:copy-dependencies", "-DincludeScope=runtime",
        f"-DoutputDirectory={folder}", "-f", str(file),
    )  # fmt: skip


def _maven(*arguments: str) -> None:
    if shutil.which("mvn") is None:
        raise ServerFailed("tests need `mvn` (Debian: maven) where no container engine answers")
    done = subprocess.run(
        ["mvn", "-q", "-B", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerFailed(f"mvn {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
