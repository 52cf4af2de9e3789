"""Searches as people write them: a JSON body, or a query string (`status:new AND total:>10`).

The answer is a table: `_id`, `_score` and the documents' fields; or, where the body asks for
aggregations, one row per innermost bucket, with its keys, its `doc_count` and its metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdc.errors import SinkError
from sinks.api import QueryResult
from sinks.documents import parsed
from sinks.elasticsearch.server import Server, path_of

_SIZE = 100


def ask(server: Server, alias: str, text: str) -> QueryResult:
    """Raises SinkError for what Elasticsearch does not understand."""
    if text.lstrip().startswith("{"):
        answer = server.ask("POST", path_of(alias, "_search"), text.encode())
    else:
        answer = server.ask("GET", path_of(alias, "_search", q=text or "*", size=_SIZE))
    if not answer.ok:
        raise SinkError(
            f"Elasticsearch refuses the query: {answer.reason}",
            where=f"index {alias}",
            hint='write a query string (status:new AND total:>10) or a JSON body ({"query": …})',
        )
    found = parsed(answer.body)
    if "aggregations" in found:
        return _table(list(_buckets(found["aggregations"], {})))
    return _table([_hit(hit) for hit in found["hits"]["hits"]])


def _hit(hit: Mapping[str, Any]) -> dict[str, Any]:
    """One document; `fields` (a body may ask for them instead) are lists."""
    return {
        "_id": hit["_id"],
        "_score": None if hit.get("_score") is None else float(hit["_score"]),
        **hit.get("_source", {}),
        **hit.get("fields", {}),
    }


def _buckets(aggregations: Mapping[str, Any], outer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of aggregations, each with the keys of the buckets around it."""
    row, nested = dict(outer), []
    for name, found in aggregations.items():
        if "buckets" in found:
            nested.append((name, found["buckets"]))
        elif isinstance(found, Mapping) and "doc_count" in found:
            row |= {f"{name}.doc_count": found["doc_count"]}
            inner = {k: v for k, v in found.items() if isinstance(v, Mapping)}
            for one in _buckets(inner, {}):
                row |= {f"{name}.{key}": value for key, value in one.items()}
        else:
            row |= _metric(name, found)
    if not nested:
        yield row
    for name, buckets in nested:
        items = buckets.items() if isinstance(buckets, Mapping) else [(None, b) for b in buckets]
        for label, bucket in items:
            key = label if label is not None else bucket.get("key_as_string", bucket.get("key"))
            inner = {k: v for k, v in bucket.items() if isinstance(v, Mapping) and k != "key"}
            keys = {name: key, "doc_count": bucket["doc_count"]}
            yield from _buckets(inner, {**row, **keys})


def _metric(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    if "value" in found:
        return {name: found.get("value_as_string", found["value"])}
    return {f"{name}.{part}": value for part, value in found.items()}


def _table(rows: Sequence[Mapping[str, Any]]) -> QueryResult:
    """All rows with all columns, in the order in which they come up."""
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return QueryResult(columns, [[row.get(name) for name in columns] for row in rows])
