"""One SELECT, or UNION ALL of them, to a plan.

The steps of a SELECT, in order: FROM's items become relations; their joins are found
(views.sql.joins); WHERE filters; GROUP BY, aggregates and HAVING (views.sql.aggregates); the
SELECT list projects; DISTINCT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from views.plan import (
    Aggregate,
    ColumnRef,
    Distinct,
    Expr,
    Field,
    Filter,
    Join,
    Node,
    Project,
    Scan,
    UnionAll,
)
from views.sql import keys, typed
from views.sql.aggregates import Grouping, contains_aggregate, output_fields
from views.sql.bind import Binder
from views.sql.from_clause import opened
from views.sql.joins import Planned, conjuncts_of, filter_above
from views.sql.keys import Facts
from views.sql.parse import SqlText, check_modifiers
from views.sql.resolve import Catalog, Relation, Scope, fold
from views.sql.rewrite import refs
from views.sql.typed import NotTyped
from views.values.functions import may_be_null


@dataclass(frozen=True)
class Output:
    """A planned query: the names of its columns in SQL, in order, one per column of the node."""

    names: tuple[str, ...]
    planned: Planned


@dataclass(frozen=True)
class Cte:
    query: exp.Query
    columns: tuple[str, ...]
    outer: Mapping[str, Cte]


@dataclass(frozen=True)
class Planner:
    """Plans the queries of one view. `ctes` are those in scope."""

    text: SqlText
    catalog: Catalog
    timezone: str
    ctes: Mapping[str, Cte] = field(default_factory=dict)

    def query(self, node: exp.Expr) -> Output:
        """Plan a SELECT, a UNION ALL or a parenthesised one. Raises ViewError."""
        planner = self._with_ctes(node)
        if isinstance(node, exp.Subquery):
            check_modifiers(self.text, node)
            return planner.query(node.this)
        if isinstance(node, exp.SetOperation):
            check_modifiers(self.text, node)
            return planner._union(node)
        if isinstance(node, exp.Select):
            check_modifiers(self.text, node)
            return _Select(planner, node).output()
        raise self.text.refused(
            node, f"{node.key.upper()} is not supported in a view", "write a SELECT"
        )

    def _with_ctes(self, node: exp.Expr) -> Planner:
        clause = node.args.get("with_")
        if clause is None:
            return self
        if clause.args.get("recursive"):
            raise self.text.refused(
                clause, "WITH RECURSIVE is not supported yet", "remove RECURSIVE"
            )
        known = dict(self.ctes)
        for cte in clause.expressions:
            alias = cte.args["alias"]
            columns = tuple(fold(c) for c in alias.args.get("columns") or ())
            if not isinstance(cte.this, exp.Query):
                raise self.text.refused(cte, "a CTE is a SELECT here")
            known[fold(alias.this)] = Cte(cte.this, columns, dict(known))
        return replace(self, ctes=known)

    def _union(self, node: exp.SetOperation) -> Output:
        parts = [self.query(side) for side in _sides(node)]
        width = len(parts[0].names)
        for part, side in zip(parts, _sides(node), strict=True):
            if len(part.names) != width:
                raise self.text.failed(
                    side, "each UNION query must have the same number of columns"
                )
        names = parts[0].names
        columns, casts = [], []
        for i in range(width):
            given = [refs(p.planned.node.columns)[i] for p in parts]
            try:
                type, exprs = typed.unite(given, "UNION")
            except NotTyped as error:
                raise self.text.failed(
                    node.expression, f"{error.what} (column {names[i]})", error.hint
                ) from None
            nullable = any(g.nullable for g in given)
            columns.append(Field(_unique(names, i), type.sql, type.arrow, nullable))
            casts.append(exprs)
        children = tuple(
            Project(p.planned.node, tuple(columns), tuple(c[at] for c in casts), None)
            for at, p in enumerate(parts)
        )
        return Output(names, Planned(UnionAll(children, tuple(columns)), Facts()))

    def relation(self, node: exp.Expr) -> tuple[tuple[Relation, ...], Planned]:
        """An item of FROM: its relations (several for a parenthesised join) and its plan."""
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return self._table(node)
        if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
            alias = node.args.get("alias")
            if alias is None:
                raise self.text.failed(
                    node, "a subquery in FROM needs an alias", "(SELECT …) AS name"
                )
            return self._renamed(self.query(node.this), fold(alias.this), alias)
        if isinstance(node, exp.Subquery) and node.args.get("alias") is None:
            nested = opened(self.text, self.timezone, self.relation, node.this)
            return nested.scope.relations, nested.joined(())
        if isinstance(node, exp.Lateral):
            raise self.text.refused(node, "LATERAL is not supported yet", "write it as a join")
        raise self.text.refused(
            node, "this item of FROM is not supported", "a table, view or subquery"
        )

    def _table(self, node: exp.Table) -> tuple[tuple[Relation, ...], Planned]:
        for name, what in (("sample", "TABLESAMPLE"), ("only", "ONLY"), ("version", "AS OF")):
            if node.args.get(name):
                raise self.text.refused(node, f"{what} is not supported in a view")
        alias = node.args.get("alias")
        own = fold(node.this)
        shown = fold(alias.this) if alias is not None and alias.this else own
        if not node.args.get("db") and own in self.ctes:
            cte = self.ctes[own]
            made = replace(self, ctes=cte.outer).query(cte.query)
            if cte.columns:
                made = replace(made, names=(*cte.columns, *made.names[len(cte.columns) :]))
            return self._renamed(made, shown, alias)
        input_name, schema = self.catalog.resolve(self.text, node)
        columns = tuple(
            Field(f"{shown}.{c.name}", c.sql_type, c.type, c.nullable and c.name not in schema.key)
            for c in schema.columns
        )
        names = tuple(c.name for c in schema.columns)
        key = tuple(f"{shown}.{k}" for k in schema.key)
        scan = Scan(input_name, schema, columns, names, key)
        relation = Relation(shown, self._column_aliases(names, alias), columns)
        return (relation,), Planned(scan, Facts((key,)))

    def _renamed(
        self, output: Output, alias: str, given: exp.Expr | None
    ) -> tuple[tuple[Relation, ...], Planned]:
        """A query's output under an alias: its columns become `alias.name`."""
        names = self._column_aliases(output.names, given)
        child = output.planned.node
        columns = tuple(
            replace(c, name=f"{alias}.{_unique(names, i)}") for i, c in enumerate(child.columns)
        )
        exprs = refs(child.columns)
        facts = keys.projected(output.planned.facts, columns, exprs)
        node = Project(child, columns, exprs, facts.key)
        return (Relation(alias, names, columns),), Planned(node, facts)

    def _column_aliases(self, names: tuple[str, ...], alias: exp.Expr | None) -> tuple[str, ...]:
        given = tuple(fold(c) for c in (alias.args.get("columns") or ())) if alias else ()
        if len(given) > len(names):
            raise self.text.failed(alias, "there are more column aliases than columns")
        return (*given, *names[len(given) :])


