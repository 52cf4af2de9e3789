"""Rows that fail and keys that clash stop their own view, at its last good cut (S27, S28)."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.changes import C, D, U
from cdc.errors import LogDamaged
from cdc.positions import Vector
from compaction.runs import Kind, Layout, make_run, open_run, write_run
from tests.views.model import TABLES, Model, Row, Views, batch, check_topics
from views.checkpoint import Checkpoints, Stand, snapshot

A = "shop.public.a"
FAILING: Views = {
    "shares": "SELECT id, 10 / v AS share FROM shop.a",
    "per_share": "SELECT share, count(*) AS n FROM shares GROUP BY share",
    "untouched": "SELECT id, v FROM shop.a",
}
CLASHING: Views = {"by_v": ("SELECT v, id, name FROM shop.a WHERE v IS NOT NULL", ("v",))}


def row(key: int, v: int | None, name: str = "") -> Row:
    return {"id": key, "v": v, "name": name}


def blocked(model: Model, name: str) -> str:
    return model.graph.outputs[name].blocked


def test_a_failing_row_blocks_its_view_and_those_above_until_it_is_corrected() -> None:
    model = Model(FAILING)
    model.step({A: [(C, row(1, 5)), (C, row(2, 2))]})
    before = dict(model.topics["shares"])
    model.step({A: [(C, row(3, 0)), (U, row(1, 1))]})
    model.step({A: [(D, {"id": 2})]})
    assert "id=3" in blocked(model, "shares") and "division by zero" in blocked(model, "shares")
    assert "shares" in blocked(model, "per_share")
    assert not blocked(model, "untouched") and len(model.topics["untouched"]) == 2
    assert model.topics["shares"] == before
    model.step({A: [(U, row(3, 10))]})
    assert not blocked(model, "shares")
    check_topics(
        {name: FAILING[name] for name in ("untouched",)}, model.plans, model.tables, model.topics
    )
    shares = {key: r["share"] for (key,), r in model.topics["shares"].items()}
    assert shares == {1: 10, 3: 1}
    assert {r["share"]: r["n"] for r in model.topics["per_share"].values()} == {10: 1, 1: 1}


def test_a_failing_row_that_is_deleted_unblocks() -> None:
    model = Model(FAILING)
    model.step({A: [(C, row(1, 0))]})
    assert blocked(model, "shares")
    model.step({A: [(D, {"id": 1})]})
    assert not blocked(model, "shares") and not model.topics["shares"]


@pytest.mark.parametrize("sql", ["sum(f) AS s", "sum(f::real) AS s"])
@pytest.mark.parametrize("group", ["v", ""])
def test_a_sum_out_of_range_blocks_its_view_and_no_other(sql: str, group: str) -> None:
    grouped = f"SELECT v, {sql} FROM shop.a GROUP BY v" if group else f"SELECT {sql} FROM shop.a"
    model = Model({"sums": grouped, "untouched": FAILING["untouched"]})
    large = 1.5e308 if "real" not in sql else 3e38
    model.step({A: [(C, {"id": 1, "v": 1, "f": 1.5}), (C, {"id": 2, "v": 2, "f": large})]})
    model.check()
    before = dict(model.topics["sums"])
    model.step({A: [(C, {"id": 3, "v": 2, "f": large})]})
    model.step({A: [(C, {"id": 4, "v": 2, "f": large}), (U, {"id": 1, "v": 1, "f": 2.5})]})
    assert "out of range: sum(" in blocked(model, "sums")
    assert "v=2" in blocked(model, "sums") or not group
    assert model.topics["sums"] == before and len(model.topics["untouched"]) == 4
    model.step({A: [(D, {"id": 3}), (D, {"id": 4})]})
    assert not blocked(model, "sums")
    model.check()


def test_a_sum_of_wide_numerics_keeps_all_digits() -> None:
    model = Model({"sums": "SELECT sum(w::numeric(38,0) * 10) AS s FROM shop.a"})
    model.step({A: [(C, {"id": i, "w": 2**62}) for i in range(4)]})
    assert [row["s"] for row in model.topics["sums"].values()] == [str(2**64 * 10)]


def test_two_rows_of_one_declared_key_block_the_view_and_are_named() -> None:
    model = Model(CLASHING)
    model.step({A: [(C, row(1, 7, "first"))]})
    model.step({A: [(C, row(2, 7, "second"))]})
    assert "first" in blocked(model, "by_v") and "second" in blocked(model, "by_v")
    assert len(model.topics["by_v"]) == 1
    model.step({A: [(D, {"id": 1})]})
    assert not blocked(model, "by_v")
    model.check()


def test_one_row_that_is_there_twice_blocks_as_well() -> None:
    views: Views = {
        "u": ("SELECT v FROM shop.a WHERE v > 0 UNION ALL SELECT v FROM shop.b", ("v",))
    }
    model = Model(views)
    model.step({A: [(C, row(1, 7)), (C, row(2, 7))]})
    assert blocked(model, "u").count("{'v': 7}") == 2
    model.step({A: [(D, {"id": 1})]})
    assert not blocked(model, "u")
    model.check()


@pytest.mark.parametrize("twin", [float("nan"), -0.0, None])
def test_a_clash_of_keys_that_are_equal_only_by_value_ends(twin: float | None) -> None:
    model = Model({"by_f": ("SELECT f, id FROM shop.a", ("f",))})
    first = 0.0 if twin == 0 else twin
    model.step({A: [(C, {"id": 1, "f": first}), (C, {"id": 2, "f": twin})]})
    assert blocked(model, "by_f")
    model.step({A: [(D, {"id": 2})]})
    assert not blocked(model, "by_f")
    model.check()


@pytest.mark.parametrize("views", [FAILING, CLASHING])
def test_a_blocked_view_is_still_blocked_after_recovery(tmp_path: Path, views: Views) -> None:
    model = Model(views)
    model.step({A: [(C, row(1, 7, "first")), (C, row(2, 3))]})
    model.step({A: [(C, row(3, 0)), (C, row(4, 7, "second"))]})
    stand = Stand(Vector(), {}, {}, {})
    schemas = {name: a.layout.schema for name, a in model.graph.arrangements.items()}
    Checkpoints(tmp_path).write(snapshot(model.graph, stand), schemas)

    again = Model(views)
    assert Checkpoints(tmp_path).load(again.graph) == stand
    again.tables, again.topics = model.tables, model.topics
    name = next(iter(views))
    assert blocked(again, name) == blocked(model, name) != ""
    again.step({A: [(D, {"id": 3}), (D, {"id": 4})]})
    assert not blocked(again, name)
    if views is CLASHING:
        again.check()
    else:
        assert {key for (key,) in again.topics["shares"]} == {1, 2}


def test_a_damaged_run_is_detected(tmp_path: Path) -> None:
    schema = TABLES[A].arrow
    rows = batch(TABLES[A], [(C, row(i, i)) for i in range(100)]).rows
    layout = Layout(Kind.MAP, schema, (0,))
    hashes = layout.hashes([rows.column(0)], 100)
    run = make_run(layout, hashes, rows.column(0).to_numpy() * 0 + 1, rows)
    path = tmp_path / "a.run"
    assert write_run(run, path, schema).rows.equals(run.rows)
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:2000] + b"\x55" + whole[2001:], b""):
        path.write_bytes(damaged)
        with pytest.raises(LogDamaged):
            open_run(path, schema)
