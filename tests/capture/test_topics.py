"""Topics that others wrote, captured: our topic is theirs, newest record per key, whatever is
killed, and nothing is skipped in silence."""

from __future__ import annotations

import datetime as dt
import random
import time
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from cdc.errors import BadData, SchemaChanged, SlotError, SourceError
from cdc.positions import TopicOffsets
from tests.fix_capture import SOURCE
from tests.fix_topics import FIELDS, Field, Foreign

AT = dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)
JSON_ONLY = pytest.mark.parametrize("foreign", ["json"], indirect=True)
DESCRIBED = pytest.mark.parametrize("foreign", ["schemas", "avro"], indirect=True)


def row(number: int, **more: Any) -> dict[str, Any]:
    """A row as it is sent; `shown` is what is read."""
    sent = {"id": number, "name": f"n{number}", "amount": f"{number}.50", "at": None}
    return {**sent, **more}


def shown(sent: dict[str, Any]) -> dict[str, Any]:
    amount = sent.get("amount")
    at = sent.get("at")
    return {
        **sent,
        "amount": None if amount is None else Decimal(amount),
        "at": None if at is None else dt.datetime.fromisoformat(at),
    }


def expected(model: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {number: shown(sent) for number, sent in model.items()}


def change(rng: random.Random, foreign: Foreign, model: dict[int, dict[str, Any]]) -> list[Any]:
    """One random change's records."""
    number = rng.randrange(40)
    if number in model and rng.random() < 0.4:
        return list(foreign.delete(model.pop(number)))
    sent = row(number, name=rng.choice([None, 'é"\\', "x" * rng.randrange(200)]))
    sent["at"] = rng.choice([None, "2024-01-31T12:00:00.123456Z"])
    op = "u" if number in model else rng.choice("cr")
    model[number] = sent
    return [foreign.upsert(sent, op)]


def test_what_is_there_and_what_comes(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1), "r"), foreign.upsert(row(2, at="2024-01-31T12:00:00Z")))
    with foreign.running() as agent:
        agent.caught_up()
        assert foreign.live() == expected({1: row(1), 2: row(2, at="2024-01-31T12:00:00Z")})
        foreign.send(foreign.upsert(row(1, name=None), "u"), *foreign.delete(row(2)))
        found = agent.caught_up()
    assert foreign.live() == expected({1: row(1, name=None)})
    assert found.positions[SOURCE] == TopicOffsets.of({foreign.topic(): [5]})
    assert found.commit_us == foreign.commit_ms * 1000
    foreign.capture.assert_history("public.a")


@pytest.mark.parametrize("seed", range(2))
def test_random_changes_with_restarts(foreign: Foreign, seed: int) -> None:
    random_changes(foreign, seed)


def test_random_changes_into_a_log_on_kafka(through_kafka: Foreign) -> None:
    random_changes(through_kafka, 7)


def random_changes(foreign: Foreign, seed: int) -> None:
    rng, model = random.Random(seed), dict[int, dict[str, Any]]()
    foreign.make(partitions=3)
    for _ in range(3):
        foreign.send(*(r for _ in range(60) for r in change(rng, foreign, model)))
        with foreign.running() as agent:
            for _ in range(20):
                foreign.send(*change(rng, foreign, model))
            if rng.random() < 0.7:
                agent.caught_up()
    foreign.once()
    assert foreign.live() == expected(model)
    foreign.capture.assert_history("public.a")


FAULTS = ["capture.snapshot_piece", "capture.after_append", "capture.before_append:2"]
STREAM_FAULTS = ["capture.before_append", "capture.after_append", "log.append.before_commit"]


@pytest.mark.crash
@pytest.mark.parametrize("foreign", ["avro"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_killed_while_it_reads_what_is_there(foreign: Foreign, fault: str) -> None:
    """Rows that are deleted, and compacted away, before it reads again do not live on."""
    rng, model = random.Random(fault), dict[int, dict[str, Any]]()
    foreign.make(partitions=2)
    foreign.send(*(r for _ in range(300) for r in change(rng, foreign, model)))
    foreign.dies(fault)
    foreign.send(*(r for _ in range(100) for r in change(rng, foreign, model)))
    foreign.once()
    assert foreign.live() == expected(model)
    foreign.capture.assert_history("public.a")


@pytest.mark.crash
@JSON_ONLY
@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_killed_between_polls(foreign: Foreign, fault: str) -> None:
    rng, model = random.Random(fault), dict[int, dict[str, Any]]()
    foreign.make(partitions=2)
    foreign.send(*(r for _ in range(30) for r in change(rng, foreign, model)))
    foreign.once()
    for passes in (1, 2):
        process = foreign.process(f"{fault}:{passes}")
        while process.poll() is None:
            foreign.send(*change(rng, foreign, model))
        assert process.returncode == -9
    foreign.once()
    assert foreign.live() == expected(model)
    foreign.capture.assert_history("public.a")


@JSON_ONLY
def test_a_tombstone_in_the_next_poll_is_not_another_delete(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1)))
    deleted, tombstone = foreign.delete(row(1))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.send(deleted)
        agent.caught_up()
        foreign.send(tombstone)
        agent.caught_up()
        foreign.send(foreign.upsert(row(2)), (foreign.key(row(2)), None))
        agent.caught_up()
    ops = [chr(op) for batch in foreign.capture.batches("public.a") for op in batch.op]
    assert ops == ["c", "d", "c", "d"]


