"""What `open` decides: whose keys are there, whether settings still fit, what has to be filled.

no entry, no key that the template makes   the first load
no entry, but such keys                    refused: they are somebody else's
an entry without position, `loading`       a first load was interrupted: its keys are removed
an entry without position or owner         `cdc remove` was here: the keys are the sink's own
settings or schema do not fit any more     refused, `cdc rebuild` is the remedy; a rebuild
                                           itself begins anew
columns that are new                       their default is written to the rows that lack them
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, R
from cdc.errors import SinkError
from cdc.json_rows import json_objects, plain_texts, rows_from_json
from cdc.schema import Column, TableSchema
from sinks.redis.connection import Connection
from sinks.redis.entry import Entry, Ownership, entry_key, written
from sinks.redis.layout import Layout
from sinks.redis.patterns import glob_escaped
from sinks.redis.protocol import ROWS, Argument, Commands
from sinks.redis.read import all_names, names_in, scan
from sinks.redis.write import Area


class Opening:
    """One `open` of a sink, whose keys are to have `layout`."""

    def __init__(
        self, connection: Connection, sink: str, area: Area, layout: Layout, beside: bool
    ) -> None:
        self._connection, self._sink, self._area = connection, sink, area
        self._layout, self._beside = layout, beside
        self._where = f"sink {sink.partition('/')[0]}"

    def fields(self, entry: Entry) -> list[Argument]:
        """What taking over sets in the entry. Raises SinkError where the sink must not write."""
        if self._beside:
            return []
        before = entry.layout(self._where)
        if before is None:
            self.require_nobody()
        elif entry.owner or before.same_places(self._layout):
            if "loading" not in entry.fields:
                require_fitting(before, self._layout, self._where)
        else:
            self.require_nobody()
        return []

    def prepare(self, entry: Entry, owned: Ownership) -> bool:
        """Bring the place into the state that `apply` expects; whether it is empty."""
        before = entry.layout(self._where)
        if "reloading" in entry.fields:
            clear(self._connection, Area.shadow("reload", self._sink), owned)
        usable = before is not None and not (self._beside and misfits(before, self._layout))
        if before is not None and usable and entry.position is not None:
            self._widen(before, owned)
            self._say(owned, loading=False)
            return False
        if self._beside:
            clear(self._connection, self._area, owned)
        elif before is not None and "loading" in entry.fields:
            names = all_names(self._connection, before, self._area)
            _unlink(self._connection, names, owned)
            own = pa.array([self._area.places, self._area.nulls])
            _unlink(self._connection, own, owned)
        elif before is not None and self._has_keys(before):
            self._say(owned, loading=False, keep=True)
            return False
        self._say(owned, loading=True)
        return True

    def _has_keys(self, before: Layout) -> bool:
        found = names_in(self._connection, before, self._area)
        return before.same_places(self._layout) and next(found, None) is not None

    def require_nobody(self) -> None:
        """Raise SinkError where keys of these names are there already."""
        found = next(names_in(self._connection, self._layout, self._area, any_type=True), None)
        if found is not None:
            raise SinkError(
                f"key '{found[0]}' is there already, and this sink has not written it",
                where=self._where,
                hint="remove such keys, or choose names that nobody uses",
            )

    def _say(self, owned: Ownership, *, loading: bool, keep: bool = False) -> None:
        """Write down what keys are written with from now on. `keep`: the old ones are exchanged
        later, and the entry says how they were written until then."""
        commands, key = Commands(), entry_key(self._sink)
        if not keep:
            commands.add("HSET", key, *written(self._layout))
        if loading:
            commands.add("HSET", key, "loading", 1)
            commands.add("HDEL", key, "position")
        commands.add("HDEL", key, "reloading", *(() if loading else ("loading",)))
        owned.transact(self._connection, lambda _: commands)
        if loading:
            owned.position = ""

    def _widen(self, before: Layout, owned: Ownership) -> None:
        """Write the defaults of columns that are new to the rows that are there."""
        known = {column.name for column in before.schema.columns}
        new = [c for c in self._layout.schema.columns if c.name not in known]
        filled = [column for column in new if column.missing is not None]
        if not filled or self._layout.settings.value not in {"json", "hash"}:
            return
        names = all_names(self._connection, before, self._area)
        for first in range(0, len(names), ROWS):
            keys = self._area.keys(names.slice(first, ROWS))
            if self._layout.settings.value == "json":
                self._fill_json(before.schema, keys, owned)
            else:
                self._fill_hashes(before.schema, filled, keys, owned)

    def _fill_json(self, before: TableSchema, keys: pa.StringArray, owned: Ownership) -> None:
        reads = Commands()
        reads.rows(["MGET"], keys)

        def plan(found: list[Any]) -> Commands:
            texts = pa.array([one for many in found for one in many], pa.binary())
            rows = rows_from_json(texts.drop_null(), before)
            wider = _conformed(rows, before, self._layout.schema)
            commands = Commands()
            commands.rows(
                ["MSET"], keys.filter(texts.is_valid()), json_objects(wider, self._layout.schema)
            )
            return commands

        owned.transact(self._connection, plan, reads)

    def _fill_hashes(
        self, before: TableSchema, new: list[Column], keys: pa.StringArray, owned: Ownership
    ) -> None:
        none = pa.RecordBatch.from_pylist([{}], schema=before.arrow)
        default = _conformed(none, before, self._layout.schema)
        values = [(c.name, plain_texts(default.column(c.name), c)) for c in new]
        fields = [(name, text.take(pa.array([0] * len(keys)))) for name, text in values]
        commands = Commands()
        commands.hashes(keys, fields)
        owned.transact(self._connection, lambda _: commands)


def misfits(before: Layout, now: Layout) -> list[str]:
    """What changed so that keys written before do not fit: settings, the key, columns' types."""
    found = now.settings.changed_from(before.settings)
    if before.schema.key != now.schema.key:
        found.append(f"key columns: {', '.join(before.schema.key)} → {', '.join(now.schema.key)}")
    for name in before.readable:
        found += _column_changes(before.schema.column(name), now.schema)
    return found


