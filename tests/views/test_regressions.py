"""Bugs that the SQL fuzz found, each as its smallest view, compared with DuckDB."""

from __future__ import annotations

import random

import pytest

from cdc.errors import ViewError
from tests.views.model import Model, Views, plans_of, random_changes

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
