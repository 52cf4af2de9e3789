"""What cdc.log.schema_ids promises, over the topic `cdc.schemas` and over a real registry."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.config import LogConfig
from cdc.errors import LogError
from cdc.formats.debezium_schema import Options
from cdc.formats.records import avro_schemas
from cdc.log.kafka_client import Broker
from cdc.log.open_ids import open_ids
from cdc.log.schema_ids import SchemaIds
from cdc.log.schema_topic import SchemaTopic
from cdc.schema import Column, TableSchema
from tests.fix_log import ORDERS
from tests.services import schema_ids_process

pytestmark = pytest.mark.service


@dataclass
class Place:
    """Where schemas have ids: a registry's URL, else a broker's topic under a prefix."""

    registry: str = ""
    bootstrap: str = ""
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}.")
    opened: ExitStack = field(default_factory=ExitStack)

    @property
    def subject(self) -> str:
        return f"{self.prefix}shop.public.orders-value"

    def open(self) -> SchemaIds:
        """As another process would: nothing is shared with those opened before."""
        config = LogConfig(
            "kafka", Path(), bootstrap_servers=self.bootstrap, topic_prefix=self.prefix
        )
        topic = SchemaTopic(Broker(config))
        ids = open_ids(self.registry, {}, topic)
        self.opened.callback(topic.close)
        self.opened.callback(ids.close)
        return ids

    def process(self, schemas: list[str]) -> subprocess.Popen[str]:
        given = {
            "registry": self.registry, "bootstrap": self.bootstrap, "prefix": self.prefix,
            "subject": self.subject, "schemas": schemas,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", schema_ids_process.__name__, json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip


@pytest.fixture(params=["kafka_bootstrap", "schema_registry"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server = request.getfixturevalue(request.param)
    made = Place(registry=server) if request.param == "schema_registry" else Place(bootstrap=server)
    with made.opened:
        yield made


def schema(*names: str, **more: Any) -> str:
    """A record of longs; the first is required."""
    fields: list[dict[str, Any]] = [{"name": names[0], "type": "long"}]
    fields += [{"name": n, "type": ["null", "long"], "default": None} for n in names[1:]]
    return json.dumps({"type": "record", "name": "shop.Value", **more, "fields": fields})


def test_the_same_schema_has_the_same_id(place: Place) -> None:
    ids = place.open()
    first = ids.register(place.subject, schema("id"))
    second = ids.register(place.subject, schema("id", "note"))
    assert first != second
    assert ids.register(place.subject, schema("id")) == first
    after_restart = place.open()
    assert after_restart.register(place.subject, schema("id", "note")) == second
    assert after_restart.register(place.subject, schema("id")) == first


def test_whoever_asks_has_the_schema_of_an_id(place: Place) -> None:
    written = [schema("id", *(f"c{i}" for i in range(n))) for n in range(5)]
    reader = place.open()
    writer = place.open()
    for text in written:
        schema_id = writer.register(place.subject, text)
        assert json.loads(writer.schema(schema_id)) == json.loads(text)
        assert json.loads(reader.schema(schema_id)) == json.loads(text)


def test_a_property_of_ours_makes_another_schema(place: Place) -> None:
    """A table's version stands in its value schema: every version has an id of its own."""
    ids = place.open()
    versions = {v: schema("id", **{"cdc.version": v}) for v in (1, 2, 3)}
    found = {v: ids.register(place.subject, text) for v, text in versions.items()}
    assert len(set(found.values())) == 3
    other = place.open()
    for version, schema_id in found.items():
        assert json.loads(other.schema(schema_id))["cdc.version"] == version
        assert other.register(place.subject, versions[version]) == schema_id


def test_an_id_that_nobody_gave(place: Place) -> None:
    ids = place.open()
    with pytest.raises(LogError, match=r"2000000000|No content"):
        ids.schema(2_000_000_000)
    made = ids.register(place.subject, schema("id"))
    with pytest.raises(LogError):
        place.open().schema(made + 1_000_000)


def test_processes_that_register_at_once(place: Place) -> None:
    schemas = [schema("id", *(f"c{i}" for i in range(n))) for n in range(6)]
    processes = [place.process(schemas) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate(timeout=60)[0] for process in processes]
    assert found[0] == found[1] == found[2]
    ids = json.loads(found[0])
    assert len(set(ids)) == len(schemas)
    later = place.open()
    for text, schema_id in zip(schemas, ids, strict=True):
        assert json.loads(later.schema(schema_id)) == json.loads(text)


def test_the_schemas_of_a_tables_life(place: Place) -> None:
    """Columns come and go; every version is registered, and is given back as it was."""
    added = (*ORDERS.columns, Column("extra", pa.int32(), "integer", False, 6))
    lives = [
        ORDERS,
        replace(ORDERS, columns=added, version=2),
        replace(ORDERS, columns=(added[0], *added[2:]), version=3),
    ]
    ids, reader = place.open(), place.open()
    for table in lives:
        for text in schemas_of(table):
            schema_id = ids.register(f"{place.subject}-{len(text) < 1000}", text)
            assert json.loads(reader.schema(schema_id)) == json.loads(text)


def schemas_of(table: TableSchema) -> tuple[str, str]:
    """Those of the key and the value, the latter with the version."""
    found = avro_schemas("shop.public.orders", table, Options())
    value = {**json.loads(found.value), "cdc.version": table.version}
    return found.key, json.dumps(value)


NAMES = st.lists(st.sampled_from("abcdefg"), unique=True, min_size=1, max_size=4)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=st.lists(st.tuples(st.integers(0, 1), NAMES, st.integers(1, 3)), max_size=12))
def test_ids_are_a_function_of_schemas(
    place: Place, asked: list[tuple[int, list[str], int]]
) -> None:
    """Several who ask, restarts between them: one id per schema, one schema per id."""
    subject = f"{uuid.uuid4().hex}-value"
    clients = [place.open() for _ in range(2)]
    found: dict[str, int] = {}
    for who, names, version in asked:
        text = schema(*names, **{"cdc.version": version})
        schema_id = clients[who].register(subject, text)
        assert found.setdefault(text, schema_id) == schema_id
    assert len(set(found.values())) == len(found)
    for text, schema_id in found.items():
        assert json.loads(clients[0].schema(schema_id)) == json.loads(text)