def require_fitting(before: Layout, now: Layout, where: str) -> None:
    """Raises SinkError with the remedy."""
    changed = misfits(before, now)
    if changed:
        raise SinkError(
            f"its keys were written with other settings ({'; '.join(changed)})",
            where=where,
            hint=f"cdc rebuild {where.removeprefix('sink ')}",
        )


def clear(connection: Connection, area: Area, owned: Ownership | None = None) -> int:
    """Remove everything under the area's prefix; how many keys. With `owned` nothing is removed
    that a newer owner may have written: raises Fenced."""
    assert area.prefix
    count = 0
    for keys in scan(connection, glob_escaped(area.prefix) + "*"):
        count += _unlink(connection, pa.array(keys, pa.binary()), owned)
    return count + _unlink(connection, pa.array([area.places, area.nulls]), owned)


def _unlink(connection: Connection, keys: pa.Array, owned: Ownership | None) -> int:
    """How many of the keys there may have been (without `owned`: how many there were)."""
    commands = Commands()
    commands.rows(["UNLINK"], keys)
    if not commands.count:
        return 0
    if owned is None:
        return sum(connection.pipeline(commands))
    owned.transact(connection, lambda _: commands)
    return len(keys)


def _column_changes(old: Column, schema: TableSchema) -> list[str]:
    for column in schema.columns:
        if column.name == old.name and column.type != old.type:
            return [f"{old.name}: {old.sql_type} → {column.sql_type}"]
        if old.attnum and column.attnum == old.attnum and column.name != old.name:
            return [f"column {old.name} is called {column.name}"]
    return []


def _conformed(rows: pa.RecordBatch, before: TableSchema, now: TableSchema) -> pa.RecordBatch:
    count = rows.num_rows
    zeros = np.zeros(count, np.int64)
    ops = np.full(count, R, np.uint8)
    return ChangeBatch(before, ops, zeros, zeros, zeros, rows).conformed(now).rows
