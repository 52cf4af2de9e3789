"""First contact with the brokers: that they answer, or what stands in the way.

librdkafka tries for ever and says "timed out"; why, it tells only to who polls. So requests wait in
short steps, and between them what was heard decides: a password or certificate that is refused
stays refused; brokers that are away may come back.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from cdc.config import LogConfig
from cdc.errors import LogError, LogRefused
from cdc.log.kafka_secrets import without_secrets

PATIENCE_S = 10.0
"""Shorter than what a supervisor takes for steady work (cdc.cli.restart)."""
_STEP_S = 1.0
_CERTIFICATE = "certificate verify failed"
_TELLING = (
    KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE, KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
)  # fmt: skip
_LOGIN = "see security.protocol, sasl.mechanism, sasl.username and sasl.password in log.config"
_REMEDIES = {
    KafkaError._AUTHENTICATION: _LOGIN,
    KafkaError._SSL: "see security.protocol and ssl.ca.location in log.config",
}
_AWAY = (
    "start the brokers or correct log.bootstrap_servers; one that expects TLS or SASL hangs up on "
    "everybody else: " + _LOGIN
)


def reach(
    admin: AdminClient, heard: Collection[KafkaError], patience_s: float = PATIENCE_S
) -> ClusterMetadata:
    """What the brokers say of themselves; `heard` is what the client's error_cb is told. Raises
    KafkaException with the most telling error."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return admin.list_topics(timeout=_STEP_S)
        except KafkaException as error:
            admin.poll(0)
            if any(map(is_final, heard)) or time.monotonic() > deadline:
                raise KafkaException(_most_telling(heard) or error.args[0]) from error


def is_final(error: KafkaError) -> bool:
    """Whether brokers refuse us, and will do so again. A handshake may also fail because a broker
    is just ending."""
    if error.code() == KafkaError._SSL:
        return _CERTIFICATE in error.str()
    return bool(error.code() == KafkaError._AUTHENTICATION)


def remedy(error: KafkaError) -> str:
    return _REMEDIES.get(error.code(), _AWAY)


def unreachable(error: KafkaError, log: LogConfig) -> LogError:
    """Why there was no contact: LogRefused where trying again is of no use."""
    what = f"Kafka: {without_secrets(error.str(), log)}"
    kind = LogRefused if is_final(error) else LogError
    return kind(what, where=log.bootstrap_servers, hint=remedy(error))


def _most_telling(heard: Collection[KafkaError]) -> KafkaError | None:
    """The error that says most about why nobody answers."""
    known = [error for error in heard if error.code() in _TELLING]
    # The first of a kind: later ones are often "disconnected" alone.
    return min(known, key=lambda error: _TELLING.index(error.code()), default=None)
