"""One view in four stores at once: Postgres → joined view → Elasticsearch, Redis and DuckDB.

The oracle is Postgres: every store is read with its own client and compared with the SELECT, beside
what `cdc verify` finds.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
import pytest
import redis
from psycopg.rows import dict_row

from cdc.cli.main import main
from tests.e2e.workload import TABLES, Workload
from tests.fix_elasticsearch import ask
from tests.fix_user import User
from tests.services.forked import Forked

VIEW: LiteralString = (
    "SELECT o.id, o.status, coalesce(o.amount, 0) AS amount, o.note, c.name AS customer,"
    " coalesce(c.country, 'none') AS country"
    " FROM {0}orders o JOIN {0}customers c ON c.id = o.customer_id"
)
SINKS = """
  search:
    type: elasticsearch
    url: {elasticsearch}
    from: order_search
    index: orders
    mappings: {{properties: {{note: {{type: keyword}}}}}}
  cache: {{type: redis, url: '{redis}', from: order_search, key: 'order:{{id}}'}}
  board:
    type: redis
    url: {redis}
    from: order_search
    value: sorted_set
    name: top:{{country}}
    score: amount
    member: order {{id}}
  warehouse: {{type: sql, url: 'duckdb:///duck.duckdb', from: [order_search, shop.lines]}}
"""
NAMES = ("search", "cache", "board", "warehouse")
LONGER_THAN_A_KEYWORD = 40_000


@dataclass(frozen=True)
class Stores:
    """The user with a running `cdc run`, and the stores' own clients."""

    user: User
    elasticsearch: str
    redis: redis.Redis
    workload: Workload

    def each(self, *words: str) -> None:
        """One command for each sink, in this process."""
        file = self.user.directory / "connectors.yaml"
        for name in NAMES:
            command = ["-f", str(file), words[0], name, *words[1:]]
            assert main(command) == 0, command

    def wait(self) -> None:
        self.each("wait", "--timeout", "60")

    def expected(self) -> dict[int, dict[str, Any]]:
        """The view's rows by id."""
        with psycopg.connect(self.user.url, row_factory=dict_row) as connection:
            return {row["id"]: row for row in connection.execute(VIEW.replace("{0}", ""))}

    def documents(self) -> dict[int, dict[str, Any]]:
        """What the index holds, by id."""
        ask(self.elasticsearch, "/orders/_refresh", method="POST")
        found: Any = ask(self.elasticsearch, "/orders/_search", {"size": 10_000}, "POST")
        hits = found["hits"]["hits"]
        return {hit["_source"]["id"]: _typed(hit["_source"]) for hit in hits}

    def cached(self) -> dict[int, dict[str, Any]]:
        keys = list(self.redis.scan_iter("order:*", count=5000))
        found = [json.loads(text or "null") for text in self.redis.mget(keys)]
        assert [f"order:{row['id']}".encode() for row in found] == keys
        return {row["id"]: _typed(row) for row in found}

    def boards(self) -> dict[str, dict[str, float]]:
        """Each country's board: score by member."""
        keys = list(self.redis.scan_iter("top:*"))
        return {
            key.decode(): {m.decode(): s for m, s in self.redis.zscan_iter(key, count=5000)}
            for key in keys
        }

    def assert_equal(self) -> None:
        self.wait()
        expected = self.expected()
        assert self.documents() == expected
        assert self.cached() == expected
        boards: dict[str, dict[str, float]] = {}
        for row in expected.values():
            board = boards.setdefault(f"top:{row['country']}", {})
            board[f"order {row['id']}"] = float(row["amount"])
        assert self.boards() == boards
        self.each("verify")


def _typed(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "amount": Decimal(str(document["amount"]))}


@pytest.fixture
def stores(user: User, elasticsearch_url: str, redis_url: str) -> Iterator[Stores]:
    user.sql(TABLES)
    user.write_config(
        views=f'\n  order_search: {{sql: "{VIEW.replace("{0}", "shop.")}"}}',
        sinks=SINKS.format(elasticsearch=elasticsearch_url, redis=redis_url),
    )
    workload = Workload(user.url, seed=4)
    client = redis.Redis.from_url(redis_url)
    try:
        with _running(user):
            yield Stores(user, elasticsearch_url, client, workload)
    finally:
        workload.close()
        client.close()


