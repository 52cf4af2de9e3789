"""`cdc verify` where one SELECT is not enough: a view of two databases, which is compared with the
log; tables that others inherit from; nobody who runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.fix_services import PostgresServer
from tests.fix_user import User

pytestmark = pytest.mark.service

CONFIG = """\
sources:
  shop: {{type: postgres, url: '{shop}', tables: [public.orders], slot: {name}_s, publication: s}}
  crm: {{type: postgres, url: '{crm}', tables: [public.people], slot: {name}_c, publication: c}}
views:
  named:
    sql: |
      SELECT o.id, o.amount, p.name, p.country
      FROM shop.orders o JOIN crm.people p ON p.id = o.person_id
  per_country:
    sql: SELECT country, count(*) AS orders, sum(amount) AS amount FROM named GROUP BY country
sinks:
  duck: {{type: sql, url: 'duckdb:///duck.duckdb', from: [named, per_country, shop.orders]}}
"""


@dataclass(frozen=True)
class Two:
    """`user` has the database `shop`; `crm` is the other."""

    user: User
    crm: str

    def execute(self, url: str, *statements: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def damage(self, *statements: str) -> None:
        """Change the sink behind everybody's back."""
        program = "import duckdb, sys; c = duckdb.connect('duck.duckdb')\n"
        program += "for s in sys.argv[1:]: c.execute(s)"
        subprocess.run(
            [sys.executable, "-c", program, *statements], cwd=self.user.directory, check=True
        )


@pytest.fixture
def two(postgres: PostgresServer, user: User) -> Iterator[Two]:
    name = postgres.new_database()
    both = Two(user, postgres.url(name))
    both.execute(
        user.url,
        "CREATE TABLE orders (id int PRIMARY KEY, person_id int, amount numeric(10,2))",
        "INSERT INTO orders SELECT i, i % 60, i * 1.25 FROM generate_series(1, 900) i",
    )
    both.execute(
        both.crm,
        "CREATE TABLE people (id int PRIMARY KEY, name text, country text)",
        "INSERT INTO people SELECT i, 'p' || i, (ARRAY['AT','DE',NULL])[1 + i % 3] "
        "FROM generate_series(1, 50) i",
    )
    (user.directory / "connectors.yaml").write_text(
        CONFIG.format(shop=user.url, crm=both.crm, name=name)
    )
    yield both
    postgres.drop_database(name)


def test_a_view_over_two_sources_is_compared_with_the_log(two: Two) -> None:
    user = two.user
    user.catch_up()
    two.execute(
        user.url, "UPDATE orders SET amount = 0 WHERE id < 5", "DELETE FROM orders WHERE id = 9"
    )
    two.execute(two.crm, "UPDATE people SET country = 'FR' WHERE id = 7", "TRUNCATE people")
    two.execute(two.crm, "INSERT INTO people VALUES (3, 'three', 'AT'), (4, 'four', NULL)")
    user.catch_up()

    verdicts = {(v["what"], v["input"]): v for v in user.cdc("verify", "duck", "--json").lines}
    assert verdicts.keys() == {
        ("sink", "shop.orders"),
        ("topic", "shop.public.orders"),
        ("topic", "crm.public.people"),
        ("sink", "named"),
        ("sink", "per_country"),
    }
    assert verdicts["sink", "named"]["against"] == "log"
    assert verdicts["sink", "named"]["compared"] == 30
    assert "crm@" in verdicts["sink", "named"]["position"]
    assert verdicts["topic", "crm.public.people"]["against"] == "source"
    assert "duck.named" in user.cdc("verify", "duck").out
    assert "recomputed from the log" in user.cdc("verify", "duck").out

    two.damage(
        "DELETE FROM named WHERE id = 3",
        "UPDATE named SET name = 'x' WHERE id = 4",
        "UPDATE per_country SET orders = orders + 1 WHERE country = 'AT'",
    )
    verdicts = {
        (v["what"], v["input"]): v for v in user.cdc("verify", "duck", "--json", expect=1).lines
    }
    named, grouped = verdicts["sink", "named"], verdicts["sink", "per_country"]
    assert (named["missing"], named["extra"], named["different"]) == (1, 0, 1)
    assert (grouped["missing"], grouped["extra"], grouped["different"]) == (0, 0, 1)
    assert verdicts["topic", "shop.public.orders"]["different"] == 0


def test_a_topic_that_lags_behind_its_table_is_told(two: Two) -> None:
    """Nobody runs: the sink is compared as it stands, and so are the topics."""
    user = two.user
    user.catch_up()
    two.execute(two.crm, "DELETE FROM people WHERE id = 1")
    ran = user.cdc("verify", "duck", "--json", expect=1)
    assert "`cdc run` is not running" in ran.err
    verdicts = {(v["what"], v["input"]): v for v in ran.lines}
    assert verdicts["topic", "crm.public.people"]["extra"] == 1
    assert verdicts["sink", "named"]["extra"] == 0


def test_while_everything_runs(two: Two) -> None:
    user = two.user
    with user.start("run"):
        user.cdc("wait", "duck", "--timeout", "120")
        for i in range(5):
            two.execute(user.url, f"UPDATE orders SET amount = {i} WHERE id % 7 = {i}")
            two.execute(two.crm, f"UPDATE people SET name = 'n{i}' WHERE id % 5 = {i}")
            user.verify("duck")


def test_nothing_runs_and_nothing_was_loaded(two: Two) -> None:
    """No time was waited, and none is claimed."""
    ran = two.user.cdc("verify", "duck", expect=1)
    assert "nobody runs it" in ran.err and "after" not in ran.err


def test_rows_of_inheriting_tables_are_not_the_tables_own(user: User) -> None:
    """The server sends a table's own rows only, so the SELECT must be of these, too."""
    user.sql(
        "CREATE TABLE parent (id int PRIMARY KEY, x int)",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO parent VALUES (1, 1), (2, 2)",
        "INSERT INTO child VALUES (3, 3)",
    )
    user.write_config(
        tables=("public.parent",),
        views="""
  joined: {sql: 'SELECT p.id, 2 * p.x AS y, q.x FROM parent AS p JOIN parent q ON q.id = p.id'}
  listed: {sql: 'SELECT p.id, q.id AS other FROM shop.parent p, parent q WHERE p.id = q.x'}
""",
        sinks="""
  s: {type: sql, url: 'duckdb:///w.duckdb', from: [joined, listed, shop.parent]}
""",
    )
    user.catch_up()
    verdicts = user.cdc("verify", "s", "--json").lines
    assert [v["compared"] for v in verdicts] == [2, 2, 2]
    assert user.cdc("preview", "SELECT id FROM parent", "--json").lines[0]["rows"] == [
        {"id": 1},
        {"id": 2},
    ]
