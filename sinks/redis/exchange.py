"""A shadow's keys put in the live ones' places: the end of a rebuild, and of a reload.

The entry's field `exchange` says what is exchanged and which step is next. Each step can be begun
again, so whoever opens the sink after a crash completes it:

1. mark     keys that live and the shadow lacks are written to a set
2. rename   shadow keys take their live names, a block a transaction. A reader finds the old value
            of a key or the new one, never none and never half of it.
3. remove   the marked keys
4. finish   in one transaction: the sink's own keys are exchanged, the position becomes the
            shadow's, and the entry says what the keys were written with

Marking comes first because only then the shadow is whole; the keys go last, so that where a
template has changed readers find the new names before they lose the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc import faults
from cdc.schema import TableSchema
from sinks.redis.connection import Connection
from sinks.redis.entry import SINKS, Entry, Ownership, entry_key
from sinks.redis.layout import Layout, Settings, layout_of
from sinks.redis.protocol import ROWS, Commands, packed
from sinks.redis.read import all_names
from sinks.redis.write import Area

Transact = Callable[[Commands], None]


@dataclass(frozen=True)
class Exchange:
    """What is exchanged, as it stands in the entry."""

    prefix: str
    places: str
    nulls: str
    position: str
    settings: str
    schema: str
    rebuild: str = ""
    """The rebuild's sink name, whose entry goes away; empty for a reload."""
    step: str = "mark"

    @classmethod
    def of(cls, area: Area, layout: Layout, position: str, rebuild: str = "") -> Exchange:
        schema = json.dumps(layout.schema.to_json(), sort_keys=True)
        settings = layout.settings.to_json()
        return cls(area.prefix, area.places, area.nulls, position, settings, schema, rebuild)

    @classmethod
    def in_entry(cls, entry: Entry) -> Exchange | None:
        return cls(**entry.exchange) if entry.exchange else None

    @property
    def area(self) -> Area:
        return Area(self.prefix, self.places, self.nulls)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def layout(self, where: str) -> Layout:
        schema = TableSchema.from_json(json.loads(self.schema))
        return layout_of(Settings.from_json(self.settings), schema, where)


def complete(
    connection: Connection, owned: Ownership, before: Layout | None, exchange: Exchange
) -> None:
    """Do the steps that are left. `before`: what the live keys were written with; None: there are
    none. Raises Fenced, Swapped, StoreUnavailable, SinkError."""
    run = _Run(connection, owned, before, exchange)
    if run.exchange.step == "mark":
        run.mark()
    faults.point("redis.swap_marked")
    if run.exchange.step == "rename":
        run.rename()
    faults.point("redis.swap_renamed")
    if run.exchange.step == "remove":
        run.remove()
    faults.point("redis.swap_removed")
    run.finish()


class _Run:
    def __init__(
        self, connection: Connection, owned: Ownership, before: Layout | None, exchange: Exchange
    ) -> None:
        where = f"sink {owned.sink}"
        self._connection, self._owned, self._before = connection, owned, before
        self._after = exchange.layout(where)
        self._stale = f"cdc:stale:{owned.sink}"
        self._live = Area.live(owned.sink)
        self.exchange = exchange

    def mark(self) -> None:
        commands = Commands()
        commands.add("UNLINK", self._stale)
        self._transact(commands)
        if self._before is not None:
            live = all_names(self._connection, self._before, self._live)
            shadow = all_names(self._connection, self._after, self.exchange.area)
            stale = live.filter(pc.invert(pc.is_in(live, value_set=shadow)))
            for page in _pages(stale):
                commands = Commands()
                commands.rows(["SADD", self._stale], page)
                self._transact(commands)
        self._next("rename")

    def rename(self) -> None:
        area = self.exchange.area
        for page in _pages(all_names(self._connection, self._after, area)):
            commands = Commands()
            # UNLINK frees a large set in the background; RENAME over it would free it at once.
            commands.rows(["UNLINK"], page)
            shadow = area.keys(page)
            pairs = zip(shadow.to_pylist(), page.to_pylist(), strict=True)
            commands.buffers.append(b"".join(packed("RENAME", a, b) for a, b in pairs))
            commands.count += len(page)
            self._transact(commands)
            faults.point("redis.swap_renaming")
        self._next("remove")

    def remove(self) -> None:
        for page in _pages(_members(self._connection, self._stale)):
            commands = Commands()
            commands.rows(["UNLINK"], page)
            commands.rows(["SREM", self._stale], page)
            self._transact(commands)
        self._next("finish")

    def finish(self) -> None:
        pairs = [(self.exchange.places, self._live.places), (self.exchange.nulls, self._live.nulls)]
        reads = Commands()
        for shadow, _ in pairs:
            reads.add("EXISTS", shadow)

        def plan(found: list[Any]) -> Commands:
            commands = Commands()
            for (shadow, live), there in zip(pairs, found, strict=True):
                commands.add(*(("RENAME", shadow, live) if there else ("UNLINK", live)))
            key, made = entry_key(self._owned.sink), self.exchange
            fields = ("position", made.position, "settings", made.settings, "schema", made.schema)
            commands.add("HSET", key, *fields)
            commands.add("HDEL", key, "exchange", "reloading", "loading", "applying")
            if made.rebuild:
                commands.add("UNLINK", entry_key(made.rebuild))
                commands.add("SREM", SINKS, made.rebuild)
            return commands

        self._owned.transact(self._connection, plan, reads)
        self._owned.position = self.exchange.position

    def _next(self, step: str) -> None:
        self.exchange = replace(self.exchange, step=step)
        commands = Commands()
        key = entry_key(self._owned.sink)
        commands.add("HSET", key, "exchange", self.exchange.to_json())
        self._transact(commands)

    def _transact(self, commands: Commands) -> None:
        self._owned.transact(self._connection, lambda _: commands)


def _members(connection: Connection, key: str) -> pa.StringArray:
    found: set[bytes] = set()
    cursor: bytes | int = 0
    while True:
        cursor, page = connection.call("SSCAN", key, cursor, "COUNT", ROWS)
        found.update(page)
        if int(cursor) == 0:
            return pa.array(list(found), pa.binary()).view(pa.string())


def _pages(names: pa.StringArray) -> Iterator[pa.StringArray]:
    for first in range(0, len(names), ROWS):
        yield names.slice(first, ROWS)
