"""An iterator that works while its consumer does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], waiting_max: int = 2) -> Iterator[T]:
    """The same items in the same order, made on a thread, at most `waiting_max` before they are
    asked for. Raises what `items` raises. Whoever leaves early waits for the item in hand."""
    changed = threading.Condition()
    waiting: deque[T] = deque()
    errors: list[BaseException] = []
    state = {"ended": False, "abandoned": False}

    def run() -> None:
        try:
            for item in items:
                with changed:
                    changed.wait_for(lambda: len(waiting) < waiting_max or state["abandoned"])
                    if state["abandoned"]:
                        return
                    waiting.append(item)
                    changed.notify_all()
        except BaseException as error:  # raised again where the items are asked for
            errors.append(error)
        finally:
            with changed:
                state["ended"] = True
                changed.notify_all()

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or state["ended"])
                if not waiting:
                    break
                item = waiting.popleft()
                changed.notify_all()
            yield item
        if errors:
            raise errors[0]
    finally:
        with changed:
            state["abandoned"] = True
            changed.notify_all()
        thread.join()
