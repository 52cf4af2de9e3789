"""pgoutput as a real server sends it: transactions, old tuples, keys that move, TOAST."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from cdc.changes import C, D, U
from cdc.errors import BadData
from cdc.postgres.changed_keys import filled_from_old, to_changes
from cdc.postgres.messages import LogicalMessage, Truncate
from cdc.postgres.pgoutput import decode
from cdc.postgres.rows import TableRows
from tests.pg_wire import Connection, Reader, Slot, described, session

BIG = "repeat(md5(random()::text), 1000)"


@pytest.fixture
def shop(pg_database: str) -> Iterator[Connection]:
    with session(pg_database) as connection:
        connection.execute(b"""
            CREATE TABLE a (id int PRIMARY KEY, name text, big text);
            ALTER TABLE a ALTER COLUMN big SET STORAGE EXTERNAL;
            CREATE TABLE b (k text, n int, v numeric, PRIMARY KEY (n, k));
            ALTER TABLE b REPLICA IDENTITY FULL;
            CREATE TABLE c (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
            CREATE TABLE e ();
            CREATE PUBLICATION p FOR TABLE a, b, c, e""")
        yield connection
        connection.execute(
            b"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            b" WHERE database = current_database()"
        )


def reader(connection: Connection) -> Reader:
    return Reader(
        described(connection, "public.a"),
        described(connection, "public.b", ("n", "k")),
        described(connection, "public.c"),
        described(connection, "public.e", ()),
    )


def slot_of(connection: Connection) -> Slot:
    name = connection.execute(
        "SELECT 's' || oid FROM pg_database WHERE datname = current_database()"
    )
    row = name.fetchone()
    assert row is not None
    return Slot(connection, row[0], "p")


def by_table(rows: tuple[TableRows, ...]) -> dict[str, TableRows]:
    return {part.schema.name.removeprefix("public."): part for part in rows}


@pytest.mark.parametrize("binary", [True, False])
def test_transactions_over_several_tables(shop: Connection, *, binary: bool) -> None:
    slot = slot_of(shop)
    with shop.transaction():
        shop.execute("INSERT INTO a VALUES (1, 'x')")
        shop.execute("INSERT INTO b VALUES ('k', 1, 1.50)")
        shop.execute("UPDATE a SET id = 2")
        shop.execute("UPDATE b SET v = 2")
        shop.execute("UPDATE b SET k = 'l'")
        shop.execute("DELETE FROM a")
        shop.execute("INSERT INTO c VALUES (5)")
        shop.execute("INSERT INTO e DEFAULT VALUES")
    shop.execute("DELETE FROM b")
    found = reader(shop).decode(slot.payloads(binary=binary))
    rows = by_table(found.rows)
    assert found.open is None
    assert found.transactions == len(found.commits) == 2
    changes = {name: to_changes(part) for name, part in rows.items()}
    a, b, c, e = (changes[name] for name in "abce")
    assert list(zip(a.op, a.ordinal, a.txn_seq, strict=True)) == [
        (C, 0, 0), (D, 2, 0), (C, 3, 0), (D, 7, 0),
    ]  # fmt: skip
    assert a.rows.to_pydict() == {
        "id": [1, 1, 2, 2], "name": ["x", None, "x", None], "big": [None] * 4,
    }  # fmt: skip
    assert a.before is None
    assert list(zip(b.op, b.ordinal, b.txn_seq, strict=True)) == [
        (C, 1, 0), (U, 4, 0), (D, 5, 0), (C, 6, 0), (D, 0, 1),
    ]  # fmt: skip
    assert b.rows.column(0).to_pylist() == ["k", "k", "k", "l", "l"]
    assert b.rows.column(2).storage.to_pylist() == ["1.50", "2", None, "2", None]
    assert b.has_before is not None and b.before is not None
    assert b.has_before.tolist() == [False, True, True, False, True]
    assert b.before.column(2).storage.to_pylist() == [None, "1.50", "2", None, "2"]
    assert c.rows.to_pydict() == {"id": [5]} and c.ordinal.tolist() == [8]
    assert e.num_rows == 1 and e.ordinal.tolist() == [9]
    now = shop.execute("SELECT (extract(epoch FROM now()) * 1000000)::int8").fetchone()
    assert now is not None and abs(int(a.commit_us[0]) - now[0]) < 60_000_000


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_buffer_may_end_anywhere(shop: Connection, size: int) -> None:
    slot = slot_of(shop)
    for number in range(8):
        with shop.transaction():
            shop.execute("INSERT INTO a SELECT g, g FROM generate_series(%s::int, %s::int) g",
                         [number * 10, number * 10 + number])  # fmt: skip
            shop.execute("INSERT INTO b VALUES ('k', %s, 1)", [number])
            shop.execute("UPDATE a SET id = id + 100000 WHERE id % 3 = 0 AND id < 1000")
    payloads = slot.payloads(binary=True)
    whole = by_table(reader(shop).decode(payloads).rows)
    parts = reader(shop)
    base, got = 0, []
    for start in range(0, len(payloads), size):
        found = parts.decode(payloads[start : start + size])
        for part in found.rows:
            changes = to_changes(part)
            got += [
                (part.schema.name, *row)
                for row in zip(
                    (changes.txn_seq + base).tolist(), changes.ordinal.tolist(),
                    changes.commit_us.tolist(), changes.op.tolist(),
                    map(str, changes.rows.to_pylist()), strict=True,
                )
            ]  # fmt: skip
        base += found.transactions - (found.open is not None)
    expected = []
    for part in whole.values():
        changes = to_changes(part)
        expected += [
            (part.schema.name, *row)
            for row in zip(
                changes.txn_seq.tolist(), changes.ordinal.tolist(), changes.commit_us.tolist(),
                changes.op.tolist(), map(str, changes.rows.to_pylist()), strict=True,
            )
        ]  # fmt: skip
    assert sorted(got) == sorted(expected)
    numbers = sorted((row[1], row[2]) for row in expected)
    assert all(
        after == (before[0], before[1] + 1) or after == (before[0] + 1, 0)
        for before, after in pairwise(numbers)
    )


@pytest.mark.parametrize("binary", [True, False])
def test_unchanged_toast_is_marked_and_taken_from_the_old_tuple(
    shop: Connection, *, binary: bool
) -> None:
    shop.execute(f"INSERT INTO a VALUES (1, 'x', {BIG}), (2, 'y', NULL)".encode())
    slot = slot_of(shop)
    shop.execute("UPDATE a SET name = 'z'")
    shop.execute("ALTER TABLE a REPLICA IDENTITY FULL")
    shop.execute("UPDATE a SET name = 'w'")
    found = reader(shop).decode(slot.payloads(binary=binary))
    first, second = found.rows
    assert first.unchanged[2].tolist() == [True, False]
    with pytest.raises(BadData, match="unchanged TOAST values of big"):
        to_changes(filled_from_old(first))
    filled = to_changes(filled_from_old(second))
    big = shop.execute("SELECT big FROM a ORDER BY id").fetchall()
    assert filled.rows.column(2).to_pylist() == [row[0] for row in big]
    assert filled.op.tolist() == [U, U]


def test_a_table_redefined_between_rows(shop: Connection) -> None:
    slot = slot_of(shop)
    found = reader(shop)
    with shop.transaction():
        shop.execute("INSERT INTO b VALUES ('k', 1, 1)")
        shop.execute("INSERT INTO a VALUES (1, 'x')")
        shop.execute("ALTER TABLE a ADD COLUMN extra int DEFAULT 7")
        shop.execute("INSERT INTO a VALUES (2, 'y', NULL, 8)")
        shop.execute("INSERT INTO b VALUES ('k', 2, 1)")
    rows = found.decode(slot.payloads(binary=True)).rows
    of_a = [part for part in rows if part.schema.name == "public.a"]
    assert [part.new.column(0).to_pylist() for part in of_a] == [[1], [2]]
    assert [len(r.columns) for r in found.relations if r.name == "a"] == [3, 4]


def test_truncate_and_messages_are_placed(shop: Connection) -> None:
    slot = slot_of(shop)
    shop.execute("SELECT pg_logical_emit_message(false, 'loose', 'x')")
    with shop.transaction():
        shop.execute("INSERT INTO a VALUES (1)")
        shop.execute("TRUNCATE a, b RESTART IDENTITY")
        shop.execute("SELECT pg_logical_emit_message(true, 'cdc', 'mark')")
        shop.execute("INSERT INTO a VALUES (2)")
    found = reader(shop).decode(slot.payloads(binary=True))
    placed = [p for p in found.controls if isinstance(p.message, Truncate | LogicalMessage)]
    loose, truncate, mark = placed
    assert isinstance(loose.message, LogicalMessage) and loose.txn == -1
    assert not loose.message.transactional and loose.message.prefix == "loose"
    assert isinstance(truncate.message, Truncate) and truncate.message.restart_identity
    assert (truncate.txn, truncate.ordinal, len(truncate.message.relations)) == (0, 1, 2)
    assert isinstance(mark.message, LogicalMessage)
    assert (mark.txn, mark.ordinal, mark.message.content) == (0, 3, b"mark")
    (rows,) = found.rows
    assert rows.ordinal.tolist() == [0, 3]


def test_more_than_a_hundred_columns_and_many_rows(shop: Connection) -> None:
    columns = ", ".join(f"c{i} {'text' if i % 3 else 'int'}" for i in range(130))
    shop.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {columns})".encode())
    shop.execute("ALTER PUBLICATION p ADD TABLE wide")
    slot = slot_of(shop)
    picked = ", ".join(f"nullif(g, {i % 5})" if i % 3 == 0 else f"'t{i}'" for i in range(130))
    shop.execute(f"INSERT INTO wide SELECT g, {picked} FROM generate_series(0, 99) g".encode())
    table = described(shop, "public.wide")
    (rows,) = Reader(table).decode(slot.payloads(binary=True)).rows
    (in_text,) = Reader(table).decode(slot.payloads(binary=False)).rows
    assert rows.new.equals(in_text.new) and rows.new.num_rows == 100
    assert rows.new.column(1).to_pylist() == [None, *range(1, 100)]


def test_few_and_many_tuples_are_walked_alike(shop: Connection) -> None:
    slot = slot_of(shop)
    with shop.transaction():
        shop.execute(
            "INSERT INTO b SELECT 'k' || g, nullif(g % 4, 9), NULL FROM generate_series(1, 90) g"
        )
        shop.execute("UPDATE b SET v = n + 0.5 WHERE n = 2")
        shop.execute("DELETE FROM b WHERE n = 3")
    payloads = slot.payloads(binary=True)
    (whole,) = reader(shop).decode(payloads).rows
    one = reader(shop)
    singles = [part for payload in payloads for part in one.decode([payload]).rows]
    assert [row for part in singles for row in part.new.to_pylist()] == whole.new.to_pylist()
    olds = [row for part in singles if part.old is not None for row in part.old.to_pylist()]
    assert whole.old is not None and olds == whole.old.to_pylist()


DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("cut", lambda m: m[:-3]),
    ("longer", lambda m: m + b"x"),
    ("kind", lambda m: m[:25] + b"?" + m[26:]),
    ("columns", lambda m: m[:31] + b"\x00\x09" + m[33:]),
    ("tuple", lambda m: m[:30] + b"X" + m[31:]),
    ("relation", lambda m: m[:26] + b"\xff\xff\xff\xff" + m[30:]),
    ("no header", lambda m: b"k" + m[1:]),
    ("length", lambda m: m[:34] + b"\x7f\xff\xff\xff" + m[38:]),
    ("empty", lambda m: m[:25]),
]


@pytest.mark.parametrize("count", [1, 40])
def test_damage_names_the_message(shop: Connection, count: int) -> None:
    slot = slot_of(shop)
    shop.execute("INSERT INTO a SELECT g, 'x' FROM generate_series(1, %s::int) g", [count])
    payloads = slot.payloads(binary=True)
    at = len(payloads) - 2
    for name, damage in DAMAGE:
        damaged = [*payloads[:at], damage(payloads[at]), payloads[-1]]
        with pytest.raises(BadData) as caught:
            reader(shop).decode(damaged)
        assert caught.value.where == f"message {at}", name
        assert damaged[at][25:40].hex(" ") in caught.value.what or name == "no header", name


def test_rows_stand_inside_transactions(shop: Connection) -> None:
    slot = slot_of(shop)
    shop.execute("INSERT INTO a VALUES (1)")
    payloads = slot.payloads(binary=True)
    with pytest.raises(BadData, match=r"out of order|outside"):
        reader(shop).decode(payloads[1:])
    with pytest.raises(BadData, match="out of order"):
        reader(shop).decode([*payloads[:-1], *payloads])


def test_nothing_in_nothing_out() -> None:
    found = decode([], {}, lambda _: None)
    assert found.rows == () and found.transactions == 0 and not np.any(found.commits.txn)
