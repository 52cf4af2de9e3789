"""One view over Postgres, MySQL and MariaDB at once, in DuckDB, while captures are killed.

The oracle joins what the three databases themselves say of their tables, in plain Python.
"""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.fix_mysql import MyDatabase, MyServer
from tests.fix_user import User

pytestmark = [pytest.mark.service, pytest.mark.slow]

SEED = 20_261_121
CONFIG = """\
state: {{checkpoint_interval_s: 0.2}}
sources:
  shop:
    type: postgres
    url: {shop}
    tables: [orders]
    slot: {slot}
    publication: {slot}
  crm: {{type: mysql, url: '{crm}', tables: [people], server_id: {server_id}}}
  stock: {{type: mariadb, url: '{stock}', tables: ['*'], server_id: {server_id}}}
views:
  named:
    sql: |
      SELECT o.id, o.amount, p.name, i.label, i.price
      FROM shop.orders o
      JOIN crm.people p ON p.id = o.person_id
      LEFT JOIN stock.items i ON i.id = o.item_id
  per_person:
    sql: |
      SELECT p.id, p.name, count(o.id) AS orders, sum(o.amount * i.price) AS worth
      FROM crm.people p
      LEFT JOIN shop.orders o ON o.person_id = p.id
      LEFT JOIN stock.items i ON i.id = o.item_id
      GROUP BY p.id, p.name
sinks:
  duck: {{type: sql, url: 'duckdb:///duck.duckdb', from: [named, per_person, crm.people]}}
"""


@dataclass
class Three:
    """A user with a database of each kind, and a random workload over all of them."""

    user: User
    crm: MyDatabase
    stock: MyDatabase
    random: random.Random

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.random.choice((self._people, self._items, self._orders))()

    def _people(self) -> None:
        one, name = self.random.randint(1, 40), f"Zoë {self.random.randint(0, 9)}"
        if self.random.random() < 0.2:
            self.crm.sql(f"DELETE FROM people WHERE id = {one}")
        else:
            self.crm.sql(
                f"INSERT INTO people VALUES ({one}, '{name}', NOW(6)) "
                "ON DUPLICATE KEY UPDATE name = VALUES(name)"
            )

    def _items(self) -> None:
        first, price = self.random.randint(1, 20), self.random.randint(0, 999) / 100
        self.stock.sql(
            "BEGIN",
            f"REPLACE INTO items VALUES ({first}, 'item', {price}, 'a,b')",
            f"UPDATE items SET price = price + 1 WHERE id > {first}",
            f"DELETE FROM items WHERE id = {first + 3}",
            "COMMIT" if self.random.random() < 0.9 else "ROLLBACK",
        )

    def _orders(self) -> None:
        one, amount = self.random.randint(1, 99), self.random.randint(1, 9)
        person, item = self.random.randint(1, 45), self.random.randint(1, 25)
        self.user.sql(
            f"INSERT INTO orders VALUES ({one}, {person}, {item}, {amount}) "
            "ON CONFLICT (id) DO UPDATE "
            "SET amount = excluded.amount, person_id = excluded.person_id",
            f"DELETE FROM orders WHERE id = {self.random.randint(1, 99)}",
        )

    def expected(self) -> tuple[list[Any], list[Any]]:
        """The rows of `named` and `per_person`, joined here."""
        people: dict[int, str] = dict(self.crm.query("SELECT id, name FROM people"))
        items = {i: (label, price) for i, label, price in self.stock.query(
            "SELECT id, label, price FROM items")}  # fmt: skip
        with psycopg.connect(self.user.url) as connection:
            orders = connection.execute(
                "SELECT id, person_id, item_id, amount FROM orders"
            ).fetchall()
        named = [
            (order, amount, people[person], *items.get(item, (None, None)))
            for order, person, item, amount in orders
            if person in people
        ]
        mine: dict[int, list[Decimal | None]] = defaultdict(list)
        for _, person, item, amount in orders:
            mine[person].append(amount * items[item][1] if item in items else None)
        per_person = []
        for person, name in people.items():
            worth = [w for w in mine[person] if w is not None]
            per_person.append((person, name, len(mine[person]), sum(worth) if worth else None))
        return sorted(named, key=repr), sorted(per_person, key=repr)

    def delivered(self, view: str, columns: str) -> list[Any]:
        """Numbers as decimals, whatever JSON made of them."""
        rows = self.user.query(f"SELECT {columns} FROM {view}", sink="duck")
        return [tuple(row.values()) for row in rows]

    def assert_equal(self) -> None:
        named, per_person = self.expected()
        found = self.delivered("named", "id, amount::text, name, label, price::text")
        assert sorted(found) == sorted((i, _text(a), n, t, _text(p)) for i, a, n, t, p in named)
        found = self.delivered("per_person", "id, name, orders, worth::text")
        assert [(i, n, o, _number(w)) for i, n, o, w in sorted(found)] == sorted(per_person)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


