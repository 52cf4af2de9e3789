"""Defaults of new columns, for documents that are older than the columns.

Elasticsearch's own update by query would need scripts, which servers may forbid. So the documents
that lack the members are read, completed and written at the versions that they have: whatever was
written meanwhile is newer and stays. Repeating it finds nothing more to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Int64s, column_value
from cdc.errors import SinkError
from cdc.json_rows import json_values
from cdc.json_tokens import members
from cdc.schema import Column
from sinks.elasticsearch.bulk import Bulk, Lines, Rejected
from sinks.elasticsearch.read import Page, pages
from sinks.elasticsearch.server import Server


def fill_missing(server: Server, bulk: Bulk, index: str, columns: Sequence[Column]) -> None:
    """Write each column's `missing` value into every document that lacks the column."""
    bulk.send(_completed(server, index, columns), _refused)


def _completed(server: Server, index: str, columns: Sequence[Column]) -> Iterator[Lines]:
    for page in pages(server, index):
        sources, lacking = page.sources, np.zeros(len(page.sources), np.bool_)
        for column in columns:
            sources, changed = _with(sources, column)
            lacking |= changed
        if lacking.any():
            yield _lines(page, sources, np.flatnonzero(lacking))


def _with(sources: pa.Array, column: Column) -> tuple[pa.Array, np.ndarray]:
    """The documents with the column's default where they lack the member, and which did."""
    lacks = np.ones(len(sources), np.bool_)
    lacks[members(sources).named(column.name).row] = False
    if not lacks.any():
        return sources, lacks
    value = pa.repeat(column_value(column, column.missing or ""), 1)
    member = f"{json.dumps(column.name, ensure_ascii=False)}:{json_values(value, column)[0]}"
    open_ended = pc.utf8_slice_codeunits(sources, 0, -1)
    separator = pc.if_else(pc.equal(open_ended, "{"), "", ",")
    longer = pc.binary_join_element_wise(open_ended, separator, member, "}", "")
    return pc.if_else(pa.array(lacks), longer, sources), lacks


def _lines(page: Page, sources: pa.Array, rows: Int64s) -> Lines:
    at = pa.array(rows)
    ids, versions, documents = page.ids.take(at), page.versions.take(at), sources.take(at)
    texts = pc.binary_join_element_wise(
        '{"index":{"_id":', ids, ',"version":', versions, ',"version_type":"external_gte"}}\n',
        documents, "\n", "",
    )  # fmt: skip
    return Lines(texts, ids, documents.view(pa.binary()), rows)


def _refused(found: list[Rejected]) -> None:
    raise SinkError(f"a column's default cannot be written into a document: {found[0].error}")
