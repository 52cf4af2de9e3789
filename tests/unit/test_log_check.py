"""`cdc check` of the embedded log: its directory, before it is made."""

from __future__ import annotations

from pathlib import Path

from cdc.config import Config
from cdc.config_load import load
from cdc.log.check import check_log


def with_path(folder: Path, path: str) -> Config:
    file = folder / "connectors.yaml"
    file.write_text(f"log: {{path: {path}}}\n")
    return load(file, {})


def test_a_directory_that_can_be_made(tmp_path: Path) -> None:
    assert check_log(with_path(tmp_path, "a/b/.cdc")) == []
    assert not (tmp_path / "a").exists()


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (found,) = check_log(with_path(tmp_path, "a/.cdc"))
    assert (found.severity, found.where) == ("error", str(tmp_path / "a"))
    assert found.what == "the log's path is no directory"
