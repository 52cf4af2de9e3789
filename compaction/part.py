"""What the command line asks of compaction (cdc.cli.parts.CompactionPart)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from cdc.config import Config, LogConfig
from cdc.errors import LogError
from cdc.log.embedded_files import Layout
from compaction.embedded_log import CompactorBusy, Stop, producer_files, sole_compactor
from compaction.policy import NOW, PartitionSize, Policy, worth_compacting

_POLL_S = 0.1

logger = logging.getLogger(__name__)


def compact_log(
    log: LogConfig, topics: Sequence[str] = (), policy: Policy = NOW
) -> dict[str, tuple[int, int]]:
    """Compact `topics` (none: all) now: per topic the records before and after. Raises LogError
    for a topic that does not exist, LogDamaged, CompactorBusy."""
    layout = _layout(log)
    counts: dict[str, tuple[int, int]] = {}
    with sole_compactor(layout), producer_files(layout) as files:
        for file in files:
            for partition in file.partitions():
                if topics and partition.topic not in topics:
                    continue
                before, after = file.compact(
                    partition, policy, log.tombstone_retention_s, lambda: False
                )
                old = counts.get(partition.topic, (0, 0))
                counts[partition.topic] = (old[0] + before, old[1] + after)
    for topic in topics:
        if topic not in counts:
            raise LogError("there is no such topic", where=topic, hint="see `cdc status`")
    return counts


class CompactionOfEmbeddedLog:
    """See cdc.cli.parts.CompactionPart."""

    def compact(self, config: Config, topics: Sequence[str]) -> dict[str, tuple[int, int]]:
        return compact_log(config.log, topics)

    def run(self, config: Config, stop: Stop) -> None:
        layout, policy = _layout(config.log), Policy()
        sizes: dict[str, PartitionSize] = {}
        while not stop():
            try:
                with sole_compactor(layout):
                    _one_round(layout, config.log, policy, sizes, stop)
            except CompactorBusy:
                logger.info("another process is compacting; trying again later")
            _pause(policy.check_interval_s, stop)


def _one_round(
    layout: Layout, log: LogConfig, policy: Policy, sizes: dict[str, PartitionSize], stop: Stop
) -> None:
    """Compact the partitions that are worth it. `sizes`: what was left the last time."""
    with producer_files(layout) as files:
        for file in files:
            for partition in file.partitions():
                last = sizes.get(partition.place)
                if stop():
                    return
                if worth_compacting(file.size(partition), last, policy):
                    before, after = file.compact(partition, policy, log.tombstone_retention_s, stop)
                    sizes[partition.place] = file.size(partition)
                    level = logging.INFO if after < before else logging.DEBUG
                    logger.log(level, "%s: %d records became %d", partition.place, before, after)


def _pause(seconds: float, stop: Stop) -> None:
    deadline = time.monotonic() + seconds
    while not stop() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _layout(log: LogConfig) -> Layout:
    if log.type != "embedded":
        raise LogError(
            "only the embedded log is compacted by cdc", hint="on Kafka the broker compacts topics"
        )
    return Layout(log.path)


PART = CompactionOfEmbeddedLog()