@contextmanager
def _running(user: User) -> Iterator[None]:
    """`cdc run`, ended in order."""
    file = user.directory / "run.log"
    with file.open("wb") as log:
        process = Forked(["-m", "cdc", "run"], cwd=user.directory, stdout=log, stderr=log)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(45) == 0, file.read_text()
    finally:
        process.kill()
        process.wait()


def test_one_view_in_every_store(stores: Stores) -> None:
    assert "0 errors" in stores.user.cdc("check").out
    stores.assert_equal()
    for _ in range(150):
        stores.workload.step()
    stores.assert_equal()

    stores.user.sql(
        "BEGIN; DELETE FROM orders WHERE id % 7 = 0; UPDATE orders SET id = id + 5000000,"
        " amount = id WHERE id % 11 = 0; UPDATE customers SET country = 'ES' WHERE id < 50; COMMIT",
        "INSERT INTO orders VALUES (77, 3, 'ünïcode \"quoted\" \\ 日本', 12.50, 0, NULL)",
    )
    stores.assert_equal()
    _assert_queries(stores.user)


def _assert_queries(user: User) -> None:
    (hit,) = user.query("id:77", "search")
    assert "ünïcode" in hit["status"] and hit["country"] == "ES" and hit["note"] is None
    body = {"query": {"term": {"id": 77}}}
    assert user.query(json.dumps(body), "search") == [hit]
    (cached,) = user.query("order:77", "cache")
    assert cached["value"]["customer"] == hit["customer"]
    top = user.query("top:ES 0 2", "board")
    assert len(top) == 3
    ((count),) = user.query("SELECT count(*) AS n FROM order_search WHERE id = 77")
    assert count == {"n": 1}


def test_what_a_store_refuses_is_a_dead_letter_and_the_rest_goes_on(stores: Stores) -> None:
    user = stores.user
    stores.wait()
    user.sql(
        f"UPDATE orders SET note = repeat('x', {LONGER_THAN_A_KEYWORD}) WHERE id = 5",
        "UPDATE orders SET status = 'after' WHERE id = 6",
    )
    stores.wait()
    assert stores.documents()[6]["status"] == "after"
    assert stores.cached()[5]["note"] == "x" * LONGER_THAN_A_KEYWORD
    (status,) = user.cdc("status", "--json").lines
    assert status["dead_letters_by_connector"] == {"search": 1}
    (letter,) = user.cdc("log", "dead-letters").lines
    assert letter["value"]["connector"] == "search"
    (verdict,) = user.cdc("verify", "search", "--json", expect=1).lines
    assert verdict["missing"] + verdict["different"] == 1

    user.sql("UPDATE orders SET note = 'short' WHERE id = 5")
    stores.assert_equal()


def test_check_finds_what_only_the_columns_tell(
    user: User, elasticsearch_url: str, redis_url: str
) -> None:
    user.sql(TABLES)
    redis_sink = f"{{type: redis, url: '{redis_url}', from: shop.lines"
    user.write_config(
        sinks=f"""
  a: {redis_sink}, key: 'l:{{order_id}}'}}
  b: {redis_sink}, key: 'l:{{order_id}}:{{lin}}:{{line}}'}}
  c: {redis_sink}, value: string, key: 'l:{{order_id}}:{{line}}', column: skus}}
  d: {redis_sink}, value: sorted_set, name: l, score: sku, member: '{{order_id}}:{{line}}'}}
  e: {redis_sink}, value: sorted_set, name: m, score: qty, member: '{{order_id}}'}}
  f:
    type: elasticsearch
    url: {elasticsearch_url}
    from: shop.lines
    mappings:
      properties:
        skus: {{type: keyword}}
        sku: {{copy_to: all}}
        all: {{type: text}}
        piece: {{type: alias, path: sku}}
"""
    )
    found = {
        finding["where"]: f"{finding['what']} {finding['remedy']}"
        for finding in user.cdc("check", "--json", expect=1).lines
        if finding["severity"] != "ok" and finding["where"].startswith("sink")
    }
    assert len(found) == 6, found
    for text, words in zip(
        found.values(),
        (("line",), ("lin",), ("skus", "sku"), ("sku",), ("line",), ("skus", "sku")),
        strict=True,
    ):
        assert all(word in text for word in words), text
