"""A small shop that changes: random transactions over three tables, from a seed.

`orders` has values out of line (TOAST) and the default replica identity, `lines` a key of two
columns and replica identity full. Every transaction keeps `orders.pieces` = the sum of its lines'
`qty`: whoever sees the two differ has seen half a transaction.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg

Cursor = psycopg.Cursor[tuple[Any, ...]]

TABLES: LiteralString = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, country text);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id int NOT NULL, status text NOT NULL, amount numeric(12,2),
    pieces bigint NOT NULL DEFAULT 0, note text);
CREATE TABLE lines (
    order_id bigint, line int, sku text, qty int NOT NULL, PRIMARY KEY (order_id, line));
ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
ALTER TABLE lines REPLICA IDENTITY FULL;
INSERT INTO customers
    SELECT i, 'customer ' || i, (ARRAY['AT', 'DE', 'FR', NULL])[1 + i % 4]
    FROM generate_series(1, 200) i;
INSERT INTO orders
    SELECT i, 1 + i % 220, 'new', i * 1.25, 3,
           CASE WHEN i % 5 = 0 THEN repeat(md5(i::text), 90) END
    FROM generate_series(1, 2000) i;
INSERT INTO lines
    SELECT i, l, 'sku ' || l, l FROM generate_series(1, 2000) i, generate_series(1, 2) l
"""
LARGE_ROWS = 30_000
RECONNECT_S = 120.0


class Workload:
    """Commits one random transaction per `step`. For one thread."""

    def __init__(self, url: str, seed: int) -> None:
        self.committed = 0
        self._url, self._random = url, random.Random(seed)
        self._next_id = 1_000_000
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        kinds: dict[Callable[[Cursor], None], int] = {
            self._place_order: 30,
            self._change_order: 25,
            self._change_lines: 15,
            self._cancel_order: 12,
            self._new_key: 8,
            self._customer: 8,
            self._undone: 4,
            self._truncate: 1,
        }
        self._actions, self._weights = list(kinds), list(kinds.values())

    def step(self) -> None:
        """One transaction; again, on a new connection, while the server is away."""
        deadline = time.monotonic() + RECONNECT_S
        while True:
            try:
                self._transaction(self._random.choices(self._actions, self._weights)[0])
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def large(self) -> None:
        """One transaction larger than several appends."""
        self._transaction(self._large)

    def truncate(self) -> None:
        self._transaction(self._truncate)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _transaction(self, action: Callable[[Cursor], None]) -> None:
        if self._connection is None:
            self._connection = psycopg.connect(self._url)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            action(cursor)
        self.committed += 1

    def _place_order(self, cursor: Cursor) -> None:
        order = self._new_id()
        cursor.execute(
            "INSERT INTO orders VALUES (%s, %s, 'new', %s, 0, %s)",
            (order, self._random.randint(1, 220), self._random.randint(1, 99), self._note()),
        )
        self._add_lines(cursor, order)

    def _add_lines(self, cursor: Cursor, order: int) -> None:
        for line in range(10, 10 + self._random.randint(1, 3)):
            cursor.execute(
                "INSERT INTO lines VALUES (%s, %s, 'new', %s) ON CONFLICT DO NOTHING",
                (order, line, self._random.randint(1, 5)),
            )
        self._settle(cursor, order)

    def _change_order(self, cursor: Cursor) -> None:
        """Twice in one transaction; its long note is not part of the change."""
        order = self._any_order(cursor)
        for status in ("paid", "shipped"):
            cursor.execute(
                "UPDATE orders SET status = %s, amount = %s WHERE id = %s",
                (status, self._random.choice([None, 0, self._random.randint(1, 9999)]), order),
            )

    def _change_lines(self, cursor: Cursor) -> None:
        order = self._any_order(cursor)
        cursor.execute(
            "UPDATE lines SET qty = qty + 1, sku = NULL WHERE order_id = %s AND line <= 10",
            (order,),
        )
        self._settle(cursor, order)

    def _cancel_order(self, cursor: Cursor) -> None:
        order = self._any_order(cursor)
        cursor.execute("DELETE FROM lines WHERE order_id = %s", (order,))
        cursor.execute("DELETE FROM orders WHERE id = %s", (order,))

    def _new_key(self, cursor: Cursor) -> None:
        """The keys of an order and its lines change; sometimes another takes the old key."""
        order, new = self._any_order(cursor), self._new_id()
        cursor.execute("UPDATE orders SET id = %s WHERE id = %s", (new, order))
        cursor.execute("UPDATE lines SET order_id = %s WHERE order_id = %s", (new, order))
        if self._random.random() < 0.5:
            cursor.execute("INSERT INTO orders VALUES (%s, 1, 'again', 1, 0, NULL)", (order,))

    def _customer(self, cursor: Cursor) -> None:
        customer = self._random.randint(1, 220)
        if self._random.random() < 0.3:
            cursor.execute("DELETE FROM customers WHERE id = %s", (customer,))
        else:
            cursor.execute(
                "INSERT INTO customers VALUES (%s, 'moved', %s)"
                " ON CONFLICT (id) DO UPDATE SET country = excluded.country",
                (customer, self._random.choice(["AT", "DE", "FR", None])),
            )

    def _undone(self, cursor: Cursor) -> None:
        """What a savepoint takes back never happened."""
        order = self._any_order(cursor)
        cursor.execute("SAVEPOINT here")
        cursor.execute("DELETE FROM lines")
        cursor.execute("ROLLBACK TO here")
        cursor.execute("UPDATE orders SET status = 'kept' WHERE id = %s", (order,))

    def _truncate(self, cursor: Cursor) -> None:
        cursor.execute("TRUNCATE lines")
        cursor.execute("UPDATE orders SET pieces = 0 WHERE pieces > 0")
        self._add_lines(cursor, self._any_order(cursor))

    def _large(self, cursor: Cursor) -> None:
        first = self._new_id(LARGE_ROWS)
        cursor.execute(
            "INSERT INTO orders SELECT i, 1 + i %% 220, 'large', 1, 1, repeat(md5(i::text), 24)"
            " FROM generate_series(%s::bigint, %s) i",
            (first, first + LARGE_ROWS - 1),
        )
        cursor.execute(
            "INSERT INTO lines SELECT i, 1, 'large', 1 FROM generate_series(%s::bigint, %s) i",
            (first, first + LARGE_ROWS - 1),
        )
        cursor.execute("DELETE FROM lines WHERE order_id >= %s AND order_id %% 3 > 0", (first,))
        cursor.execute("DELETE FROM orders WHERE id >= %s AND id %% 3 > 0", (first,))

    def _settle(self, cursor: Cursor, order: int) -> None:
        cursor.execute(
            "UPDATE orders SET pieces = (SELECT coalesce(sum(qty), 0) FROM lines"
            " WHERE order_id = orders.id) WHERE id = %s",
            (order,),
        )

    def _any_order(self, cursor: Cursor) -> int:
        low = self._random.choice([0, 1_000_000])
        near = low + self._random.randint(0, 2_000)
        found = cursor.execute(
            "SELECT coalesce((SELECT id FROM orders WHERE id >= %s ORDER BY id LIMIT 1),"
            " (SELECT min(id) FROM orders))",
            (near,),
        ).fetchone()
        assert found is not None
        return int(found[0])

    def _new_id(self, count: int = 1) -> int:
        self._next_id += count
        return self._next_id - count

    def _note(self) -> str | None:
        if self._random.random() < 0.5:
            return None
        return self._random.randbytes(self._random.choice([20, 2_000])).hex()
