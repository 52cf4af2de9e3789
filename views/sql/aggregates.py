"""Aggregate calls: their typing, and their place in a grouped SELECT.

A grouped SELECT becomes Project (group expressions and arguments) → Aggregate → Project (the
SELECT list over both). `Grouping` is the binder's hook for the latter: it answers aggregate calls,
and expressions that equal a group expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from cdc.schema import NUMERIC_TEXT
from views.plan import AggregateCall, Call, ColumnRef, Constant, Expr, Field
from views.sql import literals, typed
from views.sql.bind import Binder
from views.sql.typed import NotTyped
from views.sql.types import (
    BIGINT,
    BOOL,
    DECIMAL_DIGITS_MAX,
    DOUBLE,
    NUMBERS,
    NUMERIC,
    TEXT,
    Type,
    base,
    is_array,
    numeric,
    ordered,
)
from views.values.functions import of

FUNCTIONS: dict[type[exp.Expr], str] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
}


# What 10^10 rows add to the digits of a sum.
_SUM_DIGITS = 10

_NAMES: dict[type[exp.Expr], str] = {exp.GroupConcat: "string_agg"}


def is_aggregate(node: exp.Expr) -> bool:
    return isinstance(node, exp.AggFunc) and not isinstance(node.parent, exp.Window)


def contains_aggregate(node: exp.Expr) -> bool:
    """An aggregate of this SELECT, not of a subquery in it."""
    if isinstance(node, (exp.Query, exp.Window)):
        return False
    if is_aggregate(node):
        return True
    return any(contains_aggregate(child) for child in node.iter_expressions())


def result_type(function: str, arg: Expr | None) -> Type:
    """The Postgres type of an aggregate and what carries it. Raises NotTyped."""
    if function == "count" or arg is None:
        return BIGINT
    source, name = of(arg), base(arg.sql_type)
    if function == "sum":
        return _sum(source)
    if function == "avg":
        if name not in NUMBERS:
            raise NotTyped(f"avg({source.sql}) is not supported", "cast it to numeric")
        return DOUBLE if name in ("real", "double precision") else NUMERIC
    if not ordered(source.sql) or name in ("boolean", "uuid", "bytea", "character"):
        raise NotTyped(f"{function}({source.sql}) is not supported yet", "cast it to text")
    if name in ("character varying", "name"):
        return TEXT
    return Type(name, source.arrow)


def _sum(source: Type) -> Type:
    name = base(source.sql)
    if name in ("smallint", "integer"):
        return BIGINT
    if name == "bigint":
        return numeric(DECIMAL_DIGITS_MAX, 0)
    if name == "numeric":
        if source.arrow == NUMERIC_TEXT:
            return NUMERIC
        if source.arrow.precision + _SUM_DIGITS > DECIMAL_DIGITS_MAX:
            return NUMERIC
        return numeric(DECIMAL_DIGITS_MAX, source.arrow.scale)
    if name in ("real", "double precision"):
        return Type(name, source.arrow)
    raise NotTyped(f"sum({source.sql}) is not supported", "cast it to numeric")


@dataclass
class Grouping:
    """Collects the aggregates of one SELECT while its expressions are bound.

    `inner` binds in the FROM scope; `keys` are the group expressions with their column's name;
    `loose` are columns determined by the group's key, which may be used, too.
    """

    inner: Binder
    keys: dict[Expr, Field]
    loose: dict[str, Field] = field(default_factory=dict)
    calls: dict[tuple[str, Expr | None, bool], AggregateCall] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)

    def hook(self, node: exp.Expr) -> Expr | None:
        """The expression of `node` over the aggregate's output; None: bind its parts."""
        if isinstance(node, (exp.Literal, exp.Null, exp.Boolean, exp.Query, exp.Interval)):
            return None
        if isinstance(node, exp.Filter) and isinstance(node.this, exp.AggFunc):
            return self._aggregate(node.this, node.expression)
        if is_aggregate(node):
            return self._aggregate(node, None)
        if contains_aggregate(node):
            return None
        bound = self.inner.bind(node)
        if bound in self.keys:
            return _ref(self.keys[bound])
        if isinstance(node, exp.Column):
            return self._loose(node, bound)
        return None

    def _loose(self, node: exp.Column, bound: Expr) -> Expr:
        if isinstance(bound, ColumnRef) and bound.name in self.loose:
            self.used.append(bound.name)
            return bound
        raise self.inner.text.failed(
            node,
            f"column {node.sql('postgres')} must appear in GROUP BY or in an aggregate",
            f"add it to GROUP BY, or write max({node.sql('postgres')})",
        )

    def _aggregate(self, node: exp.Expr, where: exp.Expr | None) -> Expr:
        text = self.inner.text
        function = FUNCTIONS.get(type(node))
        if function is None:
            name = _NAMES.get(type(node)) or text.word(node) or node.key
            raise text.refused(
                node, f"aggregate {name} is not supported yet", "count, sum, avg, min, max"
            )
        self.inner.only(node, "this")
        arg, distinct = self._argument(node)
        if where is not None:
            arg = self._filtered(arg, where.this)
        try:
            if arg is not None:
                arg = typed.settled(arg)
                _check(function, arg, distinct)
            result = result_type(function, arg)
        except NotTyped as error:
            raise text.refused(node, error.what, error.hint) from None
        return self._call(function, arg, distinct and function not in ("min", "max"), result)

    def _argument(self, node: exp.Expr) -> tuple[Expr | None, bool]:
        text, given = self.inner.text, node.this
        distinct = isinstance(given, exp.Distinct)
        if distinct:
            if len(given.expressions) != 1 or given.args.get("on"):
                raise text.refused(
                    node, "DISTINCT over several columns in an aggregate is not supported"
                )
            given = given.expressions[0]
        if isinstance(given, exp.Order):
            raise text.refused(
                node, "ORDER BY in an aggregate is not supported yet", "leave it out"
            )
        if isinstance(given, exp.Star):
            return None, False
        if given is None:
            raise text.failed(node, "an aggregate needs an argument")
        if contains_aggregate(given):
            raise text.failed(
                given, "aggregates cannot be nested", "aggregate in a derived table first"
            )
        return self.inner.bind(given), distinct

    def _filtered(self, arg: Expr | None, where: exp.Expr) -> Expr:
        """FILTER (WHERE c): the argument where c is true, else NULL, which aggregates ignore."""
        condition = self.inner.condition(where, "FILTER")
        value = Constant(True, BOOL.sql, BOOL.arrow) if arg is None else typed.settled(arg)
        type = of(value)
        fails = typed.can_fail(condition, value)
        parts = (condition, value, literals.null(type))
        return Call("case", parts, type.sql, type.arrow, True, fails)

    def _call(self, function: str, arg: Expr | None, distinct: bool, type: Type) -> Expr:
        identity = (function, arg, distinct)
        if identity not in self.calls:
            name = f"{function}.{len(self.calls) + 1}"
            self.calls[identity] = AggregateCall(
                function,  # type: ignore[arg-type]
                arg,
                distinct,
                name,
                type.sql,
                type.arrow,
            )
        made = self.calls[identity]
        return ColumnRef(made.name, made.sql_type, made.type, function != "count")


def _check(function: str, arg: Expr, distinct: bool) -> None:
    if distinct:
        typed.groupable(arg, f"{function}(DISTINCT) of")
    if is_array(arg.sql_type) and function != "count":
        raise NotTyped(f"{function}({arg.sql_type}) is not supported")


def _ref(field: Field) -> ColumnRef:
    return ColumnRef(field.name, field.sql_type, field.type, field.nullable)


def output_fields(group: Sequence[Field], calls: Sequence[AggregateCall]) -> tuple[Field, ...]:
    made = (Field(c.name, c.sql_type, c.type, c.function != "count") for c in calls)
    return (*group, *made)
