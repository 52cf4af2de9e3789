"""cdc.ahead: order, errors, leaving early."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cdc.ahead import ahead


def test_items_come_in_order() -> None:
    assert list(ahead(iter(range(1000)))) == list(range(1000))


def test_an_error_comes_behind_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_no_more_is_made_than_may_wait() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 3:
                third.set()
            yield number

    found = ahead(items(), waiting_max=2)
    assert next(found) == 0
    assert third.wait(10.0)  # 1 and 2 wait, 3 is in hand
    found.close()  # type: ignore[attr-defined]
    assert made == [0, 1, 2, 3]
    assert all(thread.name != "ahead" for thread in threading.enumerate())
