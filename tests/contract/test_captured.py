"""Which tables the log has, asked while their source is making them (cdc.captured)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from cdc import captured as module
from cdc.captured import Beginning, Captured, captured
from cdc.config import LogConfig, Place, SourceConfig
from cdc.log.api import Log, Producer, Reader
from cdc.log.open import open_log
from cdc.positions import Vector
from tests.fix_log import OTHER, SPEC, frontier

BOTH = {SPEC.name, OTHER.name}


@pytest.fixture
def log(log_config: LogConfig) -> Iterator[Log]:
    with closing(open_log(log_config)) as opened:
        yield opened


@pytest.fixture
def reader(log: Log) -> Iterator[Reader]:
    with closing(log.reader()) as opened:
        yield opened


@pytest.fixture
def producer(log: Log) -> Iterator[Producer]:
    with closing(log.producer("shop")) as opened:
        yield opened


LONG_AGO = Beginning(0)


def known(reader: Reader, *tables: str, beginning: Beginning = LONG_AGO) -> Captured:
    place = Place("connectors.yaml", 1, 1)
    source = SourceConfig("shop", "postgres", "", tables, "initial", "s", "p", place)
    return captured(reader, {"shop": source}, beginning)


def announce(producer: Producer) -> None:
    """What an agent writes before a snapshot's first row."""
    versions = {spec.name: spec.schema.version for spec in (SPEC, OTHER)}
    begun = replace(frontier(0, whole=False), positions=Vector(), schema_versions=versions)
    producer.append([], [begun])


def test_a_source_is_complete_once_it_has_named_its_tables(
    producer: Producer, reader: Reader
) -> None:
    assert known(reader) == Captured({}, frozenset())
    producer.create_topics([SPEC])
    assert known(reader) == Captured({SPEC.name: SPEC.schema}, frozenset())
    producer.create_topics([OTHER])
    assert known(reader).complete == frozenset()
    announce(producer)
    found = known(reader)
    assert (set(found.tables), set(found.complete)) == (BOTH, {"shop"})
    assert known(reader, "public.*", "public.orders").complete == {"shop"}
    assert known(reader, "public.orders", "public.added_to_the_file").complete == frozenset()


def test_a_source_with_patterns_may_find_more_when_it_begins(
    producer: Producer, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.create_topics([SPEC])
    versions = {SPEC.name: SPEC.schema.version}
    producer.append([], [replace(frontier(0), schema_versions=versions)])
    beginning = Beginning()
    assert known(reader, "public.orders", beginning=beginning).may_find_more == frozenset()
    found = known(reader, "public.*", beginning=beginning)
    assert found.complete == found.may_find_more == {"shop"}
    producer.append([], [replace(frontier(1), schema_versions=versions)])
    assert known(reader, "public.*", beginning=beginning).may_find_more == frozenset()
    later = Beginning()
    assert known(reader, "public.*", beginning=later).may_find_more == {"shop"}
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    assert known(reader, "public.*", beginning=later).may_find_more == frozenset()


@pytest.mark.parametrize("question", ["topics", "newest_frontiers", "schema"])
def test_tables_that_appear_between_two_questions(
    producer: Producer, reader: Reader, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.create_topics([SPEC])
    asked: Callable[..., Any] = getattr(reader, question)

    def overtaken(*arguments: Any) -> Any:
        answer = asked(*arguments)
        producer.create_topics([OTHER])
        announce(producer)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(reader, question, overtaken)
        found = known(reader)
    assert not found.complete or found.tables.keys() == BOTH
    assert known(reader).complete == {"shop"}
