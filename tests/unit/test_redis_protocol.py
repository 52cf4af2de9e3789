"""Commands packed in bulk are the bytes that packing one by one gives."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.redis.protocol import ROWS, Commands, packed


def sent(commands: Commands) -> bytes:
    return b"".join(commands.buffers)


def texts(values: list[str | None]) -> pa.StringArray:
    return pa.array(values, pa.string())


@pytest.mark.parametrize("count", [0, 1, 12, 13, ROWS, ROWS + 1, 2 * ROWS + 7])
def test_rows_of_one_command(count: int) -> None:
    keys = [f"k{i}" for i in range(count)]
    values = ["ü" * (i % 5) + "\r\n$" * (i % 2) for i in range(count)]
    commands = Commands()
    # A slice: its buffer begins before the first value.
    commands.rows(["MSET"], texts(["x", *keys]).slice(1), texts(["y", *values]).slice(1))
    step = ROWS if count > 12 else 12
    wanted = [
        packed("MSET", *(w for row in zip(keys, values, strict=True) for w in row))
        for keys, values in (
            (keys[at : at + step], values[at : at + step]) for at in range(0, count, step)
        )
    ]
    assert sent(commands) == b"".join(wanted) and commands.count == len(wanted)


NAMED = st.lists(st.tuples(st.sampled_from(["a", "b", "", "ü"]), st.text(), st.text()), max_size=30)


@settings(max_examples=50, deadline=None)
@given(rows=NAMED)
def test_one_command_per_name(rows: list[tuple[str, str, str]]) -> None:
    commands = Commands()
    columns: Any = zip(*rows, strict=True) if rows else ([], [], [])
    commands.grouped("ZADD", *(texts(list(values)) for values in columns))
    groups: dict[str, list[str]] = {}
    for name, *words in rows:
        groups.setdefault(name, []).extend(words)
    wanted = [packed("ZADD", name, *words) for name, words in groups.items()]
    assert sent(commands) == b"".join(wanted) and commands.count == len(wanted)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text(), st.none() | st.text(), st.none() | st.text()), max_size=9)
)
def test_hashes_without_what_is_null(rows: list[tuple[str, str | None, str | None]]) -> None:
    commands = Commands()
    fields = [("é", texts([row[1] for row in rows])), ("b", texts([row[2] for row in rows]))]
    commands.hashes(texts([row[0] for row in rows]), fields)
    wanted = []
    for key, first, second in rows:
        words = [w for n, v in (("é", first), ("b", second)) if v is not None for w in (n, v)]
        wanted.append(packed("HSET", key, *(words or ["", ""])))
    assert sent(commands) == b"".join(wanted) and commands.count == len(wanted)
