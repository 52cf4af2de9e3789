"""Postgres as a Source: slot, publication, snapshot, stream. See cdc.source for the contract.

Three connections: an ordinary one for the catalog, the walsender's while streaming, and at a first
start one more that exports the slot's snapshot. Workers of a snapshot have their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn

from cdc.completion import ValueStore, no_history
from cdc.config import SourceConfig
from cdc.errors import SlotError, SourceError, SourceUnavailable
from cdc.frontiers import Frontier
from cdc.positions import Lsn, NativePosition
from cdc.postgres import catalog, publication, slot
from cdc.postgres.catalog import PgTable, Server
from cdc.postgres.check import check_source
from cdc.postgres.connection import (
    Connection,
    connect,
    connect_replication,
    execute,
    source_errors,
)
from cdc.postgres.pieces import BARRIER_PREFIX
from cdc.postgres.receive import Receiver
from cdc.postgres.rewrites import RewriteWatch
from cdc.postgres.snapshot import SnapshotPlan, SnapshotReader, launch_workers
from cdc.postgres.snapshot_worker import import_snapshot
from cdc.postgres.stream import PgStream, TableState, start_command
from cdc.schema import TableSchema
from cdc.source import Finding, History, Piece, Progress, no_progress
from cdc.worker_processes import Worker, end_workers

PIN_ATTEMPTS = 20


class PostgresSource:
    """See cdc.source.Source. `state_path` is the directory for the store of TOAST values;
    `progress` is told `table`, `table_rows`, `table_rows_total`, `table_done` of a snapshot."""

    catches_up = False

    def __init__(
        self, config: SourceConfig, state_path: Path, progress: Progress = no_progress
    ) -> None:
        self.name, self._config, self._state_path = config.name, config, state_path
        self.progress = progress
        self._connection: Connection | None = None
        self._receiver: Receiver | None = None
        self._toast: ValueStore | None = None
        self._schemas: Mapping[str, TableSchema] = {}
        self._history: History = no_history
        self._tables: dict[str, PgTable] = {}
        self._workers: list[Worker] = []

    def check(self) -> list[Finding]:
        return check_source(self._config)

    def identity(self) -> str:
        return self._server().identity

    def tables(self) -> Mapping[str, TableSchema]:
        with source_errors(self._config.url):
            found = catalog.read_tables(self._catalog(), self._config.tables)
        return {name: table.schema() for name, table in found.items()}

    def open(
        self,
        frontier: Frontier | None,
        schemas: Mapping[str, TableSchema] | None = None,
        history: History | None = None,
    ) -> None:
        self._schemas, self._history = schemas or {}, history or no_history
        if (frontier is None or not frontier.positions) and self._config.snapshot != "never":
            self._launched()
        with source_errors(self._config.url):
            connection = self._catalog()
            server = self._server()
            if server.in_recovery:
                raise SourceError(
                    "the server is a standby", where=server.database, hint="capture the primary"
                )
            self._tables = catalog.read_tables(connection, self._config.tables)
            catalog.require_keys(self._tables)
            self._check_slot(connection, server, frontier)
            self._publish_tables(resuming=frontier is not None and bool(frontier.positions))

    def _publish_tables(self, *, resuming: bool) -> None:
        publication.ensure_publication(
            self._catalog(), self._config.publication, self._tables, resuming, self.name
        )

    def _check_slot(
        self, connection: Connection, server: Server, frontier: Frontier | None
    ) -> None:
        name = self._config.slot
        found = slot.read_slot(connection, name)
        if frontier is None:
            if found is not None:
                raise SlotError(
                    "the slot exists, but the log has no frontier of this source",
                    where=f"slot {name}",
                    hint=f"if nobody else uses it: SELECT pg_drop_replication_slot('{name}')",
                )
            return
        if not frontier.positions:  # a snapshot that did not end: it begins anew
            slot.drop_slot(connection, name)
            return
        position = _lsn(frontier, self.name)
        walsender = connect_replication(self._config.url)
        try:
            wrong = slot.check_identity(server, frontier.identity, position, walsender, self.name)
        finally:
            walsender.finish()
        wrong = wrong or slot.verdict(found, name, server.database, position, self.name)
        if wrong is None and not self._now().covers(position):
            wrong = SlotError(
                f"the server is at {self._now()}, behind the log's frontier {position}",
                where=f"slot {name}",
                hint="it was restored from a backup: "
                f"cdc remove {self.name}, then cdc run takes a new snapshot",
            )
        if wrong is not None:
            raise wrong
        slot.end_holder(connection, found)

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        url = self._config.url
        exporter, holder = connect_replication(url), connect(url)
        try:
            with source_errors(url):
                position, exported, chosen = self._pinned(exporter, holder, tables)
            notes = {
                "filenodes": {name: table.filenode for name, table in self._tables.items()},
                "marks": {name: table.mark for name, table in self._tables.items()},
            }
            schemas = {name: self._schema(table) for name, table in chosen.items()}
            plan = SnapshotPlan(url, exported, position, chosen, schemas)
            reader = SnapshotReader(plan, self.progress, self._launched() if chosen else (), holder)
            try:
                yield from reader.pieces(max_piece_bytes)
            finally:
                reader.close()
            self._tables = {**self._tables, **chosen}
            yield Piece((), 1, position, 0, resume=notes, reconcile=tuple(chosen))
        finally:
            if exporter.status == pq.ConnStatus.OK:
                exporter.finish()
            holder.close()

    def _launched(self) -> list[Worker]:
        """The workers of a snapshot, already starting."""
        if not self._workers:
            self._workers = launch_workers(self._config.snapshot_workers)
        return self._workers

    def _create_slot(self, exporter: PGconn) -> tuple[Lsn, str]:
        name = self._config.slot
        command = f'CREATE_REPLICATION_SLOT "{name}" LOGICAL pgoutput EXPORT_SNAPSHOT'
        ((_, point, exported, _),) = execute(exporter, command, f"slot {name}")
        assert point is not None and exported is not None
        return Lsn.parse(point), exported

    def _pinned(
        self, exporter: PGconn, holder: Connection, tables: Sequence[str]
    ) -> tuple[Lsn, str, dict[str, PgTable]]:
        """A new slot, its snapshot, and the tables as it sees them, locked against DDL until the
        snapshot ends. Again, when one was rewritten between the slot and its lock: what was
        rewritten then is invisible to the snapshot, and not in the stream. So is what a table has
        that was made anew: the publication lost it."""
        rewritten: list[str] = []
        for _ in range(PIN_ATTEMPTS):
            for name in set(tables) - self._tables.keys():
                raise _begun_again(name)
            position, exported = self._create_slot(exporter)
            import_snapshot(holder, exported)
            found = self._locked(holder, tables)
            rewritten = [n for n, t in found.items() if t.filenode != self._tables[n].filenode]
            if not rewritten:
                return position, exported, found
            holder.execute("ROLLBACK")
            slot.drop_slot(self._catalog(), self._config.slot)
            self._tables = catalog.read_named(self._catalog(), list(self._tables))
            catalog.require_keys(self._tables)
            self._publish_tables(resuming=False)
        raise SourceUnavailable(
            "the table is rewritten or truncated all the time: no snapshot of it can be begun",
            where=rewritten[0],
            hint="it is begun again later: nothing was published",
        )

    def _locked(self, holder: Connection, tables: Sequence[str]) -> dict[str, PgTable]:
        if not tables:
            return {}
        for name in tables:
            quoted = self._tables[name].quoted
            try:
                holder.execute(f"LOCK TABLE ONLY {quoted} IN ACCESS SHARE MODE".encode())
            except psycopg.errors.UndefinedTable as error:
                raise _begun_again(name) from error
        return catalog.read_named(holder, list(tables))

    def _schema(self, table: PgTable) -> TableSchema:
        """The topic's newest version where the table still has it, else its successor."""
        known = self._schemas.get(table.name)
        if known is None:
            return table.schema()
        now = table.schema(known.version)
        same = now.fingerprint() == known.fingerprint()
        return known if same else table.schema(known.version + 1)

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        position = _lsn(frontier, self.name)
        binary = all(table.binary for table in self._tables.values())
        command = start_command(self._config.slot, self._config.publication, position, binary)
        receiver = Receiver(connect_replication(self._config.url), command, self.name)
        receiver.acknowledge(position.value)
        self._receiver = receiver
        path = self._state_path / f"{self.name}.toast.sqlite"
        self._toast = toast = ValueStore(path, frontier, self._history, self.name)
        schemas = {n: self._schemas.get(n) or t.schema() for n, t in self._tables.items()}
        nodes = {n: int(node) for n, node in (frontier.resume.get("filenodes") or {}).items()}
        watch = RewriteWatch(nodes, dict(frontier.resume.get("marks") or {}), self.name)
        state = TableState(self.name, schemas, dict(self._tables), watch, binary)
        stream = PgStream(receiver, self._catalog(), state, toast, frontier, position)
        with source_errors(self._config.url):
            for piece in stream.pieces(max_piece_bytes, max_wait_s):
                toast.yielded(piece)
                yield piece

    def acknowledge(self, position: NativePosition) -> None:
        if self._toast is not None:
            self._toast.acknowledge(position)
        if self._receiver is not None:
            self._receiver.acknowledge(_as_lsn(position).value)

    def current_position(self) -> NativePosition:
        with source_errors(self._config.url):
            return self._now()

    def place_barrier(self) -> NativePosition:
        with source_errors(self._config.url):
            row = (
                self._catalog()
                .execute(
                    "SELECT pg_logical_emit_message(true, %s, 'barrier')::text", (BARRIER_PREFIX,)
                )
                .fetchone()
            )
        assert row is not None
        return Lsn.parse(row[0])

    def remove(self) -> list[str]:
        dropped = []
        with source_errors(self._config.url):
            if slot.drop_slot(self._catalog(), self._config.slot):
                dropped.append(f"slot {self._config.slot}")
            if publication.drop_publication(self._catalog(), self._config.publication):
                dropped.append(f"publication {self._config.publication}")
        return dropped

    def close(self) -> None:
        end_workers(self._workers)
        self._workers = []
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._toast is not None:
            self._toast.close()
            self._toast = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _catalog(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._config.url)
        return self._connection

    def _server(self) -> Server:
        with source_errors(self._config.url):
            return catalog.server(self._catalog())

    def _now(self) -> Lsn:
        row = self._catalog().execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return Lsn.parse(row[0])


def _begun_again(table: str) -> SourceUnavailable:
    return SourceUnavailable(
        "the table was made or dropped while its snapshot was about to begin",
        where=table,
        hint="the snapshot is begun again: nothing was published",
    )


def _lsn(frontier: Frontier, source: str) -> Lsn:
    return _as_lsn(frontier.positions[source])


def _as_lsn(position: NativePosition) -> Lsn:
    assert isinstance(position, Lsn)
    return position
