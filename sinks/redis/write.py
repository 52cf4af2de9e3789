"""From a cut's rows to commands.

1. A cut goes in blocks of at most BLOCK_ROWS rows and about BLOCK_BYTES: one block is one
   transaction, during which Redis answers nobody else.
2. Where rows move (Layout.moves), the old places are read first, and those that change are removed.
3. Rows whose value is NULL (string), or whose score is (sorted_set), have nothing at their place:
   the set `nulls` remembers the places, so that reading gives the rows back.
4. What Redis cannot take (a value above its limit, a score that is no double) is handed out as
   refused; its place is emptied, so that nobody reads what is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.json_rows import json_objects, plain_texts
from cdc.keys import encode_keys
from sinks.api import InputChanges
from sinks.redis.layout import Layout, Places
from sinks.redis.protocol import Commands

BLOCK_ROWS = 10_000
BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Area:
    """Where a sink's keys lie: people's names behind `prefix`, which is empty for the live ones,
    and the two keys of its own: row → place, and the places of NULLs."""

    prefix: str
    places: str
    nulls: str

    @classmethod
    def live(cls, sink: str) -> Area:
        return cls("", f"cdc:places:{sink}", f"cdc:nulls:{sink}")

    @classmethod
    def shadow(cls, kind: str, sink: str) -> Area:
        """Of a `rebuild` or a `reload`; nobody reads there."""
        prefix = f"cdc:{kind}:{sink}:"
        return cls(prefix, f"cdc:{kind}-places:{sink}", f"cdc:{kind}-nulls:{sink}")

    def keys(self, names: pa.StringArray) -> pa.StringArray:
        if not self.prefix:
            return names
        return pc.binary_join_element_wise(self.prefix, names, "")


@dataclass(frozen=True, eq=False)
class Block:
    """What one transaction changes: rows to have, keys to lose."""

    upserts: pa.RecordBatch
    deletes: pa.RecordBatch

    @property
    def num_rows(self) -> int:
        return self.upserts.num_rows + self.deletes.num_rows


@dataclass(frozen=True, eq=False)
class Refused:
    """One row that Redis does not take: its canonical key, what was to be written, and why."""

    key: bytes
    value: bytes
    error: str


def blocks_of(changes: InputChanges) -> list[Block]:
    """The changes in transactions; one where they are few."""
    upserts, deletes = changes.upserts, changes.deletes
    if upserts.num_rows + deletes.num_rows <= BLOCK_ROWS and upserts.nbytes <= BLOCK_BYTES:
        return [Block(upserts, deletes)]
    none, nothing = upserts.slice(0, 0), deletes.slice(0, 0)
    gone = [Block(none, part) for part in _parts(deletes)]
    return gone + [Block(part, nothing) for part in _parts(upserts)]


def _parts(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for first in range(0, rows.num_rows, BLOCK_ROWS):
        yield from _halved(rows.slice(first, BLOCK_ROWS))


def _halved(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if rows.nbytes <= BLOCK_BYTES or rows.num_rows <= 1:
        yield rows
        return
    half = rows.num_rows // 2
    yield from _halved(rows.slice(0, half))
    yield from _halved(rows.slice(half))


@dataclass(eq=False)
class Writer:
    """The commands for one block. `plain` means that nothing is at the rows' places yet."""

    layout: Layout
    area: Area
    block: Block
    plain: bool
    value_bytes_max: int
    refused: list[Refused] = field(default_factory=list)

    def reads(self) -> Commands:
        """What `commands` has to know: how many NULLs there are, the rows' present places."""
        reads = Commands()
        if self._has_nulls:
            reads.add("SCARD", self.area.nulls)
        if self._asks_places:
            for rows in (self.block.deletes, self.block.upserts):
                reads.rows(["HMGET", self.area.places], _view_keys(self.layout, rows))
        return reads

    def commands(self, found: Sequence[object]) -> Commands:
        """The changes, from the answers to `reads`."""
        self.refused.clear()
        commands = Commands()
        some_nulls = bool(found[0]) if self._has_nulls else False
        answers = found[1:] if self._has_nulls else found
        self._remove(commands, answers, some_nulls)
        self._write(commands, some_nulls)
        return commands

    @property
    def _has_nulls(self) -> bool:
        return self.layout.settings.value in {"string", "sorted_set"}

    @property
    def _asks_places(self) -> bool:
        return self.layout.moves and not self.plain

    def _remove(self, commands: Commands, answers: Sequence[object], some_nulls: bool) -> None:
        """Empty the places of deleted rows, and those that rows leave."""
        deletes, upserts = self.block.deletes, self.block.upserts
        if not self.layout.moves:
            if deletes.num_rows:
                self._clear(commands, self.layout.places(deletes), some_nulls)
            return
        if not self._asks_places:
            return
        before = pa.array([p for many in answers for p in many], pa.binary())  # type: ignore[attr-defined]
        before = before.view(pa.string())
        leaving = before.slice(0, deletes.num_rows)
        if upserts.num_rows:
            had, now = before.slice(deletes.num_rows), self.layout.places(upserts).texts
            moved = had.filter(pc.not_equal(had, now), null_selection_behavior="drop")
            leaving = pa.concat_arrays([leaving, moved])
        in_sets = self.layout.members is not None
        self._clear(commands, Places.from_texts(leaving.drop_null(), in_sets), some_nulls)
        commands.rows(["HDEL", self.area.places], _view_keys(self.layout, deletes))

    def _clear(self, commands: Commands, places: Places, some_nulls: bool) -> None:
        keys = self.area.keys(places.keys)
        if places.members is None:
            commands.rows(["UNLINK"], keys)
        else:
            commands.grouped("ZREM", keys, places.members)
        if some_nulls:
            commands.rows(["SREM", self.area.nulls], places.texts)

    def _write(self, commands: Commands, some_nulls: bool) -> None:
        rows = self.block.upserts
        if not rows.num_rows:
            return
        places = self.layout.places(rows)
        if self.layout.moves:
            view_keys = _view_keys(self.layout, rows)
            commands.rows(["HSET", self.area.places], view_keys, places.texts)
        match self.layout.settings.value:
            case "hash":
                self._hashes(commands, rows, places)
            case "json":
                texts = json_objects(rows, self.layout.schema).view(pa.string())
                self._texts(commands, rows, places, texts)
            case "string":
                name = self.layout.settings.column
                texts = plain_texts(rows.column(name), self.layout.schema.column(name))
                self._texts(commands, rows, places, texts)
            case _:
                self._scores(commands, rows, places)
        if self._has_nulls:
            of = rows.column(self.layout.settings.column or self.layout.settings.score)
            if some_nulls:
                commands.rows(["SREM", self.area.nulls], places.texts.filter(of.is_valid()))
            if of.null_count:
                commands.rows(["SADD", self.area.nulls], places.texts.filter(of.is_null()))

    def _texts(
        self, commands: Commands, rows: pa.RecordBatch, places: Places, texts: pa.StringArray
    ) -> None:
        keys = self.area.keys(places.keys)
        sizes = pc.fill_null(pc.binary_length(texts), -1)
        fits = pc.and_(pc.less_equal(sizes, self.value_bytes_max), texts.is_valid())
        if fits.true_count != len(texts):
            self._refuse(rows, texts, pc.greater(sizes, self.value_bytes_max))
            commands.rows(["UNLINK"], keys.filter(pc.invert(fits)))
            keys, texts = keys.filter(fits), texts.filter(fits)
        commands.rows(["MSET"], keys, texts)

    def _hashes(self, commands: Commands, rows: pa.RecordBatch, places: Places) -> None:
        keys = self.area.keys(places.keys)
        schema = self.layout.schema
        fields = [(c.name, plain_texts(rows.column(c.name), c)) for c in schema.columns]
        if not self.plain:
            commands.rows(["UNLINK"], keys)
        sizes = [pc.fill_null(pc.binary_length(texts), 0) for _, texts in fields]
        longest = np.max([np.asarray(size) for size in sizes], axis=0)
        large = pa.array(longest > self.value_bytes_max)
        if large.true_count:
            self._refuse(rows, json_objects(rows, schema).view(pa.string()), large)
            fits = pc.invert(large)
            keys, fields = keys.filter(fits), [(n, t.filter(fits)) for n, t in fields]
        commands.hashes(keys, fields)

    def _scores(self, commands: Commands, rows: pa.RecordBatch, places: Places) -> None:
        name = self.layout.settings.score
        scores = plain_texts(rows.column(name), self.layout.schema.column(name))
        wrong = pc.fill_null(_no_double(scores), False)
        if wrong.true_count:
            self._refuse(rows, json_objects(rows, self.layout.schema).view(pa.string()), wrong)
        there = pc.and_(scores.is_valid(), pc.invert(wrong))
        gone = places.filter(pc.invert(there))
        places, scores = places.filter(there), scores.filter(there)
        assert places.members is not None and gone.members is not None
        commands.grouped("ZREM", self.area.keys(gone.keys), gone.members)
        commands.grouped("ZADD", self.area.keys(places.keys), scores, places.members)

    def _refuse(self, rows: pa.RecordBatch, texts: pa.StringArray, mask: pa.BooleanArray) -> None:
        why = (
            "a sorted set's score is a double, and not NaN"
            if self.layout.members
            else f"Redis takes values of {self.value_bytes_max:,} bytes at most"
        )
        keys = _view_keys(self.layout, rows).filter(mask).to_pylist()
        for key, text in zip(keys, texts.filter(mask).to_pylist(), strict=True):
            self.refused.append(Refused(key.encode(), text.encode(), why))


def _no_double(texts: pa.StringArray) -> pa.BooleanArray:
    """Which numbers Redis refuses as scores: NaN, and what is too large or too small."""
    numbers = texts.cast(pa.float64())
    large = pc.and_not(pc.is_inf(numbers), pc.match_substring(texts, "Inf"))
    small = pc.and_(pc.equal(numbers, 0), pc.match_substring_regex(texts, "^[^eE]*[1-9]"))
    return pc.or_(pc.equal(texts, "NaN"), pc.or_(large, small))


def _view_keys(layout: Layout, rows: pa.RecordBatch) -> pa.StringArray:
    return encode_keys([rows.column(name) for name in layout.schema.key], rows.num_rows)
