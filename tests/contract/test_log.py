"""The contract of cdc.log.api, over every implementation."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from cdc.changes import C, ChangeBatch, D
from cdc.config import LogConfig
from cdc.errors import Fenced, LogError
from cdc.log.api import DeadLetter, Log, Producer, TopicSpec
from cdc.log.open import open_log
from cdc.schema import Column, TableSchema
from tests.fix_log import (
    ORDERS,
    OTHER,
    SPEC,
    TOPIC,
    changes,
    frontier,
    ids_of,
    notes_by_id,
    read_all,
)


@pytest.fixture
def log(log_config: LogConfig) -> Iterator[Log]:
    opened = open_log(log_config)
    yield opened
    opened.close()


@pytest.fixture
def producer(log: Log) -> Iterator[Producer]:
    made = log.producer("shop")
    made.create_topics([SPEC, OTHER])
    yield made
    made.close()


def assert_equal_changes(a: ChangeBatch, b: ChangeBatch) -> None:
    assert a.schema == b.schema
    for name in ("op", "txn_seq", "ordinal", "commit_us"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.rows.equals(b.rows)
    assert (a.before is None) == (b.before is None)
    if a.before is not None and b.before is not None:
        assert a.before.equals(b.before)


def test_what_is_appended_is_read_back(log: Log, producer: Producer) -> None:
    written = changes(range(300), op=C)
    producer.append([(TOPIC, written)], [frontier(1)])
    (batch,) = read_all(log.reader())
    assert_equal_changes(batch.changes, written)
    assert batch.offsets.tolist() == list(range(300))


def test_before_images_are_read_back(log: Log, producer: Producer) -> None:
    plain = changes([1, 2])
    here = np.array([True, False])
    before = dataclasses.replace(plain, before=changes([1, 2]).rows, has_before=here)
    producer.append([(TOPIC, before), (TOPIC, plain)], [frontier(1)])
    with_old = [b for b in read_all(log.reader()) if b.changes.before is not None]
    assert with_old[0].changes.has_before is not None
    assert with_old[0].changes.has_before.tolist()[:2] == [True, False]
    assert with_old[0].changes.before is not None
    assert with_old[0].changes.before.slice(0, 1).equals(before.rows.slice(0, 1))


def test_a_frontier_covers_its_whole_append(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1, 2, 3])), (OTHER.name, changes([4]))])
    assert log.reader().newest_frontier("shop") is None
    producer.append([(TOPIC, changes([5]))], [frontier(7)])
    newest = log.reader().newest_frontier("shop")
    assert newest is not None
    assert newest.whole and str(newest.positions) == "shop@0/7"
    assert newest.epoch == producer.epoch and newest.appended_us > 0
    assert set(newest.end_offsets) == {TOPIC, OTHER.name}
    reader = log.reader()
    assert ids_of(read_all(reader, TOPIC, newest.end_offsets[TOPIC])) == [1, 2, 3, 5]
    assert ids_of(read_all(reader, OTHER.name, newest.end_offsets[OTHER.name])) == [4]


def test_a_partial_record_repeats_the_cut(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    whole = log.reader().newest_frontier("shop")
    producer.append([(TOPIC, changes([2]))], [frontier(1, whole=False)])
    partial = log.reader().newest_frontier("shop")
    assert whole is not None and partial is not None
    assert not partial.whole
    assert partial.end_offsets == whole.end_offsets
    assert partial.appended_us == whole.appended_us
    assert ids_of(read_all(log.reader(), TOPIC, partial.end_offsets[TOPIC])) == [1]
    producer.append([(TOPIC, changes([3]))], [frontier(2)])
    newest = log.reader().newest_frontier("shop")
    assert newest is not None
    assert ids_of(read_all(log.reader(), TOPIC, newest.end_offsets[TOPIC])) == [1, 2, 3]


def test_a_partial_record_before_the_first_cut_has_none(log: Log, producer: Producer) -> None:
    resume = dataclasses.replace(frontier(0, whole=False), resume={"chunk": 3})
    producer.append([(TOPIC, changes([1]))], [resume])
    newest = log.reader().newest_frontier("shop")
    assert newest is not None
    assert newest.resume == {"chunk": 3}
    assert not newest.end_offsets and newest.appended_us == 0


def test_a_new_producer_fences_the_old_one(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    second = log.producer("shop")
    newest = log.reader().newest_frontier("shop")
    assert newest is not None and newest.txn_seq == 1
    with pytest.raises(Fenced):
        producer.append([(TOPIC, changes([2]))], [frontier(2)])
    second.append([(TOPIC, changes([3]))], [frontier(2)])
    assert ids_of(read_all(log.reader())) == [1, 3]
    assert second.epoch > producer.epoch
    second.close()


def test_a_failed_append_leaves_nothing(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    with pytest.raises(LogError):
        producer.append([(TOPIC, changes([2])), ("shop.public.nowhere", changes([3]))])
    again = log.producer("shop")
    again.append([(TOPIC, changes([4]))], [frontier(2)])
    assert ids_of(read_all(log.reader())) == [1, 4]
    again.close()


def test_reading_ranges(log: Log, producer: Producer) -> None:
    for start in range(0, 100, 10):
        producer.append([(TOPIC, changes(range(start, start + 10)))], [frontier(start)])
    reader = log.reader()
    (end,) = reader.end_offsets(TOPIC)
    everything = np.concatenate([b.offsets for b in reader.read(TOPIC, 0, 0, end)])
    assert (np.diff(everything) > 0).all()
    for first, last in ((0, 100), (5, 95), (10, 20), (99, 100), (37, 38)):
        start, stop = int(everything[first]), int(everything[last - 1]) + 1
        batches = list(reader.read(TOPIC, 0, start, stop, max_rows=25))
        assert ids_of(batches) == list(range(first, last))
        assert batches[-1].next_offset == stop


def test_an_empty_range_is_one_empty_batch(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    reader = log.reader()
    (end,) = reader.end_offsets(TOPIC)
    (batch,) = reader.read(TOPIC, 0, end, end)
    assert batch.changes.num_rows == 0
    assert batch.next_offset == end


def test_schema_versions(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    added = Column("city", SPEC.schema.columns[1].type, "text", True, 6, "Bern")
    newer = TableSchema(ORDERS.name, (*ORDERS.columns, added), ORDERS.key, 2)
    with pytest.raises(LogError):
        producer.append([(TOPIC, changes([2]).conformed(newer))])
    producer = log.producer("shop")
    producer.set_schema(TOPIC, newer)
    producer.append([(TOPIC, changes([2]).conformed(newer))], [frontier(2)])
    reader = log.reader()
    assert reader.schema(TOPIC) == newer
    batches = [b for b in read_all(reader) if b.changes.num_rows]
    assert [b.changes.schema.version for b in batches] == [1, 2]
    assert batches[0].changes.conformed(newer).rows.column("city").to_pylist() == ["Bern"]
    producer.close()


def test_topics_and_generations(log: Log, producer: Producer) -> None:
    reader = log.reader()
    assert set(reader.topics()) >= {TOPIC, OTHER.name}
    generation = reader.generation(TOPIC)
    producer.create_topics([SPEC])
    assert log.reader().generation(TOPIC) == generation
    with pytest.raises(LogError):
        reader.schema("shop.public.nowhere")


def test_several_partitions(log: Log, producer: Producer) -> None:
    spec = TopicSpec("shop.public.wide", ORDERS, partitions=3)
    producer.create_topics([spec])
    producer.append([(spec.name, changes(range(200), note="old"))], [frontier(1)])
    producer.append([(spec.name, changes(range(0, 200, 2), note="new"))], [frontier(2)])
    reader = log.reader()
    newest = reader.newest_frontier("shop")
    assert newest is not None and len(newest.end_offsets[spec.name]) == 3
    homes: dict[int, set[int]] = {}
    batches = read_all(reader, spec.name, newest.end_offsets[spec.name])
    for batch in batches:
        for key in batch.changes.rows.column("id").to_pylist():
            homes.setdefault(key, set()).add(batch.partition)
    assert len(homes) == 200 and all(len(home) == 1 for home in homes.values())
    assert len({home for homes_of in homes.values() for home in homes_of}) == 3
    wanted = {i: "old" if i % 2 else "new" for i in range(200)}
    assert notes_by_id(batches) == wanted


def test_a_group_publishes_several_frontiers(log: Log) -> None:
    group = log.producer("view.main")
    group.create_topics([TopicSpec("view.a", ORDERS), TopicSpec("view.b", ORDERS)])
    group.append(
        [("view.a", changes([1])), ("view.b", changes([2, 3]))],
        [frontier(1, name="a"), frontier(1, name="b")],
    )
    reader = log.reader()
    for view, ids in (("view.a", [1]), ("view.b", [2, 3])):
        newest = reader.newest_frontier(view)
        assert newest is not None and set(newest.end_offsets) == {view}
        assert ids_of(read_all(reader, view, newest.end_offsets[view])) == ids
    group.close()


def test_frontier_history(log: Log, producer: Producer) -> None:
    for number in range(5):
        producer.append([(TOPIC, changes([number]))], [frontier(number)])
    reader = log.reader()
    records = list(reader.frontiers("shop"))
    assert [f.txn_seq for _, f in records] == [0, 1, 2, 3, 4]
    later = list(reader.frontiers("shop", records[3][0]))
    assert [f.txn_seq for _, f in later] == [3, 4]
    assert [f.txn_seq for _, f in reader.frontiers("shop", -1)] == [4]
    # A reader may do other work between two of them.
    seen = []
    for _, each in reader.frontiers("shop"):
        newest = reader.newest_frontier("shop")
        assert newest is not None and newest.txn_seq == 4
        assert len(ids_of(read_all(reader))) == 5
        seen.append(each.txn_seq)
    assert seen == [0, 1, 2, 3, 4]


def test_deletes_are_read_as_deletes(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1, 2, 3]))], [frontier(1)])
    producer.append([(TOPIC, changes([2], op=D))], [frontier(2)])
    reader = log.reader()
    assert notes_by_id(read_all(reader)) == {1: "n", 3: "n"}
    deleted = [b.changes for b in read_all(reader) if (b.changes.op == D).any()]
    assert deleted[0].rows.column("note").to_pylist()[-1] is None


def test_waiting_ends_with_the_append(log: Log, producer: Producer) -> None:
    reader = log.reader()
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    while reader.wait(["shop"], 0.0):
        pass
    assert not reader.wait(["shop"], 0.05)
    woken: list[float] = []

    def wait() -> None:
        if reader.wait(["shop"], 30.0):
            woken.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    producer.append([(TOPIC, changes([2]))], [frontier(2)])
    appended = time.monotonic()
    waiter.join(30.0)
    assert woken and woken[0] - appended < 20.0


def test_positions(log: Log, producer: Producer) -> None:
    assert log.positions("warehouse") == {}
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    log.record_positions("warehouse", {(TOPIC, 0): 17})
    log.record_positions("warehouse", {(TOPIC, 0): 18, (OTHER.name, 0): 3})
    assert log.positions("warehouse") == {(TOPIC, 0): 18, (OTHER.name, 0): 3}
    assert "warehouse" in log.consumers()
    assert not log.is_away()
    log.remove("warehouse")
    assert log.positions("warehouse") == {}


def test_dead_letters(log: Log) -> None:
    letters = [DeadLetter("search", f"{TOPIC}/0/17", "too long", b"[1]", b"\x00\xff")]
    log.dead_letter(letters)
    log.dead_letter([DeadLetter("search", "x", "y", None, None)])
    stored = list(log.reader().dead_letters())
    assert stored[0][1] == letters[0]
    assert len(list(log.reader().dead_letters(stored[1][0]))) == 1


def test_removing_a_producer(log: Log, producer: Producer) -> None:
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    generation = log.reader().generation(TOPIC)
    log.remove("shop")
    reader = log.reader()
    assert TOPIC not in reader.topics()
    assert reader.newest_frontier("shop") is None
    with pytest.raises(Fenced):
        producer.append([(TOPIC, changes([2]))], [frontier(2)])
    again = log.producer("shop")
    again.create_topics([SPEC])
    again.append([(TOPIC, changes([3]))], [frontier(1)])
    assert ids_of(read_all(log.reader())) == [3]
    assert log.reader().generation(TOPIC) != generation
    again.close()


def test_an_open_reader_follows_a_topic_made_anew(log: Log, producer: Producer) -> None:
    reader = log.reader()
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    generation = reader.generation(TOPIC)
    assert ids_of(read_all(reader)) == [1]
    log.remove("shop")
    again = log.producer("shop")
    again.create_topics([SPEC])
    again.append([(TOPIC, changes([3]))], [frontier(9)])
    assert reader.generation(TOPIC) != generation
    assert ids_of(read_all(reader)) == [3]
    newest = reader.newest_frontier("shop")
    assert newest is not None and newest.txn_seq == 9
    again.close()


def test_ranges_that_were_announced(log: Log, producer: Producer) -> None:
    """A hint changes nothing of what is read, be it right or wrong."""
    producer.create_topics([OTHER])
    for number in range(4):
        parts = [(TOPIC, changes([number])), (OTHER.name, changes([10 + number]))]
        producer.append(parts, [frontier(number)])
    reader = log.reader()
    places = {topic: reader.frontiers("shop") for topic in (TOPIC, OTHER.name)}
    for topic, first in ((TOPIC, 0), (OTHER.name, 10)):
        ends = [f.end_offsets[topic][0] for _, f in places[topic]]
        for start, end, ids in ((0, ends[0], [0]), (ends[0], ends[2], [1, 2]), (0, ends[3], [])):
            expected = [first + i for i in ids or range(4)]
            reader.expect([(t, 0, start, end) for t in (TOPIC, OTHER.name)])
            for _ in range(2):
                assert ids_of(list(reader.read(topic, 0, start, end))) == expected
            assert ids_of(list(reader.read(topic, 0, 0, ends[3]))) == list(range(first, first + 4))
