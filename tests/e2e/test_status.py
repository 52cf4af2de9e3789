"""`cdc status` when the log is not the one that the stores were filled from."""

from __future__ import annotations

import shutil

import pytest

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
