"""Every operator: the incremental result equals the recomputation, whatever happened before.

Random inserts, updates, deletes, several per key and step; NULLs, NaN, ±0, sums beyond 64 bits. Run
again with a 4-bit hash, where everything collides (SEMANTICS 22).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.views.model import Model, Views, random_changes

VIEWS: Views = {
    "filtered": "SELECT id, v, name FROM shop.a WHERE v > 2",
    "projected": "SELECT id, v + 1 AS v1, name FROM shop.a",
    "joined": "SELECT a.id, a.v, b.name FROM shop.a JOIN shop.b ON a.b_id = b.id",
    "many": "SELECT a.id, b.id AS b_id, a.w FROM shop.a JOIN shop.b ON a.v = b.v",
    "residual": "SELECT a.id, b.id AS b_id FROM shop.a JOIN shop.b ON a.v = b.v AND a.w < b.w",
    "outer_one": "SELECT a.id, a.v, b.name FROM shop.a LEFT JOIN shop.b ON a.b_id = b.id",
    "outer_many": (
        "SELECT a.id, b.id AS b_id, b.w FROM shop.a LEFT JOIN shop.b ON a.v = b.v AND a.w < b.w",
        ("id", "b_id"),
    ),
    "self_join": "SELECT x.id, y.id AS y_id, y.v FROM shop.a x JOIN shop.a y ON x.b_id = y.id",
    "grouped": """
        SELECT v, count(*) AS n, count(w) AS c, sum(w) AS s, sum(amount) AS t, min(w) AS lo,
               max(name) AS hi, count(DISTINCT w) AS d, sum(DISTINCT w) AS sd
        FROM shop.a GROUP BY v""",
    "floats": "SELECT v, min(f) AS lo, max(f) AS hi, count(f) AS n FROM shop.a GROUP BY v",
    "by_float": "SELECT f, count(*) AS n FROM shop.a GROUP BY f",
    "total": "SELECT count(*) AS n, sum(w) AS s, max(v) AS hi FROM shop.a",
    "different": "SELECT DISTINCT v, name FROM shop.a",
    "together": (
        "SELECT 1 AS t, id, v FROM shop.a UNION ALL SELECT 2 AS t, id, v FROM shop.b",
        ("t", "id"),
    ),
    "per_b": """
        SELECT b.id, b.name, count(*) AS n, sum(a.amount) AS t
        FROM shop.a JOIN shop.b ON b.id = a.b_id GROUP BY b.id, b.name""",
    "over": "SELECT n, count(*) AS k, sum(c) AS c FROM grouped GROUP BY n",
    "diamond": "SELECT j.id, o.name, g.n FROM joined j JOIN outer_one o ON o.id = j.id"
    " LEFT JOIN grouped g ON g.v = j.v",
}


@pytest.mark.parametrize("hash_bits", [64, 4])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_incremental_equals_recomputed(hash_bits: int, seed: int) -> None:
    rng = random.Random(seed)
    model = Model(VIEWS, hash_bits)
    for _ in range(rng.randrange(1, 6)):
        model.step(random_changes(rng, keys=12, count=rng.choice([0, 1, 1, 3, 40])))
        if rng.random() < 0.5:
            while model.graph.merge(0.001):
                pass
    model.check()
