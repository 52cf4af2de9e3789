"""Rewriting plans: columns that an expression reads, substitution, fusing, pruning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from views.plan import (
    Aggregate,
    Call,
    ColumnRef,
    Constant,
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


def columns_of(*exprs: Expr | None) -> frozenset[str]:
    """The names of all columns that the expressions read."""
    out: set[str] = set()
    for expr in exprs:
        if isinstance(expr, ColumnRef):
            out.add(expr.name)
        elif isinstance(expr, Call):
            out |= columns_of(*expr.args)
    return frozenset(out)


def substituted(expr: Expr, by: Mapping[str, Expr]) -> Expr:
    """`expr` with its column references replaced."""
    if isinstance(expr, ColumnRef):
        return by.get(expr.name, expr)
    if isinstance(expr, Constant):
        return expr
    return replace(expr, args=tuple(substituted(a, by) for a in expr.args))


def refs(fields: Iterable[Field]) -> tuple[ColumnRef, ...]:
    return tuple(ColumnRef(f.name, f.sql_type, f.type, f.nullable) for f in fields)


def with_key(node: Node, key: tuple[str, ...] | None) -> Node:
    return node if isinstance(node, (Filter, Distinct)) else replace(node, key=key)


def fused(node: Node, *, top: bool = True) -> Node:
    """Projections of projections become one, where no expression would be computed twice."""
    node = _rebuilt(node)
    if not isinstance(node, Project) or not isinstance(node.child, Project):
        return node if top else _renamed_scan(node)
    inner = node.child
    by = dict(zip((c.name for c in inner.columns), inner.exprs, strict=True))
    uses = [n for e in node.exprs for n in _mentions(e)]
    if any(uses.count(n) > 1 for n in set(uses) if isinstance(by[n], Call)):
        return node
    made = replace(node, child=inner.child, exprs=tuple(substituted(e, by) for e in node.exprs))
    return made if top else _renamed_scan(made)


def _renamed_scan(node: Node) -> Node:
    """A table under a CTE's name is still that table, whose arrangements are shared."""
    if not isinstance(node, Project) or not isinstance(node.child, Scan):
        return node
    scan = node.child
    read = [e.name for e in node.exprs if isinstance(e, ColumnRef)]
    if len(read) != len(node.exprs) or len(set(read)) != len(read):
        return node
    sources = dict(zip((c.name for c in scan.columns), scan.source_columns, strict=True))
    return replace(
        scan, columns=node.columns, source_columns=tuple(sources[n] for n in read), key=node.key
    )


def _rebuilt(node: Node) -> Node:
    if isinstance(node, Scan):
        return node
    if isinstance(node, Join):
        return replace(node, left=fused(node.left, top=False), right=fused(node.right, top=False))
    if isinstance(node, UnionAll):
        return replace(node, children=tuple(fused(c) for c in node.children))
    return replace(node, child=fused(node.child, top=False))


def _mentions(expr: Expr) -> list[str]:
    if isinstance(expr, ColumnRef):
        return [expr.name]
    return [n for a in expr.args for n in _mentions(a)] if isinstance(expr, Call) else []


def pruned(node: Node, needed: frozenset[str]) -> Node:
    """The same node without the columns that nobody reads. The order of columns stays."""
    if isinstance(node, Scan):
        return _pruned_scan(node, needed)
    if isinstance(node, Filter):
        return Filter(pruned(node.child, needed | columns_of(node.predicate)), node.predicate)
    if isinstance(node, Project):
        return _pruned_project(node, needed)
    if isinstance(node, Join):
        return _pruned_join(node, needed)
    if isinstance(node, Aggregate):
        return _pruned_aggregate(node, needed)
    if isinstance(node, Distinct):
        return Distinct(pruned(node.child, frozenset(c.name for c in node.columns)))
    return _pruned_union(node, needed)


def _kept(key: tuple[str, ...] | None, columns: Iterable[Field]) -> tuple[str, ...] | None:
    names = {c.name for c in columns}
    return key if key is not None and names.issuperset(key) else None


def _keep(columns: tuple[Field, ...], needed: frozenset[str]) -> list[int]:
    """Places of the needed columns; never none, since a batch without columns has no length."""
    return [i for i, c in enumerate(columns) if c.name in needed] or [0]


def _pruned_scan(node: Scan, needed: frozenset[str]) -> Scan:
    fallback = frozenset(node.key or ()) if needed.isdisjoint(c.name for c in node.columns) else ()
    keep = _keep(node.columns, needed.union(fallback))
    columns = tuple(node.columns[i] for i in keep)
    sources = tuple(node.source_columns[i] for i in keep)
    return replace(node, columns=columns, source_columns=sources, key=_kept(node.key, columns))


def _pruned_project(node: Project, needed: frozenset[str]) -> Project:
    keep = _keep(node.columns, needed)
    columns = tuple(node.columns[i] for i in keep)
    exprs = tuple(node.exprs[i] for i in keep)
    child = pruned(node.child, columns_of(*exprs))
    return Project(child, columns, exprs, _kept(node.key, columns))


def _pruned_join(node: Join, needed: frozenset[str]) -> Join:
    inside = needed | columns_of(*node.left_keys, *node.right_keys, node.residual)
    left, right = pruned(node.left, inside), pruned(node.right, inside)
    passed = {c.name for c in (*left.columns, *right.columns)}
    columns = tuple(c for c in node.columns if c.name in passed)
    return replace(node, left=left, right=right, columns=columns, key=_kept(node.key, columns))


def _pruned_aggregate(node: Aggregate, needed: frozenset[str]) -> Aggregate:
    calls = tuple(c for c in node.calls if c.name in needed)
    if not node.group and not calls:
        calls = node.calls[:1]
    read = frozenset(node.group) | columns_of(*(c.arg for c in calls))
    keep = {*node.group, *(c.name for c in calls)}
    columns = tuple(c for c in node.columns if c.name in keep)
    return replace(node, child=pruned(node.child, read), calls=calls, columns=columns)


def _pruned_union(node: UnionAll, needed: frozenset[str]) -> UnionAll:
    keep = _keep(node.columns, needed)
    children = tuple(
        pruned(child, frozenset(child.columns[i].name for i in keep)) for child in node.children
    )
    columns = tuple(node.columns[i] for i in keep)
    return replace(node, children=children, columns=columns, key=_kept(node.key, columns))
