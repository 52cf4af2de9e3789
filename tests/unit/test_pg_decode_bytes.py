"""The decoders on bytes made here: no server, every run."""

from __future__ import annotations

import struct
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.decode import RELATION, SCHEMA, TYPES, copy_field, fields, inserts, numeric, payload
from cdc import ragged
from cdc.errors import BadData
from cdc.postgres import messages, tuples
from cdc.postgres.changed_keys import to_changes
from cdc.postgres.copy_binary import SIGNATURE, TRAILER, compile_copy, decode_copy
from cdc.postgres.pgoutput import Open, decode
from cdc.postgres.rows import TableDecoder, compile_table
from cdc.postgres.types import BUILT_IN, PgType, arrow_type
from cdc.postgres.values import binary_decoder, text_decoder
from cdc.schema import NUMERIC_TEXT

ROWS = [fields(number, binary=True) for number in range(1, 41)]
PRINTED = [fields(number, binary=False) for number in range(1, 41)]


def tables() -> dict[int, TableDecoder | None]:
    return {1: compile_table(RELATION, SCHEMA, TYPES)}


def slices(values: list[bytes | None]) -> ragged.Slices:
    buffer, starts, ends = ragged.join([value or b"" for value in values])
    valid = np.array([value is not None for value in values])
    return ragged.Slices(buffer, starts, ends - starts, None if valid.all() else valid)


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_copy_and_both_streams_agree(count: int) -> None:
    copies = [struct.pack(">h", 8) + b"".join(map(copy_field, row)) for row in ROWS[:count]]
    copies[0] = SIGNATURE + bytes(8) + copies[0]
    copied = decode_copy(compile_copy(SCHEMA, TYPES), [*copies, TRAILER])
    (binary,) = decode(inserts(ROWS[:count], b"b"), tables(), lambda _: None).rows
    (text,) = decode(inserts(PRINTED[:count], b"t"), tables(), lambda _: None).rows
    assert copied.equals(binary.new) and copied.equals(text.new)
    assert copied.column(2)[0].as_py() == Decimal("0.37")


def test_values_may_be_text_and_binary_in_one_column() -> None:
    mixed = inserts(ROWS, b"b", in_commit=100), inserts(PRINTED, b"t", in_commit=100)
    both = [mixed[number % 2][number] for number in range(len(mixed[0]))]
    (rows,) = decode(both, tables(), lambda _: None).rows
    (binary,) = decode(mixed[0], tables(), lambda _: None).rows
    assert rows.new.equals(binary.new)


def test_only_deletes() -> None:
    body = struct.pack(">cIch", b"D", 1, b"K", 8) + copy_key(7) + b"n" * 7
    found = decode([payload(body)], tables(), lambda _: None, Open(1, 2, 3, 4))
    changes = to_changes(found.rows[0])
    assert changes.rows.column(0).to_pylist() == [7] and changes.ordinal.tolist() == [4]
    assert found.open == Open(1, 2, 3, 5)


def copy_key(key: int) -> bytes:
    return b"b" + struct.pack(">iq", 8, key)


def test_no_copy_rows_and_a_damaged_one() -> None:
    decoder = compile_copy(SCHEMA, TYPES)
    assert decode_copy(decoder, [SIGNATURE + bytes(8), TRAILER]).num_rows == 0
    assert decode_copy(decoder, []).schema == SCHEMA.arrow
    row = struct.pack(">h", 8) + b"".join(map(copy_field, ROWS[0]))
    for damaged in (row[:-1], row + b"x", b"\x00\x07" + row[2:], row[:2] + b"\x7f" + row[3:]):
        with pytest.raises(BadData) as caught:
            decode_copy(decoder, [row, damaged])
        assert caught.value.where == "message 1"


