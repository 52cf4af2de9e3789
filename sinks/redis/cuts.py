"""A cut's transactions: its blocks one after the other, the position in the last.

Dead letters are handed out when everything is queued and nothing executed, so that they are durable
before the position is. In between, the entry's field `applying` says how far a large cut has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdc import faults
from cdc.log.api import DeadLetter
from sinks.api import InputChanges, Reject
from sinks.redis.connection import Connection
from sinks.redis.entry import Ownership, entry_key
from sinks.redis.layout import Layout
from sinks.redis.protocol import Commands
from sinks.redis.write import Area, Block, Refused, Writer, blocks_of


@dataclass(frozen=True, eq=False)
class CutWriter:
    """Writes one cut into an area. `plain`: nothing is at the rows' places yet."""

    connection: Connection
    owned: Ownership
    layout: Layout
    area: Area
    plain: bool
    value_bytes_max: int
    reject: Reject

    def write(self, changes: Sequence[InputChanges], position: str | None) -> None:
        """Write a cut's blocks; the last one sets the position (None: leaves it)."""
        parts = [(of, block) for of in changes for block in blocks_of(of)]
        if not parts and position is not None:
            self._commit(position)
        for number, (of, block) in enumerate(parts, 1):
            state = self._state(position, number, len(parts))
            self._write_block(of, block, state, number == len(parts))
        if position is not None:
            self.owned.position = position

    def _state(self, position: str | None, number: int, count: int) -> Commands:
        """What the entry says after block `number`."""
        commands, key = Commands(), entry_key(self.owned.sink)
        if position is None:
            return commands
        if number == count:
            commands.add("HSET", key, "position", position)
            commands.add("HDEL", key, "loading", "applying")
        else:
            commands.add("HSET", key, "applying", f"{position} block {number} of {count}")
        return commands

    def _write_block(
        self,
        changes: InputChanges,
        block: Block,
        state: Commands,
        last: bool,
    ) -> None:
        writer = Writer(self.layout, self.area, block, self.plain, self.value_bytes_max)
        told = False

        def plan(found: list[Any]) -> Commands:
            commands = writer.commands(found)
            commands.buffers += state.buffers
            commands.count += state.count
            return commands

        def before_exec() -> None:
            nonlocal told
            if writer.refused and not told:
                self.reject([self._letter(changes, one) for one in writer.refused])
                told = True
            if last:
                faults.point("sink.after_write")

        self.owned.transact(self.connection, plan, writer.reads(), before_exec)
        if not last:
            faults.point("redis.after_block")

    def _letter(self, changes: InputChanges, one: Refused) -> DeadLetter:
        where = f"{changes.input.topic} {one.key.decode()}"
        return DeadLetter(self.owned.sink, where, one.error, one.key, one.value)

    def _commit(self, position: str) -> None:
        """A transaction that only moves the position."""
        state = self._state(position, 1, 1)

        def before_exec() -> None:
            faults.point("sink.after_write")

        self.owned.transact(self.connection, lambda _: state, None, before_exec)
