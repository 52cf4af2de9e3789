"""What a sink keeps about itself in Redis, and how it proves that it still owns it.

`cdc:sink:<name>` is a hash; the set `cdc:sinks` lists the names.

    epoch, owner   raised and set by every `open`; whoever has other ones is fenced
    position       SinkPosition as JSON: what the keys reflect
    settings       Settings as JSON, and
    schema         the input's TableSchema: what the keys were written with
    loading        set from the first `open` until there is a position: keys of a load in progress
    reloading      a reload's keys may lie under the prefix of `Area.reload`
    applying       a cut too large for one transaction is half in: "<position> block n"
    exchange       an exchange of all keys is in progress (sinks/redis/exchange.py)

A transaction WATCHes the entry, reads epoch, owner and position, and sends MULTI … EXEC: if
anybody changed the entry in between, EXEC does nothing. Transactions work on every Redis, Valkey
and managed service, without scripts. The position is compared too: a server that lost its last
writes in a failover, or was restored, has another one, and the sink has to open again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cdc.errors import CdcError, StoreUnavailable
from cdc.schema import TableSchema
from sinks.api import SinkPosition
from sinks.owners import is_rebuild, replaced
from sinks.redis.connection import Connection
from sinks.redis.layout import Layout, Settings, layout_of
from sinks.redis.protocol import Argument, Commands

SINKS = "cdc:sinks"
_PREFIX = "cdc:sink:"


@dataclass(frozen=True)
class Entry:
    """A sink's hash as it was read. `epoch` 0: there is none."""

    fields: dict[str, str]

    @property
    def epoch(self) -> int:
        return int(self.fields.get("epoch") or 0)

    @property
    def owner(self) -> str:
        return self.fields.get("owner", "")

    @property
    def position(self) -> SinkPosition | None:
        text = self.fields.get("position")
        return SinkPosition.from_json(text) if text else None

    @property
    def exchange(self) -> dict[str, Any] | None:
        text = self.fields.get("exchange")
        return json.loads(text) if text else None

    def layout(self, where: str) -> Layout | None:
        """What the keys were written with."""
        if "settings" not in self.fields:
            return None
        schema = TableSchema.from_json(json.loads(self.fields["schema"]))
        return layout_of(Settings.from_json(self.fields["settings"]), schema, where)


def entry_key(sink: str) -> str:
    return _PREFIX + sink


def read_entry(connection: Connection, sink: str) -> Entry:
    return parsed(connection.call("HGETALL", entry_key(sink)))


def parsed(flat: list[bytes]) -> Entry:
    """HGETALL's answer."""
    texts = [word.decode() for word in flat]
    return Entry(dict(zip(texts[::2], texts[1::2], strict=True)))


def written(layout: Layout) -> list[str]:
    """The fields that say what keys are written with."""
    schema = json.dumps(layout.schema.to_json(), sort_keys=True)
    return ["settings", layout.settings.to_json(), "schema", schema]


Plan = Callable[[list[Any]], Commands]
"""From the answers of what was read to the changes."""


@dataclass
class Ownership:
    """What `open` gained: the right to write, as long as epoch and owner stand in the entry.

    `position` is the text that stands there, as far as this process knows.
    """

    sink: str
    epoch: int
    owner: str
    position: str

    def transact(
        self,
        connection: Connection,
        plan: Plan,
        reads: Commands | None = None,
        before_exec: Callable[[], None] = lambda: None,
    ) -> None:
        """Read, plan and change in one transaction. Raises Fenced, Swapped, StoreUnavailable."""
        while True:
            first = Commands()
            key = entry_key(self.sink)
            first.add("WATCH", key)
            first.add("HMGET", key, "epoch", "owner", "position")
            if reads is not None:
                first.buffers += reads.buffers
                first.count += reads.count
            _, held, *found = connection.pipeline(first)
            if held[0] is None:
                raise self._lost(connection)
            self._require(*((word or b"").decode() for word in held))
            if connection.transaction(plan(found), before_exec) is not None:
                return

    def _lost(self, connection: Connection) -> CdcError:
        """What it means that there is no entry: the place beside a live sink's was exchanged or
        discarded by a newer rebuild; else the server has lost everything."""
        base, _, beside = self.sink.partition("/")
        if beside and connection.call("EXISTS", entry_key(base)):
            return replaced(self.sink, "another rebuild")
        return StoreUnavailable(
            "Redis has lost its data: beginning again",
            where=f"sink {self.sink}",
            hint="keep them over restarts with `appendonly yes`",
        )

    def _require(self, epoch: str, owner: str, position: str) -> None:
        where = f"sink {self.sink}"
        if (int(epoch), owner) == (self.epoch, self.owner):
            if position != self.position:
                raise StoreUnavailable("Redis has gone back in time: opening again", where=where)
            return
        raise replaced(self.sink, owner)


def take_over(
    connection: Connection,
    sink: str,
    owner: str,
    known_epoch: int,
    plan: Callable[[Entry], list[Argument]],
    drop: tuple[str, ...] = (),
) -> tuple[Entry, Ownership]:
    """Raise the epoch and set the owner; `plan` gives further fields to set, or raises. The entry
    as it was, and the right to write. `known_epoch` > 0: this process had the sink before."""
    key = entry_key(sink)
    while True:
        first = Commands()
        first.add("WATCH", key)
        first.add("HGETALL", key)
        entry = parsed(connection.pipeline(first)[1])
        ours = entry.owner == owner or is_rebuild(entry.owner) or not entry.fields
        if known_epoch and not ours:
            raise replaced(sink, entry.owner)
        fields = plan(entry)
        epoch = max(entry.epoch, known_epoch) + 1
        commands = Commands()
        commands.add("HSET", key, "epoch", epoch, "owner", owner, *fields)
        commands.add("SADD", SINKS, sink)
        if drop:
            commands.add("HDEL", key, *drop)
        if connection.transaction(commands) is not None:
            return entry, Ownership(sink, epoch, owner, entry.fields.get("position", ""))