def _sides(node: exp.Expr) -> list[exp.Expr]:
    """The queries of nested UNION ALLs, in order (a nested one's own clauses are checked)."""
    out: list[exp.Expr] = []
    for side in (node.this, node.expression):
        nested = isinstance(side, exp.Union) and not side.args.get("with_")
        if nested and not side.args.get("distinct"):
            out += _sides(side)
        else:
            out.append(side)
    return out


def _unique(names: Sequence[str], at: int) -> str:
    """The name of column `at`, numbered where another column before it has the same."""
    earlier = names[:at].count(names[at])
    return names[at] if not earlier else f"{names[at]}#{earlier + 1}"


@dataclass
class _Select:
    """One SELECT on its way to a plan."""

    planner: Planner
    node: exp.Select

    def output(self) -> Output:
        text = self.planner.text
        source = self.node.args.get("from_")
        if source is None:
            raise text.refused(
                self.node, "a SELECT without FROM is not supported", "read from a table"
            )
        opened_from = opened(
            text,
            self.planner.timezone,
            self.planner.relation,
            source.this,
            self.node.args.get("joins") or (),
        )
        binder = Binder(text, opened_from.scope, self.planner.timezone)
        planned = opened_from.joined(self._where(binder))
        items = self._items(opened_from.scope)
        if self._grouped(items):
            planned, binder = self._group(binder, planned, items)
        return self._projected(binder, planned, items)

    def _where(self, binder: Binder) -> list[Expr]:
        where = self.node.args.get("where")
        if where is None:
            return []
        if contains_aggregate(where.this):
            raise binder.text.failed(where, "aggregates are not allowed in WHERE", "write HAVING")
        return conjuncts_of(binder.condition(where.this, "WHERE"))

    def _grouped(self, items: Sequence[Item]) -> bool:
        parts = [item.node for item in items]
        having = self.node.args.get("having")
        if self.node.args.get("group") or having:
            return True
        return any(contains_aggregate(p) for p in parts)

    def _items(self, scope: Scope) -> list[Item]:
        text = self.planner.text
        out: list[Item] = []
        for node in self.node.expressions:
            inner = node.this if isinstance(node, exp.Alias) else node
            if isinstance(inner, exp.Star):
                self._plain_star(inner)
                out += [Item(n, _column_node(inner, r, n)) for r, n in scope.star()]
            elif isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star):
                self._plain_star(inner.this)
                names = scope.star_of(text, inner)
                out += [Item(n, _column_node(inner, r, n)) for r, n in names]
            else:
                name = (
                    fold(node.args["alias"]) if isinstance(node, exp.Alias) else _named(text, node)
                )
                out.append(Item(name, inner))
        if not out:
            raise text.refused(self.node, "a SELECT without columns is not supported")
        return out

    def _plain_star(self, node: exp.Expr) -> None:
        if any(node.args.get(a) for a in ("except_", "replace", "rename", "except")):
            raise self.planner.text.refused(
                node, "* with EXCEPT is not Postgres SQL", "list the columns"
            )

    def _group(
        self, binder: Binder, planned: Planned, items: Sequence[Item]
    ) -> tuple[Planned, Binder]:
        named = self._group_expressions(binder, items)
        loose = _determined(planned, named)
        grouping = Grouping(binder, dict(named), loose)
        grouped = Binder(binder.text, Scope(()), binder.timezone, grouping.hook)
        for item in items:
            grouped.bind(item.node)
        having = self.node.args.get("having")
        condition = grouped.condition(having.this, "HAVING") if having else None
        made = _aggregated(planned, grouping)
        if condition is not None:
            made = filter_above(made, conjuncts_of(condition))
        return made, grouped

    def _group_expressions(self, binder: Binder, items: Sequence[Item]) -> list[tuple[Expr, Field]]:
        clause = self.node.args.get("group")
        if clause is None:
            return []
        for name in ("rollup", "cube", "grouping_sets", "totals", "all"):
            if clause.args.get(name):
                raise self.planner.text.refused(
                    clause, f"GROUP BY {name.upper()} is not supported yet"
                )
        out: dict[Expr, Field] = {}
        for node in clause.expressions:
            bound = typed.settled(self._group_item(binder, node, items))
            try:
                typed.groupable(bound, "GROUP BY")
            except NotTyped as error:
                raise self.planner.text.refused(node, error.what, error.hint) from None
            name = bound.name if isinstance(bound, ColumnRef) else f"group.{len(out) + 1}"
            nullable = may_be_null(bound)
            out.setdefault(bound, Field(name, bound.sql_type, bound.type, nullable))
        return list(out.items())

    def _group_item(self, binder: Binder, node: exp.Expr, items: Sequence[Item]) -> Expr:
        """An ordinal, a column of FROM, an output alias, or an expression: in that order."""
        text = binder.text
        if isinstance(node, (exp.Rollup, exp.Cube, exp.GroupingSets)):
            raise text.refused(
                node, "GROUP BY of several grouping sets is not supported yet", "UNION ALL"
            )
        if isinstance(node, exp.Literal) and not node.is_string:
            at = int(node.name) if node.name.isdigit() else 0
            if not 1 <= at <= len(items):
                raise text.failed(node, f"GROUP BY position {node.name} is not in the SELECT list")
            node = items[at - 1].node
        elif isinstance(node, exp.Column) and not node.table:
            name = fold(node.this)
            matches = [i.node for i in items if i.name == name]
            if not binder.scope.has(name) and matches:
                node = matches[0]
        if contains_aggregate(node):
            raise text.failed(node, "aggregates are not allowed in GROUP BY")
        return binder.bind(node)

    def _projected(self, binder: Binder, planned: Planned, items: Sequence[Item]) -> Output:
        names = tuple(item.name for item in items)
        exprs = tuple(typed.settled(binder.bind(item.node)) for item in items)
        columns = tuple(
            Field(_unique(names, i), e.sql_type, e.type, may_be_null(e))
            for i, e in enumerate(exprs)
        )
        for item, expr in zip(items, exprs, strict=True):
            if expr.sql_type == "interval":
                self._no_interval(item, expr)
        facts = keys.projected(planned.facts, columns, exprs)
        made = Planned(Project(planned.node, columns, exprs, facts.key), facts, planned.facts)
        distinct = self.node.args.get("distinct")
        return Output(names, made if distinct is None else self._distinct(distinct, made))

    def _no_interval(self, item: Item, expr: Expr) -> None:
        if not isinstance(expr, ColumnRef):
            raise self.planner.text.refused(
                item.node, "an interval as a result is not supported yet"
            )

    def _distinct(self, clause: exp.Expr, planned: Planned) -> Planned:
        text = self.planner.text
        if clause.args.get("on"):
            raise text.refused(
                self.node, "DISTINCT ON is not supported yet", "GROUP BY with min or max"
            )
        for column, item in zip(planned.node.columns, self.node.expressions, strict=False):
            try:
                typed.groupable(refs((column,))[0], "SELECT DISTINCT of")
            except NotTyped as error:
                raise text.refused(item, error.what, error.hint) from None
        every = tuple(c.name for c in planned.node.columns)
        facts = replace(planned.facts, keys=planned.facts.keys or (every,))
        return Planned(Distinct(planned.node), facts)


