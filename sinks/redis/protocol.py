"""Redis's protocol (RESP, redis.io/docs/latest/develop/reference/protocol-spec), packed in bulk.

A command is an array of bulk strings: `*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\nk\\r\\n`. Arrow's
binary_join_element_wise makes the part of every row at once; the rows' parts stand one behind the
other in the array's buffer, which is what goes over the wire. Where a command takes many keys
(MSET, UNLINK, ZADD, …), one command carries ROWS of them: its answer is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROWS = 1000
"""Of one command. Measured with MSET in MULTI: 100 → 640k, 1,000 → 1.3M, 10,000 → 830k keys/s."""

_FEW = 12

Argument = bytes | str | int


def packed(*arguments: Argument) -> bytes:
    """One command."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        raw = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Commands:
    """Commands to be sent together: ready bytes, and how many answers they have."""

    def __init__(self) -> None:
        self.buffers: list[bytes | memoryview] = []
        self.count = 0

    def add(self, *arguments: Argument) -> None:
        """One command."""
        self.buffers.append(packed(*arguments))
        self.count += 1

    def rows(self, head: Sequence[Argument], *columns: pa.Array) -> None:
        """`HEAD a1 b1 a2 b2 …`: the columns' values row by row, ROWS rows a command."""
        count = len(columns[0])
        if not count:
            return
        if count <= _FEW:
            self.add(*head, *(word for row in _python_rows(*columns) for word in row))
            return
        places, data = _contents(bulk_strings(*columns))
        for first in range(0, count, ROWS):
            last = min(first + ROWS, count)
            words = len(head) + (last - first) * len(columns)
            start = packed(*head).partition(b"\r\n")[2]
            self.buffers += [b"*%d\r\n" % words + start, data[places[first] : places[last]]]
            self.count += 1

    def grouped(self, verb: str, names: pa.StringArray, *columns: pa.Array) -> None:
        """`VERB name a1 b1 a2 b2 …`, one command per distinct name."""
        if len(names) <= _FEW:
            groups: dict[bytes, list[bytes]] = {}
            for name, *words in _python_rows(names, *columns):
                groups.setdefault(name, []).extend(words)
            for name, words in groups.items():
                self.add(verb, name, *words)
            return
        codes = names.dictionary_encode()
        index = np.asarray(codes.indices)
        order = np.argsort(index, kind="stable")
        firsts = np.flatnonzero(np.diff(index[order], prepend=-1))
        sizes = np.diff(np.append(firsts, len(order)))
        heads = _heads(verb, codes.dictionary, 2 + sizes * len(columns))
        place = np.full(len(order), -1, np.int64)
        place[firsts] = np.arange(len(firsts))
        before = heads.take(pa.array(place, mask=place < 0))
        taken = [column.take(pa.array(order)) for column in columns]
        self._whole(_joined(before, bulk_strings(*taken)), len(firsts))

    def hashes(self, keys: pa.StringArray, fields: Sequence[tuple[str, pa.StringArray]]) -> None:
        """`HSET key field value …` per row, without the fields that are null. A row without any
        has the field "" (Redis knows no empty hash)."""
        if len(keys) <= _FEW:
            names = [name.encode() for name, _ in fields]
            for key, *values in _python_rows(keys, *(texts for _, texts in fields)):
                pairs = zip(names, values, strict=True)
                words = [
                    word for name, value in pairs if value is not None for word in (name, value)
                ]
                self.add("HSET", key, *(words or [b"", b""]))
            return
        parts = [bulk_strings(values, before=packed_word(name)) for name, values in fields]
        present = np.zeros(len(keys), np.int64)
        for _, values in fields:
            present += np.asarray(values.is_valid())
        if not present.all():
            empty = packed_word("") + packed_word("")
            parts.append(pc.if_else(pa.array(present == 0), empty.decode(), ""))
            present = np.maximum(present, 1)
        self._whole(_joined(_heads("HSET", keys, 2 + 2 * present), *parts), len(keys))

    def _whole(self, parts: pa.StringArray, count: int) -> None:
        places, data = _contents(parts)
        self.buffers.append(data[places[0] : places[-1]])
        self.count += count


def _python_rows(*columns: pa.Array) -> Iterator[tuple[Any, ...]]:
    """The rows of a few values, where Arrow's kernels cost more than Python does."""
    return zip(*(column.view(pa.binary()).to_pylist() for column in columns), strict=True)


def packed_word(text: str) -> bytes:
    """One bulk string."""
    raw = text.encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def bulk_strings(*columns: pa.Array, before: bytes = b"") -> pa.StringArray:
    """Per row its values as bulk strings; null where one of them is."""
    pieces: list[object] = []
    lead = before.decode() + "$"
    for column in columns:
        texts = column.view(pa.string())
        pieces += [lead, pc.binary_length(texts).cast(pa.string()), "\r\n", texts]
        lead = "\r\n$"
    return pc.binary_join_element_wise(*pieces, "\r\n", "")


def _heads(
    verb: str, names: pa.Array, words: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> pa.Array:
    """`*words VERB name` per name."""
    counts = pa.array(words).cast(pa.string())
    between = "\r\n" + packed_word(verb).decode()
    return pc.binary_join_element_wise("*", counts, between, bulk_strings(names), "")


def _joined(*parts: pa.Array) -> pa.StringArray:
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")


def _contents(parts: pa.StringArray) -> tuple[list[int], memoryview]:
    """The rows' ends in the buffer, and the buffer."""
    _, offsets, data = parts.buffers()
    places = np.frombuffer(offsets, np.int32)[parts.offset : parts.offset + len(parts) + 1]
    return places.tolist(), memoryview(data)
