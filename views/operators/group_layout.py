"""Which columns the state of a GROUP BY has, and how its aggregates are read from them.

Calls of one argument share its columns: sum(x), avg(x), count(x), min(x) need one count and one sum
of x, one min and one arrangement of x's values. A DISTINCT argument is another argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from compaction.runs import Kind, Layout
from views.operators.accumulators import Accumulator, Count, sum_of
from views.operators.arrangements import Arrangement
from views.operators.extremes import Values
from views.operators.group_state import Argument, Grouping
from views.operators.readings import Reading
from views.plan import AggregateCall, Expr


class StateLayout:
    """Collects what `calls` need; afterwards `types`, `exprs`, `readings` and `arguments` stand."""

    def __init__(
        self, name: str, group: Sequence[pa.Field], calls: Sequence[AggregateCall], hash_bits: int
    ) -> None:
        self._name, self._group, self._hash_bits = name, tuple(group), hash_bits
        self.types: list[pa.DataType] = []
        self.exprs: list[Expr] = []
        self._used: dict[tuple[int, bool], dict[str, int]] = {}
        self._cells: dict[tuple[int, bool], list[tuple[Accumulator, int]]] = {}
        self.readings = [self._reading(call) for call in calls]

    def _reading(self, call: AggregateCall) -> Reading:
        if call.arg is None:
            return Reading(call, None, 0, 0, 0)
        key = self._argument(call)
        kind = call.arg.type
        if call.function in ("min", "max"):
            return Reading(call, kind, 0, self._extreme(key, call.function, kind), 1)
        count = self._cell(key, "count", Count())
        if call.function == "count":
            return Reading(call, kind, count, count, 1)
        total = sum_of(kind)
        return Reading(call, kind, count, self._cell(key, "sum", total), len(total.types))

    def _argument(self, call: AggregateCall) -> tuple[int, bool]:
        assert call.arg is not None
        if call.arg not in self.exprs:
            self.exprs.append(call.arg)
        # The extremes of distinct values are the extremes of the values.
        distinct = call.distinct and call.function not in ("min", "max")
        key = (self.exprs.index(call.arg), distinct)
        self._used.setdefault(key, {})
        self._cells.setdefault(key, [])
        return key

    def _cell(self, key: tuple[int, bool], what: str, cell: Accumulator) -> int:
        if what not in self._used[key]:
            self._used[key][what] = len(self.types)
            self._cells[key].append((cell, len(self.types)))
            self.types += cell.types
        return self._used[key][what]

    def _extreme(self, key: tuple[int, bool], what: str, kind: pa.DataType) -> int:
        if what not in self._used[key]:
            self._used[key][what] = len(self.types)
            self.types.append(kind)
        return self._used[key][what]

    def arguments(self) -> list[Argument]:
        return [self._made(key) for key in self._used]

    def _made(self, key: tuple[int, bool]) -> Argument:
        place, distinct = key
        used, kind = self._used[key], self.exprs[place].type
        extremes = tuple((used[what], what == "max") for what in ("min", "max") if what in used)
        return Argument(
            place,
            kind,
            self._distinct(place, kind) if distinct else None,
            tuple(self._cells[key]),
            self._values(place, kind) if extremes else None,
            extremes,
        )

    def _distinct(self, place: int, kind: pa.DataType) -> Grouping:
        group = [*self._group, pa.field("value", kind)]
        return Grouping(f"{self._name} distinct {place}", group, [], [], self._hash_bits)

    def _values(self, place: int, kind: pa.DataType) -> Values:
        width = len(self._group)
        names = [pa.field(f"g{i}", field.type) for i, field in enumerate(self._group)]
        schema = pa.schema([*names, pa.field("value", kind)])
        layout = Layout(Kind.BAG, schema, tuple(range(width)), self._hash_bits)
        return Values(Arrangement(f"{self._name} values {place}", layout), width)
