"""What `cdc.schemas` says of our topics: who writes them, in which form, and every version of
their columns (SEMANTICS 13, 17).

A record per version, keyed by the topic's id, so that a topic made anew begins anew. It stands
there before the first record that has the version.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cdc.formats.envelope import Origin
from cdc.log.kafka_records import TopicEntry, TopicForm, Version
from cdc.log.schema_topic import SchemaTopic
from cdc.schema import TableSchema

KIND = "table"


class Tables:
    """The topics of a log, by their id. `topic` is the caller's to close."""

    def __init__(self, topic: SchemaTopic) -> None:
        self._topic = topic
        self._seen = 0
        self._found: dict[str, TopicEntry] = {}

    def entries(self) -> list[TopicEntry]:
        """All of them, after a look at what was added; also of topics that are gone."""
        self._refresh()
        return list(self._found.values())

    def entry(self, topic_id: str) -> TopicEntry | None:
        self._refresh()
        return self._found.get(topic_id)

    def known(self, topic_id: str) -> TopicEntry | None:
        """As `entry`, without a look at what was added."""
        return self._found.get(topic_id)

    def publish(self, entry: TopicEntry, version: Version) -> TopicEntry:
        """Add a version to a topic, durably; the topic with all its versions."""
        key = (KIND, entry.topic_id, version.schema.version, uuid.uuid4().hex)
        self._topic.append(key, _body(entry, version))
        self._refresh()
        return self._found[entry.topic_id]

    def _refresh(self) -> None:
        added = self._topic.records(self._seen)
        for record in added:
            if record.key[:1] == (KIND,):
                self._add(record.key[1], record.value)
        self._seen += len(added)

    def _add(self, topic_id: str, body: Mapping[str, Any]) -> None:
        version = Version(
            TableSchema.from_json(body["schema"]),
            tuple(body["starts"]),
            body["key_id"],
            body["value_id"],
        )
        entry = self._found.get(topic_id) or TopicEntry(
            body["topic"],
            topic_id,
            body["producer"],
            TopicForm(**body["form"]),
            Origin(**body["origin"]),
        )
        versions = {**entry.versions}
        versions.setdefault(version.schema.version, version)
        self._found[topic_id] = replace(entry, versions=versions)


def _body(entry: TopicEntry, version: Version) -> dict[str, Any]:
    origin = entry.origin
    return {
        "topic": entry.name,
        "producer": entry.producer,
        "form": entry.form.to_json(),
        "origin": {
            "name": origin.name,
            "database": origin.database,
            "version": origin.version,
            "connector": origin.connector,
        },
        "schema": version.schema.to_json(),
        "starts": list(version.starts),
        "key_id": version.key_id,
        "value_id": version.value_id,
    }
