"""The topic `dead-letters` on Kafka: what failed, where, why, and the original bytes, as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from cdc.log.api import DeadLetter
from cdc.log.kafka_client import LETTERS, Broker
from cdc.log.kafka_send import send_now

RETENTION_MS = 7 * 86_400_000


def make_topic(broker: Broker) -> None:
    """The topic, unless it is there."""
    broker.create(LETTERS, 1, {"cleanup.policy": "delete", "retention.ms": str(RETENTION_MS)})


def send_letters(broker: Broker, letters: Sequence[DeadLetter]) -> None:
    """Append them; durable when this returns."""
    make_topic(broker)
    send_now(broker, LETTERS, [(None, to_value(letter)) for letter in letters])


def read_letter(value: bytes) -> DeadLetter:
    """The letter in a record's value."""
    body = json.loads(value)
    key, original = (
        None if body[name] is None else base64.b64decode(body[name]) for name in ("key", "value")
    )
    return DeadLetter(body["connector"], body["where"], body["error"], key, original)


def to_value(letter: DeadLetter) -> bytes:
    """The record's value."""

    def text(raw: bytes | None) -> str | None:
        return None if raw is None else base64.b64encode(raw).decode()

    body = {
        "connector": letter.connector,
        "where": letter.where,
        "error": letter.error,
        "key": text(letter.key),
        "value": text(letter.value),
    }
    return json.dumps(body, sort_keys=True).encode()
