"""Views over views, their order, explain, and the source's own query."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.errors import Unsupported, ViewError
from tests.planner.fix_config import config
from tests.planner.golden import TABLES
from tests.planner.golden import table as made_table
from views.sql.explain import arrangements, explain
from views.sql.oracle import source_query
from views.sql.planner import plan_view, plan_views
from views.sql.resolve import Catalog

ORDERS = "SELECT o.id, o.amount, c.country FROM orders o JOIN customers c ON c.id = o.customer_id"
TOP = "SELECT country, sum(amount) AS total FROM joined GROUP BY country"


def test_views_come_after_those_they_read() -> None:
    plans = plan_views(config(top=TOP, joined=ORDERS), TABLES)
    assert list(plans) == ["joined", "top"]
    assert plans["top"].inputs == ("view.joined",)
    assert plans["top"].output.key == ("country",)


def test_a_cte_hides_a_view() -> None:
    sql = "WITH joined AS (SELECT id FROM orders) SELECT id FROM joined"
    plans = plan_views(config(a=sql, joined=ORDERS), TABLES)
    assert plans["a"].inputs == ("shop.public.orders",)


def test_a_circle_is_refused() -> None:
    with pytest.raises(ViewError, match="circle"):
        plan_views(config(a="SELECT id FROM b", b="SELECT id FROM a"), TABLES)


def test_a_view_of_another_group_is_refused() -> None:
    made = config(top=TOP, joined=ORDERS)
    views = dict(made.views)
    views["joined"] = replace(views["joined"], group="other")
    with pytest.raises(Unsupported, match="belongs to the group other"):
        plan_views(replace(made, views=views), TABLES)


def test_fingerprint_follows_what_the_view_uses() -> None:
    sql = "SELECT id, amount FROM shop.orders"
    orders = TABLES["shop.public.orders"]
    wider = replace(orders, columns=(*orders.columns, made_table("t", "", x="text").columns[0]))
    before = plan_view("v", sql, Catalog(TABLES)).fingerprint
    assert plan_view("v", sql, Catalog({"shop.public.orders": wider})).fingerprint == before
    other = plan_view("v", sql.replace("amount", "status"), Catalog(TABLES)).fingerprint
    assert other != before
    assert plan_view("v", sql + " WHERE id > 0", Catalog(TABLES)).fingerprint != before


def test_arrangements_are_shared() -> None:
    plans = plan_views(config(top=TOP, joined=ORDERS, again=ORDERS), TABLES)
    shared = {(a.of, a.key): a.views for a in arrangements(plans)}
    assert set(shared["shop.public.orders", ("customer_id",)]) == {"joined", "again"}
    assert "shared with again" in explain(plans, "joined")
    assert "a change of shop.public.customers touches every match" in explain(plans, "joined")


def test_the_source_query_inlines_views() -> None:
    source, sql = source_query(config(top=TOP, joined=ORDERS), TABLES, "top")
    assert source == "shop"
    assert 'ONLY "public"."orders" o JOIN ONLY "public"."customers" c' in sql
    assert 'FROM "joined" GROUP BY country' in sql
    assert sql.endswith('SELECT "country", "total" FROM "top"')


def test_several_sources_have_no_source_query() -> None:
    sql = "SELECT o.id, p.email FROM shop.orders o JOIN crm.people p ON p.id = o.customer_id"
    with pytest.raises(Unsupported, match="several sources"):
        source_query(config(v=sql), TABLES, "v")


def test_a_declared_key_is_checked_against_the_columns() -> None:
    union = "WITH x AS (SELECT id FROM orders) SELECT id FROM x UNION ALL SELECT id FROM customers"
    plan = plan_view("v", union, Catalog(TABLES), key=("id",))
    assert plan.key_declared
    assert plan.output.key == ("id",)
    with pytest.raises(ViewError, match="key: nr is no column"):
        plan_view("v", union, Catalog(TABLES), key=("nr",))


def test_a_table_without_a_schema_is_of_its_sources_own() -> None:
    """MySQL's database of the URL, where Postgres has `public`."""
    people = TABLES["shop.public.orders"]
    tables = {"crm.office.people": people, "crm.public.people": people}
    catalog = Catalog(tables, schemas={"crm": "office"})
    for sql, read in (
        ("SELECT id FROM crm.people", "crm.office.people"),
        ("SELECT id FROM crm.public.people", "crm.public.people"),
    ):
        assert plan_view("v", sql, catalog).inputs == (read,)
    with pytest.raises(ViewError, match="no captured table") as raised:
        plan_view("v", "SELECT id FROM crm.peple", catalog)
    assert "crm.people" in raised.value.hint
