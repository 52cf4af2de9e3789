"""Bulk requests: made from whole Arrow columns, sent two at a time, answered item by item.

1. The cut's rows become action lines and documents joined into one buffer of NDJSON; requests are
   slices of it of about BODY_BYTES. A cut has each key once, so the order of requests is free.
2. Every action carries its version (SEMANTICS 32: generation · 2^44 + offset of the key's last
   record), and `external_gte`: repeating a request changes nothing, and an older write than the
   stored one is refused by 409, which is success here, as long as the stored version is of our
   generation.
3. Items that are told "later" (429, 503) are sent again, alone; documents that the index does not
   take (400, 413) become dead letters; everything else stops the cut.

An `_id` has 512 bytes at most: the SHA-256 of a longer key stands for it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Int64s
from cdc.errors import Fenced, SinkError, StoreUnavailable
from cdc.json_rows import json_objects
from cdc.json_strings import escaped
from cdc.keys import encode_keys
from sinks.api import InputChanges
from sinks.elasticsearch.indexes import write_alias
from sinks.elasticsearch.server import LATER, RETRY_DELAYS_S, Answer, Server, path_of, reason_of

BODY_BYTES = 5 * 2**20
IN_FLIGHT = 2
_SLICE_BYTES = 16 * 2**20
"""Arrow bytes that become NDJSON at once."""
_ID_BYTES_MAX = 512
_GENERATION = 1 << 44
_NO_ERRORS = b'"errors":false'
_REJECTED = frozenset({400, 413})
_CONFLICT = 409
_CURRENT_VERSION = re.compile(r"current version \[(\d+)\]")


@dataclass(frozen=True)
class Rejected:
    """A document that the index does not take; without `value`, a delete."""

    key: bytes
    value: bytes | None
    offset: int
    error: str


@dataclass(frozen=True, eq=False)
class Lines:
    """Actions of one kind: per key one text of one or two lines, and what it was made from."""

    texts: pa.Array
    keys: pa.Array
    documents: pa.Array | None
    offsets: Int64s

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Int64s) -> Lines:
        at = pa.array(index)
        documents = None if self.documents is None else self.documents.take(at)
        return Lines(self.texts.take(at), self.keys.take(at), documents, self.offsets[index])

    def slice(self, start: int, stop: int) -> Lines:
        count = stop - start
        documents = None if self.documents is None else self.documents.slice(start, count)
        return Lines(
            self.texts.slice(start, count),
            self.keys.slice(start, count),
            documents,
            self.offsets[start:stop],
        )

    def body(self) -> bytes:
        """The texts, one behind the other."""
        starts = _places(self.texts)
        data: pa.Buffer = self.texts.buffers()[2]
        return data.slice(int(starts[0]), int(starts[-1] - starts[0])).to_pybytes()

    def rejected(self, row: int, error: str) -> Rejected:
        value = None if self.documents is None else self.documents[row].as_py()
        key = self.keys[row].as_py().encode()
        return Rejected(key, value, int(self.offsets[row]), error)


def lines_of(changes: InputChanges, generation: int) -> Iterator[Lines]:
    """All actions of an input's changes, each piece small enough for memory."""
    schema = changes.input.schema
    for start, stop in _pieces(changes.upserts):
        rows = changes.upserts.slice(start, stop - start)
        offsets = changes.upsert_offsets[start:stop]
        keys = encode_keys([rows.column(name) for name in schema.key], rows.num_rows)
        documents = json_objects(rows, schema)
        head = _heads("index", keys, offsets, generation)
        texts = _join(*head, documents.view(pa.string()), "\n")
        yield Lines(texts, keys, documents, offsets)
    for start, stop in _pieces(changes.deletes):
        rows = changes.deletes.slice(start, stop - start)
        offsets = changes.delete_offsets[start:stop]
        keys = encode_keys(rows.columns, rows.num_rows)
        yield Lines(_join(*_heads("delete", keys, offsets, generation)), keys, None, offsets)


def _pieces(rows: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    if not rows.num_rows:
        return
    per_piece = max(1, int(rows.num_rows * _SLICE_BYTES / max(rows.nbytes, 1)))
    for start in range(0, rows.num_rows, per_piece):
        yield start, min(start + per_piece, rows.num_rows)


def _heads(action: str, keys: pa.Array, offsets: Int64s, generation: int) -> tuple[Any, ...]:
    versions = pa.array(generation * _GENERATION + offsets).cast(pa.string())
    return (
        f'{{"{action}":{{"_id":"',
        escaped(ids_of(keys)),
        '","version":',
        versions,
        ',"version_type":"external_gte"}}\n',
    )


def _join(*parts: Any) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def ids_of(keys: pa.Array) -> pa.Array:
    """The `_id` of canonical keys."""
    lengths = pc.binary_length(keys)
    if not len(keys) or pc.max(lengths).as_py() <= _ID_BYTES_MAX:
        return keys
    long = pc.greater(lengths, _ID_BYTES_MAX)
    hashed = [
        f"sha256:{hashlib.sha256(k.encode()).hexdigest()}" for k in keys.filter(long).to_pylist()
    ]
    return pc.replace_with_mask(keys, long, pa.array(hashed, pa.string()))


def requests_of(lines: Iterable[Lines]) -> Iterator[Lines]:
    """The same actions in pieces of about BODY_BYTES, at least one each."""
    for piece in lines:
        starts = _places(piece.texts)
        start = 0
        while start < len(piece):
            fits = int(np.searchsorted(starts, starts[start] + BODY_BYTES, "right")) - 1
            stop = max(start + 1, min(fits, len(piece)))
            yield piece.slice(start, stop)
            start = stop


def _places(texts: pa.Array) -> Int64s:
    found = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, 4 * texts.offset)
    return found.astype(np.int64)


