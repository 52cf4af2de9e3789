"""A changing shop: mixed transactions over four tables, from a seed.

Each transaction keeps `orders.amount = sum(order_items.quantity * price)`. Whoever sees the two
sides differ has seen half a transaction.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import psycopg

FIRST_NEW_ORDER = 1_000_000
LAST_ORDER = 88_000


class Workload(threading.Thread):
    """Runs transactions until `stop`, paced at `transactions_per_s`; counts what it committed."""

    def __init__(self, url: str, *, transactions_per_s: float, seed: int) -> None:
        super().__init__(name="workload", daemon=True)
        self.committed = 0
        self.newest = (FIRST_NEW_ORDER - 1, 0.0)
        """The order placed last, and when its commit was confirmed (time.monotonic)."""
        self.error: Exception | None = None
        self._url, self._pause_s = url, 1.0 / transactions_per_s
        self._random = random.Random(seed)
        self._next_order = FIRST_NEW_ORDER
        self._ended = threading.Event()

    def stop(self) -> int:
        """Finish the transaction in hand; how many were committed."""
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error
        return self.committed

    def run(self) -> None:
        kinds: tuple[tuple[Callable[[psycopg.Cursor[object]], None], int], ...] = (
            (self._place_order, 45),
            (self._change_status, 25),
            (self._change_quantity, 15),
            (self._cancel_order, 10),
            (self._customer_moves, 5),
        )
        actions = [action for action, _ in kinds]
        weights = [weight for _, weight in kinds]
        try:
            with psycopg.connect(self._url) as connection:
                while not self._ended.wait(self._pause_s):
                    action = self._random.choices(actions, weights)[0]
                    with connection.transaction(), connection.cursor() as cursor:
                        action(cursor)
                    self.committed += 1
                    if self._next_order > self.newest[0] + 1:
                        self.newest = (self._next_order - 1, time.monotonic())
        except psycopg.Error as error:
            self.error = error

    def _place_order(self, cursor: psycopg.Cursor[object]) -> None:
        order, lines = self._next_order, self._random.randint(1, 5)
        self._next_order += 1
        cursor.execute(
            "INSERT INTO orders VALUES (%s, %s, 'new', 0, now(), NULL)",
            (order, self._random.randint(1, 20_000)),
        )
        for line in range(1, lines + 1):
            cursor.execute(
                "INSERT INTO order_items SELECT %s, %s, id, %s, price FROM products WHERE id = %s",
                (order, line, self._random.randint(1, 4), self._random.randint(1, 2000)),
            )
        self._settle(cursor, order)

    def _change_status(self, cursor: psycopg.Cursor[object]) -> None:
        cursor.execute(
            "UPDATE orders SET status = %s WHERE id = %s",
            (self._random.choice(["paid", "shipped", "done"]), self._any_order()),
        )

    def _change_quantity(self, cursor: psycopg.Cursor[object]) -> None:
        order = self._any_order()
        cursor.execute(
            "UPDATE order_items SET quantity = %s WHERE order_id = %s AND line = 1",
            (self._random.randint(1, 9), order),
        )
        self._settle(cursor, order)

    def _cancel_order(self, cursor: psycopg.Cursor[object]) -> None:
        order = self._any_order()
        cursor.execute("DELETE FROM order_items WHERE order_id = %s", (order,))
        cursor.execute("DELETE FROM orders WHERE id = %s", (order,))

    def _customer_moves(self, cursor: psycopg.Cursor[object]) -> None:
        cursor.execute(
            "UPDATE customers SET country = %s WHERE id = %s",
            (self._random.choice(["AT", "DE", "FR", "UK"]), self._random.randint(1, 20_000)),
        )

    def _settle(self, cursor: psycopg.Cursor[object], order: int) -> None:
        cursor.execute(
            "UPDATE orders SET amount = (SELECT coalesce(sum(quantity * price), 0)"
            " FROM order_items WHERE order_id = orders.id) WHERE id = %s",
            (order,),
        )

    def _any_order(self) -> int:
        if self._next_order > FIRST_NEW_ORDER and self._random.random() < 0.3:
            return self._random.randrange(FIRST_NEW_ORDER, self._next_order)
        return self._random.randint(1, LAST_ORDER)
