"""A request that a group's views be computed anew, as a file that its maintainer looks at between
two steps. It stands until the new state is published, through whatever happens to the maintainer.
"""

from __future__ import annotations

from pathlib import Path


class ReloadRequested(Exception):
    """Somebody asks for the state to be built anew."""


class ReloadRequest:
    """`<state>/views/<group>/reload`, there or not."""

    def __init__(self, state: Path, group: str) -> None:
        self._path = state / "views" / group / "reload"

    @property
    def stands(self) -> bool:
        return self._path.exists()

    def make(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()

    def end(self) -> None:
        """It is fulfilled, or withdrawn."""
        self._path.unlink(missing_ok=True)
