"""Compaction of the embedded log: the same answer from fewer records, whenever it happens."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.changes import D, U
from cdc.config import LogConfig
from cdc.cuts import CutReader
from cdc.errors import LogError
from cdc.log.api import LogBatch
from cdc.log.embedded import EmbeddedLog
from compaction.embedded_log import CompactorBusy, sole_compactor
from compaction.part import compact_log
from compaction.policy import PartitionSize, Policy, floor_us, worth_compacting
from compaction.superseded import KeyedBatch, judge
from tests.fix_log import SPEC, TOPIC, changes, frontier, ids_of, notes_by_id, read_all


@pytest.fixture
def config(tmp_path: Path) -> LogConfig:
    return LogConfig("embedded", tmp_path)


def offsets_of(batches: list[LogBatch]) -> list[int]:
    return np.concatenate([batch.offsets for batch in batches]).tolist()


def fill(config: LogConfig, updates: int = 3, rows: int = 100) -> None:
    """`rows` keys, each written `updates` times."""
    producer = EmbeddedLog(config).producer("shop")
    producer.create_topics([SPEC])
    for number in range(updates):
        batch = changes(range(rows), op=U, note=f"v{number}")
        producer.append([(TOPIC, batch)], [frontier(number)])
    producer.close()


def test_the_newest_record_per_key_stays_where_it_is(config: LogConfig) -> None:
    fill(config)
    assert compact_log(config) == {TOPIC: (300, 100)}
    reader = EmbeddedLog(config).reader()
    batches = read_all(reader)
    assert offsets_of(batches) == list(range(200, 300))
    assert notes_by_id(batches) == dict.fromkeys(range(100), "v2")
    assert reader.end_offsets(TOPIC) == (300,)
    assert ids_of(list(reader.read(TOPIC, 0, 250, 260))) == list(range(50, 60))
    assert compact_log(config) == {TOPIC: (100, 100)}


def test_appending_goes_on_after_compaction(config: LogConfig) -> None:
    fill(config)
    compact_log(config)
    fill(config, updates=1, rows=10)
    assert EmbeddedLog(config).reader().end_offsets(TOPIC) == (310,)
    assert compact_log(config) == {TOPIC: (110, 100)}


def test_small_batches_are_joined(config: LogConfig) -> None:
    producer = EmbeddedLog(config).producer("shop")
    producer.create_topics([SPEC])
    for number in range(100):
        producer.append([(TOPIC, changes([number]))], [frontier(number)])
    compact_log(config)
    path = EmbeddedLog(config).layout.producer("shop")
    stored = sqlite_count(path)
    assert stored == 1
    assert ids_of(read_all(EmbeddedLog(config).reader())) == list(range(100))
    producer.append([(TOPIC, changes([100]))], [frontier(100)])
    assert ids_of(read_all(EmbeddedLog(config).reader())) == list(range(101))
    producer.close()


def sqlite_count(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("SELECT count(*) FROM batches").fetchone()[0])


def test_a_floor_protects_what_its_reader_needs(config: LogConfig) -> None:
    log = EmbeddedLog(config)
    fill(config, updates=2)
    cut = log.reader().newest_frontier("shop")
    assert cut is not None
    log.set_floor("group", cut.appended_us)
    fill(config, updates=3)
    assert compact_log(config) == {TOPIC: (500, 400)}
    reader = log.reader()
    assert notes_by_id(read_all(reader, TOPIC, cut.end_offsets[TOPIC])) == dict.fromkeys(
        range(100), "v1"
    )
    assert reader.horizon(TOPIC).superseded_us <= cut.appended_us
    log.set_floor("group", None)
    assert compact_log(config) == {TOPIC: (400, 100)}
    assert reader.horizon(TOPIC).superseded_us > cut.appended_us


def test_nothing_above_the_newest_cut_supersedes(config: LogConfig) -> None:
    fill(config, updates=2)
    producer = EmbeddedLog(config).producer("shop")
    for _ in range(3):
        producer.append([(TOPIC, changes(range(100), op=U))], [frontier(1, whole=False)])
    assert compact_log(config) == {TOPIC: (500, 400)}
    cut = EmbeddedLog(config).reader().newest_frontier("shop")
    assert cut is not None
    batches = read_all(EmbeddedLog(config).reader(), TOPIC, cut.end_offsets[TOPIC])
    assert notes_by_id(batches) == dict.fromkeys(range(100), "v1")
    producer.close()


def test_without_a_cut_nothing_goes(config: LogConfig) -> None:
    producer = EmbeddedLog(config).producer("shop")
    producer.create_topics([SPEC])
    for _ in range(3):
        producer.append([(TOPIC, changes(range(10)))])
    assert compact_log(config) == {TOPIC: (30, 30)}
    producer.close()


def test_deletes_stay_for_their_retention(config: LogConfig) -> None:
    fill(config, updates=1)
    producer = EmbeddedLog(config).producer("shop")
    producer.append([(TOPIC, changes([5, 6], op=D))], [frontier(2)])
    assert compact_log(config) == {TOPIC: (102, 100)}
    reader = EmbeddedLog(config).reader()
    assert reader.horizon(TOPIC).tombstones_us == 0
    gone = LogConfig("embedded", config.path, tombstone_retention_s=0.0)
    assert compact_log(gone) == {TOPIC: (100, 98)}
    assert reader.horizon(TOPIC).tombstones_us > 0
    assert set(notes_by_id(read_all(reader))) == set(range(100)) - {5, 6}
    assert reader.end_offsets(TOPIC) == (102,)
    producer.append([(TOPIC, changes([7]))], [frontier(3)])
    assert offsets_of(read_all(reader))[-1] == 102
    producer.close()


def test_only_one_compactor(config: LogConfig) -> None:
    fill(config)
    with sole_compactor(EmbeddedLog(config).layout), pytest.raises(CompactorBusy):
        compact_log(config)


def test_an_unknown_topic(config: LogConfig) -> None:
    fill(config)
    with pytest.raises(LogError, match="no such topic"):
        compact_log(config, ["shop.public.nowhere"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=20), max_size=20
    ),
    st.sampled_from([2, 64]),
    st.sampled_from([500, 2**20]),
)
def test_judge_keeps_what_a_dictionary_keeps(
    appends: list[list[tuple[int, bool]]], hash_bits: int, memory: int
) -> None:
    records = [(key, deleted) for append in appends for key, deleted in append]

    def scan() -> list[KeyedBatch]:
        return [
            KeyedBatch(
                [pa.array([key for key, _ in append], pa.int64())],
                np.array([D if deleted else U for _, deleted in append], np.uint8),
                at,
            )
            for at, append in enumerate(appends)
        ]

    count = len(records)
    verdict = judge(lambda: iter(scan()), count, 5, hash_bits=hash_bits, slice_bytes=memory)
    last = {key: i for i, (key, _) in enumerate(records)}
    times = [at for at, append in enumerate(appends) for _ in append]
    expired = {i for i in last.values() if records[i][1] and times[i] < 5}
    alone = {i for i in expired if sum(key == records[i][0] for key, _ in records) == 1}
    kept = set(np.flatnonzero(~verdict.removed).tolist())
    if hash_bits == 64:
        assert kept == set(last.values()) - alone
    else:  # equal hashes keep a delete longer
        assert set(last.values()) - alone <= kept <= set(last.values())


def test_policy() -> None:
    policy = Policy()
    before = PartitionSize(records=1_000_000, batches=70, small_batches=3, end_offset=2_000_000)
    few = PartitionSize(1_400_000, 95, 3, 2_400_000)
    assert not worth_compacting(few, before, policy)
    assert worth_compacting(PartitionSize(1_500_000, 99, 3, 2_500_000), before, policy)
    assert worth_compacting(PartitionSize(1_000_100, 3000, 2500, 2_000_100), before, policy)
    assert not worth_compacting(PartitionSize(900, 20, 20, 900), None, policy)
    assert floor_us([], 90, 100_000_000, policy) == 90
    assert floor_us([50, 70], 90, 100_000_000, policy) == 50
    assert floor_us([], 90_000_000, 100_000_000, policy) == 40_000_000


def test_replay_from_zero_while_compaction_runs(config: LogConfig) -> None:
    """A load that reads slowly while records are superseded and compacted away: what it shows
    once `exact` holds is the state of the frontier that it reached."""
    fill(config, updates=5, rows=200)
    log = EmbeddedLog(config)
    producer = log.producer("shop")
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    stop = threading.Event()
    failed: list[BaseException] = []

    def write_and_compact() -> None:
        number = 5
        try:
            while not stop.is_set():
                batch = changes(range(200), op=U, note=f"v{number}")
                producer.append([(TOPIC, batch)], [frontier(number)])
                number += 1
                compact_log(config)
        except BaseException as error:
            failed.append(error)
            raise

    writer = threading.Thread(target=write_and_compact)
    writer.start()
    table: dict[int, str] = {}
    exact = 0
    try:
        while exact < 20 and not failed:
            cut = cuts.next_cut(5.0)
            assert cut is not None
            for batch in cut.batches(TOPIC, max_rows=50):
                table |= notes_by_id([batch])
            if cuts.exact(cut):
                exact += 1
                version = cut.frontiers["shop"].txn_seq
                assert table == dict.fromkeys(range(200), f"v{version}")
    finally:
        stop.set()
        writer.join(30.0)
    assert not failed
    producer.close()


COMPACTOR = """
import sys
from pathlib import Path
from cdc.config import LogConfig
from compaction.part import compact_log
from compaction import policy
policy.READ_ROWS = 250
compact_log(LogConfig("embedded", Path(sys.argv[1]), tombstone_retention_s=0.0))
"""


@pytest.mark.crash
@pytest.mark.parametrize("point", ["before", "in", "after"])
@pytest.mark.parametrize("passes", [1, 3])
def test_kill_during_compaction(config: LogConfig, point: str, passes: int) -> None:
    fill(config, updates=8)
    producer = EmbeddedLog(config).producer("shop")
    producer.append([(TOPIC, changes(range(50), op=D))], [frontier(9)])
    killed = subprocess.run(
        [sys.executable, "-c", COMPACTOR, str(config.path)],
        env={**os.environ, "CDC_FAULT": f"compaction.{point}_rewrite:{passes}"},
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    wanted = dict.fromkeys(range(50, 100), "v7")
    assert notes_by_id(read_all(EmbeddedLog(config).reader())) == wanted
    producer.append([(TOPIC, changes([1000], note="new"))], [frontier(10)])
    gone = LogConfig("embedded", config.path, tombstone_retention_s=0.0)
    compact_log(gone)  # takes what was deleted, the next one the deletes
    (counts,) = compact_log(gone).values()
    assert counts[1] == 51
    assert notes_by_id(read_all(EmbeddedLog(config).reader())) == wanted | {1000: "new"}
    producer.close()
