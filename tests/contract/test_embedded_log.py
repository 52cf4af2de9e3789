"""What only the embedded log promises: damage, full disks, crashes, many processes."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cdc.config import LogConfig
from cdc.errors import LogDamaged, LogError
from cdc.log import embedded_wal
from cdc.log.embedded import EmbeddedLog
from cdc.log.embedded_files import refuse_network_file_system
from cdc.log.embedded_history import superfluous
from cdc.log.embedded_wal import checkpoint_mode
from tests.fix_log import (
    OTHER,
    SPEC,
    TOPIC,
    changes,
    frontier,
    ids_of,
    read_all,
)


@pytest.fixture
def config(tmp_path: Path) -> LogConfig:
    return LogConfig("embedded", tmp_path)


def fill(config: LogConfig, batches: int = 4, rows: int = 10) -> None:
    producer = EmbeddedLog(config).producer("shop")
    producer.create_topics([SPEC, OTHER])
    for number in range(batches):
        ids = range(number * rows, number * rows + rows)
        producer.append([(TOPIC, changes(ids))], [frontier(number)])
    producer.close()


def alter(config: LogConfig, statement: str, *values: object) -> None:
    with sqlite3.connect(config.path / "log" / "shop.db") as connection:
        connection.execute(statement, values)


def test_a_changed_byte_is_detected(config: LogConfig) -> None:
    fill(config)
    (row, data) = (
        sqlite3.connect(config.path / "log" / "shop.db")
        .execute("SELECT id, data FROM batches ORDER BY id LIMIT 1 OFFSET 2")
        .fetchone()
    )
    broken = bytearray(data)
    broken[len(broken) // 2] ^= 1
    alter(config, "UPDATE batches SET data = ? WHERE id = ?", bytes(broken), row)
    with pytest.raises(LogDamaged) as caught:
        read_all(EmbeddedLog(config).reader())
    assert caught.value.where == f"{TOPIC}/0/20"


@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_batch_is_detected(config: LogConfig, place: int) -> None:
    fill(config)
    alter(
        config,
        "DELETE FROM batches WHERE id = (SELECT id FROM batches ORDER BY id LIMIT 1 OFFSET ?)",
        place,
    )
    with pytest.raises(LogDamaged, match="missing"):
        read_all(EmbeddedLog(config).reader())


def test_overlapping_batches_are_detected(config: LogConfig) -> None:
    fill(config)
    alter(config, "UPDATE batches SET next = next + 5 WHERE id & 0xfffff = 10")
    with pytest.raises(LogDamaged):
        read_all(EmbeddedLog(config).reader())


def test_a_file_that_is_none_is_detected(config: LogConfig) -> None:
    fill(config)
    file = config.path / "log" / "shop.db"
    file.write_bytes(b"not a database at all, but text" * 400)
    with pytest.raises(LogDamaged, match="damaged"):
        EmbeddedLog(config).reader().topics()
    with pytest.raises(LogDamaged):
        EmbeddedLog(config).producer("shop")


def test_network_file_systems_are_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    with pytest.raises(LogError, match="nfs4"):
        refuse_network_file_system(tmp_path / "log", mounts)
    mounts.write_text(f"server:/x / nfs4 rw 0 0\n/dev/vda {tmp_path} ext4 rw 0 0\n")
    refuse_network_file_system(tmp_path / "log", mounts)


def test_a_log_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cdc").write_text("")
    with pytest.raises(LogError, match="directory"):
        EmbeddedLog(LogConfig("embedded", tmp_path / "cdc")).producer("shop")


def test_floors(config: LogConfig) -> None:
    log = EmbeddedLog(config)
    log.set_floor("group", 123)
    assert EmbeddedLog(config).floors() == {"group": 123}
    log.set_floor("group", None)
    assert log.floors() == {}
    log.close()


def test_checkpoint_policy() -> None:
    assert checkpoint_mode(0, 0, False) == checkpoint_mode(2**20, 2**20, True) == ""
    assert checkpoint_mode(2**25 + 1, 2**25 + 1, False) == "ASIDE"
    assert checkpoint_mode(2**25, 2**27, False) == ""
    assert checkpoint_mode(1, 2**28, False) == "PASSIVE"
    assert checkpoint_mode(1, 2**30, False) == "RESTART"
    assert checkpoint_mode(1, 2**22, True) == "TRUNCATE"


@pytest.mark.slow
def test_a_wal_under_constant_appends_stays_bounded(
    config: LogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread's checkpoints alone would never let it begin anew."""
    monkeypatch.setattr(embedded_wal, "ASIDE_ABOVE_BYTES", 2**20)
    monkeypatch.setattr(embedded_wal, "PASSIVE_ABOVE_BYTES", 2**22)
    producer = EmbeddedLog(config).producer("shop")
    producer.create_topics([SPEC])
    wal = config.path / "log" / "shop.db-wal"
    for number in range(300):
        producer.append([(TOPIC, changes(range(number * 2000, number * 2000 + 2000)))])
        assert wal.stat().st_size < 2**23
    producer.close()
    assert ids_of(read_all(EmbeddedLog(config).reader())) == list(range(600_000))


