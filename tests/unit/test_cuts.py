"""Readers that step from cut to cut."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.changes import D, U
from cdc.config import LogConfig
from cdc.cut_alignment import agreed
from cdc.cuts import Cut, CutReader, DeletesGone, TopicReplaced
from cdc.frontiers import Frontier
from cdc.log.api import TopicSpec
from cdc.log.embedded import EmbeddedLog
from cdc.positions import Lsn, Vector
from compaction.part import compact_log
from tests.fix_log import ORDERS, OTHER, SPEC, TOPIC, changes, frontier, ids_of

VIEW = "view.totals"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    opened = EmbeddedLog(LogConfig("embedded", tmp_path))
    yield opened
    opened.close()


def ids(cut: Cut | None, topic: str = TOPIC) -> list[int]:
    assert cut is not None
    return ids_of(list(cut.batches(topic)))


def at(**positions: int) -> Vector:
    return Vector.of({name: Lsn(value) for name, value in positions.items()})


def test_cuts_follow_each_other(log: EmbeddedLog) -> None:
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    assert cuts.next_cut(0.0) is None and cuts.waiting_for == (TOPIC,)
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1, 2]))], [frontier(1)])
    producer.append([(TOPIC, changes([3]))])
    assert ids(cuts.next_cut(1.0)) == [1, 2]
    assert cuts.positions == {TOPIC: (2,)} and str(cuts.vector) == "shop@0/1"
    assert cuts.next_cut(0.0) is None
    producer.append([(TOPIC, changes([4]))], [frontier(2)])
    cut = cuts.next_cut(1.0)
    assert ids(cut) == [3, 4]
    assert cut is not None and cut.span == 2 and cuts.exact(cut)


def test_progress_without_changes(log: EmbeddedLog) -> None:
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    assert ids(cuts.next_cut(1.0)) == [1]
    producer.append([], [frontier(5)])
    cut = cuts.next_cut(1.0)
    assert cut is not None and cut.span == 0
    assert str(cut.vector) == "shop@0/5" and cut.latest(TOPIC) is None


def test_resuming(log: EmbeddedLog) -> None:
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    first = CutReader(log.reader(), {"shop": [TOPIC]})
    assert ids(first.next_cut(1.0)) == [1]

    def resumed() -> CutReader:
        inputs = {"shop": [TOPIC]}
        return CutReader(log.reader(), inputs, first.positions, first.vector, first.generations)

    assert resumed().next_cut(0.0) is None
    producer.append([(TOPIC, changes([2]))], [frontier(2)])
    assert ids(resumed().next_cut(1.0)) == [2]
    log.remove("shop")
    again = log.producer("shop")
    again.create_topics([SPEC])
    again.append([(TOPIC, changes([9]))], [frontier(3)])
    with pytest.raises(TopicReplaced):
        resumed().next_cut(1.0)


def test_an_incomplete_table_has_no_cut(log: EmbeddedLog) -> None:
    producer = log.producer("shop")
    producer.create_topics([SPEC, OTHER])
    half = dataclasses.replace(frontier(1), incomplete=("public.lines",))
    producer.append([(TOPIC, changes([1])), (OTHER.name, changes([7]))], [half])
    both = CutReader(log.reader(), {"shop": [TOPIC, OTHER.name]})
    assert both.next_cut(0.0) is None and both.waiting_for == (OTHER.name,)
    assert ids(CutReader(log.reader(), {"shop": [TOPIC]}).next_cut(1.0)) == [1]
    producer.append([(OTHER.name, changes([8]))], [frontier(2)])
    cut = both.next_cut(1.0)
    assert ids(cut, OTHER.name) == [7, 8]
    assert not both.waiting_for


def test_a_partial_record_is_no_cut(log: EmbeddedLog) -> None:
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1]))], [frontier(0, whole=False)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    assert cuts.next_cut(0.0) is None
    producer.append([(TOPIC, changes([2]))], [frontier(1)])
    assert ids(cuts.next_cut(1.0)) == [1, 2]
    producer.append([(TOPIC, changes([3]))], [frontier(1, whole=False)])
    assert cuts.next_cut(0.0) is None
    late = CutReader(log.reader(), {"shop": [TOPIC]})
    assert ids(late.next_cut(1.0)) == [1, 2]


def test_a_table_and_a_view_over_it_advance_together(log: EmbeddedLog) -> None:
    shop, group = log.producer("shop"), log.producer("view.main")
    shop.create_topics([SPEC])
    group.create_topics([TopicSpec(VIEW, ORDERS)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC], VIEW: [VIEW]})
    shop.append([(TOPIC, changes([1]))], [frontier(1)])
    shop.append([(TOPIC, changes([2]))], [frontier(2)])
    assert cuts.next_cut(0.0) is None
    group.append([(VIEW, changes([10]))], [Frontier("totals", at(shop=1))])
    cut = cuts.next_cut(1.0)
    assert ids(cut) == [1] and ids(cut, VIEW) == [10]
    shop.append([(TOPIC, changes([3]))], [frontier(3)])
    assert cuts.next_cut(0.0) is None
    group.append([(VIEW, changes([11]))], [Frontier("totals", at(shop=3))])
    cut = cuts.next_cut(1.0)
    assert ids(cut) == [2, 3] and ids(cut, VIEW) == [11]
    assert str(cuts.vector) == "shop@0/3"


def test_an_idle_source_blocks_nothing(log: EmbeddedLog) -> None:
    shop, crm = log.producer("shop"), log.producer("crm")
    people = TopicSpec("crm.public.people", ORDERS)
    shop.create_topics([SPEC])
    crm.create_topics([people])
    cuts = CutReader(log.reader(), {"shop": [TOPIC], "crm": [people.name]})
    shop.append([(TOPIC, changes([1]))], [frontier(1)])
    assert cuts.next_cut(0.0) is None and cuts.waiting_for == (people.name,)
    crm.append([(people.name, changes([5]))], [Frontier("crm", at(crm=7))])
    assert ids(cuts.next_cut(1.0), people.name) == [5]
    shop.append([(TOPIC, changes([2]))], [frontier(2)])
    cut = cuts.next_cut(1.0)
    assert ids(cut) == [2] and ids(cut, people.name) == []
    assert str(cuts.vector) == "crm@0/7,shop@0/2"


def test_a_superseded_cut_is_not_exact(log: EmbeddedLog, tmp_path: Path) -> None:
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1, 2]))], [frontier(1)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    old = cuts.next_cut(1.0)
    assert old is not None
    producer.append([(TOPIC, changes([1], op=U, note="new"))], [frontier(2)])
    compact_log(LogConfig("embedded", tmp_path))
    assert ids(old) == [2] and not cuts.exact(old)
    young = cuts.next_cut(1.0)
    assert ids(young) == [1]
    assert young is not None and cuts.exact(young)


def test_agreed_steps_back_whoever_is_ahead() -> None:
    def chain(*vectors: Vector) -> list[Frontier]:
        return [Frontier("x", vector) for vector in vectors]

    def chosen(**chains: list[Frontier]) -> dict[str, str]:
        return {name: str(f.positions) for name, f in agreed(chains).items()}

    table = chain(*(at(a=i) for i in range(1, 8)))
    assert chosen(t=table, v=chain(at(a=2), at(a=5))) == {"t": "a@0/5", "v": "a@0/5"}
    assert chosen(t=table, v=chain(at(a=9))) == {}
    two = chain(at(a=1, b=1), at(a=3, b=1), at(a=3, b=4))
    other = chain(at(b=1), at(b=2))
    assert chosen(t=table, v=two, w=other) == {"t": "a@0/3", "v": "a@0/3,b@0/1", "w": "b@0/1"}
    assert chosen(t=table, z=chain(at(c=1))) == {"t": "a@0/7", "z": "c@0/1"}


def expire(config: LogConfig) -> None:
    """Compact, and remove every delete that no floor protects: first what it deleted, then it."""
    for _ in range(2):
        compact_log(dataclasses.replace(config, tombstone_retention_s=0), [TOPIC])


def test_deletes_that_were_removed_before_they_were_read(log: EmbeddedLog, tmp_path: Path) -> None:
    config = LogConfig("embedded", tmp_path, min_compaction_lag_s=0)
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1, 2]))], [frontier(1)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    first = cuts.next_cut(1.0)
    assert ids(first) == [1, 2] and first is not None and cuts.exact(first)
    stand = cuts.positions, cuts.vector, cuts.generations
    since_us = first.frontiers["shop"].appended_us

    producer.append([(TOPIC, changes([1], op=D))], [frontier(2)])
    producer.append([(TOPIC, changes([3]))], [frontier(3)])
    expire(config)
    resumed = CutReader(log.reader(), {"shop": [TOPIC]}, *stand, since_us={"shop": since_us})
    for late in (cuts, resumed):
        cut = late.next_cut(1.0)
        assert cut is not None and ids(cut) == [3]
        with pytest.raises(DeletesGone):
            late.exact(cut)


def test_deletes_that_were_removed_during_a_replay(log: EmbeddedLog, tmp_path: Path) -> None:
    config = LogConfig("embedded", tmp_path, min_compaction_lag_s=0)
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1, 2]))], [frontier(1)])
    producer.append([(TOPIC, changes([1], op=D))], [frontier(2)])
    producer.append([(TOPIC, changes([3]))], [frontier(3)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    cut = cuts.next_cut(1.0)
    assert cut is not None
    batches = cut.batches(TOPIC, max_rows=1)
    assert ids_of([next(batches)]) == [1, 2]
    expire(config)
    assert ids_of(list(batches)) == [3], "the delete of 1 was not seen"
    marked = CutReader(log.reader(), {"shop": [TOPIC]}, replays=dict(cuts.replays))
    with pytest.raises(DeletesGone, match="while it was read from the beginning"):
        cuts.exact(cut)
    again = marked.next_cut(1.0)
    assert again is not None
    assert ids(again) == [2, 3] and marked.exact(again)


def test_nothing_came_for_long(log: EmbeddedLog, tmp_path: Path) -> None:
    """A reader that saw the end stands at that moment, not at the last append's."""
    producer = log.producer("shop")
    producer.create_topics([SPEC])
    producer.append([(TOPIC, changes([1]))], [frontier(1)])
    cuts = CutReader(log.reader(), {"shop": [TOPIC]})
    cut = cuts.next_cut(1.0)
    assert cut is not None and ids(cut) == [1] and cuts.exact(cut)
    before_us = time.time_ns() // 1000
    assert cuts.next_cut(0.0) is None
    assert cuts.since_us["shop"] >= before_us
