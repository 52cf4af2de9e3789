"""The whole pipeline, for tests that break it: Postgres → log → views → DuckDB and Postgres.

A `House` is a database, a configuration and the connectors' processes, which the test starts, kills
and starts again itself (`cdc run` would do so with delays). `check` is what must hold after every
fault:

1.  `cdc verify` finds every sink equal, and so does a comparison that shares no code with it
2.  positions grow within a topic, none occurs twice, no transaction is missing (where compaction
    has not taken records), and frontiers never go back
3.  each topic, read from offset zero with the newest record per key, is its table
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString

import duckdb
import psycopg

from cdc.cli.main import main
from cdc.cli.reporting import read_status, run_dir
from cdc.config import LogConfig
from cdc.log.api import Reader
from tests.e2e.workload import TABLES, Workload
from tests.fix_capture import Capture
from tests.fix_services import PostgresServer
from tests.services.forked import Forked

DEADLINE_S = 120.0
"""For a machine that is busy with other things; nothing waits so long that is right."""
PACE_S = 0.01
"""Between two transactions: changes while something is waited for, not a flood to catch up with."""
Kind = tuple[str, str]
SOURCE, VIEWS, DUCK, MIRROR = (
    ("source", "shop"),
    ("views", "main"),
    ("sink", "duck"),
    ("sink", "mirror"),
)
CONNECTORS = (SOURCE, VIEWS, DUCK, MIRROR)
TOPICS = ("public.customers", "public.orders", "public.lines")

# Each view's SELECT, as Postgres runs it; in the configuration the tables are `shop.<table>`.
VIEW_SELECTS: dict[str, LiteralString] = {
    "order_search": "SELECT o.id, o.amount, o.status, o.note, c.name AS customer, c.country"
    " FROM orders o JOIN customers c ON c.id = o.customer_id",
    "per_country": "SELECT c.country, count(*) AS orders, sum(o.amount) AS revenue,"
    " min(o.amount) AS smallest, max(o.amount) AS largest"
    " FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY c.country",
    "per_order": "SELECT o.id, count(l.line) AS lines, sum(l.qty) AS pieces"
    " FROM orders o LEFT JOIN lines l ON l.order_id = o.id GROUP BY o.id",
}
INPUTS: dict[str, LiteralString] = {
    **VIEW_SELECTS,
    "orders": "SELECT id, customer_id, status, amount, pieces, note FROM orders",
    "lines": "SELECT order_id, line, sku, qty FROM lines",
}
CONFIG = """\
log: {{{log}, path: log, tombstone_retention_s: {retention}}}
state: {{path: state, checkpoint_interval_s: 0.2}}
sources:
  shop:
    type: postgres
    url: {url}
    tables: [public.customers, public.orders, public.lines]
    slot: {slot}
    publication: {slot}
    max_log_transaction: 1MiB
views:
{views}
sinks:
  duck:
    type: sql
    url: duckdb:///duck.duckdb
    from: [order_search, per_country, per_order, shop.orders, shop.lines]
  mirror:
    type: sql
    url: {mirror}
    from: [order_search, per_country, per_order, shop.orders, shop.lines]
