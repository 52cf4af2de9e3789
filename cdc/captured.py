"""Which tables the log has, and of which sources it has them all.

A source makes its tables' topics one by one, and only then writes its first frontier, which names
them (`schema_versions`). So whoever misses a table may blame its name once there is a frontier, and
every table is there that it names, or that the file lists: such a one may have been added to the
file since the frontier was written. Before that, the table may only not have been made yet.

A table that the file means by a pattern may have been made while nobody captured. When its source
begins, it makes what topics are missing before it writes anything else. So whoever began together
with the source waits for a frontier of the time since, for a while: it may have nothing to write.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.config import SourceConfig
from cdc.config_kafka import known_tables
from cdc.frontiers import Frontier
from cdc.log.api import Reader
from cdc.schema import TableSchema

GRACE_S = 30.0
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Beginning:
    """When somebody began to look for tables."""

    at_us: int = field(default_factory=lambda: time.time_ns() // 1000)

    def allows_for_more(self, source: SourceConfig, newest: Frontier) -> bool:
        """Whether the source may still find tables that its patterns mean."""
        if newest.appended_us >= self.at_us or not any(map(_PATTERN.search, known_tables(source))):
            return False
        return time.time_ns() // 1000 - self.at_us < GRACE_S * 1_000_000


@dataclass(frozen=True)
class Captured:
    """`tables` by topic (`source.schema.table`); `complete`: the sources that have no others, but
    for those that `may_find_more`."""

    tables: dict[str, TableSchema]
    complete: frozenset[str]
    may_find_more: frozenset[str] = frozenset()


def listed(source: SourceConfig) -> frozenset[str]:
    """The topics of the tables that the file names one by one."""
    tables = [table for table in known_tables(source) if not _PATTERN.search(table)]
    return frozenset(f"{source.name}.{table}" for table in tables)


def captured(reader: Reader, sources: Mapping[str, SourceConfig], beginning: Beginning) -> Captured:
    """What stands in the log of these sources, which are by name."""
    frontiers = reader.newest_frontiers(list(sources))  # before the topics that they speak of
    topics = [t for t in reader.topics() if t.partition(".")[0] in sources]
    complete = frozenset(
        name
        for name, newest in frontiers.items()
        if newest is not None
        and newest.schema_versions.keys() | listed(sources[name]) <= set(topics)
    )
    more = frozenset(
        name
        for name, newest in frontiers.items()
        if newest is not None and beginning.allows_for_more(sources[name], newest)
    )
    return Captured({topic: reader.schema(topic) for topic in topics}, complete, more)
