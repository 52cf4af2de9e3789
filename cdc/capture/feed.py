"""Pieces made on one thread, taken in groups on another, bounded by bytes (SEMANTICS 7).

While a group is appended the next ones are decoded; `groups` then yields all that waits, up to a
size. So nothing waits for a timer, and groups grow exactly as far as the appends are slow.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

from cdc.source import Piece

WAITING_BYTES_MAX = 16 * 2**20


class Feed:
    """Runs an iterator of pieces on a thread. A context manager: leaving it ends the thread."""

    def __init__(self, pieces: Iterator[Piece], stop: Callable[[], bool]) -> None:
        self._pieces, self._stop = pieces, stop
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Piece, int]] = deque()
        self._bytes = 0
        self._ended = self._abandoned = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        self._thread.join()

    def groups(self, max_bytes: int) -> Iterator[list[Piece]]:
        """All that waits, again and again, in order, until the pieces end or `stop()`; what was
        made before the end is given out. Raises what the pieces raised."""
        while True:
            group = self._take(max_bytes)
            if not group:
                if self._error is not None:
                    raise self._error
                return
            yield group

    def _take(self, max_bytes: int) -> list[Piece]:
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            group: list[Piece] = []
            size = 0
            while self._waiting and (not group or size + self._waiting[0][1] <= max_bytes):
                piece, piece_bytes = self._waiting.popleft()
                group.append(piece)
                size += piece_bytes
            self._bytes -= size
            self._changed.notify_all()
            return group

    def _run(self) -> None:
        try:
            for piece in self._pieces:
                self._put(piece)
                del piece
                if self._abandoned or self._stop():
                    break
        except BaseException as error:  # raised again where the groups are taken
            self._error = error
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, piece: Piece) -> None:
        size = sum(changes.nbytes for _, changes in piece.changes)
        with self._changed:
            while self._bytes + size > WAITING_BYTES_MAX and self._waiting:
                if self._abandoned:
                    return
                self._changed.wait()
            self._waiting.append((piece, size))
            self._bytes += size
            self._changed.notify_all()
