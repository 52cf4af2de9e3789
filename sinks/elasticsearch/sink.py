"""The Elasticsearch sink: one document per key, in a numbered index behind an alias.

A cut is applied in this order, each step repeatable:
1. every change as a versioned action of bulk requests (bulk.py);
2. what the index refuses becomes dead letters; the document's former version stays;
3. the position, in the entry, by compare and set (tenure.py): whoever was replaced fails here.

A reload fills the next index, then one write of the entry names it, then the alias is moved. Where
a process dies between the two, the next `open` moves the alias: readers see the old index until
then. A rebuild does the same with an entry of its own (`<alias>/rebuild`), and `swap` writes the
live entry only where it still is the one that was compared.

An index has one generation and one topic's offsets for its whole life, so versions in it are those
of one history (SEMANTICS 32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cdc import faults
from cdc.errors import CdcError, SinkError
from cdc.json_rows import rows_from_json
from cdc.log.api import DeadLetter
from cdc.schema import Column
from cdc.source import Finding
from sinks.api import (
    QueryResult,
    Reject,
    Sink,
    SinkCut,
    SinkInput,
    SinkPosition,
)
from sinks.elasticsearch import query
from sinks.elasticsearch.backfill import fill_missing
from sinks.elasticsearch.bulk import IN_FLIGHT, Bulk, Rejected, lines_of
from sinks.elasticsearch.check import require_version, rights_lacking, stray_fields
from sinks.elasticsearch.entry import Entries, Entry, released
from sinks.elasticsearch.indexes import Indexes
from sinks.elasticsearch.mapping import flat_settings, live_settings, require_names, shape_of
from sinks.elasticsearch.place import Place, require_fit
from sinks.elasticsearch.read import pages
from sinks.elasticsearch.server import Server
from sinks.elasticsearch.tenure import Tenure
from sinks.owners import rebuilding

LOAD_ROWS = 50_000
"""From so many rows a first load goes without refreshes and replicas."""


@dataclass(frozen=True)
class _Reload:
    """An index that a reload fills."""

    index: str
    generation: int
    before: Mapping[str, Any]


class ElasticsearchSink:
    """See sinks.api.Sink. `live`: the sink that this one is a rebuild of."""

    def __init__(
        self,
        name: str,
        server: Server,
        alias: str,
        *,
        mappings: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        live: ElasticsearchSink | None = None,
    ) -> None:
        self._name, self._server, self._alias, self._live = name, server, alias, live
        self._mappings = mappings or {}
        self._settings = flat_settings(settings or {})
        self._where = f"sink {name}"
        self._entries = Entries(server)
        self._indexes = Indexes(server, alias)
        self._tenure = Tenure(self._entries, f"{alias}/rebuild" if live else alias, name)
        self._place = Place(
            name, alias, self._indexes, self._tenure, self._settings, live._tenure if live else None
        )
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix=f"bulk-{name}")
        self._input: SinkInput | None = None
        self._reload: _Reload | None = None
        self.empty = False

    @property
    def rest_ratio(self) -> float:
        """None: readers are not in the way of writes."""
        return 0.0

    def check(self, inputs: Sequence[SinkInput]) -> list[Finding]:
        try:
            item, shape = self._shaped(inputs)
            lacking = rights_lacking(self._server, self._alias)
            if lacking:
                hint = "docs/elasticsearch.md lists what the user or `api_key` needs"
                return [Finding("error", self._where, f"rights are missing: {lacking}", hint)]
            require_version(self._server)
            stored = self._tenure.read()
            entry = stored.entry if stored else Entry(self._name)
            self._place.require_ours(entry)
            require_fit(entry, shape, self._where, self._name)
        except CdcError as error:
            return [Finding("error", self._where, error.what, error.hint)]
        columns = [column.name for column in item.schema.columns]
        return [
            *stray_fields(columns, self._mappings, self._where),
            Finding("ok", self._where, f"{item.name} → index {self._alias}"),
        ]

    def open(self, inputs: Sequence[SinkInput]) -> SinkPosition | None:
        item, shape = self._shaped(inputs)
        require_version(self._server)
        self._entries.prepare()
        self._tenure.take(lambda entry: self._place.require_usable(entry, shape))
        made = self._place.settle(item, shape)
        self._place.clean()
        if not made:
            self._place.widen(item, shape, self._fill_missing)
        entry = self._tenure.entry
        if self._live is None:
            self._indexes.point_alias(entry.index)
        self._input, self._reload = item, None
        self.empty = made or (
            entry.position is None and entry.generation > 0 and self._indexes.is_empty(entry.index)
        )
        return entry.reached

    def apply(self, cut: SinkCut, reject: Reject) -> None:
        faults.point("sink.before_write")
        self._tenure.prove()
        if cut.replace:
            self._apply_reload(cut, reject)
        else:
            self._require_partitions(cut.position)
            entry = self._tenure.entry
            if entry.loading is None and cut.first_load and _is_large(cut):
                self._tenure.update(loading=self._indexes.load_settings(entry.index))
                self._indexes.begin_load(entry.index)
            self._write(cut, entry.index, entry.generation, reject)
            self._set_position(cut.position)
        faults.point("sink.after_commit")

    def position(self) -> SinkPosition | None:
        stored = self._tenure.read()
        return stored.entry.reached if stored else None

    def prepare_reading(self, inputs: Sequence[SinkInput]) -> None:
        self._input, _ = self._shaped(inputs)

    def readable_columns(self, name: str) -> tuple[str, ...]:
        return tuple(column.name for column in self._named(name).schema.columns)

    def rows(self, name: str) -> Iterator[pa.RecordBatch]:
        schema = self._named(name).schema
        stored = self._tenure.read()
        if stored is not None and stored.entry.index:
            for page in pages(self._server, stored.entry.index):
                yield rows_from_json(page.sources, schema)

    def query(self, text: str) -> QueryResult:
        return query.ask(self._server, self._alias, text)

    def beside(self) -> ElasticsearchSink:
        return ElasticsearchSink(
            self._name,
            self._server,
            self._alias,
            mappings=self._mappings,
            settings=self._settings,
            live=self,
        )

    def swap(self, rebuilt: Sink, inputs: Sequence[SinkInput]) -> bool:
        assert isinstance(rebuilt, ElasticsearchSink)
        rebuilt._tenure.prove(at_most_s=0)
        new = rebuilt._tenure.entry
        self._indexes.refresh(new.index)
        self._entries.prepare()
        stored = self._tenure.read()
        live = stored.entry if stored else Entry(self._name)
        self._place.require_ours(live)
        if new.reached is None or not new.reached.covers(live.reached):
            return False
        handed_on = replace(
            new,
            epoch=live.epoch + 1,
            owner=rebuilding(self._tenure.owner),
            previous=live.index or None,
            reload=None,
            loading=None,
        )
        if self._entries.write(self._alias, handed_on, stored) is None:
            return False
        faults.point("sink.mid_swap")
        self._indexes.point_alias(new.index)
        self._indexes.adopt(new.index, self._alias)
        if live.reload is not None:
            self._indexes.delete(live.reload)
        rebuilt._forget()
        faults.point("sink.after_swap")
        return True

    def discard(self) -> list[str]:
        stored = self._tenure.read()
        if stored is None:
            return []
        removed = self._place.drop(stored.entry)
        self._entries.delete(self._tenure.key, stored)
        return removed

    def remove(self) -> list[str]:
        removed = self.beside().discard()
        stored = self._tenure.read()
        if stored is None or stored.entry.owner is None:
            return removed
        for name in (stored.entry.previous, stored.entry.reload):
            if name is not None and self._indexes.delete(name):
                removed.append(f"index {name}")
        forgotten = replace(released(stored.entry), previous=None, reload=None)
        if self._entries.write(self._tenure.key, forgotten, stored) is not None:
            removed.append(f"position of sink {self._name}")
        return removed

    def close(self) -> None:
        self._pool.shutdown()
        if self._live is None:
            self._server.close()

    def _shaped(self, inputs: Sequence[SinkInput]) -> tuple[SinkInput, dict[str, Any]]:
        """The one input, and what its documents are like. Raises SinkError for a bad name."""
        (item,) = inputs
        require_names(item.schema, self._where)
        return item, shape_of(item.name, item.schema, self._mappings, self._settings)

    def _named(self, name: str) -> SinkInput:
        assert self._input is not None and self._input.name == name, "open the sink first"
        return self._input

    def _fill_missing(self, entry: Entry, columns: Sequence[Column]) -> None:
        bulk = Bulk(self._server, self._pool, entry.index, entry.generation)
        fill_missing(self._server, bulk, entry.index, columns)

    def _require_partitions(self, position: SinkPosition) -> None:
        """Raise SinkError where offsets no longer order the records of a key."""
        entry, now = self._tenure.entry, _partitions(position)
        if entry.position is not None and entry.partitions not in (0, now):
            raise SinkError(
                f"the topic had {entry.partitions} partitions and has {now}: its offsets do not "
                "say any more which record of a key is newer",
                where=self._where,
                hint=f"cdc rebuild {self._name}",
            )

    def _write(self, cut: SinkCut, index: str, generation: int, reject: Reject) -> None:
        def told(found: list[Rejected]) -> None:
            reject([self._letter(changes.input, one) for one in found])

        bulk = Bulk(self._server, self._pool, index, generation)
        for changes in cut.changes:
            bulk.send(lines_of(changes, generation), told)
        faults.point("sink.after_write")

    def _letter(self, item: SinkInput, found: Rejected) -> DeadLetter:
        where = f"{item.topic}/{found.offset}"
        return DeadLetter(self._name, where, found.error, found.key, found.value)

    def _set_position(self, position: SinkPosition) -> None:
        entry = self._tenure.entry
        if entry.loading is not None and position.chunk == 0:
            self._indexes.end_load(entry.index, entry.loading)
            self._tenure.update(
                position=position.to_json(), partitions=_partitions(position), loading=None
            )
        else:
            self._tenure.update(position=position.to_json(), partitions=_partitions(position))

    def _apply_reload(self, cut: SinkCut, reject: Reject) -> None:
        assert self._input is not None
        _, shape = self._shaped([self._input])
        reload = self._reload or self._begin_reload(shape)
        self._reload = reload
        self._write(cut, reload.index, reload.generation, reject)
        if cut.position.chunk:
            return
        self._indexes.end_load(reload.index, reload.before)
        old = self._tenure.entry
        self._tenure.update(
            index=reload.index,
            generation=reload.generation,
            partitions=_partitions(cut.position),
            position=cut.position.to_json(),
            shape=shape,
            schema=self._input.schema.fingerprint(),
            previous=old.index,
            reload=None,
        )
        self._reload = None
        self._indexes.point_alias(reload.index)
        if old.previous is not None:
            self._indexes.delete(old.previous)

    def _begin_reload(self, shape: Mapping[str, Any]) -> _Reload:
        name = self._indexes.next_name()
        self._tenure.update(reload=name)
        self._indexes.create(name, self._tenure.key, shape, live_settings(self._settings))
        before = self._indexes.load_settings(name)
        self._indexes.begin_load(name)
        return _Reload(name, self._tenure.entry.generation + 1, before)

    def _forget(self) -> None:
        """The rebuild has been swapped in: its entry has no use any more."""
        stored = self._tenure.read()
        if stored is not None:
            self._entries.delete(self._tenure.key, stored)


def _partitions(position: SinkPosition) -> int:
    return sum(len(offsets) for offsets in position.offsets.values())


def _is_large(cut: SinkCut) -> bool:
    rows = sum(changes.upserts.num_rows for changes in cut.changes)
    return cut.position.chunk > 0 or rows >= LOAD_ROWS


__all__: Sequence[str] = ("ElasticsearchSink",)
