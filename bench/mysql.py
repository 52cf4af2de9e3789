"""Capture from MySQL beside its own tools and Debezium: `python -m bench.mysql [PART…]`.

stream      a backlog of 1M rows in transactions of 1,000 (about 60 rows an event) into the
            embedded log, against `mysqlbinlog -v --base64-output=DECODE-ROWS` to /dev/null, and a
            loop over pymysqlreplication's row events on the first 100,000 rows
snapshot    1M rows into the embedded log, against `mysql --quick` to /dev/null and PyMySQL's
            SSCursor
kafka       both into Kafka as Avro, against Debezium's MySQL connector with JSON (bench/debezium.py
            says how that is set and measured)

A private MySQL with the tests' settings and a larger buffer pool; every side has one round that
does not count. Memory is the agent's with its workers (snapshot) or its own (stream).
"""

from __future__ import annotations

import argparse
import random
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from pymysql.cursors import SSCursor
from pymysqlreplication import BinLogStreamReader  # type: ignore[import-untyped]
from pymysqlreplication.row_event import WriteRowsEvent  # type: ignore[import-untyped]

from bench.agent import Measured, MySqlCapture, run_agent
from bench.debezium import HEAP as CONNECT_HEAP
from bench.debezium import SETTINGS, Run, kafka_broker, topic_records, wait_for
from bench.kafka import against
from bench.measure import Figure, cpu_s, fdatasync_p50_ms, peak_rss_mib, report, reset_peak_rss
from bench.orders import shares, timed
from cdc.config import LogConfig
from cdc.positions import GtidSet
from tests.fix_mysql import MyDatabase, MyServer, private_server
from tests.services.connect import ConnectWorker, start_connect
from tests.services.debezium import converters, mysql_settings
from tests.services.kafka import Broker

PARTS = ("stream", "snapshot", "kafka")
TABLE = "orders"
PEER_ROWS = 100_000
TRANSACTION_ROWS = 1000
DDL = f"""CREATE TABLE {TABLE} (
  id bigint PRIMARY KEY, qty int, amount decimal(12,2), status varchar(20), city varchar(40),
  note varchar(200), created datetime(6), paid tinyint(1)) CHARSET utf8mb4"""
STATUS = ("new", "paid", "shipped", "delivered", "cancelled")
CITIES = (
    *("Oslo", "Berlin", "San Francisco", "São Paulo", "Kuala Lumpur", "Zürich", "Reykjavik"),
    "Buenos Aires",
)
BEGAN = datetime(2026, 1, 1)  # noqa: DTZ001 # a DATETIME has no zone


@dataclass(frozen=True)
class Backlog:
    """A filled table: where in the binlog its rows begin, and up to where they go."""

    database: MyDatabase
    file: str
    offset: int
    end: GtidSet

    @property
    def server(self) -> MyServer:
        return self.database.server


def load(database: MyDatabase, rows: int) -> Backlog:
    """Insert `rows` into the empty table, in a binlog file that begins with them."""
    database.sql("FLUSH BINARY LOGS")
    ((file, offset, *_),) = database.query("SHOW MASTER STATUS")
    chance = random.Random(1)
    letters = string.ascii_lowercase + "     "
    notes = ["".join(chance.choices(letters, k=chance.randint(70, 110))) for _ in range(5000)]
    with closing(database.connect(autocommit=False)) as connection, connection.cursor() as cursor:
        for first in range(1, rows + 1, TRANSACTION_ROWS):
            values = ",".join(
                f"({i},{chance.randint(1, 99)},{chance.random() * 10000:.2f},"
                f"'{STATUS[i % 5]}','{CITIES[i % 8]}','{chance.choice(notes)}',"
                f"'{BEGAN + timedelta(microseconds=i * 1234567)}',{i & 1})"
                for i in range(first, min(first + TRANSACTION_ROWS, rows + 1))
            )
            cursor.execute(f"INSERT INTO {TABLE} VALUES {values}")
            connection.commit()
    ((executed,),) = database.query("SELECT @@GLOBAL.gtid_executed")
    return Backlog(database, file, offset, GtidSet.parse(executed))


