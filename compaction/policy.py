"""When a topic of the embedded log is worth compacting: pure functions of sizes and times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SMALL_BATCH_BYTES = 16 * 1024
TARGET_ROWS = 16_384
TARGET_BYTES = 4 * 2**20
READ_ROWS = 4 * TARGET_ROWS
READ_BYTES = 4 * TARGET_BYTES


@dataclass(frozen=True)
class Policy:
    """`grace_s`: nothing superseded more recently than this is touched, so that a reader which
    just took the newest cut can finish reading it without having registered a floor."""

    grace_s: float = 60.0
    new_records_min: int = 50_000
    new_share_min: float = 0.5
    small_batches_min: int = 2_000
    check_interval_s: float = 5.0


NOW = Policy(grace_s=0.0)
"""`cdc compact`."""


@dataclass(frozen=True)
class PartitionSize:
    """What a partition holds."""

    records: int
    batches: int
    small_batches: int
    end_offset: int


def worth_compacting(now: PartitionSize, after_last: PartitionSize | None, policy: Policy) -> bool:
    """Whether enough was appended since the last compaction: half as much again as was kept, or
    many small batches, which cost every reader a piece of work each."""
    done = after_last or PartitionSize(0, 0, 0, 0)
    new_records = now.end_offset - done.end_offset
    if new_records >= max(policy.new_records_min, policy.new_share_min * done.records):
        return True
    return now.small_batches - done.small_batches >= policy.small_batches_min


def floor_us(floors: Iterable[int], newest_whole_us: int, now_us: int, policy: Policy) -> int:
    """Records superseded up to this append time may go (SEMANTICS 15): no reader's floor, not
    the newest cut, and nothing younger than the grace is harmed."""
    return min([*floors, newest_whole_us, now_us - int(policy.grace_s * 1e6)])


@dataclass(frozen=True)
class Held:
    """The batches that a rewrite would join: records read, records and bytes kept."""

    rows: int = 0
    rows_kept: int = 0
    size_bytes: int = 0
    kept_bytes: int = 0

    def with_batch(self, rows: int, kept: int, size_bytes: int) -> Held:
        share = size_bytes * kept // max(1, rows)
        return Held(
            self.rows + rows,
            self.rows_kept + kept,
            self.size_bytes + size_bytes,
            self.kept_bytes + share,
        )

    @property
    def fits(self) -> bool:
        """Whether one rewritten batch, and the memory to make it, may be this large."""
        small = self.rows_kept <= TARGET_ROWS and self.kept_bytes <= TARGET_BYTES
        return small and self.rows <= READ_ROWS and self.size_bytes <= READ_BYTES
