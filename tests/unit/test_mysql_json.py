"""MySQL's binary JSON as text. golden_mysql/json.txt has values of MySQL 8.0.33: per line the bytes
of a row image in hexadecimal, and what SELECT prints."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import BadData
from cdc.mysql.json_binary import json_text
from cdc.mysql.json_scalars import doubles
from cdc.ragged import PAD, Slices

GOLDEN = [
    (bytes.fromhex(line.split(" ", 1)[0]), line.split(" ", 1)[1])
    for line in (Path(__file__).parent / "golden_mysql" / "json.txt").read_text().splitlines()
]


def slices_of(values: list[bytes | None]) -> Slices:
    buffer = np.frombuffer(b"".join(v or b"" for v in values) + PAD, np.uint8)
    length = np.array([len(v or b"") for v in values], np.int64)
    valid = np.array([v is not None for v in values], np.bool_)
    return Slices(buffer, length.cumsum() - length, length, valid)


def test_as_the_server_prints_them() -> None:
    found = json_text(slices_of([data for data, _ in GOLDEN]))
    assert found.to_pylist() == [text for _, text in GOLDEN]


def test_one_by_one_as_all_together() -> None:
    for data, text in GOLDEN:
        assert json_text(slices_of([None, data, b"", None])).to_pylist() == [
            None, text, "null", None,
        ]  # fmt: skip


def test_no_rows() -> None:
    assert json_text(slices_of([])).to_pylist() == []
    assert json_text(slices_of([None, None])).to_pylist() == [None, None]


@settings(max_examples=50)
@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_malformed_is_refused_or_text(which: int, at: int, noise: bytes) -> None:
    data = bytearray(GOLDEN[which][0])
    at %= len(data)
    data[at : at + len(noise)] = noise
    with suppress(BadData):
        json_text(slices_of([bytes(data)])).validate(full=True)


@settings(max_examples=50)
@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 10**6))
def test_cut_off_is_refused(which: int, at: int) -> None:
    data = GOLDEN[which][0]
    cut = data[: 1 + at % len(data)]
    if cut != data:
        with pytest.raises(BadData):
            json_text(slices_of([cut, data]))


def test_containers_that_contain_themselves_end() -> None:
    """An array whose two members are the array itself."""
    entry = b"\x02" + struct.pack("<H", 0)
    with pytest.raises(BadData, match="contain each other"):
        json_text(slices_of([b"\x02" + struct.pack("<HH", 2, 10) + entry * 2]))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_read_back_as_the_same_number(value: float) -> None:
    (text,) = doubles(np.array([value])).to_pylist()
    assert struct.pack("<d", json.loads(text)) == struct.pack("<d", value)
    assert "." in text or "e" in text
