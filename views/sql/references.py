"""Which views a view's SQL reads, and an order in which views can be planned."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from sqlglot import exp

from cdc.errors import ViewError
from views.sql.resolve import fold


def references(tree: exp.Expr, views: set[str]) -> frozenset[str]:
    """The names of views in FROM, except where a CTE of that name hides them."""
    out = set()
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier) or hidden(table):
            continue
        prefix = table.args.get("db")
        if table.args.get("catalog") or (prefix is not None and fold(prefix) != "view"):
            continue
        if fold(table.this) in views:
            out.add(fold(table.this))
    return frozenset(out)


def hidden(table: exp.Table) -> bool:
    """A CTE in scope has this name. (A CTE sees those before it in its WITH, not itself.)"""
    if table.args.get("db"):
        return False
    name, below, node = fold(table.this), table, table.parent
    child: exp.Expr = below
    while node is not None:
        if isinstance(node, exp.With):
            earlier = node.expressions[: node.expressions.index(child)]
            if any(fold(c.args["alias"].this) == name for c in earlier):
                return True
        clause = node.args.get("with_")
        beside = clause.expressions if clause is not None and clause is not child else ()
        if any(fold(c.args["alias"].this) == name for c in beside):
            return True
        child, node = node, node.parent
    return False


def ordered(reads: Mapping[str, frozenset[str]]) -> list[str]:
    """The views, each after those it reads. Raises ViewError for a circle."""
    try:
        return list(TopologicalSorter(reads).static_order())
    except CycleError as error:
        raise ViewError(
            "views read each other in a circle: " + " → ".join(error.args[1]),
            hint="take one of them out of the other's SQL",
        ) from None
