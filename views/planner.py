"""SQL text to a typed logical plan."""

from __future__ import annotations

from collections.abc import Mapping

from cdc.config import Config, Place
from cdc.schema import TableSchema
from views.plan import ViewPlan
from views.resolve import Catalog


def plan_view(
    name: str,
    sql: str,
    catalog: Catalog,
    *,
    key: tuple[str, ...] | None = None,
    timezone: str = "UTC",
    sql_place: Place | None = None,
) -> ViewPlan:
    """Plan one view. Raises Unsupported or ViewError with the place marked in the SQL."""
    raise NotImplementedError


def plan_views(config: Config, tables: Mapping[str, TableSchema]) -> dict[str, ViewPlan]:
    """Every view of the configuration, in dependency order: a view after the views it reads.

    `tables` is keyed `source.schema.table`. A view in another group is refused.
    """
    raise NotImplementedError
