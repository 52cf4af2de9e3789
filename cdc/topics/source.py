"""Topics as a Source: see cdc.source for the contract.

Which of two it is, the brokers tell when they are first asked:

    polled    topics of Debezium and others: a cut is what one poll gave
    fenced    topics that another cdc-views wrote: a cut is a frontier of its own
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cdc.config import SourceConfig
from cdc.errors import CdcError
from cdc.frontiers import Frontier
from cdc.positions import NativePosition, TopicOffsets
from cdc.schema import TableSchema
from cdc.source import Finding, History, Piece, Progress, no_progress
from cdc.topics.brokers import TopicsBroker
from cdc.topics.check import check_topics
from cdc.topics.fenced import FencedTopics, upstream_of
from cdc.topics.polled import PolledTopics


class TopicsSource:
    """See cdc.source.Source. `group` is the consumer group that shows its progress to others;
    `progress` is told `table`, `table_rows`, `table_rows_total`, `table_done` at the start."""

    catches_up = False

    def __init__(self, config: SourceConfig, group: str, progress: Progress = no_progress) -> None:
        self.name, self.broker, self._progress = config.name, TopicsBroker(config, group), progress
        self._chosen: PolledTopics | FencedTopics | None = None

    @property
    def fenced(self) -> bool:
        """Whether its cuts are whole transactions. Raises SourceError."""
        return isinstance(self.topics(), FencedTopics)

    def topics(self) -> PolledTopics | FencedTopics:
        """Which of the two it is. Raises SourceError."""
        if self._chosen is None:
            upstream = upstream_of(self.broker)
            self._chosen = (
                PolledTopics(self.broker, self._progress)
                if upstream is None
                else FencedTopics(self.broker, upstream, self._progress)
            )
        return self._chosen

    def check(self) -> list[Finding]:
        try:
            self.broker.cluster()
            cuts = "cuts are its frontiers" if self.fenced else "unfenced: cuts are per poll"
        except CdcError as error:
            return [Finding("error", error.where or self.name, error.what, error.hint)]
        return check_topics(self.broker, self.tables, cuts)

    def identity(self) -> str:
        return self.broker.cluster()

    def tables(self) -> Mapping[str, TableSchema]:
        return self.topics().tables()

    def open(
        self,
        frontier: Frontier | None,
        schemas: Mapping[str, TableSchema] | None = None,
        history: History | None = None,
    ) -> None:
        self.topics().open(frontier, schemas, history)

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        return self.topics().snapshot(tables, max_piece_bytes)

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        return self.topics().stream(frontier, max_piece_bytes, max_wait_s)

    def acknowledge(self, position: NativePosition) -> None:
        self.topics().acknowledge(position)

    def current_position(self) -> TopicOffsets:
        return self.topics().current_position()

    def place_barrier(self) -> TopicOffsets:
        """What is there now; `stream` comes past it by itself."""
        return self.current_position()

    def remove(self) -> list[str]:
        return self.broker.remove_group()

    def close(self) -> None:
        if self._chosen is not None:
            self._chosen.close()
            self._chosen = None
