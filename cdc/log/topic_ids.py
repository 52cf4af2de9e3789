"""Ids of Avro schemas without a registry: a schema's id is its offset in `cdc.schemas`, plus one.

To register a schema that the topic does not have yet:

1.  append it under a key of its own: its fingerprint, and something unique
2.  read to the end: the first record with that fingerprint is the schema, whoever wrote it

So two processes that append at once get the same id, and the second's record is never used. The
fingerprint is taken of the JSON with its properties sorted: spelling does not matter, but every
property does, also those that Avro itself does not know.
"""

from __future__ import annotations

import hashlib
import json
import uuid

from cdc.errors import LogDamaged, LogError
from cdc.log.kafka_client import SCHEMAS
from cdc.log.schema_topic import SchemaRecord, SchemaTopic

KIND = "avro"


class TopicIds:
    """See cdc.log.schema_ids.SchemaIds. Every schema is compatible. The topic is the caller's:
    `close` leaves it open."""

    def __init__(self, topic: SchemaTopic) -> None:
        self._topic = topic
        self._seen = 0
        self._ids: dict[str, int] = {}
        self._fingerprints: dict[str, str] = {}
        self._schemas: dict[int, str] = {}

    def register(self, subject: str, schema: str) -> int:
        fingerprint = self._fingerprint(subject, schema)
        if fingerprint not in self._ids:
            self._refresh()
        if fingerprint not in self._ids:
            key = (KIND, fingerprint, uuid.uuid4().hex)
            self._topic.append(key, {"subject": subject, "schema": schema})
            self._refresh()
        return self._ids[fingerprint]

    def schema(self, schema_id: int) -> str:
        if schema_id not in self._schemas:
            self._refresh()
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise LogError(
                f"there is no schema with the id {schema_id}",
                where=SCHEMAS,
                hint="was the record written by somebody with a registry, or with another "
                "log.topic_prefix?",
            ) from None

    def close(self) -> None:
        """Nothing is held."""

    def _refresh(self) -> None:
        added = self._topic.records(self._seen)
        for record in added:
            if record.key[:1] == (KIND,):
                self._take(record)
        self._seen += len(added)

    def _take(self, record: SchemaRecord) -> None:
        try:
            _, fingerprint, _ = record.key
            schema = record.value["schema"]
        except (ValueError, TypeError, KeyError) as error:
            raise LogDamaged(
                "not a schema as we write it", where=f"{SCHEMAS}/0/{record.offset}"
            ) from error
        self._ids.setdefault(fingerprint, record.offset + 1)
        self._schemas[record.offset + 1] = schema

    def _fingerprint(self, subject: str, schema: str) -> str:
        if schema not in self._fingerprints:
            self._fingerprints[schema] = fingerprint_of(subject, schema)
        return self._fingerprints[schema]


def fingerprint_of(subject: str, schema: str) -> str:
    """32 hex digits; equal for schemas whose JSON is equal. Raises LogError for what is no JSON."""
    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise LogError(f"not an Avro schema: {error}", where=subject) from error
    text = json.dumps(parsed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