def test_history_is_thinned_to_one_a_second() -> None:
    records = [(i, i * 250_000) for i in range(20)]
    assert superfluous(records, 0) == [i for i in range(20) if i % 4]
    assert superfluous(records, 2_000_000) == [i for i in range(20) if i % 4 or i < 8]


def test_small_appends_are_read_in_one_batch(config: LogConfig) -> None:
    fill(config, batches=50, rows=1)
    (batch,) = read_all(EmbeddedLog(config).reader())
    assert batch.changes.num_rows == 50


def test_large_appends_are_stored_in_pieces(config: LogConfig) -> None:
    fill(config, batches=1, rows=150_000)
    batches = read_all(EmbeddedLog(config).reader())
    assert len(batches) == 3 and ids_of(batches) == list(range(150_000))


def test_a_long_read_does_not_keep_the_writer(config: LogConfig) -> None:
    fill(config, batches=4)
    reading = EmbeddedLog(config).reader().read(TOPIC, 0, 0, 40, max_rows=1)
    next(reading)
    producer = EmbeddedLog(config).producer("shop")
    producer.append([(TOPIC, changes([1000]))], [frontier(9)])
    assert sum(batch.changes.num_rows for batch in reading) == 30
    producer.close()


APPENDER = """
import sys
from pathlib import Path
from cdc.config import LogConfig
from cdc.log import embedded_wal
from cdc.log.embedded import EmbeddedLog
from tests.fix_log import OTHER, SPEC, TOPIC, changes, frontier
config = LogConfig("embedded", Path(sys.argv[1]))
producer = EmbeddedLog(config).producer("shop")
producer.create_topics([SPEC, OTHER])
(start,) = EmbeddedLog(config).reader().end_offsets(TOPIC)
for number in range(start // 2, start // 2 + int(sys.argv[2])):
    pair = changes([2 * number, 2 * number + 1], note="x" * int(sys.argv[3]))
    producer.append([(TOPIC, pair), (OTHER.name, pair)], [frontier(number)])
    print(number, flush=True)
"""


def run_appender(
    config: LogConfig, count: int, *, fault: str = "", note_bytes: int = 1, file_bytes: int = 0
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(
        [sys.executable, "-c", APPENDER, str(config.path), str(count), str(note_bytes)],
        env={**os.environ, "CDC_FAULT": fault},
        cwd=Path(__file__).parents[2],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def assert_whole(config: LogConfig, acknowledged: int) -> int:
    """The log holds whole appends only, and all that were acknowledged; how many."""
    reader = EmbeddedLog(config).reader()
    newest = reader.newest_frontier("shop")
    count = 0 if newest is None else newest.txn_seq + 1
    assert count >= acknowledged
    for topic in (TOPIC, OTHER.name):
        assert ids_of(read_all(reader, topic)) == list(range(2 * count))
    return count


@pytest.mark.crash
@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_kill_during_append(config: LogConfig, point: str) -> None:
    killed = run_appender(config, 10, fault=f"log.append.{point}:4")
    assert killed.returncode == -signal.SIGKILL
    survived = assert_whole(config, len(killed.stdout.split()))
    assert survived == (3 if point == "before_commit" else 4)
    assert run_appender(config, 3).returncode == 0
    assert assert_whole(config, survived + 3) == survived + 3


@pytest.mark.crash
def test_a_full_disk_loses_nothing(config: LogConfig) -> None:
    full = run_appender(config, 500, note_bytes=5_000, file_bytes=2**20)
    assert full.returncode == 1
    assert "LogError" in full.stderr and "space" in full.stderr
    survived = assert_whole(config, len(full.stdout.split()))
    assert survived > 0
    assert run_appender(config, 3).returncode == 0
    assert assert_whole(config, survived + 3) == survived + 3


READER = """
import sys, time
from pathlib import Path
from cdc.config import LogConfig
from cdc.cuts import CutReader
from cdc.log import embedded_wal
from cdc.log.embedded import EmbeddedLog
from tests.fix_log import OTHER, TOPIC
reader = EmbeddedLog(LogConfig("embedded", Path(sys.argv[1]))).reader()
cuts = CutReader(reader, {"shop": [TOPIC, OTHER.name]})
expected, deadline = 0, time.monotonic() + 150
while expected < int(sys.argv[2]) and time.monotonic() < deadline:
    cut = cuts.next_cut(1.0)
    if cut is None:
        continue
    found = [[i for b in cut.batches(t) for i in b.changes.rows.column("id").to_pylist()]
             for t in (TOPIC, OTHER.name)]
    assert found[0] == found[1] == list(range(expected, expected + len(found[0]))), found
    expected += len(found[0])
assert expected == int(sys.argv[2]), expected
"""


@pytest.mark.crash
def test_many_processes_read_while_one_writes(config: LogConfig) -> None:
    root = Path(__file__).parents[2]
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(config.path), "600"], cwd=root)
        for _ in range(3)
    ]
    assert run_appender(config, 300).returncode == 0
    assert [reader.wait(180) for reader in readers] == [0, 0, 0]
