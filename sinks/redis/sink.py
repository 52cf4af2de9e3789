"""The Redis sink: keys and position in one transaction, for cuts of a reasonable size.

`apply` writes a cut in blocks (sinks/redis/write.py); each is a MULTI … EXEC that does nothing
where the sink's entry changed since it was read (sinks/redis/entry.py). A cut of one block is
atomic, its position with it. A larger one shows block by block, each key whole at any time; the
last block has the position, so that a cut which was interrupted is written again.

A reload (SinkCut.replace) gathers its keys under a prefix of its own, and exchanges them at its end
as a rebuild does (sinks/redis/exchange.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from cdc import faults
from cdc.errors import CdcError, Fenced, SinkError, StoreUnavailable
from cdc.source import Finding
from sinks.api import (
    QueryResult,
    Reject,
    Sink,
    SinkCut,
    SinkInput,
    SinkPosition,
)
from sinks.owners import new_owner, rebuilding
from sinks.redis.checks import findings
from sinks.redis.connection import Connection, Halfway
from sinks.redis.cuts import CutWriter
from sinks.redis.entry import SINKS, Ownership, entry_key, read_entry, take_over
from sinks.redis.exchange import Exchange, complete
from sinks.redis.layout import Layout, Settings, layout_of
from sinks.redis.opening import Opening, clear
from sinks.redis.protocol import Commands
from sinks.redis.query import answer
from sinks.redis.read import rows_in
from sinks.redis.write import Area

BULK_BYTES = 512 * 2**20
"""Redis's own limit for one value, where CONFIG GET proto-max-bulk-len is not allowed."""

EXCHANGE_S_MAX = 60.0


