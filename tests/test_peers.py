"""Debezium and Flink, without any code of ours: each does what the other expects of it."""

from __future__ import annotations

import uuid
from collections import Counter

import psycopg
import pytest

from demo.server_process import ServerFailed
from tests.services.connect import ConnectWorker
from tests.services.debezium import Converter
from tests.services.flink import Flink

COLUMNS = "id BIGINT, amount DECIMAL(12, 2), note STRING"
FORMATS: dict[Converter, str] = {
    "json": "'format' = 'debezium-json'",
    "json_schemas": "'format' = 'debezium-json', 'debezium-json.schema-include' = 'true'",
    "avro": "'format' = 'debezium-avro-confluent', 'debezium-avro-confluent.url' = '{registry}'",
}


@pytest.mark.parametrize("form", ["json", "json_schemas", "avro"])
def test_flink_reads_what_debezium_wrote(
    connect: ConnectWorker,
    flink: Flink,
    kafka_bootstrap: str,
    schema_registry: str,
    pg_database: str,
    form: Converter,
) -> None:
    """Debezium's Avro is in Confluent's wire format, with ids that the registry's Confluent
    interface knows: Flink's reader asks there."""
    prefix = f"dbz{uuid.uuid4().hex[:8]}"
    with psycopg.connect(pg_database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric(12, 2), note text)"
        )
        connection.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
        connection.execute("INSERT INTO orders SELECT g, g * 1.5, 'ü' FROM generate_series(1, 9) g")
        with connect.debezium(
            pg_database,
            ["public.orders"],
            prefix,
            form,
            schema_registry,
            decimal__handling__mode="precise" if form == "avro" else "string",
        ) as debezium:
            debezium.caught_up()
            connection.execute("UPDATE orders SET amount = 7, note = NULL WHERE id < 3")
            connection.execute("DELETE FROM orders WHERE id = 9")
            debezium.caught_up()
        assert prefix not in " ".join(connect.connectors())
        slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(slots).fetchone() == (0,)
        expected = Counter(connection.execute("SELECT id::text, amount::text, note FROM orders"))
    flink.execute(
        f"""CREATE TABLE {prefix} ({COLUMNS}) WITH (
            'connector' = 'kafka', 'topic' = '{prefix}.public.orders',
            'properties.bootstrap.servers' = '{kafka_bootstrap}',
            'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
            {FORMATS[form].format(registry=schema_registry)})"""
    )
    assert flink.rows(f"SELECT * FROM {prefix}") == expected


def test_a_connector_that_fails_says_why(connect: ConnectWorker, pg_database: str) -> None:
    with (
        pytest.raises(ServerFailed, match=r"absent.* does not exist"),
        connect.debezium(f"{pg_database.rsplit('/', 1)[0]}/absent", ["public.t"], "absent"),
    ):
        raise AssertionError


def test_flinks_error_is_ours(flink: Flink) -> None:
    with pytest.raises(ServerFailed, match="Object 'absent' not found"):
        flink.rows("SELECT * FROM absent")
