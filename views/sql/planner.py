"""SQL text to a typed logical plan: parse, resolve and type, join, group, prune, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from cdc.config import Config, Place, ViewConfig
from cdc.errors import ViewError
from cdc.schema import Column, TableSchema, type_name
from views.plan import (
    Distinct,
    Filter,
    Node,
    Project,
    Scan,
    UnionAll,
    ViewPlan,
    children,
    scans,
)
from views.sql.explain_node import plan_lines
from views.sql.joins import Planned
from views.sql.keys import plain
from views.sql.parse import SqlText, parse_select
from views.sql.references import ordered, references
from views.sql.resolve import Catalog
from views.sql.rewrite import fused, pruned, refs
from views.sql.select import Output, Planner


def plan_view(
    name: str,
    sql: str,
    catalog: Catalog,
    *,
    key: tuple[str, ...] | None = None,
    timezone: str = "UTC",
    sql_place: Place | None = None,
) -> ViewPlan:
    """Plan one view. Raises Unsupported or ViewError with the place marked in the SQL.

    `key` declares the output's key; otherwise it is derived from the inputs' keys.
    """
    text = SqlText(name, sql, sql_place)
    output = Planner(text, catalog, timezone).query(parse_select(text))
    names = _checked_names(text, output)
    derived = _key(text, output, names, key)
    root = _root(output.planned, names, derived)
    columns = tuple(Column(f.name, f.type, f.sql_type, f.nullable) for f in root.columns)
    schema = TableSchema(name, columns, derived)
    warnings = _warnings(schema)
    inputs = tuple(dict.fromkeys(s.input for s in scans(root)))
    mark = _fingerprint(root, schema, timezone)
    return ViewPlan(name, sql, root, inputs, schema, key is not None, mark, warnings)


def plan_views(
    config: Config,
    tables: Mapping[str, TableSchema],
    refused: dict[str, ViewError] | None = None,
    accept: Callable[[ViewPlan], None] = lambda plan: None,
) -> dict[str, ViewPlan]:
    """Every view of the configuration, in dependency order: a view after the views it reads.

    `tables` is keyed `source.schema.table`. A view in another group is refused, and one that
    `accept` raises ViewError for. With `refused`, such views are left out, and stand there with
    their errors; so do the views that read them.
    """
    plans: dict[str, ViewPlan] = {}
    trees = {n: parse_select(SqlText(n, v.sql, v.sql_place)) for n, v in config.views.items()}
    reads = {n: references(t, set(trees)) for n, t in trees.items()}
    for name in ordered(reads):
        view = config.views[name]
        try:
            _require_planned(name, reads[name], refused or {})
            plan = plan_view(
                name,
                view.sql,
                catalog_of(config, view, tables, {n: p.output for n, p in plans.items()}),
                key=view.key,
                timezone=view.timezone,
                sql_place=view.sql_place,
            )
            accept(plan)
            plans[name] = plan
        except ViewError as error:
            if refused is None:
                raise
            refused[name] = error
    return plans


def _require_planned(name: str, reads: Collection[str], refused: Collection[str]) -> None:
    below = sorted(set(reads) & set(refused))
    if below:
        raise ViewError(f"view {below[0]}, which it reads, is blocked", where=f"view {name}")


def catalog_of(
    config: Config,
    view: ViewConfig,
    tables: Mapping[str, TableSchema],
    views: Mapping[str, TableSchema],
) -> Catalog:
    """What one view's SQL may name; `views` are the outputs planned so far."""
    same = {n: s for n, s in views.items() if config.views[n].group == view.group}
    elsewhere = {
        n: f"view {n} belongs to the group {v.group}, this one to {view.group}; "
        "a view reads views of its own group only"
        for n, v in config.views.items()
        if v.group != view.group
    }
    return Catalog(tables, same, elsewhere, view.source, schemas_of(config))


def schemas_of(config: Config) -> dict[str, str]:
    """Catalog.schemas."""
    return {name: source.default_schema for name, source in config.sources.items()}


def _checked_names(text: SqlText, output: Output) -> tuple[str, ...]:
    for at, name in enumerate(output.names):
        if name in output.names[:at]:
            raise text.failed_at(
                0, f"column {name} stands twice in the result", f"{name} AS another_name"
            )
        if name == "?column?":
            raise text.failed_at(0, f"column {at + 1} of the result has no name", "… AS name")
    return output.names


def _key(
    text: SqlText, output: Output, names: tuple[str, ...], declared: tuple[str, ...] | None
) -> tuple[str, ...]:
    if declared is not None:
        missing = [k for k in declared if k not in names]
        if missing:
            what = f"key: {', '.join(missing)} is no column of the result"
            raise text.failed_at(0, what, "columns: " + ", ".join(names))
        return declared
    if output.planned.facts.key is not None:
        return output.planned.facts.key
    what, hint = _missing_key(output.planned)
    raise text.failed_at(0, what, hint)


def _missing_key(planned: Planned) -> tuple[str, str]:
    declare = "declare `key: [column, …]` if columns of the result are unique together"
    node: Node = planned.node
    while isinstance(node, (Project, Filter)):
        inner = _inner_key(node)
        if inner is not None and isinstance(node, Project):
            given = {plain(e) for e in node.exprs}
            absent = [c for c in inner if not planned.below.same(c) & given]
            columns = ", ".join(absent)
            what = f"the result has no key: its rows are told apart by {', '.join(inner)}"
            return what, f"add {columns} to the SELECT list, or {declare}"
        node = node.child
    if isinstance(node, UnionAll):
        return "the rows of a UNION ALL have no key of their own", declare
    return "no key of the result can be derived", declare


def _inner_key(node: Project | Filter) -> tuple[str, ...] | None:
    inner = node.child
    if isinstance(inner, UnionAll):
        return None
    return inner.key


def _root(planned: Planned, names: tuple[str, ...], key: tuple[str, ...]) -> Node:
    """The plan with the view's column names on top, fused and pruned."""
    node = planned.node
    if tuple(c.name for c in node.columns) != names or isinstance(node, (UnionAll, Filter)):
        columns = tuple(replace(c, name=n) for c, n in zip(node.columns, names, strict=True))
        node = Project(node, columns, refs(node.columns), key)
    node = pruned(fused(node), frozenset(names))
    return node if isinstance(node, Distinct) else replace(node, key=key)  # type: ignore[arg-type]


def _warnings(schema: TableSchema) -> tuple[str, ...]:
    nullable = [c.name for c in schema.key_columns if c.nullable]
    return tuple(f"key column {name} can be NULL" for name in nullable)


def _fingerprint(root: Node, schema: TableSchema, timezone: str) -> str:
    body: Any = [plan_lines(root), schema.to_json(), timezone, _types(root)]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _types(node: Node) -> list[Any]:
    own = [[c.name, c.sql_type, type_name(c.type)] for c in node.columns]
    sources = list(node.source_columns) if isinstance(node, Scan) else []
    return [own, sources, [_types(c) for c in children(node)]]