@DESCRIBED
def test_a_column_that_is_added_is_followed(foreign: Foreign) -> None:
    foreign.make(partitions=2)
    foreign.send(foreign.upsert(row(1)), to=0)
    more = {"default": 7}
    added = Field("n", {"type": "int32", **more}, {"type": "int", "connect.default": 7})
    with foreign.running() as agent:
        agent.caught_up()
        foreign.fields = (*FIELDS, added)
        foreign.send(foreign.upsert(row(2, n=2)), to=1)
        agent.caught_up()
        foreign.fields = FIELDS
        foreign.send(foreign.upsert(row(3)), to=0)
        agent.caught_up()
    foreign.send(foreign.upsert(row(4)), to=1)
    foreign.once()
    found = {number: one["n"] for number, one in foreign.live().items()}
    assert found == {1: 7, 2: 2, 3: 7, 4: 7}
    with closing(foreign.log.reader()) as reader:
        assert reader.schema(f"{SOURCE}.public.a").version == 2


@DESCRIBED
def test_a_column_of_another_type_stops_it(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1)))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.fields = (FIELDS[0], Field.plain("name", "int32", "int"), *FIELDS[2:])
        foreign.send(foreign.upsert(row(2, name=5)))
        error = agent.failed()
    assert isinstance(error, SchemaChanged)
    assert "name is integer, it was text" in str(error)
    assert foreign.live() == expected({1: row(1)})


@DESCRIBED
def test_older_records_are_read_as_the_newest_schema_says(foreign: Foreign) -> None:
    """What was dropped before the first record was read is not there; what was narrower is read."""
    foreign.make()
    gone, narrow = Field.plain("gone", "string", "string"), Field.plain("n", "int32", "int")
    foreign.fields = (*FIELDS, gone, narrow)
    foreign.send(foreign.upsert(row(1, gone="x", n=5)))
    foreign.fields = (*FIELDS, Field.plain("n", "int64", "long"))
    foreign.send(foreign.upsert(row(2, n=2**40)))
    foreign.once()
    assert foreign.live() == expected({1: row(1, n=5), 2: row(2, n=2**40)})


@JSON_ONLY
def test_a_truncate_empties_the_table_at_its_place(foreign: Foreign) -> None:
    foreign.make("public.a", policy="delete")
    truncate = (None, foreign.value("t", None))
    foreign.send(foreign.upsert(row(1)), truncate, foreign.upsert(row(2)))
    with foreign.running() as agent:
        agent.caught_up()
        assert foreign.live() == expected({2: row(2)})
        foreign.send(
            foreign.upsert(row(3)), truncate, truncate, foreign.upsert(row(4)), truncate,
            foreign.upsert(row(5)),
        )  # fmt: skip
        agent.caught_up()
    assert foreign.live() == expected({5: row(5)})


@JSON_ONLY
def test_a_truncate_among_partitions_is_refused(foreign: Foreign) -> None:
    foreign.make("public.a", 2, policy="delete")
    foreign.send(foreign.upsert(row(1)))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.send((None, foreign.value("t", None)), to=1)
        error = agent.failed()
    assert isinstance(error, BadData) and "TRUNCATE" in str(error)


def failure(foreign: Foreign) -> SourceError:
    """How an agent that starts now ends."""
    with foreign.running() as agent:
        error = agent.failed()
    assert isinstance(error, SourceError)
    return error


@JSON_ONLY
def test_a_topic_made_anew_stops_it(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1)), foreign.upsert(row(2)))
    foreign.once()
    foreign.drop()
    foreign.make()
    foreign.send(*(foreign.upsert(row(n)) for n in range(5)))
    error = failure(foreign)
    assert isinstance(error, SlotError)
    assert "made anew" in error.what and f"cdc remove {SOURCE}" in error.hint


@JSON_ONLY
def test_a_topic_that_is_deleted_while_it_is_read_stops_it(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1)))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.drop()
        error = agent.failed()
    assert isinstance(error, SlotError) and "gone" in error.what