def mysqlbinlog(backlog: Backlog) -> None:
    """The server's own tool decodes the rows, over the network as we do."""
    client(
        backlog,
        "mysqlbinlog",
        *("--read-from-remote-server", "-v", "--base64-output=DECODE-ROWS"),
        *(f"--start-position={backlog.offset}", backlog.file),
    )


def client(backlog: Backlog, program: str, *arguments: str) -> None:
    """A program of the server's distribution, to /dev/null."""
    server = backlog.server
    subprocess.run(
        [
            *(str(server.bin_dir / program), "--no-defaults", f"--host={server.host}"),
            *(f"--port={server.port}", f"--user={server.user}", f"--password={server.password}"),
            *arguments,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def replication_loop(backlog: Backlog, rows: int) -> None:
    """What most Python programs do: one dictionary for each row."""
    server = backlog.server
    reader = BinLogStreamReader(
        connection_settings={
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "passwd": server.password,
        },
        server_id=4_000_000_001,
        log_file=backlog.file,
        log_pos=backlog.offset,
        resume_stream=True,
        only_events=[WriteRowsEvent],
    )
    seen = 0
    with closing(reader):
        for event in reader:
            seen += len(event.rows)
            if seen >= rows:
                return
    raise AssertionError(f"{seen} of {rows} rows came")


def quick_client(backlog: Backlog) -> None:
    query = f"SELECT * FROM {TABLE}"
    client(backlog, "mysql", "--quick", "--batch", backlog.database.name, "-e", query)


def unbuffered_cursor(backlog: Backlog, rows: int) -> None:
    with closing(backlog.database.connect()) as connection, connection.cursor(SSCursor) as cursor:
        cursor.execute(f"SELECT * FROM {TABLE} LIMIT {rows}")
        assert sum(1 for _ in cursor.fetchall_unbuffered()) == rows


@dataclass
class Bench:
    server: MyServer
    folder: Path
    runs: int
    rows: int
    logs: int = 0

    @property
    def rounds(self) -> range:
        """The first does not count."""
        return range(self.runs + 1)

    def capture(self, database: MyDatabase) -> MySqlCapture:
        return MySqlCapture(database.url, self.folder, (f"{database.name}.{TABLE}",))

    def new_table(self) -> MyDatabase:
        database = self.server.new_database()
        database.sql(DDL)
        return database

    def peer_rows(self) -> int:
        return min(PEER_ROWS, self.rows)


def stream_figures(bench: Bench) -> list[Figure]:
    database = bench.new_table()
    capture, first = bench.capture(database), bench.folder / "stream"
    run_agent(capture, "first", LogConfig("embedded", first))
    backlog = load(database, bench.rows)
    ours: list[Measured] = []
    tool: list[float] = []
    loop: list[float] = []
    few = bench.peer_rows()
    for number in bench.rounds:
        tool.append(bench.rows / timed(lambda: mysqlbinlog(backlog)))
        loop.append(few / timed(lambda: replication_loop(backlog, few)))
        log = bench.folder / f"stream{number}"
        subprocess.run(["cp", "-r", str(first), str(log)], check=True)
        ours.append(run_agent(capture, f"s{number}", LogConfig("embedded", log), backlog.end))
    database.drop()
    rates = [bench.rows / run.seconds for run in ours[1:]]
    loops = tuple(a / b for a, b in zip(rates, loop[1:], strict=True))
    return [
        Figure("stream: mysqlbinlog -v to /dev/null", "rows/s", tuple(tool[1:])),
        Figure("stream: loop over pymysqlreplication", "rows/s", tuple(loop[1:])),
        Figure("stream into the embedded log", "rows/s", tuple(rates), ">= 400,000"),
        Figure("stream, share of mysqlbinlog -v", "%", shares(rates, tool[1:]), ">= 70"),
        Figure("stream, of pymysqlreplication's rate", "times", loops, ">= 12"),
        Figure("stream, processor", "CPU-s", tuple(run.cpu_s for run in ours[1:])),
        Figure("stream, peak memory", "MiB", tuple(run.peak_mib for run in ours[1:]), "< 400"),
    ]


def snapshot_figures(bench: Bench) -> list[Figure]:
    database = bench.new_table()
    backlog, capture = load(database, bench.rows), bench.capture(database)
    database.sql(f"ANALYZE TABLE {TABLE}")
    ours: list[Measured] = []
    client: list[float] = []
    cursor: list[float] = []
    few = bench.peer_rows()
    for number in bench.rounds:
        client.append(bench.rows / timed(lambda: quick_client(backlog)))
        cursor.append(few / timed(lambda: unbuffered_cursor(backlog, few)))
        log = LogConfig("embedded", bench.folder / f"snapshot{number}")
        ours.append(run_agent(capture, f"c{number}", log, look_at_workers=True))
    database.drop()
    rates = tuple(bench.rows / run.seconds for run in ours[1:])
    memory = tuple(run.with_workers_mib for run in ours[1:])
    return [
        Figure("snapshot: mysql --quick to /dev/null", "rows/s", tuple(client[1:])),
        Figure("snapshot: PyMySQL's SSCursor", "rows/s", tuple(cursor[1:])),
        Figure("snapshot into the embedded log", "rows/s", rates, ">= 400,000"),
        Figure("snapshot, processor", "CPU-s", tuple(run.cpu_s for run in ours[1:])),
        Figure("snapshot, peak memory with workers", "MiB", memory, "< 400"),
    ]


@dataclass
class Peer:
    """Debezium over one table of the server."""

    database: MyDatabase
    worker: ConnectWorker
    broker: Broker
    markers: int = 0
    numbers: dict[str, int] = field(default_factory=dict)

    def create(self, name: str) -> None:
        number = self.numbers.setdefault(name, 3_000_000_000 + len(self.numbers))
        tables = [f"{self.database.name}.{TABLE}"]
        settings = mysql_settings(self.database.url, tables, name, self.broker.bootstrap, number)
        self.worker.create(name, settings | converters("json") | SETTINGS)

    def prepare(self, name: str) -> int:
        """A connector that streams, and is then stopped; how many records it has written: rows
        before the backlog. The second comes from the binlog, whatever the first did."""
        self.create(name)
        with topic_records(self.broker, self.topic(name)) as count:
            found = count()
            for _ in range(2):
                self.markers += 1
                self.database.sql(f"INSERT INTO {TABLE} (id) VALUES ({-self.markers})")
                found, _ = wait_for(count, max(found + 1, self.markers))
        self.worker.stop_connector(name)
        return found

    def topic(self, name: str) -> str:
        return f"{name}.{self.database.name}.{TABLE}"

    def measured(self, name: str, before: int, rows: int, begin: Callable[[], None]) -> Run:
        """From `begin` until `rows` more records are there; the connector is removed then."""
        pid, broker_pid = self.worker.pid, self.broker.process.pid
        reset_peak_rss(pid)
        used_s, broker_used_s, began_s = cpu_s(pid), cpu_s(broker_pid), time.perf_counter()
        with topic_records(self.broker, self.topic(name)) as count:
            begin()
            first, first_s = wait_for(count, before + 1)
            last, last_s = wait_for(count, before + rows)
        self.worker.delete(name)
        return Run(
            (last - first) / (last_s - first_s),
            cpu_s(pid) - used_s,
            peak_rss_mib(pid),
            cpu_s(broker_pid) - broker_used_s,
            rows / (last_s - began_s),
        )


def kafka_figures(bench: Bench) -> list[Figure]:
    with ExitStack() as stack:
        broker = stack.enter_context(kafka_broker())
        found = []
        for what, part in (("snapshot", kafka_snapshots), ("stream", kafka_streams)):
            with tempfile.TemporaryDirectory(prefix="cdc-bench-connect-") as folder:
                worker = start_connect(
                    Path(folder), broker.bootstrap, CONNECT_HEAP, 5000, (), mysql=True
                )
                try:
                    peer = Peer(bench.new_table(), worker, broker)
                    ours, theirs = part(bench, peer)
                finally:
                    worker.stop()
            found += compared(f"{what} into Kafka", ours, theirs, 5 if what == "snapshot" else 3)
    return found


def kafka_snapshots(bench: Bench, peer: Peer) -> tuple[list[Run], list[Run]]:
    load(peer.database, bench.rows)
    ours, theirs = [], []
    for number in bench.rounds:
        name = f"snapshot{number}"
        theirs.append(peer.measured(name, 0, bench.rows, partial(peer.create, name)))
        ours.append(agent_run(bench, peer, f"k{name}", None, workers=True))
    return ours[1:], theirs[1:]


def kafka_streams(bench: Bench, peer: Peer) -> tuple[list[Run], list[Run]]:
    names = [f"stream{number}" for number in bench.rounds]
    before = {}
    for name in names:
        before[name] = peer.prepare(name)
        agent_run(bench, peer, f"k{name}", None, workers=False)
    # Each connector has the markers that came while it ran; later ones it reads with the backlog.
    backlog = load(peer.database, bench.rows)
    ours, theirs = [], []
    for name in names:
        rows = bench.rows + peer.markers - before[name]
        begin = partial(peer.worker.resume, name)
        theirs.append(peer.measured(name, before[name], rows, begin))
        ours.append(agent_run(bench, peer, f"k{name}", backlog.end, workers=False))
    return ours[1:], theirs[1:]


def agent_run(bench: Bench, peer: Peer, name: str, until: GtidSet | None, *, workers: bool) -> Run:
    """Ours, into topics of its own."""
    log = LogConfig(
        "kafka",
        bench.folder / name,
        bootstrap_servers=peer.broker.bootstrap,
        topic_prefix=f"{name}.",
        format="avro",
    )
    broker_pid = peer.broker.process.pid
    used_s = cpu_s(broker_pid)
    run = run_agent(bench.capture(peer.database), name, log, until, workers)
    return Run(
        run.rows_per_s,
        run.cpu_s,
        run.with_workers_mib if workers else run.peak_mib,
        cpu_s(broker_pid) - used_s,
        bench.rows / run.seconds,
    )


def compared(name: str, ours: Sequence[Run], theirs: Sequence[Run], least: int) -> list[Figure]:
    found = []
    for who, runs in ((f"{name}: Debezium", theirs), (name, ours)):
        found += [
            Figure(who, "rows/s", tuple(run.rows_per_s for run in runs)),
            Figure(f"{who}, processor", "CPU-s", tuple(run.cpu_s for run in runs)),
            Figure(f"{who}, peak memory", "MiB", tuple(run.peak_mib for run in runs)),
        ]
    return found + against(name, ours, theirs, f">= {least}", bound=False)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    chosen = arguments.parse_args()
    figures = {"stream": stream_figures, "snapshot": snapshot_figures, "kafka": kafka_figures}
    if unknown := set(chosen.parts) - figures.keys():
        arguments.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    with (
        private_server("mysql", "--innodb-buffer-pool-size=1G") as server,
        tempfile.TemporaryDirectory(prefix="cdc-bench-mysql-") as folder,
    ):
        report([Figure("fdatasync p50", "ms", (fdatasync_p50_ms(Path(folder)),))])
        for part in chosen.parts or PARTS:
            report(figures[part](Bench(server, Path(folder), chosen.runs, chosen.rows)))


if __name__ == "__main__":
    main()
