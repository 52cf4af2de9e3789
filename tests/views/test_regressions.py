"""Bugs that the SQL fuzz found, each as its smallest view, compared with DuckDB."""

from __future__ import annotations

import random

import pytest

from cdc.errors import ViewError
from tests.planner.golden import table
from tests.views.model import Model, Views, plans_of, random_changes
from views.sql.planner import plan_view
from views.sql.resolve import Catalog

VIEWS: Views = {
    "nan_is_one_constant": """SELECT v, count(*) FILTER (WHERE f < 'NaN'::float8) AS n
                              FROM shop.a GROUP BY v""",
    "where_above_a_later_right_join": """SELECT a.id, b.id AS b_id, z.id AS z_id FROM shop.a
        LEFT JOIN shop.b ON b.id = a.b_id RIGHT JOIN shop.b z ON z.v = a.v WHERE a.id > 3""",
    "nan_has_one_sign": "SELECT id, f - f AS none FROM shop.a",
    "nothing_read_of_an_ungrouped_aggregate": """SELECT DISTINCT 1 AS one
        FROM (SELECT count(*) AS n FROM shop.a) x""",
}
KEYS = {"where_above_a_later_right_join": ("id", "b_id", "z_id")}


@pytest.mark.parametrize("name", list(VIEWS))
def test_equals_the_recomputation(name: str) -> None:
    sql = VIEWS[name]
    assert isinstance(sql, str)
    model = Model({name: (sql, KEYS[name]) if name in KEYS else sql})
    rng = random.Random(name)
    for _ in range(6):
        model.step(random_changes(rng, keys=12, count=20))
        model.check()


def test_a_select_without_columns_is_refused() -> None:
    with pytest.raises(ViewError, match="without columns"):
        plans_of({"empty": "SELECT FROM shop.a"})


def test_a_column_merged_by_using_has_the_common_type() -> None:
    joined = "SELECT v * 2 AS twice, count(*) AS n FROM shop.a {} (SELECT id AS v FROM shop.b) x"
    plan = plans_of({"wide": joined.format("JOIN") + " USING (v) GROUP BY 1"})["wide"]
    assert plan.output.column("twice").sql_type == "bigint"
    with pytest.raises(ViewError, match="USING of integer and bigint"):
        plans_of({"wide": joined.format("LEFT JOIN") + " USING (v) GROUP BY 1"})


def test_star_begins_with_the_columns_of_the_last_using() -> None:
    sql = """SELECT * FROM (SELECT id, v, name FROM shop.a) a JOIN (SELECT id, w FROM shop.b) b
             USING (id) JOIN (SELECT id AS b_id, v, f FROM shop.a) c USING (v)"""
    plan = plans_of({"all": (sql, ("id", "b_id"))})["all"]
    assert [c.name for c in plan.output.columns] == ["v", "id", "name", "w", "b_id", "f"]


def test_character_and_text_are_not_united() -> None:
    padded = table("public.padded", "id", id="integer", ch="character(4)", name="text")
    catalog = Catalog({"shop.public.padded": padded})
    for given in ("coalesce(ch, name)", "CASE WHEN ch = 'a' THEN name ELSE ch END"):
        with pytest.raises(ViewError, match=r"of character\(n\) and other text"):
            plan_view("mixed", f"SELECT id, {given} AS c FROM padded", catalog)