@JSON_ONLY
def test_records_that_retention_took_are_missed(foreign: Foreign) -> None:
    foreign.make("public.a", policy="delete")
    foreign.send(foreign.upsert(row(1)))
    foreign.once()
    foreign.send(*(foreign.upsert(row(n)) for n in range(2, 6)))
    foreign.delete_records(before=3)
    error = failure(foreign)
    assert isinstance(error, SlotError)
    assert "retention took" in error.what and "offset 1" in error.what


@JSON_ONLY
def test_deletes_that_compaction_may_have_taken_are_missed(foreign: Foreign) -> None:
    """Unread records older than the tombstones' retention; those that were read do not matter."""
    foreign.make(partitions=2)
    old_ms = (time.time_ns() - 2 * 86_400 * 10**9) // 10**6
    foreign.send(foreign.upsert(row(1)), at_ms=old_ms)
    foreign.once()
    foreign.once()
    foreign.send(foreign.upsert(row(2)))
    foreign.once()
    foreign.send(foreign.upsert(row(3)), at_ms=old_ms)
    error = failure(foreign)
    assert isinstance(error, SlotError)
    assert "delete.retention.ms" in error.what and f"cdc remove {SOURCE}" in error.hint


@DESCRIBED
def test_a_topic_that_became_empty_goes_on(foreign: Foreign) -> None:
    foreign.make(policy="delete")
    foreign.send(foreign.upsert(row(1)))
    foreign.once()
    foreign.delete_records(before=1)
    foreign.once()
    foreign.send(foreign.upsert(row(2)))
    foreign.once()
    assert foreign.live() == expected({1: row(1), 2: row(2)})


@JSON_ONLY
def test_partitions_that_are_added_are_read(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1)))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.add_partitions(3)
        foreign.send(foreign.upsert(row(2)), to=2)
        found = agent.caught_up()
    assert foreign.live() == expected({1: row(1), 2: row(2)})
    assert found.positions[SOURCE] == TopicOffsets.of({foreign.topic(): [1, 0, 1]})
    foreign.send(foreign.upsert(row(3)), to=1)
    foreign.once()
    assert len(foreign.live()) == 3


@JSON_ONLY
def test_transactions_of_others_are_waited_for_to_their_end(foreign: Foreign) -> None:
    """Aborted records are not read, and markers at the end do not keep anybody waiting."""
    foreign.make()
    foreign.send(foreign.upsert(row(1)))
    producer = foreign.producer(**{"transactional.id": foreign.prefix})
    producer.init_transactions(30)
    with foreign.running() as agent:
        agent.caught_up()
        for number, ends in ((2, "abort"), (3, "commit")):
            producer.begin_transaction()
            key, value = foreign.upsert(row(number))
            producer.produce(foreign.topic(), value, key)
            producer.flush(30)
            getattr(producer, f"{ends}_transaction")(30)
            agent.caught_up()
    assert foreign.live() == expected({1: row(1), 3: row(3)})


@JSON_ONLY
def test_several_topics_are_one_source(foreign: Foreign) -> None:
    foreign.tables = ("public.*",)
    for table in ("public.a", "public.b"):
        foreign.make(table)
        foreign.send(foreign.upsert(row(1)), table=table)
    foreign.columns = {**foreign.columns}
    source = foreign.source()
    assert sorted(source.broker.topics().values()) == ["public.a", "public.b"]
    source.close()
    foreign.tables = ("public.a", "public.b")
    foreign.once()
    assert foreign.live("public.a") == foreign.live("public.b") == expected({1: row(1)})
    foreign.capture.assert_history("public.a", "public.b")


@JSON_ONLY
def test_its_progress_shows_as_a_consumer_groups(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(foreign.upsert(row(1)), foreign.upsert(row(2)))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.until(lambda: foreign.group_offsets() == {(foreign.topic(), 0): 2})
    source = foreign.source()
    assert source.remove() == [f"consumer group {foreign.prefix}.{SOURCE}"]
    assert source.remove() == []
    source.close()


@JSON_ONLY
def test_check_says_what_it_finds(foreign: Foreign) -> None:
    foreign.make("public.a", policy="delete")
    source = foreign.source()
    _, nothing, _ = source.check()
    assert nothing.severity == "error" and "no record yet" in nothing.what
    foreign.send(foreign.upsert(row(1)))
    found = foreign.source().check()
    assert [finding.severity for finding in found] == ["ok", "ok", "warning"]
    assert "4 columns, key id" in found[1].what and "compact" in found[2].remedy


@JSON_ONLY
@pytest.mark.slow
def test_a_broker_that_does_not_answer_may_do_so_later(foreign: Foreign) -> None:
    foreign.bootstrap = "127.0.0.1:1"
    (found,) = foreign.source().check()
    assert found.severity == "error"
