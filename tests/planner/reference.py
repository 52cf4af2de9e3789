"""A reference for plans: each operator computed from scratch over whole tables, as it is defined.

Slow and plain on purpose: rows are Python tuples, joins are nested loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from cdc.schema import NUMERIC_TEXT
from views.plan import (
    Aggregate,
    AggregateCall,
    ColumnRef,
    Distinct,
    Expr,
    Field,
    Filter,
    Join,
    Node,
    Project,
    Scan,
)
from views.values.expressions import compile_exprs
from views.values.numeric import divide, text

Row = tuple[Any, ...]


def rows_of(node: Node, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """All rows of the node, in no order. `tables`: rows by column name, by input."""
    if isinstance(node, Scan):
        return [tuple(row[c] for c in node.source_columns) for row in tables[node.input]]
    if isinstance(node, Join):
        return _joined(node, rows_of(node.left, tables), rows_of(node.right, tables))
    if isinstance(node, (Filter, Project, Aggregate, Distinct)):
        below = rows_of(node.child, tables)
        if isinstance(node, Filter):
            kept = _evaluated([node.predicate], node.child.columns, below)
            return [row for row, (keep,) in zip(below, kept, strict=True) if keep]
        if isinstance(node, Project):
            return _evaluated(node.exprs, node.child.columns, below)
        return list(dict.fromkeys(below)) if isinstance(node, Distinct) else _grouped(node, below)
    return [row for child in node.children for row in rows_of(child, tables)]


def _evaluated(exprs: Sequence[Expr], columns: Sequence[Field], rows: list[Row]) -> list[Row]:
    batch = pa.RecordBatch.from_arrays(
        [pa.array([r[i] for r in rows], c.type) for i, c in enumerate(columns)],
        names=[c.name for c in columns],
    )
    got = compile_exprs(exprs, columns).evaluate(batch)
    assert got.failed is None, got.error
    return list(zip(*(a.to_pylist() for a in got.arrays), strict=True)) if rows else []


def _joined(node: Join, left: list[Row], right: list[Row]) -> list[Row]:
    left_keys = _evaluated(node.left_keys, node.left.columns, left)
    right_keys = _evaluated(node.right_keys, node.right.columns, right)
    both = (*node.left.columns, *node.right.columns)
    shown = [[c.name for c in both].index(c.name) for c in node.columns]
    out = []
    for row, key in zip(left, left_keys, strict=True):
        found = [
            row + other
            for other, other_key in zip(right, right_keys, strict=True)
            if key == other_key and None not in key
        ]
        if node.residual is not None:
            kept = _evaluated([node.residual], both, found)
            found = [r for r, (keep,) in zip(found, kept, strict=True) if keep]
        if not found and node.kind == "left":
            found = [row + (None,) * len(node.right.columns)]
        out += found
    return [tuple(row[i] for i in shown) for row in out]


def _grouped(node: Aggregate, rows: list[Row]) -> list[Row]:
    names = [c.name for c in node.child.columns]
    places = [names.index(g) for g in node.group]
    groups: dict[Row, list[Row]] = {} if node.group else {(): []}
    for row in rows:
        groups.setdefault(tuple(row[i] for i in places), []).append(row)
    out = []
    for key, members in groups.items():
        results = {c.name: _aggregated(c, names, members) for c in node.calls}
        results |= dict(zip(node.group, key, strict=True))
        out.append(tuple(results[c.name] for c in node.columns))
    return out


def _aggregated(call: AggregateCall, names: list[str], rows: list[Row]) -> Any:
    if call.arg is None:
        return len(rows)
    assert isinstance(call.arg, ColumnRef)
    at = names.index(call.arg.name)
    values = [row[at] for row in rows if row[at] is not None]
    if call.distinct:
        values = list(dict.fromkeys(values))
    if call.function == "count":
        return len(values)
    if not values:
        return None
    if call.function == "avg":
        return str(divide(sum(map(Decimal, values), Decimal(0)), Decimal(len(values))))
    if call.function == "sum" and call.type == NUMERIC_TEXT:
        return text(sum(map(Decimal, values), Decimal(0)))
    if call.function == "sum":
        return sum(values)
    return min(values) if call.function == "min" else max(values)