class RedisSink:
    """See sinks.api.Sink. `kind` is "" for the live sink, "rebuild" for one beside it."""

    rest_ratio = 0.0

    def __init__(self, name: str, url: str, settings: Settings, kind: str = "") -> None:
        self._base, self._url, self._settings, self._kind = name, url, settings, kind
        self._name = f"{name}/{kind}" if kind else name
        self._where = f"sink {name}"
        self._connection = Connection(url, self._where)
        self._area = Area.shadow(kind, name) if kind else Area.live(name)
        self._owner = new_owner()
        self._owned = Ownership(self._name, 0, self._owner, "")
        self._layout: Layout | None = None
        self._reloading = False
        self._value_bytes_max = BULK_BYTES
        self.empty = False

    def check(self, inputs: Sequence[SinkInput]) -> list[Finding]:
        try:
            layout = self._layout_of(inputs)
            return findings(self._connection, self._name, layout, inputs[0].name, self._where)
        except CdcError as error:
            return [Finding("error", self._where, error.what, error.hint)]

    def open(self, inputs: Sequence[SinkInput]) -> SinkPosition | None:
        layout = self._layout_of(inputs)
        self._finish_exchange(self._owner, self._owned.epoch)
        opening = Opening(self._connection, self._name, self._area, layout, bool(self._kind))
        entry, self._owned = take_over(
            self._connection, self._name, self._owner, self._owned.epoch, opening.fields
        )
        self.empty = opening.prepare(entry, self._owned)
        self._value_bytes_max = self._limit()
        self._layout, self._reloading = layout, False
        text = self._owned.position
        return SinkPosition.from_json(text) if text else None

    def apply(self, cut: SinkCut, reject: Reject) -> None:
        faults.point("sink.before_write")
        try:
            if cut.replace:
                self._reload(cut, reject)
            else:
                writer = self._writer(self._area, cut.first_load, reject)
                writer.write(cut.changes, cut.position.to_json())
        except Halfway as error:
            self._forget_position()
            raise SinkError(
                error.what,
                where=self._where,
                hint="a key of another type stands where the sink writes; started again, it "
                "loads everything anew and replaces that key",
            ) from error
        faults.point("sink.after_commit")
        self._reloading = cut.replace and cut.position.chunk != 0

    def position(self) -> SinkPosition | None:
        return read_entry(self._connection, self._name).position

    def prepare_reading(self, inputs: Sequence[SinkInput]) -> None:
        self._layout = self._layout_of(inputs)

    def readable_columns(self, name: str) -> tuple[str, ...]:
        return self._opened.readable

    def rows(self, name: str) -> Iterator[pa.RecordBatch]:
        yield from rows_in(self._connection, self._opened, self._area)

    def query(self, text: str) -> QueryResult:
        return answer(self._connection, text, self._where)

    def beside(self) -> Sink:
        return RedisSink(self._base, self._url, self._settings, "rebuild")

    def swap(self, rebuilt: Sink, inputs: Sequence[SinkInput]) -> bool:
        """See sinks.api.Sink. Per key; what was there is not kept, as it would take as much
        memory again."""
        assert isinstance(rebuilt, RedisSink)
        owner = rebuilding(self._owner)
        self._finish_exchange(owner, 0)
        layout, text = rebuilt._opened, rebuilt._owned.position
        if not text:
            return False
        position = SinkPosition.from_json(text)
        opening = Opening(self._connection, self._name, self._area, layout, False)
        exchange = Exchange.of(rebuilt._area, layout, text, rebuilt._name)
        entry = read_entry(self._connection, self._name)
        if entry.exchange or not position.covers(entry.position):
            return False

        def fields(now: Any) -> list[Any]:
            if now.exchange or not position.covers(now.position):
                raise _CameFurther
            if not now.fields:
                opening.require_nobody()
            return ["exchange", exchange.to_json()]

        try:
            entry, owned = take_over(self._connection, self._name, owner, 0, fields)
        except _CameFurther:
            return False
        faults.point("redis.swap_begun")
        try:
            complete(self._connection, owned, entry.layout(self._where), exchange)
        except Fenced:  # whoever opened the sink meanwhile completes it
            self._await_exchange()
        return True

    def discard(self) -> list[str]:
        return self._clear_away(self._name, self._area)

    def remove(self) -> list[str]:
        entry = read_entry(self._connection, self._name)
        gone = [*self.beside().discard(), *self._clear_away_reload()]
        if entry.owner:
            commands = Commands()
            key = entry_key(self._name)
            commands.add("HINCRBY", key, "epoch", 1)
            commands.add("HDEL", key, "owner", "position", "loading", "applying", "exchange")
            commands.add("UNLINK", self._area.places, self._area.nulls, f"cdc:stale:{self._name}")
            self._connection.transaction(commands)
            gone.append(f"position of sink {self._name} in {key}")
        return gone

    def close(self) -> None:
        self._connection.drop()

    @property
    def _opened(self) -> Layout:
        assert self._layout is not None, "open or prepare_reading comes first"
        return self._layout

    @property
    def _reload_area(self) -> Area:
        return Area.shadow("reload", self._name)

    def _layout_of(self, inputs: Sequence[SinkInput]) -> Layout:
        return layout_of(self._settings, inputs[0].schema, self._where)

    def _limit(self) -> int:
        try:
            found = self._connection.call("CONFIG", "GET", "proto-max-bulk-len")
        except StoreUnavailable:
            raise
        except SinkError:  # managed services forbid CONFIG
            return BULK_BYTES
        return int(found[1]) if found else BULK_BYTES

    def _finish_exchange(self, owner: str, known_epoch: int) -> None:
        """Complete what another process could not."""
        entry = read_entry(self._connection, self._name)
        if entry.exchange is None:
            return
        entry, owned = take_over(self._connection, self._name, owner, known_epoch, lambda _: [])
        exchange = Exchange.in_entry(entry)
        if exchange is not None:
            complete(self._connection, owned, entry.layout(self._where), exchange)

    def _await_exchange(self) -> None:
        """Wait until another process has completed what began here; if it cannot, the next one
        that opens the sink will."""
        deadline_s = time.monotonic() + EXCHANGE_S_MAX
        while read_entry(self._connection, self._name).exchange and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def _writer(self, area: Area, plain: bool, reject: Reject) -> CutWriter:
        limit = self._value_bytes_max
        return CutWriter(self._connection, self._owned, self._opened, area, plain, limit, reject)

    def _reload(self, cut: SinkCut, reject: Reject) -> None:
        area, first = self._reload_area, not self._reloading
        if first:
            commands = Commands()
            commands.add("HSET", entry_key(self._name), "reloading", 1)
            self._owned.transact(self._connection, lambda _: commands)
            clear(self._connection, area, self._owned)
        self._writer(area, first, reject).write(cut.changes, None)
        if cut.position.chunk == 0:
            text = cut.position.to_json()
            exchange = Exchange.of(area, self._opened, text)
            commands = Commands()
            commands.add("HSET", entry_key(self._name), "exchange", exchange.to_json())
            self._owned.transact(self._connection, lambda _: commands)
            faults.point("redis.swap_begun")
            before = read_entry(self._connection, self._name).layout(self._where)
            complete(self._connection, self._owned, before, exchange)

    def _forget_position(self) -> None:
        """After a transaction that was executed in part: only a reload puts that right."""
        commands = Commands()
        commands.add("HDEL", entry_key(self._name), "position")
        try:
            self._owned.transact(self._connection, lambda _: commands)
        except SinkError:
            held = read_entry(self._connection, self._name)
            self._owned.position = held.fields.get("position", "")
            self._owned.transact(self._connection, lambda _: commands)
        self._owned.position = ""

    def _clear_away_reload(self) -> list[str]:
        return self._clear_away("", self._reload_area)

    def _clear_away(self, sink: str, area: Area) -> list[str]:
        """Remove an area, and the entry of the sink that it belongs to."""
        count = clear(self._connection, area)
        if sink:
            count += int(self._connection.call("DEL", entry_key(sink)))
            self._connection.call("SREM", SINKS, sink)
        return [f"{count:,} keys of {area.prefix}*"] if count else []


class _CameFurther(Exception):
    """The live sink has passed the rebuilt one."""
