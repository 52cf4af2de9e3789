"""Topics that are there against `cdc.schemas`: whose they are, in which form, with which ids.

A topic's form is pinned when it is made (SEMANTICS 10), and so is the place where its schemas have
their ids: a file that says otherwise would be refused by `cdc run`, one topic at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from cdc.config import LogConfig
from cdc.errors import CdcError
from cdc.log.kafka_client import Broker
from cdc.log.kafka_fit import TopicFacts, listed, tool
from cdc.log.kafka_records import TopicEntry, TopicForm, writers
from cdc.log.kafka_secrets import registry_host, without_secrets
from cdc.log.kafka_tables import Tables
from cdc.log.open_ids import open_ids
from cdc.log.schema_topic import SchemaTopic
from cdc.source import Finding

REQUEST_TIMEOUT_S = 15.0


def check_pinned(
    admin: AdminClient,
    broker: Broker,
    topics: Sequence[TopicFacts],
    log: LogConfig,
    *,
    registry_answers: bool,
) -> Iterator[Finding]:
    """What `cdc.schemas` says of the topics that are there."""
    there = next((topic for topic in topics if topic.role == "schemas"), None)
    if there is not None and not _is_readable(there):
        return
    schemas = SchemaTopic(broker)
    try:
        yield from _compared(admin, topics, schemas, log, registry_answers=registry_answers)
    finally:
        schemas.close()


def _is_readable(schemas: TopicFacts) -> bool:
    allowed = schemas.operations is None or "READ" in schemas.operations
    return allowed and schemas.partitions == 1


def _compared(
    admin: AdminClient,
    topics: Sequence[TopicFacts],
    schemas: SchemaTopic,
    log: LogConfig,
    *,
    registry_answers: bool,
) -> Iterator[Finding]:
    entries = {entry.topic_id: entry for entry in Tables(schemas).entries()}
    ours = {topic.name: entries[topic.topic_id] for topic in topics if topic.topic_id in entries}
    yield from _check_foreign(admin, [t for t in topics if _is_foreign(t, ours, log)], log)
    by_producer: dict[str, list[TopicEntry]] = {}
    for entry in ours.values():
        by_producer.setdefault(entry.producer, []).append(entry)
    for producer, found in by_producer.items():
        yield from _check_forms(producer, found, log)
        if registry_answers:
            yield from _check_ids(schemas, found[0], log)


def _is_foreign(topic: TopicFacts, ours: Mapping[str, TopicEntry], log: LogConfig) -> bool:
    """Whether nobody of us has claimed the topic; a frontier's is its producer's."""
    if topic.role in ("table", "view"):
        return topic.name not in ours
    name = topic.name.removeprefix(log.topic_prefix).removesuffix(".frontier")
    owners = {entry.producer for entry in ours.values()} | {e.name for e in ours.values()}
    return topic.role == "frontier" and name not in owners


def _check_foreign(
    admin: AdminClient, topics: Sequence[TopicFacts], log: LogConfig
) -> Iterator[Finding]:
    """An empty topic that somebody made for us is welcome; somebody else's records are not."""
    wanted = {
        TopicPartition(topic.name, number): OffsetSpec.latest()
        for topic in topics
        for number in range(topic.partitions)
    }
    if not wanted:
        return
    ends = admin.list_offsets(wanted, request_timeout=REQUEST_TIMEOUT_S)
    filled = {at.topic for at, answer in ends.items() if answer.result().offset > 0}
    for name in sorted(filled):
        yield Finding(
            "error",
            f"topic {name}",
            "it has records that are not ours: it stands in no cdc.schemas",
            "set another log.topic_prefix, or, if nobody needs it: "
            f"{tool(log, 'topics')} --delete --topic {name}",
        )


def _check_forms(producer: str, entries: Sequence[TopicEntry], log: LogConfig) -> Iterator[Finding]:
    """Keys in another form would be other keys: a topic's form is pinned when it is made."""
    wanted = TopicForm.of(log)
    differing: dict[str, list[str]] = {}
    for entry in entries:
        wrong = [
            f"{f.name} {_shown(getattr(entry.form, f.name))}, the file says "
            f"{_shown(getattr(wanted, f.name))}"
            for f in fields(TopicForm)
            if getattr(entry.form, f.name) != getattr(wanted, f.name)
        ]
        if wrong:
            differing.setdefault("; ".join(wrong), []).append(log.topic_prefix + entry.name)
    for what, names in differing.items():
        verb = "is" if len(names) == 1 else "are"
        yield Finding(
            "error",
            f"topic {listed(names)}",
            f"{verb} written with {what}",
            f"set it back under `log`, or `cdc remove {producer}` and start again",
        )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_ids(schemas: SchemaTopic, entry: TopicEntry, log: LogConfig) -> Iterator[Finding]:
    """Ids in records lead to the schemas that they were written with."""
    if entry.form.format != "avro" or TopicForm.of(log) != entry.form:
        return
    name = log.topic_prefix + entry.name
    written = writers(name, entry.newest.schema, entry)
    ids = open_ids(log.schema_registry, log.registry_config, schemas)
    try:
        found = ids.schema(entry.newest.value_id)
        wrong = "" if json.loads(found) == json.loads(written.value) else "it is another schema's"
    except CdcError as error:
        wrong = without_secrets(error.what, log)
    finally:
        ids.close()
    if wrong:
        there = registry_host(log.schema_registry) or "cdc.schemas"
        yield Finding(
            "error",
            f"topic {name}",
            f"its records name the schema {entry.newest.value_id}, and in {there}: {wrong}",
            "set log.schema_registry to what it was when the topic was made, or "
            f"`cdc remove {entry.producer}` and start again",
        )
