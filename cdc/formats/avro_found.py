"""Columns while Avro is read: numbers, and places of bytes, before they become Arrow arrays.

Rows that a union's other branch took come back as nulls (`scattered`); an array's elements, read in
rounds, are joined (`concatenated`) and put in row order (`taken`). Only then are bytes moved, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.formats.avro_schema import WRONG_SCHEMA
from cdc.formats.connect_values import Constant, Lists, Structs, Values
from cdc.ragged import Bools, Int64s, Slices


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of one type; anything where not valid."""

    values: npt.NDArray[np.generic]
    kind: pa.DataType
    valid: Bools | None = None
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts or bytes, where they stand."""

    slices: Slices
    is_text: bool


@dataclass(frozen=True, eq=False)
class Record:
    fields: dict[str, Found]
    count: int
    valid: Bools | None = None


@dataclass(frozen=True, eq=False)
class Array:
    items: Found
    lengths: Int64s
    valid: Bools | None = None


@dataclass(frozen=True, eq=False)
class Null:
    count: int


Found: TypeAlias = "Numbers | Texts | Record | Array | Null"


def scattered(found: Found, rows: Int64s, valid: Bools, at: Int64s) -> Found:
    """Values of some rows as values of all; the others are null."""
    count = len(valid)
    if isinstance(found, Null):
        return Null(count)
    if isinstance(found, Numbers):
        values = np.zeros(count, found.values.dtype)
        values[rows] = found.values
        return replace(found, values=values, valid=_spread(found.valid, rows, valid))
    if isinstance(found, Texts):
        start, length = at.copy(), np.zeros(count, np.int64)
        start[rows], length[rows] = found.slices.start, found.slices.length
        mask = _spread(found.slices.valid, rows, valid)
        return Texts(Slices(found.slices.buffer, start, length, mask), found.is_text)
    if isinstance(found, Array):
        lengths = np.zeros(count, np.int64)
        lengths[rows] = found.lengths
        return Array(found.items, lengths, _spread(found.valid, rows, valid))
    fields = {name: scattered(f, rows, valid, at) for name, f in found.fields.items()}
    return Record(fields, count, _spread(found.valid, rows, valid))


def _spread(inner: Bools | None, rows: Int64s, valid: Bools) -> Bools:
    if inner is None:
        return valid
    found = np.zeros(len(valid), np.bool_)
    found[rows] = inner
    return found


def concatenated(pieces: list[Found]) -> Found:
    counts = [_count(piece) for piece in pieces]
    first = next((p for p in pieces if not isinstance(p, Null)), None)
    if first is None:
        return Null(sum(counts))
    if len(pieces) == 1:
        return first
    filled = [_like(first, p) if isinstance(p, Null) else p for p in pieces]
    if isinstance(first, Numbers):
        values = np.concatenate([p.values for p in filled])  # type: ignore[union-attr]
        return replace(first, values=values, valid=_valids([p.valid for p in filled], counts))  # type: ignore[union-attr]
    if isinstance(first, Texts):
        slices = [p.slices for p in filled]  # type: ignore[union-attr]
        return Texts(
            Slices(
                first.slices.buffer,
                np.concatenate([s.start for s in slices]),
                np.concatenate([s.length for s in slices]),
                _valids([s.valid for s in slices], counts),
            ),
            first.is_text,
        )
    if isinstance(first, Record):
        fields = {name: concatenated([p.fields[name] for p in filled]) for name in first.fields}  # type: ignore[union-attr]
        return Record(fields, sum(counts), _valids([p.valid for p in filled], counts))  # type: ignore[union-attr]
    raise BadData("arrays of arrays in Avro cannot be read", hint="exclude the column")


def _count(found: Found) -> int:
    if isinstance(found, Numbers):
        return len(found.values)
    if isinstance(found, Texts):
        return len(found.slices)
    return len(found.lengths) if isinstance(found, Array) else found.count


def _like(found: Found, null: Null) -> Found:
    """So many nulls in the form of `found`."""
    count = null.count
    none = np.zeros(count, np.bool_)
    if isinstance(found, Numbers):
        return replace(found, values=np.zeros(count, found.values.dtype), valid=none)
    if isinstance(found, Texts):
        zeros = np.zeros(count, np.int64)
        return Texts(Slices(found.slices.buffer, zeros, zeros, none), found.is_text)
    if isinstance(found, Record):
        return Record({name: Null(count) for name in found.fields}, count, none)
    return null


def _valids(valids: list[Bools | None], counts: list[int]) -> Bools | None:
    if all(valid is None for valid in valids):
        return None
    return np.concatenate(
        [np.ones(n, np.bool_) if v is None else v for v, n in zip(valids, counts, strict=True)]
    )


def taken(found: Found, index: Int64s) -> Found:
    if isinstance(found, Null):
        return Null(len(index))
    if isinstance(found, Numbers):
        valid = None if found.valid is None else found.valid[index]
        return replace(found, values=found.values[index], valid=valid)
    if isinstance(found, Texts):
        return Texts(found.slices.take(index), found.is_text)
    if isinstance(found, Record):
        valid = None if found.valid is None else found.valid[index]
        return Record({n: taken(f, index) for n, f in found.fields.items()}, len(index), valid)
    raise BadData("arrays of arrays in Avro cannot be read", hint="exclude the column")


def finished(found: Found) -> Values:
    """As Arrow arrays."""
    if isinstance(found, Null):
        return Constant(None)
    if isinstance(found, Texts):
        slices = _in_order(found.slices)
        return ragged.text(slices) if found.is_text else ragged.binary(slices)
    if isinstance(found, Array):
        return Lists(finished(found.items), found.lengths, found.valid)
    if isinstance(found, Record):
        fields = {name: finished(inner) for name, inner in found.fields.items()}
        return Structs(fields, found.valid)
    if found.symbols:
        return _symbols(found)
    if found.kind == pa.bool_():
        return ragged.booleans(found.values.astype(np.bool_), found.valid)
    return ragged.fixed(found.kind, found.values, found.valid)


def _symbols(found: Numbers) -> pa.Array:
    mask = None if found.valid is None else ~found.valid
    try:
        return pa.array(found.symbols, pa.string()).take(pa.array(found.values, mask=mask))
    except IndexError as error:
        raise BadData("an Avro enum without this symbol", hint=WRONG_SCHEMA) from error


def _in_order(slices: Slices) -> Slices:
    """With the empty slices of null rows behind those before them, as Arrow's offsets need."""
    if slices.valid is None:
        return slices
    ends = np.maximum.accumulate(np.where(slices.valid, slices.start + slices.length, 0))
    start = np.where(slices.valid, slices.start, ends)
    return Slices(slices.buffer, start, slices.length, slices.valid)