@pytest.fixture
def three(user: User, mysql: MyServer, mariadb: MyServer) -> Iterator[Three]:
    crm, stock = mysql.new_database(), mariadb.new_database()
    crm.sql(
        "CREATE TABLE people (id INT UNSIGNED PRIMARY KEY, name VARCHAR(40), seen TIMESTAMP(6))"
    )
    stock.sql(
        "CREATE TABLE items (id BIGINT PRIMARY KEY, label ENUM('item','thing'), "
        "price DECIMAL(8,2), tags SET('a','b'))"
    )
    user.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, person_id bigint, item_id bigint, "
        "amount numeric(10,2))"
    )
    seed = random.Random(SEED)
    made = Three(user, crm, stock, seed)
    made.work(60)
    (user.directory / "connectors.yaml").write_text(
        CONFIG.format(
            shop=user.url,
            slot=user.slot,
            crm=crm.url,
            stock=stock.url,
            server_id=seed.randint(2**31, 2**32 - 1),
        )
    )
    yield made
    crm.drop()
    stock.drop()


def test_three_databases_in_one_view(three: Three) -> None:
    user = three.user
    checked = user.cdc("check").out
    assert "MySQL 8." in checked and "MariaDB 1" in checked
    user.catch_up()
    three.assert_equal()
    with user.start("run"):
        user.cdc("wait", "duck", "--timeout", "120")
        for name in ("crm", "stock", "crm", "shop"):
            three.work(15)
            kill(user, name)
            three.work(15)
        user.cdc("wait", "duck", "--timeout", "120")
        told = user.cdc("status", "--json").lines[0]
        assert "lag_transactions" in told["sources"]["crm"]
    user.catch_up()
    three.assert_equal()
    verdicts = {(v["what"], v["input"]): v for v in user.cdc("verify", "duck", "--json").lines}
    assert verdicts["sink", "crm.people"]["against"] == "source"
    assert verdicts["sink", "named"]["against"] == "log"
    assert f"crm.{three.crm.name}.people" in {name for what, name in verdicts if what == "topic"}
    assert "no rows are shown" in user.cdc("preview", "SELECT id, name FROM crm.people").out
    user.cdc("remove", "stock", "--yes")


def kill(user: User, source: str) -> None:
    """As the kernel would, for want of memory; `cdc run` starts it again."""

    def pid() -> int:
        told = user.cdc("status", "--json").lines[0]["sources"][source]
        return int(told["pid"] or 0) if told["state"] == "streaming" else 0

    user.eventually(pid)
    os.kill(pid(), signal.SIGKILL)


STOCK = """\
sources:
  stock: {{type: mariadb, url: '{url}', tables: ['*'], server_id: {server_id}}}
views:
  cheap: {{sql: 'SELECT id, price FROM stock.items WHERE price < 5'}}
  {more}
sinks:
  duck: {{type: sql, url: 'duckdb:///duck.duckdb', from: [{inputs}]}}
"""
MORE = (
    "branded: {sql: 'SELECT i.id, b.name FROM stock.items i JOIN stock.brands b ON b.id = i.brand'}"
)


def test_a_table_that_is_made_and_used_while_nobody_captures(user: User, mariadb: MyServer) -> None:
    """A pattern of the source means it; the frontier of the time before does not name it."""
    stock = mariadb.new_database()
    stock.sql(
        "CREATE TABLE items (id INT PRIMARY KEY, price INT, brand INT)",
        "INSERT INTO items VALUES (1, 3, 7), (2, 9, 8)",
    )
    file = user.directory / "connectors.yaml"
    settings = {"url": stock.url, "server_id": random.Random().randint(2**31, 2**32 - 1)}
    file.write_text(STOCK.format(**settings, more="", inputs="cheap"))
    user.catch_up()
    stock.sql(
        "CREATE TABLE brands (id INT PRIMARY KEY, name VARCHAR(20))",
        "INSERT INTO brands VALUES (7, 'seven'), (8, 'eight')",
    )
    file.write_text(STOCK.format(**settings, more=MORE, inputs="cheap, branded, stock.brands"))
    user.catch_up()
    found = user.query("SELECT id, name FROM branded ORDER BY id", sink="duck")
    assert found == [{"id": 1, "name": "seven"}, {"id": 2, "name": "eight"}]
    assert len(user.query("SELECT id FROM brands", sink="duck")) == 2
    stock.drop()
