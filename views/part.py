"""What the command line asks of views (cdc.cli.parts.ViewsPart)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cdc.changes import ChangeBatch, concat_rows
from cdc.cli.parts import Stop
from cdc.config import Config
from cdc.errors import ViewError
from cdc.log.api import Log
from cdc.schema import TableSchema
from cdc.source import Finding
from views.maintainer import maintain
from views.operators.graph import Graph
from views.plan import ViewPlan, scans
from views.reload import ReloadRequest
from views.sql import explain, oracle
from views.sql.parse import SqlText, parse_select
from views.sql.planner import catalog_of, plan_view, plan_views, schemas_of
from views.sql.references import ordered, references
from views.sql.resolve import Catalog
from views.status import read_status

_PREVIEW = "preview"


class Views:
    """See cdc.cli.parts.ViewsPart."""

    def check(self, config: Config, tables: Mapping[str, TableSchema]) -> list[Finding]:
        findings: list[Finding] = []
        plans: dict[str, ViewPlan] = {}
        for name in _order(config, findings):
            try:
                plan = _plan(config, tables, plans, name)
            except ViewError as error:
                findings.append(_finding(config, name, error))
                continue
            plans[name] = plan
            key = ", ".join(plan.output.key) or "none: one row"
            what = f"view {name}: {len(plan.output.columns)} columns, key {key}"
            findings.append(Finding("ok", str(config.views[name].place), what))
            findings += [
                Finding("warning", str(config.views[name].place), f"view {name}: {warning}")
                for warning in plan.warnings
            ]
        return findings

    def schemas(self, config: Config, tables: Mapping[str, TableSchema]) -> dict[str, TableSchema]:
        return {name: plan.output for name, plan in plan_views(config, tables).items()}

    def inputs(
        self, config: Config, tables: Mapping[str, TableSchema], view: str
    ) -> tuple[str, ...]:
        return _tables(plan_views(config, tables), view)

    def explain(self, config: Config, tables: Mapping[str, TableSchema], view: str) -> str:
        return explain.explain(plan_views(config, tables), view)

    def explain_json(
        self, config: Config, tables: Mapping[str, TableSchema], view: str
    ) -> dict[str, Any]:
        return explain.explain_json(plan_views(config, tables), view)

    def source_query(
        self, config: Config, tables: Mapping[str, TableSchema], view: str, sql: str | None = None
    ) -> tuple[str, str]:
        return oracle.source_query(config, tables, view, sql)

    def recomputed(
        self,
        config: Config,
        tables: Mapping[str, TableSchema],
        view: str,
        changes: Mapping[str, Sequence[ChangeBatch]],
    ) -> pa.RecordBatch:
        plans = plan_views(config, tables)
        wanted = _with_views_below(plans, view)
        graph = Graph({n: plan for n, plan in plans.items() if n in wanted}, tables)
        slots = graph.run({topic: t.stage(changes[topic]) for topic, t in graph.inputs.items()})
        found = {name: output.step(slots) for name, output in graph.outputs.items()}
        output, rows = graph.outputs[view], found[view]
        if output.is_blocked:
            raise ViewError(output.blocked, where=f"view {view}")
        schema = plans[view].output.arrow
        return concat_rows([], schema) if rows is None else rows.upserts

    def adhoc(
        self, config: Config, tables: Mapping[str, TableSchema], sql: str
    ) -> tuple[TableSchema, str]:
        plans = plan_views(config, tables)
        outputs = {name: plan.output for name, plan in plans.items()}
        plan = plan_view(_PREVIEW, sql, Catalog(tables, outputs, schemas=schemas_of(config)))
        return plan.output, explain.explain({**plans, _PREVIEW: plan}, _PREVIEW)

    def maintain(self, config: Config, group: str, log: Log, stop: Stop) -> None:
        maintain(config, group, log, stop)

    def request_reload(self, config: Config, group: str, *, withdraw: bool = False) -> None:
        request = ReloadRequest(config.state.path, group)
        if withdraw:
            request.end()
        else:
            request.make()

    def reload_stands(self, config: Config, group: str) -> bool:
        return ReloadRequest(config.state.path, group).stands

    def status(self, config: Config, group: str) -> dict[str, Any]:
        return read_status(config.state.path, group)


def _order(config: Config, findings: list[Finding]) -> list[str]:
    """Views in dependency order; those whose text cannot be parsed become findings."""
    reads = {}
    for name, view in config.views.items():
        try:
            tree = parse_select(SqlText(name, view.sql, view.sql_place))
        except ViewError as error:
            findings.append(_finding(config, name, error))
        else:
            reads[name] = references(tree, set(config.views))
    known = {name: frozenset(found & reads.keys()) for name, found in reads.items()}
    try:
        return ordered(known)
    except ViewError as error:
        findings.append(Finding("error", error.where, error.what, error.hint))
        return []


def _plan(
    config: Config, tables: Mapping[str, TableSchema], plans: Mapping[str, ViewPlan], name: str
) -> ViewPlan:
    view = config.views[name]
    outputs = {n: plan.output for n, plan in plans.items()}
    catalog = catalog_of(config, view, tables, outputs)
    return plan_view(
        name, view.sql, catalog, key=view.key, timezone=view.timezone, sql_place=view.sql_place
    )


def _finding(config: Config, name: str, error: ViewError) -> Finding:
    where = error.where or str(config.views[name].place)
    return Finding("error", where, error.what, error.hint)


def _with_views_below(plans: Mapping[str, ViewPlan], view: str) -> set[str]:
    """The view and all views that it reads."""
    found = {view}
    for scan in scans(plans[view].root):
        if scan.input.startswith("view."):
            found |= _with_views_below(plans, scan.input.removeprefix("view."))
    return found


def _tables(plans: Mapping[str, ViewPlan], view: str) -> tuple[str, ...]:
    """Every table below the view, in order of appearance."""
    found: dict[str, None] = {}
    for scan in scans(plans[view].root):
        if scan.input.startswith("view."):
            found |= dict.fromkeys(_tables(plans, scan.input.removeprefix("view.")))
        else:
            found[scan.input] = None
    return tuple(found)


PART = Views()
