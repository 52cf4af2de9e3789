"""Which tables the log has, and of which sources it has them all.

A source makes its tables' topics one by one, and only then writes its first frontier, which names
them (`schema_versions`). So whoever misses a table may blame its name once there is a frontier, and
every table that it names is there; before that, the table may only not have been made yet.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cdc.log.api import Reader
from cdc.schema import TableSchema


@dataclass(frozen=True)
class Captured:
    """`tables` by topic (`source.schema.table`); `complete`: the sources that have no others."""

    tables: dict[str, TableSchema]
    complete: frozenset[str]


def captured(reader: Reader, sources: Collection[str]) -> Captured:
    """What stands in the log of these sources."""
    frontiers = reader.newest_frontiers(list(sources))  # before the topics that they speak of
    topics = [t for t in reader.topics() if t.partition(".")[0] in sources]
    complete = frozenset(
        name
        for name, newest in frontiers.items()
        if newest is not None and newest.schema_versions.keys() <= set(topics)
    )
    return Captured({topic: reader.schema(topic) for topic in topics}, complete)
