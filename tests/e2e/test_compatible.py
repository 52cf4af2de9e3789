"""A reader that shares no code with us gets the same table out of our topics as a SELECT does.

Flink SQL reads them as it reads Debezium's: as changelogs, where a row that is taken back must be
one that was given, so every `before` has to be right. Its readers of Debezium's formats want the
whole old row of an update, so the tables have REPLICA IDENTITY FULL (Flink's documentation says
the same of Debezium's own topics).
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from confluent_kafka import Producer

from cdc.config import LogConfig
from tests.fix_capture import SOURCE, Capture
from tests.fix_log import kafka_config
from tests.services.flink import Flink, Rows

TABLE: LiteralString = """CREATE TABLE orders (
    id bigint PRIMARY KEY, amount numeric(12, 2), note text, paid boolean, weight double precision,
    placed timestamptz, due date, made timestamp, token uuid, label bytea)"""
FULL: LiteralString = "ALTER TABLE orders REPLICA IDENTITY FULL"
# As Flink names Debezium's types of these columns, and `extra`, which is added on the way.
COLUMNS = """id BIGINT, amount DECIMAL(12, 2), note STRING, paid BOOLEAN, weight DOUBLE,
    placed STRING, due INT, made BIGINT, token STRING, label BYTES, extra INT"""
SELECT: LiteralString = """SELECT id::text, amount::text, note, paid::text, weight::text,
    to_char(placed AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    (due - date '1970-01-01')::text, (extract(epoch FROM made) * 1000000)::bigint::text,
    token::text, encode(label, 'hex'), extra::text FROM orders"""
# Floats and fractions of a second that Java and Postgres print alike.
NEW_ROWS = """INSERT INTO orders
    SELECT g, g * -1.25, 'n"ö\\n' || g, g % 3 = 0, g + 0.5,
           timestamptz '2024-02-29 23:59:58Z' + g * interval '10.000001 s',
           date '1969-12-25' + g % 14, timestamp '1999-12-31 23:59:59.000001' + g * interval '1 h',
           md5(g::text)::uuid, decode(md5(g::text), 'hex')
    FROM generate_series({first}, {last}) g ON CONFLICT (id) DO UPDATE SET note = excluded.note"""
EMPTY_ROW = "INSERT INTO orders (id) VALUES ({first}) ON CONFLICT DO NOTHING"
CHANGES = (
    NEW_ROWS,
    EMPTY_ROW,
    "UPDATE orders SET amount = amount * 3, paid = NULL WHERE id BETWEEN {first} AND {last}",
    "UPDATE orders SET note = NULL, weight = NULL WHERE id BETWEEN {first} AND {last}",
    "UPDATE orders SET note = repeat('long ', 2000) WHERE id = {first}",
    "UPDATE orders SET id = id + {elsewhere} WHERE id = {first}",
    "DELETE FROM orders WHERE id BETWEEN {first} AND {last}",
)


def change(capture: Capture, rng: random.Random, transactions: int) -> None:
    for _ in range(transactions):
        capture.transaction(*(statement(rng) for _ in range(rng.randrange(1, 5))))


def statement(rng: random.Random) -> str:
    first = rng.randrange(300)
    return rng.choice(CHANGES).format(
        first=first, last=first + rng.randrange(12), elsewhere=rng.randrange(10**4, 10**9)
    )


def selected(capture: Capture) -> Rows:
    with psycopg.connect(capture.url) as connection:
        return Counter(connection.execute(SELECT).fetchall())


def declare(flink: Flink, log: LogConfig, key: str = "") -> str:
    """The topic as a table of Flink's, up to what it holds now; its name. `key` is the clause that
    declares the primary key."""
    name = f"t_{uuid.uuid4().hex}"
    options = {
        "connector": "kafka",
        "topic": f"{log.topic_prefix}{SOURCE}.public.orders",
        "properties.bootstrap.servers": log.bootstrap_servers,
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
        "scan.bounded.mode": "latest-offset",
        **format_options(log),
    }
    listed = ", ".join(f"'{option}' = '{value}'" for option, value in options.items())
    flink.execute(f"CREATE TABLE {name} ({COLUMNS}{key}) WITH ({listed})")
    return name


def format_options(log: LogConfig) -> dict[str, str]:
    if log.format == "json":
        return {
            "format": "debezium-json",
            "debezium-json.schema-include": str(log.schemas).lower(),
        }
    return {
        "format": "debezium-avro-confluent",
        "debezium-avro-confluent.url": log.schema_registry,
    }


@pytest.fixture(params=["json with schemas", "avro"])
def log(request: pytest.FixtureRequest, kafka_bootstrap: str, tmp_path: Path) -> LogConfig:
    if request.param == "avro":
        registry = request.getfixturevalue("schema_registry")
        avro = kafka_config(kafka_bootstrap, tmp_path)
        return replace(avro, schema_registry=registry, transaction_metadata=True)
    return replace(
        kafka_config(kafka_bootstrap, tmp_path, "json"),
        decimal_handling_mode="string",
        schemas=request.param == "json with schemas",
        transaction_metadata=request.param == "json with schemas",
    )


@pytest.mark.parametrize("seed", [20])
def test_flink_reads_our_topics(
    pg_database: str, tmp_path: Path, log: LogConfig, flink: Flink, seed: int
) -> None:
    rng = random.Random(seed)
    capture = Capture(pg_database, tmp_path, into=log)
    capture.sql(TABLE, FULL, NEW_ROWS.format(first=1, last=200))
    with capture.running() as agent:
        agent.caught_up()
        change(capture, rng, 60)
        capture.sql("ALTER TABLE orders ADD extra int", "UPDATE orders SET extra = id WHERE paid")
        agent.caught_up()
    change(capture, rng, 20)
    with capture.running() as agent:
        agent.caught_up()
    expected = selected(capture)
    assert len(expected) > 100
    assert flink.rows(f"SELECT * FROM {declare(flink, log)}") == expected


@pytest.mark.crash
@pytest.mark.parametrize("log", ["json", "avro"], indirect=True)
def test_flink_reads_around_a_crash(
    pg_database: str, tmp_path: Path, log: LogConfig, flink: Flink
) -> None:
    """What a killed agent left of a transaction is completed, not repeated; what a Kafka
    transaction took back is no part of the table."""
    capture = Capture(pg_database, tmp_path, into=log, max_log_transaction_bytes=100_000)
    capture.sql(TABLE, FULL, "ALTER TABLE orders ADD extra int", NEW_ROWS.format(first=1, last=99))
    with capture.running() as agent:
        agent.caught_up()
    capture.transaction(
        NEW_ROWS.format(first=100, last=500),
        "UPDATE orders SET note = repeat('long ', 6000) WHERE id > 50",
        "UPDATE orders SET note = 'short' WHERE id < 300",
    )
    capture.dies("capture.mid_transaction")
    capture.sql("DELETE FROM orders WHERE id BETWEEN 10 AND 400")
    with capture.running() as agent:
        agent.caught_up()
    take_back(log)
    assert flink.rows(f"SELECT * FROM {declare(flink, log)}") == selected(capture)


@pytest.mark.crash
@pytest.mark.parametrize("log", ["json", "avro"], indirect=True)
def test_flink_that_knows_the_key_reads_what_is_repeated(
    pg_database: str, tmp_path: Path, log: LogConfig, flink: Flink
) -> None:
    """A snapshot that was begun again has published rows twice, and the deletes that TRUNCATE
    becomes have only their key: as with Debezium, Flink wants to be told of the key then."""
    capture = Capture(pg_database, tmp_path, into=log, max_log_transaction_bytes=100_000)
    capture.sql(TABLE, FULL, "ALTER TABLE orders ADD extra int", NEW_ROWS.format(first=1, last=999))
    capture.dies("capture.snapshot_piece")
    capture.sql("DELETE FROM orders WHERE id < 200")
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("UPDATE orders SET id = -id WHERE id < 300")
        agent.caught_up()
        table = declare(flink, log, key=", PRIMARY KEY (id) NOT ENFORCED")
        with flink.enabled("table.exec.source.cdc-events-duplicate"):
            assert flink.rows(f"SELECT * FROM {table}") == selected(capture)
            capture.sql("TRUNCATE orders", NEW_ROWS.format(first=500, last=700))
            agent.caught_up()
            assert flink.rows(f"SELECT * FROM {table}") == selected(capture)


def take_back(log: LogConfig) -> None:
    """Records that a transaction wrote and then aborted."""
    producer = Producer(
        {"bootstrap.servers": log.bootstrap_servers, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(f"{log.topic_prefix}{SOURCE}.public.orders", key=b"aborted", value=b"aborted")
    assert producer.flush(30) == 0
    producer.abort_transaction(30)
