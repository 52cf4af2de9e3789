"""All documents of an index, exactly as they were written.

A point in time is read page by page (search_after over `_shard_doc`), so that writes meanwhile
neither hide nor repeat a document. The answer is taken apart as bytes, by the tokenizer that reads
rows: a number's digits never pass through a float. Pages grow towards PAGE_BYTES.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdc import ragged
from cdc.errors import SinkError, StoreUnavailable
from cdc.json_tokens import Members, elements, members
from sinks.elasticsearch.server import Server, path_of

PAGE_BYTES = 4 * 2**20
_PAGE_FIRST, _PAGE_MAX = 100, 10_000
_KEEP_ALIVE = "5m"


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
    body: dict[str, Any] = {"sort": ["_shard_doc"], "track_total_hits": False, "version": True}
    size = _PAGE_FIRST
    try:
        while True:
            body |= {"size": size, "pit": {"id": pit, "keep_alive": _KEEP_ALIVE}}
            answer = server.ask("POST", "/_search", body)
            if not answer.ok:
                raise SinkError(f"Elasticsearch refuses a search: {answer.reason}", where=index)
            found = _only(answer.body)
            _require_whole(found, index)
            hits = _texts(elements(_named(_members_of(_named(found, "hits")), "hits")), index)
            if not len(hits):
                return
            each = members(hits)
            yield Page(_named(each, "_source"), _named(each, "_id"), _named(each, "_version"))
            body["search_after"] = json.loads(hits[-1].as_py())["sort"]
            pit = json.loads(_named(found, "pit_id")[0].as_py())
            size = max(1, min(_PAGE_MAX, 4 * size, size * PAGE_BYTES // len(answer.body) or 1))
    finally:
        server.ask("DELETE", "/_pit", {"id": pit})


def _only(body: bytes) -> Members:
    return members(pa.array([body], pa.binary()))


def _members_of(text: pa.Array) -> Members:
    return members(text)


def _named(found: Members, name: str) -> pa.Array:
    """The values of a member, as they stand; every text has it."""
    values = found.named(name)
    if len(values.row) != found.rows:
        raise SinkError(
            f"an answer of Elasticsearch lacks '{name}'",
            hint="documents need their `_source`: take what switches it off out of `mappings`",
        )
    return ragged.text(values.slices(marks=True))


def _texts(values: Any, index: str) -> pa.Array:
    return ragged.text(values.slices(marks=True))


def _require_whole(found: Members, index: str) -> None:
    """Raise StoreUnavailable where a shard did not answer."""
    shards = json.loads(_named(found, "_shards")[0].as_py())
    if shards["failed"] or _named(found, "timed_out")[0].as_py() != "false":
        raise StoreUnavailable("not every shard has answered", where=f"index {index}")
