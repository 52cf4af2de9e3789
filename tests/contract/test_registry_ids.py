"""What only a registry can do to its clients: refuse a schema, refuse them, be away."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import urllib.error
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from cdc.errors import ConfigError, LogError, LogRefused
from cdc.formats.debezium_schema import Options
from cdc.formats.records import avro_schemas
from cdc.log.registry_ids import RegistryIds, check_registry
from cdc.schema import Column
from demo.server_process import free_port
from tests.fix_log import ORDERS
from tests.http_proxy import Fault, Proxy, proxy_to
from tests.services.registry import Registry, ask

pytestmark = pytest.mark.service

OPEN = Callable[..., RegistryIds]


@pytest.fixture
def connect() -> Iterator[OPEN]:
    """Clients of a registry, closed after the test."""
    with ExitStack() as opened:

        def made(
            url: str, config: Mapping[str, str] | None = None, patience_s: float = 25.0
        ) -> RegistryIds:
            ids = RegistryIds(url, config or {}, patience_s=patience_s)
            opened.callback(ids.close)
            return ids

        yield made


@pytest.fixture
def subject() -> str:
    return f"t{uuid.uuid4().hex[:8]}.shop.public.orders-value"


def schema(**fields: Any) -> str:
    """A record; a type that can be null has null as its default."""
    written = [
        {"name": name, "type": kind, **({"default": None} if "null" in kind else {})}
        for name, kind in fields.items()
    ]
    return json.dumps({"type": "record", "name": "shop.Value", "fields": written})


BASE = schema(id="long", note=["null", "string"])
COLUMN_REQUIRED = schema(id="long", note=["null", "string"], size="int")
COLUMN_GONE = schema(note=["null", "string"])
ADDED = "Value.size: added (int, no default)"
REMOVED = "Value.id: removed (was long, no default)"


def versions(registry: Registry, subject: str) -> list[int]:
    found: list[int] = ask(f"{registry.url}/subjects/{subject}/versions")
    return found


@pytest.mark.parametrize(
    ("level", "text", "line"),
    [
        ("BACKWARD", COLUMN_REQUIRED, ADDED),
        ("BACKWARD_TRANSITIVE", COLUMN_REQUIRED, ADDED),
        ("FORWARD", COLUMN_GONE, REMOVED),
        ("FULL", COLUMN_REQUIRED, ADDED),
        ("FULL", COLUMN_GONE, REMOVED),
    ],
)
def test_an_incompatible_schema_is_refused(
    own_registry: Registry, connect: OPEN, subject: str, level: str, text: str, line: str
) -> None:
    ids = connect(own_registry.url)
    first = ids.register(subject, BASE)
    own_registry.set_level(level, subject)
    with pytest.raises(LogRefused) as refused:
        ids.register(subject, text)
    said = str(refused.value)
    assert line in said and subject in said
    assert f"{level} is the level of the subject" in said
    assert versions(own_registry, subject) == [1]
    # As its hint says:
    own_registry.set_level("NONE", subject)
    second = ids.register(subject, text)
    assert second != first and versions(own_registry, subject) == [1, 2]


def test_a_schema_that_is_known_is_not_held_against_the_newest(
    own_registry: Registry, connect: OPEN, subject: str
) -> None:
    ids = connect(own_registry.url)
    old, new = ids.register(subject, BASE), ids.register(subject, COLUMN_REQUIRED)
    own_registry.set_level("FULL_TRANSITIVE", subject)
    again = connect(own_registry.url)
    assert (again.register(subject, BASE), again.register(subject, COLUMN_REQUIRED)) == (old, new)


def test_the_registrys_level_holds_where_a_subject_has_none(
    own_registry: Registry, connect: OPEN, subject: str
) -> None:
    ids = connect(own_registry.url)
    ids.register(subject, BASE)
    own_registry.set_level("BACKWARD")
    try:
        with pytest.raises(LogRefused, match="BACKWARD is the level of the registry"):
            ids.register(subject, COLUMN_REQUIRED)
    finally:
        own_registry.set_level("NONE")
    assert versions(own_registry, subject) == [1]


def test_the_oldest_schema_counts_where_the_level_says_so(
    own_registry: Registry, connect: OPEN, subject: str
) -> None:
    """The newest schema allows `note` to be a number, the first one does not."""
    ids = connect(own_registry.url)
    for text in (BASE, schema(id="long")):
        ids.register(subject, text)
    own_registry.set_level("BACKWARD_TRANSITIVE", subject)
    with pytest.raises(LogRefused, match="BACKWARD_TRANSITIVE-compatible"):
        ids.register(subject, schema(id="long", note=["null", "int"]))
    assert versions(own_registry, subject) == [1, 2]


@pytest.mark.parametrize("level", ["BACKWARD", "FORWARD", "FULL", "FULL_TRANSITIVE"])
def test_columns_come_and_go_at_every_level(
    own_registry: Registry, connect: OPEN, subject: str, level: str
) -> None:
    """Since columns that are not key are optional in our schemas."""
    own = Column("extra", pa.int32(), "integer", False, 6)
    columns = ORDERS.columns
    lives = [
        ORDERS,
        replace(ORDERS, columns=(*columns, own), version=2),
        replace(ORDERS, columns=(columns[0], *columns[2:], own), version=3),
        replace(ORDERS, columns=columns[:3], version=4),
    ]
    ids = connect(own_registry.url)
    found = []
    for table in lives:
        written = avro_schemas("shop.public.orders", table, Options())
        found.append(ids.register(subject, written.value))
        if len(found) == 1:
            own_registry.set_level(level, subject)
    assert len(set(found)) == len(lives)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_registry_that_does_not_offer_the_check(
    own_registry: Registry, connect: OPEN, subject: str, status: int
) -> None:
    """Registering refuses what is incompatible, then; and allows the rest."""
    never = Fault("/compatibility/", times=1000, status=status)
    with proxy_to(own_registry.url, never) as proxy:
        ids = connect(f"{proxy.url}/apis/ccompat/v7")
        ids.register(subject, BASE)
        own_registry.set_level("FULL", subject)
        with pytest.raises(LogRefused) as refused:
            ids.register(subject, COLUMN_REQUIRED)
        assert ADDED in str(refused.value) and "the registry: " in str(refused.value)
        ids.register(subject, schema(id="long", note=["null", "string"], other=["null", "long"]))
    assert versions(own_registry, subject) == [1, 2]


def test_an_old_registry_checks_the_newest_version_only(
    own_registry: Registry, connect: OPEN, subject: str
) -> None:
    old = Fault("/versions?verbose=true", times=1000, status=404)
    with proxy_to(own_registry.url, old) as proxy:
        ids = connect(f"{proxy.url}/apis/ccompat/v7")
        ids.register(subject, BASE)
        own_registry.set_level("BACKWARD", subject)
        with pytest.raises(LogRefused):
            ids.register(subject, COLUMN_REQUIRED)
        assert any("versions/latest?verbose=true" in request for request in proxy.passed)
        assert not any(request.endswith(f"POST /subjects/{subject}") for request in proxy.passed)


@pytest.mark.parametrize(
    "fault",
    [Fault("/versions", times=2), Fault("/versions", after=True), Fault("", times=1, status=500)],
    ids=["busy", "cut after the write", "an error once"],
)
def test_a_passing_fault_is_not_noticed(
    own_registry: Registry, connect: OPEN, subject: str, fault: Fault
) -> None:
    with proxy_to(own_registry.url, replace(fault)) as proxy:
        ids = connect(f"{proxy.url}/apis/ccompat/v7")
        found = ids.register(subject, BASE)
        assert proxy.exhausted
    assert connect(own_registry.url).register(subject, BASE) == found
    assert versions(own_registry, subject) == [1]


def test_a_registry_that_is_killed(own_registry: Registry, connect: OPEN, subject: str) -> None:
    """What is known goes on; what is not says so in time; when it is back, all goes on."""
    ids = connect(own_registry.url, patience_s=0.5)
    found = ids.register(subject, BASE)
    own_registry.kill()
    try:
        assert ids.register(subject, BASE) == found
        assert json.loads(ids.schema(found)) == json.loads(BASE)
        with pytest.raises(LogError, match="does not answer") as away:
            ids.register(subject, COLUMN_REQUIRED)
        assert own_registry.url in str(away.value)
        with pytest.raises(LogError, match="does not answer"):
            connect(own_registry.url, patience_s=0.5).schema(found)
    finally:
        own_registry.start()
    ids.register(subject, COLUMN_REQUIRED)
    assert json.loads(connect(own_registry.url).schema(found)) == json.loads(BASE)
    assert versions(own_registry, subject) == [1, 2]


def test_a_restart_is_waited_for(own_registry: Registry, connect: OPEN, subject: str) -> None:
    own_registry.kill()
    starting = threading.Thread(target=own_registry.start)
    starting.start()
    try:
        assert connect(own_registry.url, patience_s=60.0).register(subject, BASE) > 0
    finally:
        starting.join()


@pytest.fixture
def guarded(own_registry: Registry) -> Iterator[Proxy]:
    """The registry behind a proxy that asks for a user: anna, p@ss:word."""
    with proxy_to(own_registry.url) as proxy:
        proxy.authorization = "Basic " + base64.b64encode(b"anna:p@ss:word").decode()
        yield proxy


def test_a_user_in_the_url_or_in_the_settings(
    guarded: Proxy, connect: OPEN, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plain = f"{guarded.url}/apis/ccompat/v7"
    found = connect(plain, {"basic.auth.user.info": "anna:p@ss:word"}).register(subject, BASE)
    within = plain.replace("http://", "http://anna:p%40ss%3Aword@")
    assert connect(within).register(subject, BASE) == found
    assert "p%40ss" not in caplog.text and "p@ss" not in caplog.text
    with pytest.raises(ConfigError, match=r"basic\.auth\.user\.info"):
        connect(within, {"basic.auth.user.info": "anna:other"})


def test_a_wrong_password_is_said_without_it(guarded: Proxy, connect: OPEN, subject: str) -> None:
    url = f"{guarded.url}/apis/ccompat/v7".replace("http://", "http://anna:secret77@")
    for request in (
        lambda: connect(url).register(subject, BASE),
        lambda: connect(url).schema(1),
    ):
        with pytest.raises(LogError, match="HTTP 401") as refused:
            request()
        assert "basic.auth.user.info" in str(refused.value)
        assert "secret77" not in str(refused.value)
    problem = check_registry(url, {})
    assert problem is not None and "secret77" not in str(problem)


def test_settings_that_the_client_does_not_know(connect: OPEN) -> None:
    with pytest.raises(ConfigError, match=r"basic\.auth\.usr"):
        connect("http://127.0.0.1:1", {"basic.auth.usr": "a:secret77"})
    with pytest.raises(ConfigError, match="timeout"):
        connect("http://127.0.0.1:1", {"timeout": "soon"})
    with pytest.raises(ConfigError, match="client does not take"):
        connect("ftp://anna:secret77@127.0.0.1:1")
    with pytest.raises(ConfigError, match="client does not take"):
        connect("https://127.0.0.1:1", {"ssl.ca.location": "/no/such/file"})


def test_a_check_of_the_registry(own_registry: Registry, guarded: Proxy, subject: str) -> None:
    assert check_registry(own_registry.url, {}) is None
    assert check_registry(own_registry.url, {}, [subject]) is None
    refused = check_registry(f"{guarded.url}/apis/ccompat/v7", {}, [subject])
    assert refused is not None and "HTTP 401" in str(refused)
    for subjects in ([], [subject]):
        path_missing = check_registry(f"{own_registry.url}/v7", {}, subjects)
        assert path_missing is not None and "log.schema_registry" in str(path_missing)
    began = time.monotonic()
    away = check_registry(f"http://127.0.0.1:{free_port()}", {})
    assert away is not None and "does not answer" in str(away)
    assert time.monotonic() - began < 10
    assert isinstance(check_registry(own_registry.url, {"timeout": "soon"}), ConfigError)


def test_no_schema_is_registered_by_looking(own_registry: Registry, subject: str) -> None:
    check_registry(own_registry.url, {}, [subject])
    with pytest.raises(urllib.error.HTTPError, match="404"):
        versions(own_registry, subject)
