"""A plan as indented text: one line per operator, its input below it."""

from __future__ import annotations

from views.plan import (
    Aggregate,
    AggregateCall,
    Distinct,
    Field,
    Filter,
    Join,
    Node,
    Project,
    Scan,
    UnionAll,
)
from views.sql.describe import describe


def plan_lines(node: Node, depth: int = 0) -> list[str]:
    """The operator and, indented below it, its inputs."""
    lines = [_headline(node), *_details(node)]
    indented = ["  " * depth + lines[0], *("  " * depth + "    " + line for line in lines[1:])]
    below = [line for child in _inputs(node) for line in plan_lines(child, depth + 1)]
    return indented + below


def _inputs(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Scan):
        return ()
    if isinstance(node, Join):
        return (node.left, node.right)
    return node.children if isinstance(node, UnionAll) else (node.child,)


def _headline(node: Node) -> str:
    key = "" if node.key is None else f"  key ({', '.join(node.key)})"
    if isinstance(node, Scan):
        return f"Scan {node.input}{key}"
    if isinstance(node, Filter):
        return f"Filter {describe(node.predicate)}"
    if isinstance(node, Join):
        pairs = zip(node.left_keys, node.right_keys, strict=True)
        on = " AND ".join(f"{describe(a)} = {describe(b)}" for a, b in pairs)
        return f"{'Join' if node.kind == 'inner' else 'Left join'} ON {on}{key}"
    if isinstance(node, Aggregate):
        return f"Aggregate BY ({', '.join(node.group)}){key}"
    if isinstance(node, UnionAll):
        return "Union all"
    return ("Distinct" if isinstance(node, Distinct) else "Project") + key


def _details(node: Node) -> list[str]:
    if isinstance(node, Scan):
        pairs = zip(node.columns, node.source_columns, strict=True)
        return ["columns " + ", ".join(f"{s} {c.sql_type}" for c, s in pairs)]
    if isinstance(node, Project):
        pairs2 = zip(node.columns, node.exprs, strict=True)
        return [_assigned(c, describe(e)) for c, e in pairs2]
    if isinstance(node, Join) and node.residual is not None:
        return [f"matching only {describe(node.residual)}"]
    if isinstance(node, Aggregate):
        return [f"{c.name} := {_call(c)}  {c.sql_type}" for c in node.calls]
    return []


def _assigned(column: Field, text: str) -> str:
    shown = text if text == column.name else f"{column.name} := {text}"
    return f"{shown}  {column.sql_type}"


def _call(call: AggregateCall) -> str:
    inner = "*" if call.arg is None else describe(call.arg)
    return f"{call.function}({'DISTINCT ' if call.distinct else ''}{inner})"
