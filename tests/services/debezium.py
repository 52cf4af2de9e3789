"""What Debezium's Postgres connector and its converters are configured with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from urllib.parse import unquote, urlsplit

AVRO_CONVERTER = "io.apicurio.registry.utils.converter.AvroConverter"

Converter = Literal["json", "json_schemas", "avro"]


def slot_name(connector: str) -> str:
    """Slot and publication of a connector."""
    return "dbz_" + "".join(c if c.isalnum() else "_" for c in connector.lower())


def debezium_settings(url: str, tables: Sequence[str], prefix: str, slot: str) -> dict[str, str]:
    """A connector over tables (`schema.table`) of the Postgres at `url`. Debezium's defaults but
    for what says where, and a heartbeat, so that positions move on without changes."""
    parts = urlsplit(url)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": parts.hostname or "",
        "database.port": str(parts.port or 5432),
        "database.user": unquote(parts.username or ""),
        "database.password": unquote(parts.password or ""),
        "database.dbname": parts.path.lstrip("/"),
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "publication.name": slot,
        "publication.autocreate.mode": "filtered",
        "table.include.list": ",".join(tables),
        "topic.prefix": prefix,
        "heartbeat.interval.ms": "200",
        "poll.interval.ms": "20",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }


def mysql_settings(
    url: str, tables: Sequence[str], prefix: str, bootstrap: str, server_id: int
) -> dict[str, str]:
    """A connector over tables (`database.table`) of the MySQL at `url`; what it knows of their
    history goes into a topic of its own."""
    parts = urlsplit(url)
    return {
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "tasks.max": "1",
        "database.hostname": parts.hostname or "",
        "database.port": str(parts.port or 3306),
        "database.user": unquote(parts.username or ""),
        "database.password": unquote(parts.password or ""),
        "database.server.id": str(server_id),
        "driver.allowPublicKeyRetrieval": "true",
        "database.include.list": parts.path.lstrip("/"),
        "table.include.list": ",".join(tables),
        "schema.history.internal.kafka.bootstrap.servers": bootstrap,
        "schema.history.internal.kafka.topic": f"{prefix}-history",
        "include.schema.changes": "false",
        "topic.prefix": prefix,
        "poll.interval.ms": "20",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }


def converters(kind: Converter, registry: str = "") -> dict[str, str]:
    """A connector's settings for how keys and values are written. `registry` (Avro only) is the
    base of a registry's interfaces, or Confluent's interface below it."""
    base, _, _ = registry.partition("/apis/")
    if kind != "avro":
        chosen = {
            "converter": "org.apache.kafka.connect.json.JsonConverter",
            "converter.schemas.enable": str(kind == "json_schemas").lower(),
        }
    else:
        chosen = {
            "converter": AVRO_CONVERTER,
            "converter.apicurio.registry.url": f"{base}/apis/registry/v2",
            "converter.apicurio.registry.auto-register": "true",
            "converter.apicurio.registry.headers.enabled": "false",
            "converter.apicurio.registry.as-confluent": "true",
            "converter.apicurio.registry.use-id": "contentId",
            "converter.schema.name.adjustment.mode": "avro",
        }
    return {f"{side}.{name}": value for side in ("key", "value") for name, value in chosen.items()}
