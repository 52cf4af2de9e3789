"""A group's plans compiled to one graph of operators over shared arrangements.

Operators are made once, in topological order, and read and write numbered slots. What is shared:

*   a table's primary-key arrangement, by all views that read the table and by every join on its
    primary key; it has the columns that any of them needs;
*   any other arrangement of a table, by all joins of it on the same columns;
*   whole operators, where two views have equal plans for a part.

A view's root slot is the input slot of the views that read it, so the group steps as one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from cdc.errors import ViewError
from cdc.schema import TableSchema
from compaction.runs import Kind, Layout
from views import plan as p
from views.delta import Delta
from views.operators.aggregate import Aggregate
from views.operators.arrangements import Arrangement
from views.operators.failures import Checked, FailingRows
from views.operators.group_layout import StateLayout
from views.operators.group_state import Argument, Grouping
from views.operators.inputs import TableInput
from views.operators.join import Arrange, Arranged, InnerJoin, LeftJoin, Shape, Side
from views.operators.linear import Filter, Operator, Project, Select, Slots, UnionAll
from views.operators.output import ViewOutput
from views.operators.readings import Readings
from views.values.expressions import compile_exprs

_FORMAT = 2
_VIEW = "view."


class Graph:
    """A compiled group. `run` computes one step; `commit` makes it the state."""

    def __init__(
        self,
        plans: Mapping[str, p.ViewPlan],
        tables: Mapping[str, TableSchema],
        hash_bits: int = 64,
    ) -> None:
        compiler = _Compiler(plans, tables, hash_bits)
        self.inputs = compiler.inputs
        self.outputs = compiler.outputs
        self.fingerprint = _fingerprint(plans, self.inputs)
        self._operators = compiler.operators
        self._slots = compiler.slots
        self._failing = compiler.failing
        self._arranged: list[Arranged] = [*self.inputs.values(), *compiler.arranged]
        arrangements = [
            *(table.arrangement for table in self.inputs.values()),
            *compiler.arrangements,
            *(failing.arrangement for failing in self._failing),
            *(a for output in self.outputs.values() for a in output.arrangements),
        ]
        self.arrangements = {a.name: a for a in arrangements}
        if len(self.arrangements) != len(arrangements):
            raise AssertionError("two arrangements have one name")

    def run(self, deltas: Mapping[str, Delta | None]) -> Slots:
        """One step from the inputs' staged deltas (by topic): every operator's output delta."""
        slots: Slots = [None] * self._slots
        for i, topic in enumerate(self.inputs):
            slots[i] = deltas.get(topic)
        for operator in self._operators:
            operator.run(slots)
        return slots

    def commit(self) -> None:
        """The step was published, or is suppressed: its pending runs are the state now."""
        for arrangement in self.arrangements.values():
            arrangement.commit()
        for failing in self._failing:
            failing.commit()
        for arranged in self._arranged:
            arranged.keyed = arranged.unkeyed = None

    def merge(self, budget_s: float) -> bool:
        """Do some of the merging owed, at most about `budget_s`; whether any is left."""
        owing = [a for a in self.arrangements.values() if a.owes_merge]
        return any([a.merge(budget_s / len(owing)) for a in owing])  # noqa: C419 - all must work

    def restored(self) -> None:
        """Derived state again, after all arrangements came from a checkpoint."""
        for failing in self._failing:
            failing.restored()
        for output in self.outputs.values():
            output.restored()


def _fingerprint(plans: Mapping[str, p.ViewPlan], inputs: Mapping[str, TableInput]) -> str:
    body = [
        _FORMAT,
        [(plan.name, plan.fingerprint) for plan in plans.values()],
        [
            (
                topic,
                table.columns,
                [table.schema.column(n).attnum for n in table.columns],
                table.schema.key,
            )
            for topic, table in inputs.items()
        ],
    ]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


class _Compiler:
    def __init__(
        self, plans: Mapping[str, p.ViewPlan], tables: Mapping[str, TableSchema], hash_bits: int
    ) -> None:
        self._bits = hash_bits
        self.operators: list[Operator] = []
        self.arrangements: list[Arrangement] = []
        self.failing: list[FailingRows] = []
        self.outputs: dict[str, ViewOutput] = {}
        self.inputs = _table_inputs(plans, tables, hash_bits)
        self._tables = {topic: slot for slot, topic in enumerate(self.inputs)}
        self.slots = len(self.inputs)
        self._nodes: dict[p.Node, int] = {}
        self._node_failing: dict[p.Node, list[FailingRows]] = {}
        self._arranged: dict[tuple[object, ...], Arranged] = {}
        for plan in plans.values():
            self._compile_view(plan)

    @property
    def arranged(self) -> list[Arranged]:
        return list(self._arranged.values())

    def _compile_view(self, plan: p.ViewPlan) -> None:
        slot = self._node(plan.root)
        below = [self.outputs[i.removeprefix(_VIEW)] for i in plan.inputs if i.startswith(_VIEW)]
        failing = self._failing_of(plan.root)
        self.outputs[plan.name] = ViewOutput(plan, slot, failing, below, self._bits)

    def _failing_of(self, node: p.Node) -> list[FailingRows]:
        """What fails in the subtree, which is the view's own."""
        found = list(self._node_failing.get(node, ()))
        for child in p.children(node):
            found += self._failing_of(child)
        return list(dict.fromkeys(found))

    def _new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def _node(self, node: p.Node) -> int:
        """The slot of the node's output; equal nodes are compiled once."""
        if node not in self._nodes:
            self._node_failing[node] = []
            self._nodes[node] = self._compiled(node)
        return self._nodes[node]

    def _compiled(self, node: p.Node) -> int:
        match node:
            case p.Scan():
                return self._scan(node)
            case p.Filter():
                source = self._node(node.child)
                check = self._check(node, (node.predicate,), node.child)
                return self._add(lambda out: Filter(source, out, check))
            case p.Project():
                source = self._node(node.child)
                check = self._check(node, node.exprs, node.child)
                schema = arrow_schema(node.columns)
                return self._add(lambda out: Project(source, out, check, schema))
            case p.Join():
                return self._join(node)
            case p.Aggregate():
                return self._aggregate(node)
            case p.Distinct():
                return self._distinct(node)
            case p.UnionAll():
                sources = [self._node(child) for child in node.children]
                schema = arrow_schema(node.columns)
                return self._add(lambda out: UnionAll(sources, out, schema))

    def _add(self, make: Callable[[int], Operator]) -> int:
        slot = self._new_slot()
        self.operators.append(make(slot))
        return slot

    def _check(self, node: p.Node, exprs: Sequence[p.Expr], child: p.Node) -> Checked:
        return self._checked(node, exprs, child.columns, child.key)

    def _checked(
        self,
        node: p.Node,
        exprs: Sequence[p.Expr],
        columns: tuple[p.Field, ...],
        key: tuple[str, ...] | None,
    ) -> Checked:
        compiled = compile_exprs(exprs, columns)
        check = Checked(f"failures {len(self.failing)}", compiled, columns, key)
        self._fails(node, check.failing)
        return check

    def _fails(self, node: p.Node, failing: FailingRows) -> None:
        self.failing.append(failing)
        self._node_failing[node].append(failing)

    def _scan(self, node: p.Scan) -> int:
        if node.input.startswith(_VIEW):
            output = self.outputs[node.input.removeprefix(_VIEW)]
            source, names = output.slot, [c.name for c in output.plan.output.columns]
        else:
            source, names = self._tables[node.input], list(self.inputs[node.input].columns)
        places, schema = _shown(node.columns, [names.index(n) for n in node.source_columns])
        if not len(node.columns):
            schema = pa.schema([pa.field("?", self._type_at(node, names))])
        return self._add(lambda out: Select(source, out, places, schema))

    def _type_at(self, node: p.Scan, names: list[str]) -> pa.DataType:
        return node.schema.column(names[0]).type

    def _join(self, node: p.Join) -> int:
        left_keys, right_keys = self._key_order(node)
        left = self._side(node, node.left, left_keys)
        right = self._side(node, node.right, right_keys)
        wide = (*node.left.columns, *node.right.columns)
        residual = None
        if node.residual is not None:
            residual = self._checked(node, (node.residual,), wide, None)
        names = [column.name for column in wide]
        places, schema = _shown(node.columns, [names.index(c.name) for c in node.columns])
        if not len(node.columns):
            schema = pa.schema([pa.field("?", wide[0].type)])
        shape = Shape(arrow_schema(wide), residual, tuple(places), schema)
        make = InnerJoin if node.kind == "inner" else LeftJoin
        return self._add(lambda out: make(left, right, out, shape))

    def _key_order(self, node: p.Join) -> tuple[list[p.Expr], list[p.Expr]]:
        """The equal keys of both sides, in the order of a primary key where a side has it."""
        pairs = list(zip(node.left_keys, node.right_keys, strict=True))
        for side, keys in ((node.left, node.left_keys), (node.right, node.right_keys)):
            names = self._primary_key(side, keys)
            if names is not None:
                mine = [k.name for k in keys if isinstance(k, p.ColumnRef)]
                pairs = [pairs[mine.index(name)] for name in names]
                break
        return [a for a, _ in pairs], [b for _, b in pairs]

    def _primary_key(self, side: p.Node, keys: Sequence[p.Expr]) -> list[str] | None:
        """If `keys` are just the columns of a table's primary key: their names in key order."""
        if not isinstance(side, p.Scan) or side.input not in self.inputs:
            return None
        columns = {s: c.name for s, c in zip(side.source_columns, side.columns, strict=True)}
        names = [columns.get(name, "") for name in self.inputs[side.input].schema.key]
        given = [k.name for k in keys if isinstance(k, p.ColumnRef)]
        fits = len(given) == len(keys) == len(names) and set(given) == set(names)
        return names if fits and names else None

    def _side(self, join: p.Join, node: p.Node, keys: list[p.Expr]) -> Side:
        if not isinstance(node, p.Scan) or node.input not in self.inputs:
            return self._own_side(join, node, keys)
        table = self.inputs[node.input]
        places = [table.columns.index(name) for name in node.source_columns]
        names = [k.name for k in keys if isinstance(k, p.ColumnRef)]
        if self._primary_key(node, keys) == names and len(names) == len(keys):
            return Side(table, places)
        if len(names) < len(keys):
            return self._own_side(join, node, keys)
        shown = [column.name for column in node.columns]
        key = tuple(places[shown.index(name)] for name in names)
        schema = table.arrangement.layout.schema
        slot = self._tables[node.input]
        title = f"{node.input} by {','.join(table.columns[i] for i in key)}"
        return Side(self._arrange(slot, key, schema, title), places)

    def _own_side(self, join: p.Join, node: p.Node, keys: list[p.Expr]) -> Side:
        slot = self._node(node)
        schema = arrow_schema(node.columns)
        if not len(node.columns):
            raise ViewError("a join's side has no columns")
        own = list(range(len(node.columns)))
        names = [column.name for column in node.columns]
        if all(isinstance(k, p.ColumnRef) for k in keys):
            key = tuple(names.index(k.name) for k in keys if isinstance(k, p.ColumnRef))
            return Side(self._arrange(slot, key, schema, f"node {slot} by {key}"), own)
        check = self._checked(join, keys, node.columns, node.key)
        extra = [pa.field(f"key{i}", k.type) for i, k in enumerate(keys)]
        wide = pa.schema([*schema, *extra])
        key = tuple(range(len(own), len(own) + len(keys)))
        title = f"node {slot} by expression {len(self.failing)}"
        return Side(self._arrange(slot, key, wide, title, check), own)

    def _arrange(
        self,
        slot: int,
        key: tuple[int, ...],
        schema: pa.Schema,
        title: str,
        computed: Checked | None = None,
    ) -> Arranged:
        identity = (slot, key, title)
        if identity not in self._arranged:
            arrangement = Arrangement(title, Layout(Kind.BAG, schema, key, self._bits))
            self.arrangements.append(arrangement)
            made = Arrange(slot, arrangement, key, computed)
            self.operators.append(made)
            self._arranged[identity] = made
        return self._arranged[identity]

    def _aggregate(self, node: p.Aggregate) -> int:
        source = self._node(node.child)
        names = [column.name for column in node.child.columns]
        group = [names.index(name) for name in node.group]
        fields = [pa.field(names[i], node.child.columns[i].type) for i in group]
        title = f"groups {len(self.arrangements)}"
        layout = StateLayout(title, fields, node.calls, self._bits)
        check = self._check(node, layout.exprs, node.child) if layout.exprs else None
        grouping = self._grouping(title, fields, layout.arguments(), layout.types)
        schema = arrow_schema(node.columns)
        readings = None
        if layout.readings:
            name = f"failures {len(self.failing)}"
            readings = Readings(name, layout.readings, schema, len(group))
            self._fails(node, readings.failing)
        return self._add(
            lambda out: Aggregate(source, out, group, check, grouping, readings, schema)
        )

    def _distinct(self, node: p.Distinct) -> int:
        source = self._node(node.child)
        schema = arrow_schema(node.columns)
        title = f"groups {len(self.arrangements)}"
        grouping = self._grouping(title, list(schema), [], [])
        every = range(len(schema))
        return self._add(lambda out: Aggregate(source, out, every, None, grouping, None, schema))

    def _grouping(
        self,
        title: str,
        group: Sequence[pa.Field],
        arguments: Sequence[Argument],
        types: Sequence[pa.DataType],
    ) -> Grouping:
        grouping = Grouping(title, group, arguments, types, self._bits)
        self.arrangements.append(grouping.arrangement)
        for argument in arguments:
            if argument.distinct is not None:
                self.arrangements.append(argument.distinct.arrangement)
            if argument.values is not None:
                self.arrangements.append(argument.values.arrangement)
        return grouping


def _table_inputs(
    plans: Mapping[str, p.ViewPlan], tables: Mapping[str, TableSchema], hash_bits: int
) -> dict[str, TableInput]:
    """The group's tables, each with the columns that any view needs and its key."""
    used: dict[str, set[str]] = {}
    for plan in plans.values():
        for scan in p.scans(plan.root):
            if not scan.input.startswith(_VIEW):
                used.setdefault(scan.input, set()).update(scan.source_columns)
    found = {}
    for topic in sorted(used):
        schema = tables[topic]
        wanted = used[topic] | set(schema.key)
        names = [column.name for column in schema.columns if column.name in wanted]
        found[topic] = TableInput(topic, schema, names, hash_bits)
    return found


def arrow_schema(columns: Sequence[p.Field]) -> pa.Schema:
    return pa.schema([pa.field(column.name, column.type) for column in columns])


def _shown(columns: Sequence[p.Field], places: list[int]) -> tuple[list[int], pa.Schema]:
    """Places and schema of an output; a row without columns keeps its first, to be counted by."""
    return places or [0], arrow_schema(columns)