@dataclass(frozen=True)
class Item:
    """One entry of a SELECT list, stars expanded."""

    name: str
    node: exp.Expr


def _column_node(star: exp.Expr, alias: str | None, name: str) -> exp.Column:
    made = exp.Column(this=exp.to_identifier(name, quoted=True))
    if alias is not None:
        made.set("table", exp.to_identifier(alias, quoted=True))
    for node in star.walk():
        if "start" in node.meta:
            made.this.meta.update(node.meta)
            break
    made.parent = star.parent
    return made


_NAMED_AS: dict[type[exp.Expr], str] = {
    exp.Ceil: "ceil",
    exp.TimestampTrunc: "date_trunc",
    exp.Case: "case",
}


def _named(text: SqlText, node: exp.Expr) -> str:
    """The name that Postgres gives to an output column without alias (FigureColname)."""
    if isinstance(node, exp.Paren):
        return _named(text, node.this)
    if isinstance(node, exp.Column):
        return fold(node.this)
    if isinstance(node, exp.Cast):
        inner = _named(text, node.this)
        return inner if inner not in ("?column?", "case") else _type_name(node)
    if isinstance(node, exp.Case):
        default = node.args.get("default")
        inner = "?column?" if default is None else _named(text, default)
        return inner if isinstance(default, exp.Column) else "case"
    if type(node) in _NAMED_AS:
        return _NAMED_AS[type(node)]
    if isinstance(node, exp.Filter):
        return _named(text, node.this)
    if isinstance(node, exp.Boolean):
        return "bool"
    if isinstance(node, exp.Trim):
        position = str(node.args.get("position") or "BOTH").upper()
        return {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(position, "btrim")
    if isinstance(node, exp.Anonymous):
        return node.name.lower()
    if isinstance(node, exp.Func) and not isinstance(node, (exp.Connector, exp.Binary)):
        return text.word(node) or node.sql_name().lower()
    return "?column?"


_INTERNAL_NAMES = {
    "int": "int4", "integer": "int4", "bigint": "int8", "smallint": "int2", "decimal": "numeric",
    "double precision": "float8", "real": "float4", "boolean": "bool", "char": "bpchar",
}  # fmt: skip


def _type_name(node: exp.Cast) -> str:
    name = node.args["to"].sql("postgres").lower().split("(")[0]
    return _INTERNAL_NAMES.get(name, name)


def _determined(planned: Planned, named: Sequence[tuple[Expr, Field]]) -> dict[str, Field]:
    """Columns with one value per group, because the group's columns contain a table's key."""
    grouped = {s for e, _ in named if isinstance(e, ColumnRef) for s in planned.facts.same(e.name)}
    prefixes = {c.name.rpartition(".")[0] for c in planned.node.columns}
    whole = any(set(k) <= grouped for k in planned.facts.keys)
    out: dict[str, Field] = {}
    for prefix in prefixes:
        own = [c for c in planned.node.columns if c.name.rpartition(".")[0] == prefix]
        if whole or any(set(k) <= grouped for k in scan_keys(planned.node, prefix)):
            out |= {c.name: c for c in own if c.name not in grouped}
    return out


def scan_keys(node: Node, alias: str) -> list[tuple[str, ...]]:
    """The key of the table that stands in FROM under `alias`."""
    if isinstance(node, Scan):
        mine = node.columns[0].name.rpartition(".")[0] == alias
        return [tuple(f"{alias}.{k}" for k in node.schema.key)] if mine else []
    if isinstance(node, Join):
        return scan_keys(node.left, alias) + scan_keys(node.right, alias)
    return scan_keys(node.child, alias) if isinstance(node, Filter) else []


def _aggregated(planned: Planned, grouping: Grouping) -> Planned:
    """Project what the aggregation reads, then Aggregate."""
    group = list(grouping.keys.items())
    extra = [grouping.loose[n] for n in dict.fromkeys(grouping.used)]
    fields = [f for _, f in group] + extra
    exprs: list[Expr] = [e for e, _ in group] + list(refs(extra))
    calls = []
    for call in grouping.calls.values():
        if call.arg is None or isinstance(call.arg, ColumnRef):
            calls.append(call)
            if call.arg is not None and call.arg.name not in {f.name for f in fields}:
                fields.append(Field(call.arg.name, call.arg.sql_type, call.arg.type))
                exprs.append(call.arg)
            continue
        name = f"{call.name}.of"
        fields.append(Field(name, call.arg.sql_type, call.arg.type))
        exprs.append(call.arg)
        calls.append(replace(call, arg=ColumnRef(name, call.arg.sql_type, call.arg.type)))
    child = planned.node
    if not all(isinstance(e, ColumnRef) for e in exprs):
        child = Project(child, tuple(fields), tuple(exprs), None)
    names = tuple(f.name for _, f in group)
    columns = output_fields([f for _, f in group] + extra, calls)
    everything = names + tuple(f.name for f in extra)
    facts = Facts((names,))
    return Planned(Aggregate(child, everything, tuple(calls), columns, names), facts)