"""


@dataclass
class Child:
    """One connector's process. What it wrote is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        status = self.process.wait(DEADLINE_S)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return status

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class House:
    """`url` is the source's database, `mirror_url` the Postgres sink's."""

    url: str
    mirror_url: str
    directory: Path
    seed: int
    kafka: LogConfig | None = None
    """The log, unless it is an embedded one in `directory`."""
    children: dict[Kind, Child] = field(default_factory=dict)
    compacted: bool = False
    """Whether records were taken from the log: then transactions may be missing in it."""

    def __post_init__(self) -> None:
        self.capture = Capture(self.url, self.directory, TOPICS, into=self.kafka)
        self.workload = Workload(self.url, self.seed)
        self.write_config()
        with psycopg.connect(self.url) as connection:
            connection.execute(TABLES)

    def write_config(self, tombstone_retention_s: float = 86_400) -> None:
        views = "\n".join(f'  {n}: {{sql: "{_captured(s)}"}}' for n, s in VIEW_SELECTS.items())
        self.file.write_text(
            CONFIG.format(
                log=_log_settings(self.kafka),
                retention=tombstone_retention_s,
                url=self.url,
                mirror=self.mirror_url,
                slot=self.capture.config.slot,
                views=views,
            )
        )

    @property
    def file(self) -> Path:
        return self.directory / "connectors.yaml"

    # Processes

    def start(
        self, *kinds: Kind, fault: str = "", through: Sequence[str] = (), log: str = ""
    ) -> None:
        """Start connectors, which die at `fault`; `through` is a command that runs them."""
        for kind in kinds:
            command = ["-m", "cdc.cli.child", *kind, "-f", str(self.file)]
            self._start(kind, command, fault, through, log)

    def start_all(self) -> None:
        self.start(*CONNECTORS)

    def run(self, name: str, *words: str, through: Sequence[str] = ()) -> Child:
        """`cdc run`, with all connectors."""
        command = ["-m", "cdc", "-f", str(self.file), "run", *words]
        return self._start(("run", name), command, "", through)

    def command(self, *words: str, fault: str = "") -> Child:
        """Any other command in a process of its own."""
        self.compacted |= words[0] == "compact"
        return self._start(("command", words[0]), ["-m", "cdc", *words], fault, ())

    def _start(
        self,
        kind: Kind,
        command: list[str],
        fault: str,
        through: Sequence[str],
        log_name: str = "",
    ) -> Child:
        log = self.directory / f"{'.'.join(kind)}{log_name}.log"
        with log.open("wb") as output:
            given: dict[str, Any] = {
                "stdin": subprocess.PIPE,
                "stdout": output,
                "stderr": output,
                "cwd": self.directory,
                "env": {**os.environ, "CDC_FAULT": fault, "CDC_DEBUG": "1"},
            }
            process: subprocess.Popen[bytes] = (
                subprocess.Popen([*through, sys.executable, *command], **given)
                if through
                else Forked(command, **given)
            )
        self.children[kind] = Child(process, log)
        return self.children[kind]

    def restart(self, kind: Kind, fault: str = "") -> None:
        """Kill a connector if it lives, and start it."""
        self.children[kind].kill()
        self.start(kind, fault=fault)

    def dies(self, kind: Kind) -> None:
        """Change the source until the connector has killed itself at its fault."""
        child = self.children[kind]
        self.work_until(lambda: not child.is_alive, f"{kind} to die")
        assert child.wait() == -signal.SIGKILL, child.said()

    def ends(self, kind: Kind, *, status: int) -> str:
        """Change the source until the connector has ended with `status`; what it said."""
        child = self.children[kind]
        self.work_until(lambda: not child.is_alive, f"{kind} to end")
        assert child.wait() == status, child.said()
        return child.said()

    def stop_all(self) -> None:
        """End every process in order, once it listens to being told so."""
        for kind, child in self.children.items():
            if kind in CONNECTORS:
                self.work_until(lambda: self.is_owner(kind), f"{kind} to listen")  # noqa: B023
            if child.is_alive:
                child.process.terminate()
        for kind, child in self.children.items():
            if child.process.returncode is None:
                assert child.wait() == 0, f"{kind}:\n{child.said()}"

    def close(self) -> None:
        self.workload.close()
        for child in self.children.values():
            child.kill()

    # The source

    def work(self, transactions: int = 20) -> None:
        for _ in range(transactions):
            self.workload.step()

    def work_for(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        self.work_until(lambda: time.monotonic() >= until_s, "the time to pass")

    def work_until(self, holds: Callable[[], bool], what: str) -> None:
        """Commit transactions, each a little after the last, until a condition holds."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s, f"waited for {what}:\n{self.said()}"
            self.workload.step()
            time.sleep(PACE_S)

    def compact(self) -> None:
        """`cdc compact`."""
        self.compacted = True
        assert self.cdc("compact") == 0

    def compacted_and_dead(self, kind: Kind) -> Callable[[], bool]:
        """For `work_until`: compacts between any two transactions."""
        child = self.children[kind]

        def holds() -> bool:
            self.compact()
            return not child.is_alive

        return holds

    def is_owner(self, kind: Kind) -> bool:
        """Whether the newest process of a connector has begun to work."""
        status = read_status(run_dir(self.directory / "log"), *kind)
        pid = self.children[kind].process.pid
        return status is not None and status["pid"] == pid and status["state"] != "starting"

    # What must hold

    def caught_up(self) -> None:
        """Wait until every sink contains all that is committed now."""
        deadline_s = time.monotonic() + DEADLINE_S
        for _, sink in (DUCK, MIRROR):
            while self.cdc("wait", sink, "--timeout", "2") != 0:
                ended = [kind for kind, child in self.children.items() if not child.is_alive]
                assert not ended, f"{ended} ended:\n{self.said()}"
                assert time.monotonic() < deadline_s, f"{sink} is behind:\n{self.said()}"

    def cdc(self, *words: str) -> int:
        """One command, in this process."""
        return main(["-f", str(self.file), *words])

    def check(self, verify: bool = True) -> None:
        """Catch up; then everything is right (see the module)."""
        self.caught_up()
        for _, sink in (DUCK, MIRROR) if verify else ():
            assert self.cdc("verify", sink, "--timeout", "120") == 0, sink
        self.assert_sinks_equal()
        self.capture.assert_equal(*TOPICS)
        self._assert_history()

    def check_cuts(self) -> None:
        """The Postgres sink shows whole transactions, at any moment."""
        half = "SELECT (SELECT sum(pieces) FROM orders), (SELECT coalesce(sum(qty), 0) FROM lines)"
        with psycopg.connect(self.mirror_url) as connection:
            rows = connection.execute(half).fetchone()
        assert rows is not None and rows[0] == rows[1], rows

    def assert_sinks_equal(self) -> None:
        with psycopg.connect(self.url) as source, psycopg.connect(self.mirror_url) as mirror:
            for name, select in INPUTS.items():
                expected = _sorted(source.execute(select).fetchall())
                columns = ", ".join(self._columns(source, select))
                shown = f"SELECT {columns} FROM {name}"
                assert _sorted(mirror.execute(shown.encode()).fetchall()) == expected, name
                assert _sorted(self._duck(shown)) == expected, name

    def _columns(self, source: psycopg.Connection[Any], select: LiteralString) -> list[str]:
        described = source.execute(select + " LIMIT 0").description
        assert described is not None
        return [column.name for column in described]

    def _duck(self, select: str) -> list[tuple[Any, ...]]:
        """Rows of the DuckDB file, which its sink holds for moments only."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                with closing(
                    duckdb.connect(str(self.directory / "duck.duckdb"), read_only=True)
                ) as connection:
                    return connection.execute(select).fetchall()
            except duckdb.IOException:
                assert time.monotonic() < deadline_s, self.said()

    def _assert_history(self) -> None:
        if not self.compacted:
            self.capture.assert_history(*TOPICS)
        with closing(self.capture.log.reader()) as reader:
            for table in TOPICS:
                for partition in range(len(reader.end_offsets(f"shop.{table}"))):
                    self._assert_ascending(reader, table, partition)
            for name in ("shop", *(f"view.{view}" for view in VIEW_SELECTS)):
                whole = [f for _, f in reader.frontiers(name) if f.whole]
                assert whole, name
                for older, newer in pairwise(whole):
                    assert newer.positions.covers(older.positions), name
                    assert newer.txn_seq >= older.txn_seq, name

    def _assert_ascending(self, reader: Reader, table: str, partition: int) -> None:
        last = (-1, -1)
        offset = -1
        topic = f"shop.{table}"
        end = reader.end_offsets(topic)[partition]
        for batch in reader.read(topic, partition, 0, end):
            for at, seq, ordinal in zip(
                batch.offsets, batch.changes.txn_seq, batch.changes.ordinal, strict=True
            ):
                assert offset < at and last < (seq, ordinal), (table, at, last)
                offset, last = int(at), (int(seq), int(ordinal))

    def said(self) -> str:
        """The end of what every process wrote."""
        return "\n".join(
            f"== {kind}: {child.process.poll()}\n{child.said()[-2000:]}"
            for kind, child in self.children.items()
        )


@contextmanager
def built(
    server: PostgresServer, directory: Path, seed: int, kafka: LogConfig | None = None
) -> Iterator[House]:
    """A house over two fresh databases of `server`; nothing runs yet."""
    names = server.new_database(), server.new_database()
    directory.mkdir(parents=True, exist_ok=True)
    house = House(server.url(names[0]), server.url(names[1]), directory, seed, kafka)
    try:
        yield house
    finally:
        house.close()
        for name in names:
            server.drop_database(name)


def _log_settings(kafka: LogConfig | None) -> str:
    if kafka is None:
        return "type: embedded"
    return (
        f"type: kafka, bootstrap_servers: '{kafka.bootstrap_servers}', format: {kafka.format}, "
        f"topic_prefix: {kafka.topic_prefix}, partitions: {kafka.partitions}"
    )


def _captured(select: str) -> str:
    for table in ("orders", "customers", "lines"):
        for word in ("FROM", "JOIN"):
            select = select.replace(f"{word} {table}", f"{word} shop.{table}")
    return select


def _sorted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


__all__ = ["CONNECTORS", "DUCK", "MIRROR", "SOURCE", "VIEWS", "Child", "House", "built"]
