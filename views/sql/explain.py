"""`cdc explain`: a view's operators, its key and why, its types, and the state that it needs.

The arrangements shown are those that views.operators.graph makes: a table's by its primary key,
once for all views; a table's by other columns, once per set of columns; one of its own for any
other side of a join; one per aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from views.plan import (
    Aggregate,
    Distinct,
    Expr,
    Join,
    Node,
    Scan,
    ViewPlan,
    children,
    scans,
)
from views.sql.describe import describe
from views.sql.explain_node import plan_lines
from views.sql.keys import plain


@dataclass(frozen=True)
class Arranged:
    """State that a view keeps: rows of `of` by `key`. `views`: who shares it."""

    of: str
    key: tuple[str, ...]
    why: str
    views: tuple[str, ...]


def explain(plans: Mapping[str, ViewPlan], view: str) -> str:
    """The plan as text. `plans` are all views of the configuration."""
    body = explain_json(plans, view)
    lines = [f"view {view}", ""]
    lines += ["  " + line for line in body["operators"]]
    lines += ["", f"key        {_listed(body['key'])}: {body['key_reason']}"]
    lines += ["reads      " + ", ".join(body["inputs"])]
    lines += ["columns    " + f"{c['name']} {c['type']}" for c in body["columns"][:1]]
    lines += ["           " + f"{c['name']} {c['type']}" for c in body["columns"][1:]]
    for at, state in enumerate(body["arrangements"]):
        shared = f", shared with {', '.join(state['shared_with'])}" if state["shared_with"] else ""
        head = "state      " if at == 0 else "           "
        lines.append(f"{head}{state['of']} by {_listed(state['key'])} ({state['why']}{shared})")
    lines += ["fan-out    " + note for note in body["fan_out"]]
    lines += ["note       " + note for note in body["warnings"]]
    return "\n".join(lines) + "\n"


def explain_json(plans: Mapping[str, ViewPlan], view: str) -> dict[str, Any]:
    """The same facts as JSON values."""
    plan = plans[view]
    return {
        "view": view,
        "fingerprint": plan.fingerprint,
        "inputs": list(plan.inputs),
        "key": list(plan.output.key),
        "key_reason": _key_reason(plan),
        "columns": [
            {"name": c.name, "type": c.sql_type, "nullable": c.nullable}
            for c in plan.output.columns
        ],
        "operators": plan_lines(plan.root),
        "arrangements": [
            {
                "of": a.of,
                "key": list(a.key),
                "why": a.why,
                "shared_with": [v for v in a.views if v != view],
            }
            for a in arrangements(plans)
            if view in a.views
        ],
        "fan_out": list(_fan_out(plan.root)),
        "fallbacks": [],
        "warnings": list(plan.warnings),
    }


def _listed(key: tuple[str, ...] | list[str]) -> str:
    return f"({', '.join(key)})" if key else "() — one row"


def _key_reason(plan: ViewPlan) -> str:
    if plan.key_declared:
        return "declared, and verified while running"
    node = plan.root
    while isinstance(node, (Distinct,)) or (not isinstance(node, Join) and children(node)):
        if isinstance(node, Aggregate):
            return "the groups" if node.group else "a single row"
        if isinstance(node, Distinct):
            return "the distinct columns"
        node = children(node)[0]
    if isinstance(node, Join):
        many = node.key is not None and len({n.rpartition(".")[0] for n in node.key}) > 1
        return "the keys of both sides, joined N:M" if many else "the key of the N side"
    return "the key of its input"


def _fan_out(node: Node) -> list[str]:
    """Joins where one change can touch many rows of the view."""
    out = [note for child in children(node) for note in _fan_out(child)]
    if isinstance(node, Join):
        by = " AND ".join(
            f"{describe(a)} = {describe(b)}"
            for a, b in zip(node.left_keys, node.right_keys, strict=True)
        )
        for side, keys in ((node.right, node.left_keys), (node.left, node.right_keys)):
            other = node.left if side is node.right else node.right
            if not _unique(other, keys):
                out.append(f"a change of {_name(side)} touches every match on {by}")
    return out


def _unique(node: Node, keys: tuple[Expr, ...]) -> bool:
    columns = {plain(k) for k in keys}
    return node.key is not None and set(node.key) <= columns


def _name(node: Node) -> str:
    return " ⋈ ".join(s.input for s in scans(node))


def arrangements(plans: Mapping[str, ViewPlan]) -> list[Arranged]:
    """All state of these views, each piece once."""
    found: dict[tuple[str, tuple[str, ...]], tuple[str, list[str]]] = {}
    for name, plan in plans.items():
        for of, key, why in _state(plan.root):
            found.setdefault((of, key), (why, []))[1].append(name)
    return [
        Arranged(of, key, why, tuple(dict.fromkeys(views)))
        for (of, key), (why, views) in found.items()
    ]


def _state(node: Node) -> list[tuple[str, tuple[str, ...], str]]:
    out = [s for child in children(node) for s in _state(child)]
    if isinstance(node, Scan) and not node.input.startswith("view."):
        out.append((node.input, node.schema.key, "the table's rows"))
    if isinstance(node, Join):
        out += [_side(node.left, node.left_keys), _side(node.right, node.right_keys)]
    if isinstance(node, Aggregate):
        out.append((f"groups of {_name(node.child)}", node.group, "aggregation"))
    if isinstance(node, Distinct):
        key = tuple(c.name for c in node.columns)
        out.append((f"rows of {_name(node.child)}", key, "DISTINCT"))
    return out


def _side(node: Node, keys: tuple[Expr, ...]) -> tuple[str, tuple[str, ...], str]:
    if isinstance(node, Scan):
        by = dict(zip((c.name for c in node.columns), node.source_columns, strict=True))
        columns = tuple(by.get(plain(k) or "", describe(k)) for k in keys)
        return node.input, columns, "join"
    return f"({_name(node)})", tuple(describe(k) for k in keys), "join"
