"""Random transactions: at the end, and after restarts at any point, the topics are the tables."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fix_capture import Capture
from tests.fix_services import PostgresServer

TABLES = ("public.a", "public.b")
DDL = (
    "CREATE TABLE a (id int PRIMARY KEY, n numeric(10,2), big text, j jsonb)",
    "CREATE TABLE b (x int, y text, z double precision, PRIMARY KEY (y, x))",
    "ALTER TABLE b REPLICA IDENTITY FULL",
    "INSERT INTO a SELECT g, g, repeat(md5(g::text), g % 200) FROM generate_series(1, 500) g",
    "INSERT INTO b SELECT g, 'y' || g % 7, g FROM generate_series(1, 500) g",
)


def statement(rng: random.Random) -> str:
    at, width = rng.randrange(600), rng.randrange(1, 20)
    where = f"id BETWEEN {at} AND {at + width}"
    choices = [
        f"INSERT INTO a SELECT g, g, repeat(md5(g::text), {rng.randrange(300)}) "
        f"FROM generate_series({at}, {at + width}) g ON CONFLICT (id) DO UPDATE SET n = a.n + 1",
        f"UPDATE a SET n = n + 1 WHERE {where}",
        f"UPDATE a SET big = repeat('z', {rng.randrange(9000)}) WHERE {where}",
        f"UPDATE a SET id = id + {rng.randrange(10_000, 10**8)} WHERE id = {at}",
        f"DELETE FROM a WHERE {where}",
        f"INSERT INTO b SELECT g, 'new', random() FROM generate_series({at}, {at + width}) g "
        "ON CONFLICT DO NOTHING",
        f"UPDATE b SET z = -z, y = y || 'é' WHERE x BETWEEN {at} AND {at + width}",
        f"DELETE FROM b WHERE x = {at}",
    ]
    if rng.random() < 0.02:
        choices = ["TRUNCATE b", "TRUNCATE a, b"]
    return rng.choice(choices)


def run_transactions(capture: Capture, rng: random.Random, count: int) -> None:
    for _ in range(count):
        capture.transaction(*(statement(rng) for _ in range(rng.randrange(1, 5))))


@pytest.mark.parametrize("seed", range(4))
def test_random_transactions_with_restarts(capture: Capture, seed: int) -> None:
    rng = random.Random(seed)
    capture.sql(*DDL)
    for _ in range(3):
        with capture.running() as agent:
            run_transactions(capture, rng, 40)
            if rng.random() < 0.7:
                agent.caught_up()
        run_transactions(capture, rng, 10)
    with capture.running() as agent:
        agent.caught_up()
    capture.assert_equal(*TABLES)


def test_every_supported_version(postgres_major: PostgresServer, tmp_path: Path) -> None:
    capture = Capture(postgres_major.url(postgres_major.new_database()), tmp_path)
    rng = random.Random(postgres_major.port)
    capture.sql(*DDL)
    assert not [f for f in capture.source().check() if f.severity == "error"]
    with capture.running() as agent:
        run_transactions(capture, rng, 30)
        capture.sql("ALTER TABLE a ADD c int DEFAULT 7", "INSERT INTO a (id) VALUES (-1)")
        agent.caught_up()
    run_transactions(capture, rng, 30)
    capture.dies("capture.after_append")
    with capture.running() as agent:
        agent.caught_up()
    capture.assert_equal(*TABLES)
