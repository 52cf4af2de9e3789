"""Which tables the log has, and of which sources it has them all.

A source makes its tables' topics one by one, and only then writes its first frontier, which names
them (`schema_versions`). So whoever misses a table may blame its name once there is a frontier, and
every table is there that it names, or that the file lists: such a one may have been added to the
file since the frontier was written. Before that, the table may only not have been made yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cdc.config import SourceConfig
from cdc.config_kafka import known_tables
from cdc.log.api import Reader
from cdc.schema import TableSchema


@dataclass(frozen=True)
class Captured:
    """`tables` by topic (`source.schema.table`); `complete`: the sources that have no others."""

    tables: dict[str, TableSchema]
    complete: frozenset[str]


def listed(source: SourceConfig) -> frozenset[str]:
    """The topics of the tables that the file names one by one."""
    tables = [table for table in known_tables(source) if not re.search(r"[*?\[]", table)]
    return frozenset(f"{source.name}.{table}" for table in tables)


def captured(reader: Reader, sources: Mapping[str, SourceConfig]) -> Captured:
    """What stands in the log of these sources, which are by name."""
    frontiers = reader.newest_frontiers(list(sources))  # before the topics that they speak of
    topics = [t for t in reader.topics() if t.partition(".")[0] in sources]
    complete = frozenset(
        name
        for name, newest in frontiers.items()
        if newest is not None
        and newest.schema_versions.keys() | listed(sources[name]) <= set(topics)
    )
    return Captured({topic: reader.schema(topic) for topic in topics}, complete)
