"""Which statements change more than they name: cdc/mysql/side_effects.py."""

from __future__ import annotations

import pytest

from cdc.errors import SnapshotNeeded
from cdc.mysql.side_effects import Acting, SideEffects
from cdc.positions import MariaGtid

INSERT = "INSERT INTO plain VALUES (1)"


def position(number: int) -> MariaGtid:
    return MariaGtid.of({0: (1, number)})


def effects(until: int, *names: str) -> SideEffects:
    return SideEffects(lambda: Acting(frozenset(names), position(until)))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (INSERT, ()),
        ("INSERT INTO e.`Watched` VALUES (1)", None),
        ("INSERT INTO plain SELECT \N{REPLACEMENT CHARACTER}()", None),
        ("SET STATEMENT a = 1 FOR UPDATE plain SET n = watched (1)", None),
        ("INSERT INTO plain VALUES ('watched')", ()),
        ("TRUNCATE watched", ()),
    ],
)
def test_which_statements_are_harmless(sql: str, expected: tuple[str, ...] | None) -> None:
    assert effects(9, "watched").updated(sql, "d", position(5)) == expected


def test_names_behind_a_backslash_that_is_no_escape() -> None:
    sql = r"INSERT INTO plain VALUES ('C:\', watched('x'))"
    assert effects(9, "watched").updated(sql, "d", position(5), escapes=False) is None


def test_for_a_user_who_does_not_see_all_none_is() -> None:
    assert SideEffects(lambda: None).updated(INSERT, "d", position(5)) is None


REMOVED = (
    "DROP TRIGGER g",
    "DROP VIEW v",
    "CREATE OR REPLACE TRIGGER g AFTER INSERT ON plain FOR EACH ROW SET @a = 1",
    "create or replace table plain (a int)",
    "DROP DATABASE d",
    "ALTER TABLE plain RENAME u",
    "SET STATEMENT a = 1 FOR DROP FUNCTION f",
)
KEPT = ("DROP INDEX i ON t", "CREATE TRIGGER g AFTER INSERT ON plain FOR EACH ROW SET @a = 1")


@pytest.mark.parametrize("sql", REMOVED)
def test_what_a_statement_may_have_met_goes_before_the_catalog_was_read(sql: str) -> None:
    found = effects(9)
    assert found.updated(sql, "d", position(4)) == ()
    assert found.updated(INSERT, "d", position(5)) == ()
    resumed = effects(20)
    resumed.resume(found.notes())
    for run in (found, resumed):
        with pytest.raises(SnapshotNeeded, match="is gone"):
            run.updated(sql, "d", position(8))
        assert run.updated(sql, "d", position(9)) == ()


@pytest.mark.parametrize("sql", KEPT)
def test_what_stays(sql: str) -> None:
    found = effects(9)
    assert found.updated(INSERT, "d", position(5)) == ()
    assert found.updated(sql, "d", position(6)) == ()


def test_the_catalog_is_read_again_when_something_was_made() -> None:
    names: set[str] = set()
    found = SideEffects(lambda: Acting(frozenset(names), position(9)))
    assert found.updated(INSERT, "d", position(5)) == ()
    names.add("plain")
    assert found.updated(INSERT, "d", position(6)) == ()
    found.updated("CREATE TRIGGER g AFTER INSERT ON plain FOR EACH ROW DO 1", "d", position(7))
    assert found.updated(INSERT, "d", position(8)) is None
