"""Syntax trees of scalar expressions to typed expressions.

A node is translated only when all of its parts are understood: `_only` refuses a node that
carries an argument this module does not know, so that nothing of the SQL is dropped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlglot import exp

from cdc.errors import Unsupported
from views.plan import Call, ColumnRef, Constant, Expr
from views.sql import literals, typed
from views.sql.bind_types import interval_constant, target_type
from views.sql.parse import SqlText
from views.sql.resolve import Scope
from views.sql.typed import NotTyped
from views.sql.types import (
    BOOL,
    DOUBLE,
    INTERVAL,
    TEXT,
    TIMESTAMPTZ,
    UNKNOWN,
    Type,
    base,
)
from views.values.functions import may_be_null

Hook = Callable[[exp.Expr], Expr | None]


@dataclass(frozen=True)
class Binder:
    """Binds expressions in one scope.

    `hook` is asked first for every node: in a grouped SELECT it answers aggregates and group
    expressions. `timezone` is the view's.
    """

    text: SqlText
    scope: Scope
    timezone: str = "UTC"
    hook: Hook | None = None

    def bind(self, node: exp.Expr) -> Expr:
        """The typed expression of `node`. Raises ViewError or Unsupported at its place."""
        if self.hook is not None and (found := self.hook(node)) is not None:
            return found
        rule = _RULES.get(type(node))
        if rule is None:
            raise self._unknown(node)
        try:
            made: Expr = rule(self, node)
            self._check_zone(made)
        except NotTyped as error:
            made_by = self.text.refused if error.refused else self.text.failed
            raise made_by(node, error.what, error.hint) from None
        return made

    def condition(self, node: exp.Expr, where: str) -> Expr:
        try:
            return typed.condition(self.bind(node), where)
        except NotTyped as error:
            raise self.text.failed(node, error.what, error.hint) from None

    def all(self, nodes: Sequence[exp.Expr]) -> list[Expr]:
        return [self.bind(n) for n in nodes]

    def only(self, node: exp.Expr, *known: str) -> None:
        """Refuse `node` if it has a part besides `known`."""
        for name, value in node.args.items():
            if value and name not in known and name not in _HARMLESS:
                raise self.text.refused(
                    node, f"{_name(self.text, node)} with {name} is not supported yet"
                )

    def _unknown(self, node: exp.Expr) -> Unsupported:
        for kinds, what, hint in _REFUSED:
            if isinstance(node, kinds):
                return self.text.refused(node, what, hint)
        return self.text.refused(node, f"{_name(self.text, node)} is not supported yet", _ALLOWED)

    def _check_zone(self, made: Expr) -> None:
        """Only in UTC are the kernels of timestamptz right."""
        if self.timezone.upper() in ("UTC", "ETC/UTC") or not isinstance(made, Call):
            return
        kinds = {base(a.sql_type) for a in made.args} | {base(made.sql_type)}
        pure = made.name not in ("cast", "extract", "date_trunc", "+", "-")
        if pure or TIMESTAMPTZ.sql not in kinds:
            return
        raise NotTyped(
            f"{made.name} of a timestamptz in the time zone {self.timezone} is not supported yet",
            "leave `timezone:` at UTC",
        )


_ALLOWED = "docs/sql.md lists what a view may use"
_HARMLESS = {"safe", "typed", "coalesce", "ignore_nulls", "big_int", "only_json_types", "_type"}
_VOLATILE = {
    "now", "current_timestamp", "transaction_timestamp", "statement_timestamp", "clock_timestamp",
    "timeofday", "random", "gen_random_uuid", "nextval", "currval", "current_user", "session_user",
    "txid_current", "pg_current_xact_id", "uuidv4", "uuidv7", "uuid_generate_v4",
}  # fmt: skip
_CLOCK = "its value changes without any row changing; filter by time in the query on the sink"
_REFUSED: tuple[tuple[tuple[type[exp.Expr], ...], str, str], ...] = (
    (
        (
            exp.CurrentTimestamp,
            exp.CurrentDate,
            exp.CurrentTime,
            exp.Localtimestamp,
            exp.Localtime,
            exp.Rand,
            exp.Uuid,
        ),
        "a volatile function cannot be kept up to date",
        _CLOCK,
    ),
    ((exp.Window,), "window functions are not supported yet", "GROUP BY, or compute it on reading"),
    ((exp.Exists,), "EXISTS is not supported yet", "join with SELECT DISTINCT of the keys"),
    (
        (exp.Any, exp.All),
        "ANY and ALL are not supported yet",
        "for a list of values write IN (…)",
    ),
    (
        (exp.Subquery, exp.Select, exp.SetOperation),
        "a subquery in an expression is not supported yet",
        "write it as a join with a derived table or CTE",
    ),
    ((exp.AggFunc,), "this aggregate is not supported", "count, sum, avg, min, max are"),
)


def _name(text: SqlText, node: exp.Expr) -> str:
    if isinstance(node, exp.Func) and (word := text.word(node)):
        return f"function {word}"
    return _OPERATOR_NAMES.get(type(node), node.key)


_OPERATOR_NAMES: dict[type[exp.Expr], str] = {
    exp.JSONExtract: "operator ->",
    exp.JSONExtractScalar: "operator ->>",
    exp.RegexpLike: "operator ~",
    exp.Pow: "operator ^",
    exp.SimilarTo: "SIMILAR TO",
    exp.AtTimeZone: "AT TIME ZONE",
    exp.Bracket: "an array element",
    exp.Tuple: "a row value",
}


def _column(binder: Binder, node: exp.Column) -> Expr:
    if node.args.get("db"):
        raise binder.text.refused(
            node, "a column is written `table.column`", "give the table an alias"
        )
    if isinstance(node.this, exp.Star):
        raise binder.text.failed(node, "* stands only in a SELECT list or count(*)")
    found = binder.scope.column(binder.text, node, node.table or None, node.this)
    return ColumnRef(found.name, found.sql_type, found.type, found.nullable)


def _literal(binder: Binder, node: exp.Literal) -> Expr:
    if node.is_string:
        return Constant(node.this, UNKNOWN.sql, UNKNOWN.arrow)
    return literals.number(node.this)


def _null(binder: Binder, node: exp.Null) -> Expr:
    return Constant(None, UNKNOWN.sql, UNKNOWN.arrow)


def _boolean(binder: Binder, node: exp.Boolean) -> Expr:
    return Constant(bool(node.this), BOOL.sql, BOOL.arrow)


def _paren(binder: Binder, node: exp.Paren) -> Expr:
    return binder.bind(node.this)


def _negative(binder: Binder, node: exp.Neg) -> Expr:
    value = binder.bind(node.this)
    if isinstance(value, Constant) and isinstance(value.value, (int, float, Decimal)):
        return Constant(-value.value, value.sql_type, value.type)
    return typed.listed("neg", (value,))


_OPERATORS: dict[type[exp.Expr], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.Mod: "%",
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}


def _arithmetic(binder: Binder, node: exp.Expr) -> Expr:
    binder.only(node, "this", "expression")
    sides = binder.bind(node.this), binder.bind(node.expression)
    return typed.arithmetic(_OPERATORS[type(node)], *sides)


def _comparison(binder: Binder, node: exp.Expr) -> Expr:
    binder.only(node, "this", "expression")
    sides = binder.bind(node.this), binder.bind(node.expression)
    return typed.compare(_OPERATORS[type(node)], *sides)


def _distinct_from(binder: Binder, node: exp.Expr) -> Expr:
    made = typed.distinct_from(binder.bind(node.this), binder.bind(node.expression))
    return made if isinstance(node, exp.NullSafeNEQ) else typed.call("not", (made,), BOOL)


def _logic(binder: Binder, node: exp.Expr) -> Expr:
    name = "and" if isinstance(node, exp.And) else "or"
    sides = [binder.condition(n, name.upper()) for n in (node.this, node.expression)]
    return typed.call(name, sides, BOOL)


def _not(binder: Binder, node: exp.Not) -> Expr:
    return typed.call("not", (binder.condition(node.this, "NOT"),), BOOL)


def _is(binder: Binder, node: exp.Is) -> Expr:
    binder.only(node, "this", "expression", "negate")
    test = node.expression
    if isinstance(test, exp.Null):
        made = never_null("is_null", typed.settled(binder.bind(node.this)))
    elif isinstance(test, exp.Boolean):
        name = "is_true" if test.this else "is_false"
        made = never_null(name, binder.condition(node.this, "IS TRUE"))
    else:
        raise binder.text.refused(node, "this IS test is not supported")
    return typed.call("not", (made,), BOOL) if node.args.get("negate") else made


def never_null(name: str, arg: Expr) -> Call:
    return Call(name, (arg,), BOOL.sql, BOOL.arrow, False, typed.can_fail(arg))


def _in(binder: Binder, node: exp.In) -> Expr:
    if node.args.get("query"):
        raise binder.text.refused(
            node, "IN (SELECT …) is not supported yet", "join with SELECT DISTINCT of the keys"
        )
    binder.only(node, "this", "expressions")
    value, items = binder.bind(node.this), binder.all(node.expressions)
    if typed.is_unknown(value):
        value = typed.settled(value)
    _, united = typed.unite([value, *items], "IN")
    return typed.call("in", _aligned(united), BOOL)


def _aligned(items: list[Expr]) -> list[Expr]:
    """The elements of IN in the type in which they are compared with the first."""
    pairs = [typed.compare("=", items[0], item) for item in items[1:]]
    calls = [p for p in pairs if isinstance(p, Call)]
    return [calls[0].args[0], *(p.args[1] for p in calls)]


def _between(binder: Binder, node: exp.Between) -> Expr:
    binder.only(node, "this", "low", "high", "negate")
    value = binder.bind(node.this)
    low = typed.compare(">=", value, binder.bind(node.args["low"]))
    high = typed.compare("<=", value, binder.bind(node.args["high"]))
    made = typed.call("and", (low, high), BOOL)
    return typed.call("not", (made,), BOOL) if node.args.get("negate") else made


def _like(binder: Binder, node: exp.Expr) -> Expr:
    binder.only(node, "this", "expression", "negate")
    name = "ilike" if isinstance(node, exp.ILike) else "like"
    made = typed.text_function(name, binder.bind(node.this), binder.bind(node.expression))
    return typed.call("not", (made,), BOOL) if node.args.get("negate") else made


def _case(binder: Binder, node: exp.Case) -> Expr:
    binder.only(node, "this", "ifs", "default")
    arms = node.args["ifs"]
    conditions = [_when(binder, node, arm) for arm in arms]
    given = node.args.get("default") or exp.Null()
    results = binder.all([arm.args["true"] for arm in arms] + [given])
    type, results = typed.unite(results, "CASE")
    pairs = [part for pair in zip(conditions, results, strict=False) for part in pair]
    made = typed.call("case", [*pairs, results[-1]], type)
    nullable = any(may_be_null(r) for r in results)
    return Call(made.name, made.args, made.sql_type, made.type, nullable, made.can_fail)


def _when(binder: Binder, node: exp.Case, arm: exp.Expr) -> Expr:
    if node.this is None:
        return binder.condition(arm.this, "WHEN")
    return typed.compare("=", binder.bind(node.this), binder.bind(arm.this))


def _coalesce(binder: Binder, node: exp.Coalesce) -> Expr:
    binder.only(node, "this", "expressions")
    type, args = typed.unite(binder.all([node.this, *node.expressions]), "COALESCE")
    made = typed.call("coalesce", args, type)
    nullable = all(may_be_null(a) for a in args)
    return Call(made.name, made.args, made.sql_type, made.type, nullable, made.can_fail)


def _extreme(binder: Binder, node: exp.Expr) -> Expr:
    binder.only(node, "this", "expressions")
    name = "greatest" if isinstance(node, exp.Greatest) else "least"
    type, args = typed.unite(binder.all([node.this, *node.expressions]), name.upper())
    typed.compare("<", args[0], args[0])
    made = typed.call(name, args, type)
    nullable = all(may_be_null(a) for a in args)
    return Call(made.name, made.args, made.sql_type, made.type, nullable, made.can_fail)


def _nullif(binder: Binder, node: exp.Nullif) -> Expr:
    value, other = binder.bind(node.this), binder.bind(node.expression)
    same = typed.compare("=", value, other)
    assert isinstance(same, Call)
    first = same.args[0] if typed.is_unknown(value) else value
    if base(first.sql_type) in ("character varying", "name"):
        first = typed.cast(first, TEXT)
    if base(same.args[0].sql_type) == "numeric" and base(first.sql_type) != "numeric":
        first = same.args[0]
    type = Type(first.sql_type, first.type)
    return Call("nullif", (first, *same.args), type.sql, type.arrow, True, same.can_fail)


def _cast(binder: Binder, node: exp.Cast) -> Expr:
    binder.only(node, "this", "to")
    target = target_type(binder.text, node)
    if target == INTERVAL:
        return interval_constant(binder.text, node, node.this)
    return typed.cast(binder.bind(node.this), target)


def _interval(binder: Binder, node: exp.Interval) -> Expr:
    unit = node.args.get("unit")
    return interval_constant(binder.text, node, node.this, unit.name if unit else "")


def _concatenation(binder: Binder, node: exp.DPipe) -> Expr:
    return typed.concatenated(binder.bind(node.this), binder.bind(node.expression))


def _concat(binder: Binder, node: exp.Concat) -> Expr:
    binder.only(node, "expressions")
    return typed.concat(binder.all(node.expressions))


def _text_function(name: str, *parts: str) -> Callable[[Binder, Any], Expr]:
    def rule(binder: Binder, node: exp.Expr) -> Expr:
        binder.only(node, "this", *parts)
        given = [node.args[p] for p in parts if node.args.get(p) is not None]
        return typed.text_function(name, binder.bind(node.this), *binder.all(given))

    return rule


def _substring(binder: Binder, node: exp.Substring) -> Expr:
    binder.only(node, "this", "start", "length")
    start = node.args.get("start")
    if not isinstance(start, (exp.Literal, exp.Neg)) or (
        isinstance(start, exp.Literal) and start.is_string
    ):
        raise binder.text.refused(
            node, "substring needs literal positions", "substring(text, 1, 10)"
        )
    given = [start] + ([node.args["length"]] if node.args.get("length") else [])
    return typed.text_function("substring", binder.bind(node.this), *binder.all(given))


def _length(binder: Binder, node: exp.Length) -> Expr:
    binder.only(node, "this")
    return typed.text_function("length", binder.bind(node.this))


def _trim(binder: Binder, node: exp.Trim) -> Expr:
    binder.only(node, "this", "expression", "position")
    position = str(node.args.get("position") or "BOTH").upper()
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(position, "btrim")
    given = node.args.get("expression") or exp.Literal.string(" ")
    return typed.text_function(name, binder.bind(node.this), binder.bind(given))


def _rounding(name: str) -> Callable[[Binder, Any], Expr]:
    def rule(binder: Binder, node: exp.Expr) -> Expr:
        binder.only(node, "this", "decimals")
        places = node.args.get("decimals")
        value = binder.bind(node.this)
        return typed.rounded(name, value, None if places is None else binder.bind(places))

    return rule


def _abs(binder: Binder, node: exp.Abs) -> Expr:
    return typed.listed("abs", (binder.bind(node.this),))


def _extract(binder: Binder, node: exp.Extract) -> Expr:
    binder.only(node, "this", "expression")
    made = typed.extracted(node.this.name.lower(), binder.bind(node.expression))
    start = node.meta.get("start")
    if start is not None and binder.text.sql[start:].lower().startswith("date_part"):
        return typed.cast(made, DOUBLE)
    return made


def _truncate(binder: Binder, node: exp.TimestampTrunc) -> Expr:
    binder.only(node, "this", "unit")
    return typed.truncated(node.args["unit"].name.lower(), binder.bind(node.this))


def _anonymous(binder: Binder, node: exp.Anonymous) -> Expr:
    name = node.name.lower()
    if name in _VOLATILE:
        raise binder.text.refused(
            node, f"{name}() is volatile and cannot be kept up to date", _CLOCK
        )
    if name == "octet_length" and len(node.expressions) == 1:
        return typed.text_function(name, binder.bind(node.expressions[0]))
    raise binder.text.refused(node, f"function {name} is not supported yet", _ALLOWED)


_RULES: dict[type[exp.Expr], Callable[[Binder, Any], Expr]] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Null: _null,
    exp.Boolean: _boolean,
    exp.Paren: _paren,
    exp.Neg: _negative,
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod), _arithmetic),
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), _comparison),
    **dict.fromkeys((exp.NullSafeEQ, exp.NullSafeNEQ), _distinct_from),
    **dict.fromkeys((exp.And, exp.Or), _logic),
    exp.Not: _not,
    exp.Is: _is,
    exp.In: _in,
    exp.Between: _between,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Case: _case,
    exp.Coalesce: _coalesce,
    exp.Greatest: _extreme,
    exp.Least: _extreme,
    exp.Nullif: _nullif,
    exp.Cast: _cast,
    exp.Interval: _interval,
    exp.DPipe: _concatenation,
    exp.Concat: _concat,
    exp.Lower: _text_function("lower"),
    exp.Upper: _text_function("upper"),
    exp.Length: _length,
    exp.Reverse: _text_function("reverse"),
    exp.Left: _text_function("left", "expression"),
    exp.Right: _text_function("right", "expression"),
    exp.Replace: _text_function("replace", "expression", "replacement"),
    exp.StartsWith: _text_function("starts_with", "expression"),
    exp.Substring: _substring,
    exp.Trim: _trim,
    exp.Round: _rounding("round"),
    exp.Trunc: _rounding("trunc"),
    exp.Ceil: _rounding("ceil"),
    exp.Floor: _rounding("floor"),
    exp.Abs: _abs,
    exp.Extract: _extract,
    exp.TimestampTrunc: _truncate,
    exp.Anonymous: _anonymous,
}
