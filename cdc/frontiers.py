"""Frontiers: the proof of what the log contains, and the point where everybody resumes.

"Everything that the source committed up to position P is in these topics up to these end offsets."
One frontier record per published group of whole transactions is appended atomically with the last
of the changes that it covers (SEMANTICS 2, 3). Readers apply nothing beyond a frontier.

A *partial* record has the same form with `whole=False`: a resume point for the producer (a
snapshot, or a source transaction larger than one append), never a cut for a reader. Its
`positions`, `txn_seq` and `end_offsets` repeat the newest whole frontier's, so that a reader which
finds only a partial record (compaction keeps the newest record per key) still has its cut.

Every frontier lists all partitions of all its producer's topics. A newest record is therefore
enough to resume from, whatever compaction removed before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc.positions import Vector

EndOffsets = Mapping[str, tuple[int, ...]]
"""Per topic, per partition: the offset after the last record that is covered."""


@dataclass(frozen=True)
class Frontier:
    """One frontier record.

    name            the source or the view whose topic this stands on
    positions       source positions reflected; for a source, its own only
    txn_seq         newest source transaction covered (-1: none); for a view, its newest step
    commit_us       commit time of that transaction, microseconds since 1970 UTC
    end_offsets     filled in by the log when it appends
    identity        what the position belongs to: "system identifier/timeline", "server uuid"
    incomplete      tables whose snapshot has not been completed; they have no cut yet
    schema_versions per topic, the version that its newest records have
    resume          the producer's own notes, needed to resume exactly (JSON values)
    fingerprint     a view's plan and topic generation
    epoch           the producer's epoch; filled in by the log
    appended_us     when it was appended; filled in by the log
    part_ends       of a partial record, where the changes of its own append end, so that the log
                    knows its own; filled in by the log where it needs that
    """

    name: str
    positions: Vector
    txn_seq: int = -1
    commit_us: int = 0
    end_offsets: EndOffsets = field(default_factory=dict)
    identity: str = ""
    incomplete: tuple[str, ...] = ()
    schema_versions: Mapping[str, int] = field(default_factory=dict)
    whole: bool = True
    resume: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    epoch: int = 0
    appended_us: int = 0
    part_ends: EndOffsets = field(default_factory=dict)

    @property
    def appended_ends(self) -> EndOffsets:
        """Where the changes end that were appended with this record, and before it."""
        return self.end_offsets if self.whole else self.part_ends

    def to_json(self) -> bytes:
        """The record's value, UTF-8 JSON with sorted keys."""
        body = {
            "name": self.name,
            "position": str(self.positions),
            "txn_seq": self.txn_seq,
            "commit_us": self.commit_us,
            "end_offsets": _as_json(self.end_offsets),
            "identity": self.identity,
            "incomplete": list(self.incomplete),
            "schema_versions": dict(self.schema_versions),
            "whole": self.whole,
            "resume": dict(self.resume),
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "appended_us": self.appended_us,
        }
        if self.part_ends:
            body["part_ends"] = _as_json(self.part_ends)
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Frontier:
        body = json.loads(value)
        return cls(
            name=body["name"],
            positions=Vector.parse(body["position"]),
            txn_seq=body["txn_seq"],
            commit_us=body["commit_us"],
            end_offsets=_from_json(body["end_offsets"]),
            identity=body["identity"],
            incomplete=tuple(body["incomplete"]),
            schema_versions=body["schema_versions"],
            whole=body["whole"],
            resume=body["resume"],
            fingerprint=body["fingerprint"],
            epoch=body["epoch"],
            appended_us=body["appended_us"],
            part_ends=_from_json(body.get("part_ends", {})),
        )


def _as_json(ends: EndOffsets) -> dict[str, list[int]]:
    return {topic: list(each) for topic, each in ends.items()}


def _from_json(ends: Mapping[str, list[int]]) -> EndOffsets:
    return {topic: tuple(each) for topic, each in ends.items()}


def frontier_key(producer: str, name: str) -> str:
    """The name under which a producer's frontier is kept: a view's begins with `view.`."""
    if producer.startswith("view.") and not name.startswith("view."):
        return f"view.{name}"
    return name


def covers_topic(key: str, topic: str) -> bool:
    """Whether a frontier kept as `key` lists `topic`."""
    return topic == key if key.startswith("view.") else topic.startswith(f"{key}.")
