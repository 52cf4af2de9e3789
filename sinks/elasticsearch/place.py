"""Which index a sink writes to: found, made, repaired and widened when the sink is opened.

1. `require_usable` sees that the alias and the entry are this sink's, and that the settings are
   those with which the documents were written; only then is the entry taken.
2. `settle` finds the entry's index, or makes the next one. The entry names an index before it is
   made, so none is ever forgotten; `_meta` in its mapping tells it from one that another process
   made under that name at the same moment.
3. `clean` removes what an interrupted reload or load has left, `widen` adds new fields.

A rebuild has an entry of its own and goes on with its index if settings and columns are the same;
else it drops it and begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cdc.errors import SinkError
from cdc.schema import Column
from sinks.api import SinkInput
from sinks.elasticsearch.entry import Entry, require_same_sink
from sinks.elasticsearch.indexes import Indexes
from sinks.elasticsearch.mapping import changes_of, live_settings
from sinks.elasticsearch.tenure import Tenure


class Place:
    """The indexes of one sink behind `alias`. `live`: the tenure that a rebuild is to replace;
    `settings` are flat. Raises SinkError, StoreUnavailable, Fenced."""

    def __init__(
        self,
        name: str,
        alias: str,
        indexes: Indexes,
        tenure: Tenure,
        settings: Mapping[str, Any],
        live: Tenure | None,
    ) -> None:
        self._name, self._alias, self._where = name, alias, f"sink {name}"
        self._indexes, self._tenure, self._live = indexes, tenure, live
        self._settings = live_settings(settings)

    def require_ours(self, entry: Entry) -> None:
        """Raise SinkError where the alias names what somebody else has made."""
        require_same_sink(entry, self._name, self._alias)
        behind = self._indexes.behind_alias()
        keys = {self._alias, f"{self._alias}/rebuild"}
        foreign = [name for name in sorted(behind) if self._indexes.owner(name) not in keys]
        if foreign:
            raise SinkError(
                f"the alias '{self._alias}' names an index that this sink has not made: "
                f"{', '.join(foreign)}",
                where=self._where,
                hint="give the sink another `index:`, or remove that alias",
            )

    def require_usable(self, entry: Entry, shape: Mapping[str, Any]) -> None:
        """Raise SinkError where only a rebuild helps, or the alias is somebody else's."""
        if self._live is None:
            self.require_ours(entry)
            require_fit(entry, shape, self._where, self._name)

    def settle(self, item: SinkInput, shape: dict[str, Any]) -> bool:
        """See that there is an index to write to; whether it had to be made."""
        if self._live is None:
            self._adopt_lost()
        else:
            self._drop_unfit(item, shape)
        entry, key = self._tenure.entry, self._tenure.key
        owner = self._indexes.owner(entry.index) if entry.index else None
        if owner == key and not self._is_outdated(entry, shape):
            return False
        if owner is not None and entry.position is not None:
            self._indexes.adopt(entry.index, key)  # a swap was interrupted
            return False
        self._tenure.update(
            index=self._indexes.next_name(),
            generation=entry.generation + 1,
            position=None,
            shape=shape,
            schema=item.schema.fingerprint(),
            loading=None,
        )
        index = self._tenure.entry.index
        return self._indexes.create(index, key, shape, self._settings)

    def _is_outdated(self, entry: Entry, shape: Mapping[str, Any]) -> bool:
        """Whether the index has been made with other settings, and nothing was written to it."""
        return (
            entry.position is None
            and entry.shape != shape
            and entry.generation > 0
            and self._indexes.is_empty(entry.index)
            and self._indexes.delete(entry.index)
        )

    def _adopt_lost(self) -> None:
        """Where the entry was lost, take the index that the alias names: it is loaded anew."""
        if not self._tenure.entry.index:
            behind = self._indexes.behind_alias()
            if behind:
                self._indexes.adopt(min(behind), self._tenure.key)
                self._tenure.update(index=min(behind))

    def _drop_unfit(self, item: SinkInput, shape: Mapping[str, Any]) -> None:
        """Drop what an interrupted rebuild has left, if it cannot go on; and before a new one
        begins, the index that the last one has replaced."""
        assert self._live is not None
        entry, stored = self._tenure.entry, self._live.read()
        live = stored.entry if stored else Entry(self._name)
        mine = entry.index and entry.index not in {live.index, live.previous}
        if mine and entry.shape == shape and entry.schema == item.schema.fingerprint():
            return
        if mine:
            self._indexes.delete(entry.index)
        if live.previous:
            self._indexes.delete(live.previous)
        generation = max(entry.generation, live.generation)
        self._tenure.update(index="", generation=generation, position=None, loading=None)

    def clean(self) -> None:
        """Undo what an interrupted reload or load has left."""
        entry = self._tenure.entry
        if entry.reload is not None:
            self._indexes.delete(entry.reload)
            self._tenure.update(reload=None)
        if entry.loading is not None:
            self._indexes.end_load(entry.index, entry.loading)
            self._tenure.update(loading=None)

    def widen(
        self,
        item: SinkInput,
        shape: dict[str, Any],
        fill_missing: Callable[[Entry, Sequence[Column]], None],
    ) -> None:
        """Add new fields to an index that was there, and their defaults to its documents."""
        entry = self._tenure.entry
        if self._settings:
            self._indexes.set(entry.index, self._settings)
        if entry.position is None:
            return
        had = entry.shape["mappings"]["properties"]
        new = {n: f for n, f in shape["mappings"]["properties"].items() if n not in had}
        if not new:
            return
        self._indexes.add_fields(entry.index, new)
        columns = [c for c in item.schema.columns if c.name in new and c.missing is not None]
        if columns:
            fill_missing(entry, columns)
        mappings = {**shape["mappings"], "properties": {**had, **new}}
        self._tenure.update(shape={**shape, "mappings": mappings}, schema=item.schema.fingerprint())

    def drop(self, entry: Entry) -> list[str]:
        """Delete the indexes of a rebuild, unless they are the live sink's by now."""
        assert self._live is not None
        live = self._live.read()
        lives = {live.entry.index, live.entry.previous} if live else set()
        names = [name for name in (entry.index, entry.reload) if name and name not in lives]
        return [f"index {name}" for name in names if self._indexes.delete(name)]


def require_fit(entry: Entry, shape: Mapping[str, Any], where: str, name: str) -> None:
    """Raise SinkError where documents were written with settings that have changed since."""
    if entry.position is None:
        return
    changed = changes_of(entry.shape, shape)
    if changed:
        raise SinkError(
            f"the index was made with other settings: {', '.join(changed)}",
            where=where,
            hint=f"cdc rebuild {name}",
        )
