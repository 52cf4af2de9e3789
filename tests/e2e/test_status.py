"""`cdc status` when the log is not the one that the stores were filled from."""

from __future__ import annotations

import json
import shutil
from contextlib import closing

import pytest

from cdc.config_load import load
from cdc.log.api import DeadLetter
from cdc.log.open import open_log
from sinks.locks import locked, rebuild_lock
from tests.fix_user import User

pytestmark = pytest.mark.service


def test_lag_is_unknown_after_the_log_was_deleted(user: User) -> None:
    user.sql("CREATE TABLE c (id int PRIMARY KEY)", "INSERT INTO c VALUES (1), (2)")
    user.write_config(
        views="{v: {sql: 'SELECT id FROM c'}}",
        sinks="{s: {type: sql, url: 'duckdb:///w.duckdb', from: [v, shop.c]}}",
    )
    user.catch_up()
    (told,) = user.cdc("status", "--json").lines
    assert told["sinks"]["s"]["lag_changes"] == 0

    shutil.rmtree(user.directory / ".cdc")
    (told,) = user.cdc("status", "--json").lines
    sink = told["sinks"]["s"]
    assert sink["position"].startswith("shop@")
    assert sink["lag_changes"] is None and sink["lag_s"] is None
    assert sink["lag_unknown"] == "the log has nothing of view.v"
    assert "s: lag unknown: the log has nothing of view.v" in user.cdc("status").out

    user.cdc("remove", "shop", "--yes")
    with user.start("run", "v"):
        user.eventually(lambda: user.cdc("status", "--json").lines[0]["views"]["v"]["position"])
    (told,) = user.cdc("status", "--json").lines
    assert told["sinks"]["s"]["lag_changes"] is None
    assert "made anew" in told["sinks"]["s"]["lag_unknown"]


def test_a_running_rebuild_and_dead_letters_are_told(user: User) -> None:
    user.sql("CREATE TABLE c (id int PRIMARY KEY)", "INSERT INTO c VALUES (1), (2)")
    user.write_config(sinks="{s: {type: sql, url: 'duckdb:///w.duckdb', from: shop.c}}")
    user.catch_up()
    state = user.directory / ".cdc" / "state"
    config = load(user.directory / "connectors.yaml", {})
    with closing(open_log(config.log)) as log, locked(rebuild_lock(config, "s")):
        log.dead_letter([DeadLetter("s", "shop.public.c/0/1", "too long", b"[1]", b"{}")] * 2)
        facts = {"phase": "loading", "done": 1500, "of": 2000}
        (state / "sinks" / "s.rebuild.json").write_text(json.dumps(facts))
        out = user.cdc("status").out
    assert "s: being rebuilt: loading, 1,500 of 2,000 records" in out
    assert "dead letters: 2 (s 2)" in out
    assert "rebuilt" not in user.cdc("status").out
