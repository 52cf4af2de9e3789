"""Checkpoints: immutable run files and a manifest that names them (SEMANTICS 19, 31).

Writing, in a thread of its own while steps go on (runs never change):

1.  Write and fsync a file for every run that has none.
2.  Write and fsync the new manifest beside the old one.
3.  Rename: current → previous, new → current; fsync the folder.
4.  Delete the run files that neither manifest names.

A manifest is one line of crc32 and one of JSON. Reading takes the current one, or, where that or a
run of it is damaged, the previous one. What was kept for another plan is no checkpoint.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdc import faults
from cdc.errors import LogDamaged, LogError
from cdc.positions import Vector
from compaction.runs import Run, open_run, write_run
from views.operators.graph import Graph

_CURRENT, _PREVIOUS, _DRAFT = "manifest", "manifest.previous", "manifest.draft"


@dataclass(frozen=True)
class Stand:
    """A cut: where a group stands in its inputs.

    offsets      per topic, per partition: the next offset to read
    generations  per topic: its identity
    reached_us   per source: when the frontier that is reached was appended
    """

    vector: Vector
    offsets: Mapping[str, tuple[int, ...]]
    generations: Mapping[str, str]
    reached_us: Mapping[str, int]

    @property
    def floor_us(self) -> int:
        """Everything newer than this may still be needed to step on from here."""
        return min(self.reached_us.values(), default=0)

    @property
    def records(self) -> int:
        """How many offsets lie before it: grows from cut to cut, or stays when nothing came."""
        return sum(map(sum, self.offsets.values()))

    def covers(self, other: Stand) -> bool:
        """Whether every offset lies at least as far as the other's."""
        return all(
            mine >= end
            for topic, ends in other.offsets.items()
            for mine, end in zip(self.offsets.get(topic, (0,) * len(ends)), ends, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "vector": str(self.vector),
            "offsets": {topic: list(ends) for topic, ends in self.offsets.items()},
            "generations": dict(self.generations),
            "reached_us": dict(self.reached_us),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Stand:
        return cls(
            Vector.parse(body["vector"]),
            {topic: tuple(ends) for topic, ends in body["offsets"].items()},
            body["generations"],
            body["reached_us"],
        )


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: the cut, and every arrangement's runs at it."""

    fingerprint: str
    stand: Stand
    runs: Mapping[str, tuple[Run, ...]]


def snapshot(graph: Graph, stand: Stand) -> Snapshot:
    """The graph's committed state at `stand`, between two steps."""
    runs = {name: a.old.runs for name, a in graph.arrangements.items() if a.old.runs}
    return Snapshot(graph.fingerprint, stand, runs)


class Checkpoints:
    """The checkpoints of one group, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, taken: Snapshot, schemas: Mapping[str, Any]) -> dict[int, Run]:
        """Make `taken` durable; the runs that got files, by id() of those they replace. Raises
        LogError: nothing is lost, the last checkpoint still stands."""
        try:
            return self._write(taken, schemas)
        except OSError as error:
            raise LogError(
                f"the views' state cannot be written: {error.strerror}",
                where=str(self._folder),
                hint="free space on the disk, make it writable, or set state.path to another one",
            ) from error

    def _write(self, taken: Snapshot, schemas: Mapping[str, Any]) -> dict[int, Run]:
        written: dict[int, Run] = {}
        names: dict[str, list[str]] = {}
        for arrangement, runs in taken.runs.items():
            names[arrangement] = []
            for run in runs:
                path = run.path
                if path is None:
                    path = self._folder / f"{secrets.token_hex(8)}.run"
                    written[id(run)] = write_run(run, path, schemas[arrangement])
                names[arrangement].append(path.name)
        faults.point("view.mid_checkpoint")
        self._replace_manifest(taken, names)
        self._delete_unnamed()
        faults.point("view.after_checkpoint")
        return written

    def load(self, graph: Graph) -> Stand | None:
        """Restore the newest checkpoint of this very graph into it; None: there is none."""
        for name in (_CURRENT, _PREVIOUS):
            body = self._manifest(name)
            if body is not None and body["fingerprint"] == graph.fingerprint:
                try:
                    self._restore(graph, body["runs"])
                except LogDamaged:
                    continue
                return Stand.from_json(body["stand"])
        return None

    @property
    def floor_us(self) -> int | None:
        """The floor of the oldest checkpoint that may still be resumed from."""
        bodies = [self._manifest(name) for name in (_CURRENT, _PREVIOUS)]
        return min((Stand.from_json(b["stand"]).floor_us for b in bodies if b), default=None)

    def discard(self) -> None:
        """Forget all checkpoints: their state cannot be continued."""
        for name in (_CURRENT, _PREVIOUS):
            (self._folder / name).unlink(missing_ok=True)
        self._delete_unnamed()

    def _restore(self, graph: Graph, names: Mapping[str, list[str]]) -> None:
        found = {
            name: [
                open_run(self._folder / file, arrangement.layout.schema)
                for file in names.get(name, ())
            ]
            for name, arrangement in graph.arrangements.items()
        }
        for name, runs in found.items():
            graph.arrangements[name].restore(runs)
        graph.restored()

    def _replace_manifest(self, taken: Snapshot, names: Mapping[str, list[str]]) -> None:
        body = json.dumps(
            {"fingerprint": taken.fingerprint, "stand": taken.stand.to_json(), "runs": names}
        ).encode()
        draft, current = self._folder / _DRAFT, self._folder / _CURRENT
        with open(draft, "wb") as file:
            file.write(b"%d\n%s" % (zlib.crc32(body), body))
            file.flush()
            os.fsync(file.fileno())
        if current.exists():
            current.replace(self._folder / _PREVIOUS)
        draft.replace(current)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _manifest(self, name: str) -> dict[str, Any] | None:
        """A manifest's body; None when it is missing or damaged."""
        try:
            crc, _, body = (self._folder / name).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if not crc.isdigit() or int(crc) != zlib.crc32(body):
            return None
        found: dict[str, Any] = json.loads(body)
        return found

    def _delete_unnamed(self) -> None:
        named = {
            file
            for name in (_CURRENT, _PREVIOUS)
            if (body := self._manifest(name)) is not None
            for files in body["runs"].values()
            for file in files
        }
        for path in self._folder.glob("*.run"):
            if path.name not in named:
                path.unlink()
