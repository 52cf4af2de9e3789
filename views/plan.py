"""The logical plan: what the planner hands to the operators.

Every node has `columns` (its output row, names unique within the node) and `key`: names of columns
that together are unique in its output, or None when none could be proved. Expressions are typed
trees whose leaves name columns of the node's child (of a join's condition: of left then right,
whose column names never collide; the planner qualifies them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from cdc.schema import TableSchema


@dataclass(frozen=True)
class Field:
    """One column of a node's output: its Postgres type, and the Arrow type that carries it."""

    name: str
    sql_type: str
    type: pa.DataType
    nullable: bool = True


@dataclass(frozen=True)
class ColumnRef:
    name: str
    sql_type: str
    type: pa.DataType
    nullable: bool = True


@dataclass(frozen=True)
class Constant:
    """A literal. `value` is a Python value that pa.scalar(value, type) takes; None is NULL."""

    value: object
    sql_type: str
    type: pa.DataType

    def __post_init__(self) -> None:
        # One NaN, which is itself: expressions over it are equal then.
        if self.value != self.value:
            object.__setattr__(self, "value", math.nan)


@dataclass(frozen=True)
class Call:
    """A function or operator from the allow-list (views.values.functions), by its name there.

    `can_fail`: it raises for some values (cast, division, overflow) and must not be evaluated for
    rows that the SQL would have filtered out first (SEMANTICS 27).
    """

    name: str
    args: tuple[Expr, ...]
    sql_type: str
    type: pa.DataType
    nullable: bool = True
    can_fail: bool = False


Expr = ColumnRef | Constant | Call


@dataclass(frozen=True)
class Scan:
    """Rows of one input topic: a table's, or another view's. `alias` makes columns unique."""

    input: str
    """`source.schema.table`, or `view.<name>`: the topic's name without prefix."""
    schema: TableSchema
    columns: tuple[Field, ...]
    source_columns: tuple[str, ...]
    """For each of `columns`, its name in `schema`. Only the columns that the view needs."""
    key: tuple[str, ...] | None


@dataclass(frozen=True)
class Filter:
    child: Node
    predicate: Expr

    @property
    def columns(self) -> tuple[Field, ...]:
        return self.child.columns

    @property
    def key(self) -> tuple[str, ...] | None:
        return self.child.key


@dataclass(frozen=True)
class Project:
    child: Node
    columns: tuple[Field, ...]
    exprs: tuple[Expr, ...]
    key: tuple[str, ...] | None


@dataclass(frozen=True)
class Join:
    """Equi-join on left_keys[i] = right_keys[i] (NULL never joins), then `residual` as part of the
    match. kind "left": unmatched left rows with right columns NULL. Key types of both sides are
    already cast to their common type."""

    left: Node
    right: Node
    kind: Literal["inner", "left"]
    left_keys: tuple[Expr, ...]
    right_keys: tuple[Expr, ...]
    residual: Expr | None
    columns: tuple[Field, ...]
    key: tuple[str, ...] | None


@dataclass(frozen=True)
class AggregateCall:
    """One aggregate. `arg` None is count(*)."""

    function: Literal["count", "sum", "avg", "min", "max"]
    arg: Expr | None
    distinct: bool
    name: str
    sql_type: str
    type: pa.DataType


@dataclass(frozen=True)
class Aggregate:
    """GROUP BY columns of the child (the planner projects expressions first). No `group`: one row,
    also over no rows. NULL groups are equal (IS NOT DISTINCT FROM)."""

    child: Node
    group: tuple[str, ...]
    calls: tuple[AggregateCall, ...]
    columns: tuple[Field, ...]
    key: tuple[str, ...] | None


@dataclass(frozen=True)
class Distinct:
    child: Node

    @property
    def columns(self) -> tuple[Field, ...]:
        return self.child.columns

    @property
    def key(self) -> tuple[str, ...] | None:
        return self.child.key or tuple(c.name for c in self.child.columns)


@dataclass(frozen=True)
class UnionAll:
    children: tuple[Node, ...]
    columns: tuple[Field, ...]
    key: tuple[str, ...] | None = None


Node = Scan | Filter | Project | Join | Aggregate | Distinct | UnionAll


def scans(node: Node) -> list[Scan]:
    """The scans of a plan, from left to right."""
    if isinstance(node, Scan):
        return [node]
    return [s for child in children(node) for s in scans(child)]


def children(node: Node) -> tuple[Node, ...]:
    """The inputs of a node, from left to right."""
    if isinstance(node, Scan):
        return ()
    if isinstance(node, Join):
        return (node.left, node.right)
    return node.children if isinstance(node, UnionAll) else (node.child,)


@dataclass(frozen=True)
class ViewPlan:
    """A view, planned. `inputs` are the topics read; `output` is the schema of `view.<name>`,
    its key derived from the plan, or declared (then `key_declared`, and verified at run time).
    `fingerprint` changes when, and only when, the plan or an input's used columns change."""

    name: str
    sql: str
    root: Node
    inputs: tuple[str, ...]
    output: TableSchema
    key_declared: bool
    fingerprint: str
    warnings: tuple[str, ...] = ()