class Bulk:
    """Sends actions to one index, and collects what it does not take."""

    def __init__(
        self, server: Server, pool: ThreadPoolExecutor, index: str, generation: int
    ) -> None:
        self._server, self._pool = server, pool
        self._index, self._generation = index, generation
        self._path = path_of(
            write_alias(index),
            "_bulk",
            require_alias="true",
            filter_path="errors,items.*.status,items.*.error",
        )

    def send(self, lines: Iterable[Lines], reject: Callable[[list[Rejected]], None]) -> None:
        """Write all, at most IN_FLIGHT requests at a time. Raises StoreUnavailable, SinkError."""
        running: deque[Future[list[Rejected]]] = deque()
        requests = requests_of(lines)
        try:
            first, second = next(requests, None), next(requests, None)
            if first is None:
                return
            if second is None:
                _told(self._write(first), reject)
                return
            running.append(self._pool.submit(self._write, first))
            running.append(self._pool.submit(self._write, second))
            for request in requests:
                if len(running) > IN_FLIGHT:
                    _told(running.popleft().result(), reject)
                running.append(self._pool.submit(self._write, request))
            while running:
                _told(running.popleft().result(), reject)
        finally:
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()

    def _write(self, lines: Lines) -> list[Rejected]:
        rejected: list[Rejected] = []
        problem = ""
        for delay_s in (*RETRY_DELAYS_S, None):
            answer = self._server.ask("POST", self._path, lines.body())
            if answer.ok and _NO_ERRORS in answer.body[:64]:
                return rejected
            if answer.status == 413:
                return rejected + self._halves(lines, answer)
            if not answer.ok:
                raise self._failed(answer.status, answer.reason)
            later, refused, problem = self._examined(lines, answer)
            rejected += refused
            if not len(later):
                return rejected
            lines = lines.take(later)
            if delay_s is not None:
                time.sleep(delay_s)
        raise StoreUnavailable(
            f"Elasticsearch puts off {len(lines)} documents: {problem}", where=self._index
        )

    def _halves(self, lines: Lines, answer: Answer) -> list[Rejected]:
        """A request that is too large for the server, or for what stands before it."""
        if len(lines) == 1:
            return [lines.rejected(0, f"413, {len(lines.body())} bytes: {answer.reason}")]
        half = len(lines) // 2
        return self._write(lines.slice(0, half)) + self._write(lines.slice(half, len(lines)))

    def _examined(self, lines: Lines, answer: Answer) -> tuple[Int64s, list[Rejected], str]:
        """Rows to send again, documents refused, and a reason for the former."""
        later, refused, problem = [], [], ""
        for row, item in enumerate(answer.json()["items"]):
            (found,) = item.values()
            error = found.get("error")
            if error is None:
                continue
            status, reason = found["status"], reason_of(error)
            if status in LATER:
                later.append(row)
                problem = reason
            elif status == _CONFLICT:
                self._require_ours(reason)
            elif status in _REJECTED:
                refused.append(lines.rejected(row, reason))
            else:
                raise self._failed(status, reason)
        return np.array(later, np.int64), refused, problem

    def _require_ours(self, reason: str) -> None:
        """A newer write of our generation is there already: nothing is lost."""
        found = _CURRENT_VERSION.search(reason)
        stored = int(found[1]) // _GENERATION if found else -1
        if stored != self._generation:
            raise Fenced(
                f"documents were written by something else: {reason}",
                where=f"index {self._index}",
                hint="run each sink in one `cdc run` only; if nothing else writes to the index: "
                "cdc rebuild",
            )

    def _failed(self, status: int, reason: str) -> SinkError:
        where = f"index {self._index}"
        if status == 404:
            return StoreUnavailable(f"the index is gone: {reason}", where=where)
        if status == 403 and "cluster_block_exception" in reason:
            return StoreUnavailable(
                f"the index is closed for writing: {reason}",
                where=where,
                hint="take its block away (`index.blocks.*`), or free space on its disks",
            )
        if status >= 500:
            return StoreUnavailable(f"Elasticsearch failed: {reason}", where=where)
        return SinkError(f"Elasticsearch refuses a write with {status}: {reason}", where=where)


def _told(found: list[Rejected], reject: Callable[[list[Rejected]], None]) -> None:
    if found:
        reject(found)


__all__ = ("Bulk", "Lines", "Rejected", "ids_of", "lines_of", "requests_of")
