"""The view's SELECT in the source's own names: what `cdc verify` asks the database.

Only table names are replaced, at their places in the text; everything else reaches the database
as the user wrote it, so that nothing of its meaning can be lost in translation. Views that it
reads become CTEs before it. ONLY goes before each table: the log has its own rows, and not those of
the tables that inherit from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlglot import exp

from cdc.config import Config
from cdc.errors import Unsupported
from cdc.schema import TableSchema
from views.sql.parse import SqlText, parse_select
from views.sql.planner import catalog_of, plan_view, plan_views, schemas_of
from views.sql.references import hidden
from views.sql.resolve import Catalog


@dataclass(frozen=True)
class _Named:
    """One view's text with the source's names. `reads`: views that it needs before it."""

    sql: str
    reads: tuple[str, ...]
    sources: frozenset[str]


def source_query(
    config: Config, tables: Mapping[str, TableSchema], view: str, sql: str | None = None
) -> tuple[str, str]:
    """(source, SELECT in that source's SQL, the view's columns in order).

    `sql` stands for the registered text of `view` (preview). Raises Unsupported when the view
    reads several sources, ViewError when it cannot be planned.
    """
    plans = plan_views(config, tables)
    views = {name: plan.output for name, plan in plans.items()}
    if sql is None:
        output = plans[view].output
        start = _view_text(config, tables, views, view)
    else:
        catalog = Catalog(tables, views, schemas=schemas_of(config))
        output = plan_view(view, sql, catalog).output
        start = _renamed(SqlText(view, sql), catalog)
    needed = _needed(config, tables, views, start)
    sources = start.sources.union(*(n.sources for n in needed.values()))
    if len(sources) != 1:
        names = ", ".join(sorted(sources))
        raise Unsupported(
            f"view {view} reads several sources ({names}): no one database can compute it",
            hint="cdc verify compares such a view with the log",
        )
    return next(iter(sources)), _assembled(view, start, needed, output)


def _view_text(
    config: Config,
    tables: Mapping[str, TableSchema],
    views: Mapping[str, TableSchema],
    name: str,
) -> _Named:
    view = config.views[name]
    catalog = catalog_of(config, view, tables, views)
    return _renamed(SqlText(name, view.sql, view.sql_place), catalog)


def _needed(
    config: Config,
    tables: Mapping[str, TableSchema],
    views: Mapping[str, TableSchema],
    start: _Named,
) -> dict[str, _Named]:
    """The views below, each after those it reads."""
    out: dict[str, _Named] = {}

    def visit(name: str) -> None:
        if name not in out:
            text = _view_text(config, tables, views, name)
            for below in text.reads:
                visit(below)
            out[name] = text

    for name in start.reads:
        visit(name)
    return out


def _assembled(view: str, start: _Named, needed: Mapping[str, _Named], output: TableSchema) -> str:
    ctes = [f"{quoted(name)} AS (\n{text.sql}\n)" for name, text in needed.items()]
    columns = ", ".join(quoted(c.name) for c in output.columns)
    named = f"{quoted(view)}({columns})"
    ctes.append(f"{named} AS (\n{start.sql}\n)")
    return f"WITH {', '.join(ctes)}\nSELECT {columns} FROM {quoted(view)}"


def _renamed(text: SqlText, catalog: Catalog) -> _Named:
    """The text with each table's name replaced by the source's own."""
    edits: list[tuple[int, int, str]] = []
    reads: list[str] = []
    sources: set[str] = set()
    for table in parse_select(text).find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier) or hidden(table):
            continue
        name, _ = catalog.resolve(text, table)
        if name.startswith("view."):
            own = name.removeprefix("view.")
            reads.append(own)
            replacement = quoted(own)
        else:
            source, schema, bare = name.split(".", 2)
            sources.add(source)
            only = "" if table.args.get("only") else "ONLY "
            replacement = f"{only}{quoted(schema)}.{quoted(bare)}"
        metas = [p.meta for p in table.parts]
        edits.append((metas[0]["start"], metas[-1]["end"] + 1, replacement))
    sql = text.sql
    for start, end, replacement in sorted(edits, reverse=True):
        sql = sql[:start] + replacement + sql[end:]
    return _Named(sql.rstrip().rstrip(";"), tuple(dict.fromkeys(reads)), frozenset(sources))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
