"""A user with a database, a directory, a connectors.yaml and the command `cdc`.

user    function: a `User` over a fresh database of the shared server
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.services.forked import Forked

TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Ran:
    """How one command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class User:
    """What somebody has who tries the command for the first time."""

    url: str
    directory: Path

    @property
    def slot(self) -> str:
        return f"cdc_{self.url.rsplit('/', 1)[1]}"

    def write_config(
        self,
        views: str = "{}",
        sinks: str = "{}",
        tables: Sequence[str] = ("public.*",),
        url: str = "",
    ) -> None:
        """connectors.yaml with one source `shop`; `views` and `sinks` are YAML mappings."""
        listed = json.dumps(list(tables))
        (self.directory / "connectors.yaml").write_text(
            f"sources:\n  shop:\n    type: postgres\n    url: {json.dumps(url or self.url)}\n"
            f"    tables: {listed}\n    slot: {self.slot}\n    publication: {self.slot}\n"
            f"views: {views}\nsinks: {sinks}\n"
        )

    def sql(self, *statements: str) -> None:
        """Each statement in a transaction of its own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def value(self, query: str) -> Any:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    def cdc(self, *words: str, expect: int | None = 0) -> Ran:
        """Run one command to its end."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        ran = Ran(process.returncode, out, err)
        assert "Traceback" not in ran.said, f"cdc {words}: {ran.said}"
        assert expect is None or ran.status == expect, f"cdc {words}: {ran.status}\n{ran.said}"
        return ran

    @contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command; it is ended with the block."""
        process = Forked(
            ["-m", "cdc", *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.communicate(timeout=TIMEOUT_S / 2)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()

    def eventually(self, holds: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline_s, "it did not happen in time"
            time.sleep(0.05)

    def catch_up(self) -> None:
        self.cdc("run", "--until-caught-up")

    def verify(self, sink: str = "warehouse") -> None:
        self.cdc("verify", sink)

    def query(self, query: str, sink: str = "warehouse") -> list[dict[str, Any]]:
        return self.cdc("query", sink, query).lines


@pytest.fixture
def user(pg_database: str, tmp_path: Path) -> User:
    return User(pg_database, tmp_path)
