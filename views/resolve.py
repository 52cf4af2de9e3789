"""Names in a view's SQL: tables of sources, other views, CTEs; columns of what stands in FROM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.schema import TableSchema


@dataclass(frozen=True)
class Catalog:
    """What a view's SQL may name.

    `tables` is keyed `source.schema.table`, `views` by view name. `source` is the view's
    `source:`, preferred for unqualified tables.
    """

    tables: Mapping[str, TableSchema]
    views: Mapping[str, TableSchema] = field(default_factory=dict)
    source: str | None = None
