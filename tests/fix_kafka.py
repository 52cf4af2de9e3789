"""Kafka brokers that tests may maltreat, and one with TLS, passwords and rights.

    own_kafka      module: a private broker; runs again, empty or not, when a test begins
    secure_kafka   module: SASL_SSL and ACLs; users "cdc" (all rights) and "guest" (none)

Both are always native: they have a process to kill. Topics want prefixes of their own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.services.kafka import SHORT_SESSIONS, Broker, Security, make_security, start_kafka

PASSWORDS = {"cdc": "s3cret-of-cdc", "guest": "s3cret-of-guest"}


@pytest.fixture(scope="module")
def module_kafka() -> Iterator[Broker]:
    with _folder() as folder:
        broker = start_kafka(folder, SHORT_SESSIONS, quick=True)
        yield broker
        broker.stop()


@pytest.fixture
def own_kafka(module_kafka: Broker) -> Iterator[Broker]:
    """A private broker, of which the module has one: a test finds it running."""
    if not module_kafka.running:
        module_kafka.start()
    yield module_kafka
    if module_kafka.running:
        module_kafka.resume()


@pytest.fixture(scope="module")
def security() -> Iterator[Security]:
    with _folder() as folder:
        yield make_security(folder, PASSWORDS)


@pytest.fixture(scope="module")
def secure_kafka(security: Security) -> Iterator[Broker]:
    with _folder() as folder:
        broker = start_kafka(folder, security=security, quick=True)
        _allow_all(broker.internal, "cdc")
        yield broker
        broker.stop()


def _allow_all(bootstrap: str, user: str) -> None:
    kinds = (
        (ResourceType.TOPIC, "*"),
        (ResourceType.GROUP, "*"),
        (ResourceType.TRANSACTIONAL_ID, "*"),
        (ResourceType.BROKER, "kafka-cluster"),
    )
    allow(bootstrap, user, kinds)


def allow(
    bootstrap: str,
    user: str,
    kinds: Sequence[tuple[ResourceType, str]],
    right: AclOperation = AclOperation.ALL,
    permission: AclPermissionType = AclPermissionType.ALLOW,
) -> None:
    """Give a user a right, or every one, to these resources; DENY takes it away."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    bindings = [
        AclBinding(
            kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*",
            right, permission,
        )
        for kind, name in kinds
    ]  # fmt: skip
    for future in admin.create_acls(bindings).values():
        future.result(30)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cdc-kafka-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