@given(st.lists(st.integers(-(10**12) + 1, 10**12 - 1) | st.none(), min_size=1))
def test_numerics(cents: list[int | None]) -> None:
    stored = slices([None if c is None else signed(c) for c in cents])
    printed = slices([None if c is None else f"{Decimal(c).scaleb(-2):f}".encode() for c in cents])
    expected = [None if c is None else Decimal(c).scaleb(-2) for c in cents]
    for typmod in ((14 << 16 | 2) + 4, (38 << 16 | 20) + 4, -1):
        kind = PgType(BUILT_IN["numeric"], "numeric", "numeric", typmod)
        binary, text = binary_decoder(kind)(stored), text_decoder(kind)(printed)
        if arrow_type(kind) == NUMERIC_TEXT:
            assert binary.storage.equals(text.storage)
            assert binary.storage.to_pylist() == [c if c is None else f"{c:f}" for c in expected]
        else:
            binary.validate(full=True)
            assert binary.equals(text) and binary.to_pylist() == expected


def signed(cents: int) -> bytes:
    stored = bytearray(numeric(abs(cents)))
    if cents < 0:
        stored[4:6] = b"\x40\x00"
    return bytes(stored)


VALUE = st.none() | st.just("unchanged") | st.tuples(st.sampled_from("tb"), st.binary(max_size=9))


@given(st.integers(0, 4).flatmap(
    lambda width: st.lists(st.tuples(*([VALUE] * width)), min_size=1, max_size=16)
))  # fmt: skip
def test_both_ways_to_walk_agree(rows: list[tuple[str | tuple[str, bytes] | None, ...]]) -> None:
    width = len(rows[0])
    bodies = [bytes(8) + struct.pack(">h", width) + b"".join(map(encoded, row)) for row in rows]
    buffer, starts, ends = ragged.join(bodies)
    few, few_end = tuples.walk(buffer, starts + 8, ends, width)
    # The same tuples, often enough to be walked by the column.
    many_bodies = bodies * 17
    buffer, starts, ends = ragged.join(many_bodies)
    many, many_end = tuples.walk(buffer, starts + 8, ends, width)
    assert np.array_equal(few_end, np.cumsum([len(b) for b in bodies]))
    assert np.array_equal(many_end, ends)
    for one, other in zip(few, many, strict=True):
        assert seen(one, len(rows)) == seen(other, len(rows))


def seen(field: tuples.Field, count: int) -> list[tuple[int, bytes]]:
    kinds = np.broadcast_to(np.asarray(field.kinds), len(field.slices))[:count]
    unchanged = kinds == ord("u")
    assert unchanged.any() == (field.unchanged is not None)
    return [(int(kind), field.slices.first(row)) for row, kind in enumerate(kinds)]


def encoded(value: str | tuple[str, bytes] | None) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, str):
        return b"u"
    return value[0].encode() + struct.pack(">i", len(value[1])) + value[1]


def test_text_that_is_not_utf8() -> None:
    for count in (1, 40):
        with pytest.raises(BadData, match="not UTF-8"):
            ragged.text(slices([b"\xff"] * count))
        assert ragged.text(slices(["é".encode(), None] * count)).to_pylist() == ["é", None] * count


def test_rare_messages() -> None:
    relation = b"R" + struct.pack(">I", 9) + b"\0t\0" + b"f" + struct.pack(">h", 1)
    relation += b"\x01id\0" + struct.pack(">Ii", 23, -1)
    assert messages.parse(relation, where="") == messages.Relation(
        9, "pg_catalog", "t", "f", (messages.RelationColumn("id", 23, -1, True),)
    )
    assert messages.parse(b"O" + struct.pack(">Q", 5) + b"far\0", where="") == messages.Origin(
        5, "far"
    )
    truncate = struct.pack(">cIBII", b"T", 2, 3, 8, 9)
    assert messages.parse(truncate, where="") == messages.Truncate((8, 9), True, True)
    for damaged in (relation[:-1], relation + b"x", truncate[:-1], b"S123", b"O"):
        with pytest.raises(BadData, match="not a pgoutput message"):
            messages.parse(damaged, where="message 3")


def test_lists_of_many_elements() -> None:
    kind = PgType(1007, "_int4", "integer[]", dims=1, element=PgType(23, "int4", "integer"))
    long = struct.pack(">iiiii", 1, 0, 23, 500, 1) + b"".join(
        struct.pack(">ii", 4, n) for n in range(500)
    )
    empty = struct.pack(">iii", 0, 0, 23)
    for count in (1, 20):
        found = binary_decoder(kind)(slices([long, None, empty] * count))
        assert found.to_pylist() == [list(range(500)), None, []] * count
        assert found.type == pa.list_(pa.int32())
