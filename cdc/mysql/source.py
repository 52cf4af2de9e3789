"""MySQL and MariaDB as a Source: snapshot and binlog. See cdc.source for the contract.

The server keeps nothing for us: how long it has its binlogs is its own business. So there is
nothing to acknowledge or to remove, and a frontier whose binlog was purged is an error that
says what to do. Two connections: an ordinary one for the catalog, and the one of the dump while
streaming. Workers of a snapshot have their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cdc.completion import ValueStore, no_history
from cdc.config import SourceConfig
from cdc.errors import SourceError, SourceUnavailable
from cdc.frontiers import Frontier
from cdc.mysql import catalog, continuity
from cdc.mysql.added import CatchUp
from cdc.mysql.captured import CapturedTables, Completion, nothing_left_out
from cdc.mysql.catalog import Server
from cdc.mysql.check import check_source
from cdc.mysql.connection import Connection, close, connect, source_errors
from cdc.mysql.defaults import Defaults
from cdc.mysql.dump import Dump
from cdc.mysql.evolution import Evolution, continued
from cdc.mysql.foreign_keys import unlogged_actions
from cdc.mysql.overlap import caught_up
from cdc.mysql.receive import Receiver
from cdc.mysql.row_images import StoredValues
from cdc.mysql.side_effects import SideEffects, acting
from cdc.mysql.snapshot import SnapshotPlan, SnapshotReader, launch_workers
from cdc.mysql.stream import MyStream
from cdc.mysql.tables import MyTable
from cdc.mysql.types import table_schema
from cdc.positions import NativePosition, Vector
from cdc.schema import TableSchema
from cdc.source import ADDED_NOTE, Finding, History, Piece, Progress, no_progress
from cdc.worker_processes import Worker, end_workers


class MySqlSource:
    """See cdc.source.Source. `state_path` is the directory for the store of left-out values;
    `progress` is told `table`, `table_rows`, `table_rows_total`, `table_done` of a snapshot."""

    catches_up = True

    def __init__(
        self, config: SourceConfig, state_path: Path, progress: Progress = no_progress
    ) -> None:
        assert config.mysql is not None
        self.name, self._config, self._mine = config.name, config, config.mysql
        self._state_path = state_path
        self.progress = progress
        self._connection: Connection | None = None
        self._receiver: Receiver | None = None
        self._added: CatchUp | None = None
        self._store: ValueStore | None = None
        self._schemas: Mapping[str, TableSchema] = {}
        self._history: History = no_history
        self._tables: dict[str, MyTable] = {}
        self._workers: list[Worker] = []

    def check(self) -> list[Finding]:
        return check_source(self._config)

    def identity(self) -> str:
        return continuity.identity(self._server())

    def tables(self) -> Mapping[str, TableSchema]:
        with source_errors(self._config.url):
            found = catalog.read_tables(self._catalog(), self._config.tables)
        return {name: self._schema(table) for name, table in found.items()}

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
            connection, server = self._catalog(), self._server()
            self._require_rows(server)
            self._tables = catalog.read_tables(connection, self._config.tables)
            catalog.require_keys(self._tables)
            for table in self._tables.values():
                self._require_logged(table)
            if frontier is not None and frontier.positions:
                kept = continuity.kept(connection, server)
                wrong = continuity.verdict(server, kept, frontier, self.name)
                if wrong is not None:
                    raise wrong

    def _require_rows(self, server: Server) -> None:
        """The settings without which the binlog does not hold every change as rows."""
        wanted = {
            "log_bin": ("ON" if server.log_bin else "OFF", ("ON",)),
            "binlog_format": (server.binlog_format, ("ROW",)),
            "binlog_row_image": (
                server.row_image,
                ("FULL", "NOBLOB", *(("MINIMAL",) if self._mine.minimal_row_image else ())),
            ),
            "binlog_row_value_options": (server.row_value_options, ("",)),
        }
        for name, (value, allowed) in wanted.items():
            if value not in allowed:
                raise SourceError(
                    f"{name} is '{value}': the binlog does not hold every change as a whole row",
                    where=f"{self.name}, {server.product}",
                    hint=f"SET GLOBAL {name} = '{allowed[0]}' (log_bin: at its start), and let "
                    "every session begin anew",
                )

    def _require_logged(self, table: MyTable) -> None:
        actions = unlogged_actions(self._catalog(), table)
        if actions:
            raise SourceError(
                f"its rows change by a foreign key's {', '.join(actions)}, which the binlog does "
                "not hold",
                where=table.name,
                hint="drop the action and let the application or a trigger do it, or leave the "
                "table out",
            )

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        server, connection = self._server(), self._catalog()
        plan = SnapshotPlan(self._config.url, server, tables, self._schema, self._mine.zero_dates)
        reader = SnapshotReader(plan, self.progress, self._launched() if tables else (), connection)
        try:
            if not tables:
                self._schemas = {name: self._schema(t) for name, t in self._tables.items()}
                yield Piece((), 1, self.current_position(), 0)
                return
            self._require_tables(tables)
            pinned = reader.pin()
            self._tables = {**self._tables, **reader.tables}
            self._schemas = {**self._schemas, **reader.schemas}
            position, rows = pinned.low, 0
            for piece in reader.pieces(max_piece_bytes):
                rows += piece.num_rows
                yield piece
        finally:
            reader.close()
            self._workers = []
        if pinned.high is not None:
            for piece in self._overlap(pinned.low, pinned.high, rows, max_piece_bytes):
                position = piece.position
                yield piece
        yield Piece((), 1, position, 0, reconcile=tuple(tables), resume={ADDED_NOTE: []})

    def _require_tables(self, names: Sequence[str]) -> None:
        """The tables are still those that `open` found."""
        with source_errors(self._config.url):
            now = catalog.read_named(self._catalog(), names)
        for name in names:
            if name not in self._tables or name not in now:
                raise SourceUnavailable(
                    "the table was made or dropped while its snapshot was about to begin",
                    where=name,
                    hint="the snapshot is begun again: nothing was published",
                )

    def _overlap(
        self, low: NativePosition, high: NativePosition, rows: int, max_piece_bytes: int
    ) -> Iterator[Piece]:
        stream = self.stream(Frontier(self.name, Vector.of({self.name: low})), max_piece_bytes, 0.2)
        yield from caught_up(stream, high, rows)
        self._end_stream()

    def _launched(self) -> list[Worker]:
        """The workers of a snapshot, already starting."""
        if not self._workers:
            self._workers = launch_workers(self._config.snapshot_workers)
        return self._workers

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        position = frontier.positions[self.name]
        dump = Dump(
            self._mine.server_id, position, self._mine.heartbeat_s, self.name, self._config.url
        )
        server = self._server()
        schemas = {n: self._schemas.get(n) or self._schema(t) for n, t in self._tables.items()}
        late = {n for n in self._tables if n not in self._schemas}
        late |= set(frontier.resume.get(ADDED_NOTE, ())) & set(self._tables)
        fold = server.settings.get("lower_case_table_names", "0") != "0"
        defaults = Defaults(self._tables, server.row_image == "MINIMAL")
        completion = self._completion(server, frontier, defaults)
        told = defaults if self._store is not None else None
        evolution = Evolution(self.name, schemas, self._mine.zero_dates, fold, told)
        effects = SideEffects(lambda: acting(self._catalog())) if server.mariadb else None
        captured = CapturedTables(evolution, server.mariadb, completion, effects)
        captured.resume(frontier.resume)
        captured.begin({name: schemas[name] for name in late if name not in self._schemas})
        added = self._added = CatchUp(
            lambda: connect(self._config.url),
            server,
            evolution.schemas,
            self._mine.zero_dates,
            self._state_path,
            sorted(late) if self._config.snapshot != "never" else [],
        )
        added.require_possible()
        with source_errors(self._config.url):
            receiver = self._receiver = Receiver(connect(self._config.url), dump)
            stream = MyStream(receiver, captured, added, self._adopted, frontier, self.name)
            for piece in stream.pieces(max_piece_bytes, max_wait_s):
                if self._store is not None:
                    self._store.yielded(piece)
                yield piece

    def _adopted(self, name: str) -> TableSchema | None:
        """A table was made while we stream: its schema, if we capture it."""
        patterns = catalog.qualified(self._catalog(), self._config.tables)
        table = catalog.read_named(self._catalog(), [name]).get(name)
        if table is None or not catalog.matches(name, patterns):
            return None
        catalog.require_keys({name: table})
        self._require_logged(table)
        self._tables[name] = table
        return self._schema(table)

    def _completion(self, server: Server, frontier: Frontier, defaults: Defaults) -> Completion:
        if server.row_image == "FULL":
            return nothing_left_out
        path = self._state_path / f"{self.name}.values.sqlite"
        self._store = ValueStore(path, frontier, self._history, self.name)
        return StoredValues(self._store, defaults)

    def acknowledge(self, position: NativePosition) -> None:
        """The server keeps its binlogs as long as its settings say."""
        if self._store is not None:
            self._store.acknowledge(position)

    def current_position(self) -> NativePosition:
        with source_errors(self._config.url):
            server = self._server()
            return catalog.current_point(self._catalog(), server.flavour).position(server)

    def place_barrier(self) -> NativePosition:
        """The server's position now: the stream comes past it, and says so when it is idle."""
        return self.current_position()

    def remove(self) -> list[str]:
        return []

    def close(self) -> None:
        end_workers(self._workers)
        self._workers = []
        self._end_stream()
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    def _end_stream(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._added is not None:
            self._added.close()
            self._added = None
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _schema(self, table: MyTable) -> TableSchema:
        """The log's newest version where the table still has it, else its successor."""
        return continued(self._schemas.get(table.name), table_schema(table, self._mine.zero_dates))

    def _catalog(self) -> Connection:
        if self._connection is None or not self._connection.open:
            self._connection = connect(self._config.url)
        return self._connection

    def _server(self) -> Server:
        with source_errors(self._config.url):
            return catalog.server(self._catalog())
