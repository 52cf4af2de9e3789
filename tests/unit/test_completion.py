"""When a store of left-out values may be used again: cdc/completion.py, without a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdc.changes import ChangeBatch, D, U
from cdc.completion import LeftOut, ValueStore
from cdc.mysql.captured import CapturedTables
from cdc.mysql.defaults import Defaults
from cdc.mysql.evolution import Evolution
from cdc.mysql.row_images import StoredValues
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import FieldType, table_schema
from cdc.positions import Lsn
from cdc.source import Piece
from tests.fix_log import changes, frontier

KEPT = LeftOut("public.orders", ("note",), lambda found: np.flatnonzero(found.op != D), "")


def in_the_log(table: str) -> Iterator[ChangeBatch]:
    yield changes([1], note="in the log")


def opened(folder: Path, number: int) -> ValueStore:
    return ValueStore(folder / "values.sqlite", frontier(number), in_the_log, "shop")


def note(store: ValueStore) -> object:
    """What the store makes of an update of row 1 that lacks its note."""
    update = changes([1], op=U, note=None)
    return store.complete(KEPT, update, {"note": np.array([True])}).rows["note"][0].as_py()


def told(store: ValueStore, number: int, *, whole: bool) -> None:
    rows = changes([1], note="told")
    store.remember(KEPT, rows)
    store.yielded(Piece((("public.orders", rows),), int(whole), Lsn(number), 0, whole))


def nothing(store: ValueStore) -> None:
    return


def a_part(store: ValueStore) -> None:
    told(store, 2, whole=False)


def what_was_not_handed_on(store: ValueStore) -> None:
    store.remember(KEPT, changes([1], note="told"))


def what_was_not_acknowledged(store: ValueStore) -> None:
    told(store, 3, whole=True)


@pytest.mark.parametrize(
    "ahead", [nothing, a_part, what_was_not_handed_on, what_was_not_acknowledged]
)
def test_a_store_that_may_be_ahead_of_the_log_is_made_anew(
    tmp_path: Path, ahead: Callable[[ValueStore], None]
) -> None:
    store = opened(tmp_path, 1)
    told(store, 2, whole=True)
    ahead(store)
    store.acknowledge(Lsn(2))
    store.close()
    again = opened(tmp_path, 2)
    assert note(again) == ("told" if ahead is nothing else "in the log")
    again.close()


def test_rows_of_a_table_that_is_added_are_known(tmp_path: Path) -> None:
    number, text = MyType(FieldType.LONGLONG), MyType(FieldType.BLOB, 2, collation=255)
    columns = (MyColumn("id", number, False), MyColumn("note", text, True))
    table = MyTable("public.orders", columns, ("id",))
    schema = table_schema(table, "null")
    store = ValueStore(tmp_path / "values.sqlite", frontier(1), lambda name: iter(()), "shop")
    completion = StoredValues(store, Defaults({table.name: table}, minimal=False))
    evolution = Evolution("shop", {table.name: schema}, "null")
    captured = CapturedTables(evolution, mariadb=False, completion=completion)
    rows = changes([1]).rows.select(["id", "note"])
    captured.read(replace(changes([1]), schema=schema, rows=rows))
    assert note(store) == "n"
    store.close()
