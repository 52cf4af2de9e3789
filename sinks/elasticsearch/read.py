"""All documents of an index, exactly as they were written.

A point in time is read page by page (search_after over `_shard_doc`), so that writes meanwhile
neither hide nor repeat a document, in two slices whose next pages are asked for before the present
ones are taken apart. An answer is taken apart as bytes, by the tokenizer that reads
rows: a number's digits never pass through a float. Pages grow towards PAGE_BYTES.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdc import ragged
from cdc.errors import SinkError, StoreUnavailable
from cdc.json_tokens import Members, elements, members
from sinks.elasticsearch.server import Answer, Server, path_of

PAGE_BYTES = 4 * 2**20
_PAGE_FIRST, _PAGE_MAX = 100, 10_000
_KEEP_ALIVE = "5m"
_SLICES = 2
_PIT = re.compile(rb'"pit_id":"([^"]+)"')
_SORT = b'"sort":['
_HITS, _END = b'"hits":[', b"}}"


@dataclass(frozen=True, eq=False)
class Page:
    """Documents as texts: `_source`, and as JSON values `_id` and `_version`."""

    sources: pa.Array
    ids: pa.Array
    versions: pa.Array


def pages(server: Server, index: str) -> Iterator[Page]:
    """Every document that was written before the call. Raises SinkError, StoreUnavailable."""
    server.require("POST", path_of(index, "_refresh"))
    opened = server.require("POST", path_of(index, "_pit", keep_alive=_KEEP_ALIVE))
    pit = opened["id"]
    size = _PAGE_FIRST
    pool = ThreadPoolExecutor(_SLICES, thread_name_prefix="read")
    waiting: deque[tuple[int, Future[Answer]]] = deque()

    def ask(part: int, after: int | None) -> None:
        body: dict[str, Any] = {
            "sort": ["_shard_doc"],
            "track_total_hits": False,
            "version": True,
            "size": size,
            "slice": {"id": part, "max": _SLICES},
            "pit": {"id": pit, "keep_alive": _KEEP_ALIVE},
        }
        if after is not None:
            body["search_after"] = [after]
        waiting.append((part, pool.submit(server.ask, "POST", "/_search", body)))

    try:
        for part in range(_SLICES):
            ask(part, None)
        while waiting:
            part, asked = waiting.popleft()
            answer = asked.result()
            if not answer.ok:
                raise SinkError(f"Elasticsearch refuses a search: {answer.reason}", where=index)
            pit, last = _pit_of(answer.body), _last_of(answer.body)
            size = max(1, min(_PAGE_MAX, 4 * size, size * PAGE_BYTES // len(answer.body) or 1))
            if last is not None:
                ask(part, last)
                yield _page(answer.body, index)
            else:
                _require_whole(json.loads(answer.body), index)
    finally:
        pool.shutdown(cancel_futures=True)
        server.ask("DELETE", "/_pit", {"id": pit})


def _page(body: bytes, index: str) -> Page:
    """The hits are the answer's last and by far its largest part: cut out before they are read."""
    at = body.index(_HITS) + len(_HITS) - 1
    if not body.endswith(_END):
        raise SinkError("an answer of Elasticsearch does not end with its hits", where=index)
    _require_whole(json.loads(body[:at] + b"[]" + _END), index)
    hits = pa.array([body[at : -len(_END)]], pa.binary())
    each = members(ragged.text(elements(hits).slices(marks=True)))
    return Page(_named(each, "_source"), _named(each, "_id"), _named(each, "_version"))


def _pit_of(body: bytes) -> str:
    """The id to go on with, which stands before all else."""
    found = _PIT.search(body)
    if found is None:
        raise SinkError("an answer of Elasticsearch lacks 'pit_id'")
    return found[1].decode()


def _last_of(body: bytes) -> int | None:
    """Where the last hit stands in the order, None without hits: its `sort`, behind its `_source`,
    is known before the answer is taken apart, so that the next page can be asked for."""
    at = body.rfind(_SORT)
    return None if at < 0 else int(body[at + len(_SORT) : body.index(b"]", at)])


def _named(found: Members, name: str) -> pa.Array:
    """The values of a member, as they stand; every text has it."""
    values = found.named(name)
    if len(values.row) != found.rows:
        raise SinkError(
            f"an answer of Elasticsearch lacks '{name}'",
            hint="documents need their `_source`: take what switches it off out of `mappings`",
        )
    return ragged.text(values.slices(marks=True))


def _require_whole(answer: dict[str, Any], index: str) -> None:
    """Raise StoreUnavailable where a shard did not answer."""
    if answer["_shards"]["failed"] or answer["timed_out"]:
        raise StoreUnavailable("not every shard has answered", where=f"index {index}")
