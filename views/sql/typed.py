"""Typed calls: operators and functions resolved on the allow-list, with Postgres's coercions.

Every function here takes typed expressions and returns one, or raises `NotTyped` with what is
wrong. Untyped string literals ('abc', type `unknown`) take the type of what they stand beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa

from views.plan import Call, Constant, Expr
from views.sql import literals
from views.sql.types import (
    BOOL,
    DOUBLE,
    INTEGER,
    INTEGERS,
    NUMBERS,
    NUMERIC,
    TEXT,
    TEXTS,
    TIMESTAMP,
    TIMESTAMPTZ,
    Type,
    base,
    common,
    digits,
    is_array,
    numeric,
    typmod,
)
from views.values import functions
from views.values.functions import may_be_null, of
from views.values.numeric import text as decimal_text
from views.values.text import like_regex
from views.values.time import FIELDS, TIME_FIELDS, UNITS, Interval


class NotTyped(Exception):
    """The types do not fit (`refused` False: Postgres refuses, too), or it is not allowed yet."""

    def __init__(self, what: str, hint: str = "", *, refused: bool = True) -> None:
        super().__init__(what)
        self.what, self.hint, self.refused = what, hint, refused


def call(name: str, args: Sequence[Expr], type: Type, *, fails: bool = False) -> Call:
    nullable = any(may_be_null(a) for a in args)
    return Call(name, tuple(args), type.sql, type.arrow, nullable, fails or can_fail(*args))


def can_fail(*exprs: Expr) -> bool:
    return any(isinstance(e, Call) and e.can_fail for e in exprs)


def is_unknown(expr: Expr) -> bool:
    return expr.sql_type == "unknown"


def settled(expr: Expr) -> Expr:
    """An untyped literal that nothing gave a type is text."""
    return coerced(expr, TEXT) if is_unknown(expr) else expr


def coerced(expr: Expr, type: Type) -> Expr:
    """`expr` in `type`: a literal is read, anything else is cast where its type differs."""
    if isinstance(expr, Constant) and expr.value is None:
        return literals.null(type)
    if is_unknown(expr):
        assert isinstance(expr, Constant) and isinstance(expr.value, str)
        try:
            if base(type.sql) == "numeric" and typmod(type.sql) is None:
                return literals.literal(expr.value, NUMERIC)
            return literals.literal(expr.value, type)
        except literals.BadLiteral as error:
            raise NotTyped(str(error), refused=False) from None
    return cast(expr, type)


def cast(expr: Expr, type: Type) -> Expr:
    """CAST(expr AS type)."""
    source = of(expr)
    if source == type or (source.sql == type.sql and type.arrow == source.arrow):
        return expr
    if is_unknown(expr) or (isinstance(expr, Constant) and expr.value is None):
        return coerced(expr, type)
    if base(source.sql) == base(type.sql) and _same_carrier(source, type):
        return call("cast", (expr,), type)
    try:
        rule = functions.cast_rule(source.sql, type.sql)
    except KeyError:
        hint = "cast it to text" if type != TEXT else ""
        raise NotTyped(f"a cast from {source.sql} to {type.sql} is not supported", hint) from None
    if is_array(source.sql):
        raise NotTyped(f"a cast from {source.sql} to {type.sql} is not supported")
    target = _numeric_target(source, type)
    fails = rule.fails or (base(type.sql) == "numeric" and typmod(type.sql) is not None)
    folded = _folded(expr, target) if fails or isinstance(expr, Constant) else None
    return folded or call("cast", (expr,), target, fails=fails)


def _same_carrier(source: Type, type: Type) -> bool:
    return base(type.sql) in ("text", "name") and source.arrow == type.arrow


def _numeric_target(source: Type, type: Type) -> Type:
    """x::numeric keeps the digits of an integer or decimal."""
    known = digits(source)
    if type == NUMERIC and known is not None:
        return numeric(*known)
    return type


def _folded(expr: Expr, type: Type) -> Constant | None:
    """A number literal in another number's type, so that `x = 5` compares without a cast."""
    if not isinstance(expr, Constant) or isinstance(expr.value, (bool, Interval)):
        return None
    if isinstance(expr.value, int) and base(type.sql) in INTEGERS:
        try:
            return literals.literal(str(expr.value), type)
        except literals.BadLiteral:
            return None
    if isinstance(expr.value, int) and base(type.sql) == "numeric" and typmod(type.sql) is None:
        return literals.numeric_constant(Decimal(expr.value))
    if isinstance(expr.value, (int, Decimal)) and type == DOUBLE:
        return Constant(float(expr.value), type.sql, type.arrow)
    return None


def unite(exprs: Sequence[Expr], what: str) -> tuple[Type, list[Expr]]:
    """The common type of values that may stand in one place, and each in that type."""
    known = [of(e) for e in exprs if not is_unknown(e)]
    type = common(known) if known else TEXT
    padded = {base(t.sql) == "character" for t in known}
    if type is not None and len(padded) > 1:
        # Postgres pads or trims by which of them comes first.
        raise NotTyped(f"{what} of character(n) and other text is not supported", "cast it to text")
    if type is None:
        names = " and ".join(sorted({t.sql for t in known}))
        raise NotTyped(f"{what} types {names} cannot be matched", "cast one", refused=False)
    return type, [carried(e, type) for e in exprs]


def carried(expr: Expr, type: Type) -> Expr:
    """`expr` in exactly the Arrow type of `type`, as rows of one column must be."""
    made = coerced(expr, type)
    if made.type == type.arrow:
        return made
    if isinstance(made, Constant) and isinstance(made.value, Decimal):
        value = made.value if pa.types.is_decimal(type.arrow) else decimal_text(made.value)
        return Constant(value, type.sql, type.arrow)
    return call("cast", (made,), type)


def numeric_carrier(a: Expr, b: Expr) -> Type:
    """The type that carries two NUMERICs by value."""
    return common([Type("numeric", a.type), Type("numeric", b.type)]) or NUMERIC


def compare(op: str, left: Expr, right: Expr) -> Expr:
    """left op right, both in the type in which Postgres compares them."""
    left, right = _comparable(left, right, op)
    return call(op, (left, right), BOOL)


def _comparable(left: Expr, right: Expr, op: str) -> tuple[Expr, Expr]:
    if is_unknown(left) and is_unknown(right):
        left, right = settled(left), settled(right)
    type = common([of(left), of(right)], operator=True)
    if type is None:
        raise NotTyped(
            f"operator does not exist: {left.sql_type} {op} {right.sql_type}",
            "cast one side to the other's type",
            refused=False,
        )
    if base(type.sql) == "character":
        type = TEXT
    if not functions.can_compare(op, type.sql):
        hint = "cast it to text" if not is_array(type.sql) else ""
        raise NotTyped(f"comparing {type.sql} with {op} is not supported yet", hint)
    return _side(left, type), _side(right, type)


def _side(expr: Expr, type: Type) -> Expr:
    """Decimals are compared in their own scales: no cast between carriers of NUMERIC."""
    if base(expr.sql_type) == base(type.sql) == "numeric":
        return expr
    if base(type.sql) == "numeric" and not is_unknown(expr):
        return coerced(expr, NUMERIC)
    return coerced(expr, type)


def distinct_from(left: Expr, right: Expr) -> Expr:
    """left IS DISTINCT FROM right."""
    if any(isinstance(e, Constant) and e.value is None for e in (left, right)):
        other = right if isinstance(left, Constant) and left.value is None else left
        return call("not", (call("is_null", (settled(other),), BOOL),), BOOL)
    return call("is_distinct", _comparable(left, right, "="), BOOL)


def arithmetic(op: str, left: Expr, right: Expr) -> Expr:
    """+ - * / % of numbers, and + - of dates and times."""
    if any(base(e.sql_type) in ("date", TIMESTAMP.sql, TIMESTAMPTZ.sql) for e in (left, right)):
        return _dates(op, left, right)
    type = common([of(left), of(right)], operator=True)
    if type is None or base(type.sql) not in NUMBERS:
        raise NotTyped(
            f"operator does not exist: {left.sql_type} {op} {right.sql_type}",
            "arithmetic works on numbers, and + - on dates",
            refused=is_array(left.sql_type) or is_array(right.sql_type),
        )
    return listed(op, (_operand(left, type), _operand(right, type)))


def _operand(expr: Expr, type: Type) -> Expr:
    if base(type.sql) != "numeric":
        return coerced(expr, type)
    return expr if base(expr.sql_type) == "numeric" else coerced(expr, NUMERIC)


def _dates(op: str, left: Expr, right: Expr) -> Expr:
    if op == "+" and base(left.sql_type) in (*INTEGERS, "interval"):
        left, right = right, left
    if is_unknown(right) and op == "-":
        right = coerced(right, of(left))
    if base(right.sql_type) in ("smallint", "integer") and base(left.sql_type) == "date":
        return listed(op, (left, coerced(right, INTEGER)))
    if base(right.sql_type) == "interval" and base(left.sql_type) == "date":
        left = cast(left, TIMESTAMP)
    return listed(op, (left, right))


def listed(name: str, args: Sequence[Expr]) -> Call:
    """A call of an entry of the allow-list. Raises NotTyped for one that is not there."""
    found = functions.find(name, args)
    if found is None:
        types = ", ".join(a.sql_type for a in args)
        raise NotTyped(f"{name}({types}) is not supported yet", "cast the argument")
    for at in found.constant:
        if not isinstance(args[at], Constant):
            raise NotTyped(f"argument {at + 1} of {name} must be a literal", "write a literal")
    if any(isinstance(args[at], Constant) and args[at].value is None for at in found.constant):  # type: ignore[union-attr]
        raise NotTyped(f"{name} with a NULL literal is always NULL", "write NULL")
    made = call(name, args, found.result(args), fails=found.fails)
    if found.nullable:
        return Call(made.name, made.args, made.sql_type, made.type, True, made.can_fail)
    return made


def text_function(name: str, first: Expr, *rest: Expr) -> Call:
    """A function of text with literal arguments after the first."""
    if not is_unknown(first) and base(first.sql_type) not in TEXTS:
        raise NotTyped(f"{name}({first.sql_type}) is not supported", "cast it to text")
    args = [coerced(first, TEXT)]
    args += [a if base(a.sql_type) == "integer" else coerced(a, TEXT) for a in rest]
    made = listed(name, args)
    _check_literals(made)
    return made


def _check_literals(made: Call) -> None:
    if made.name in ("like", "ilike"):
        pattern = made.args[1]
        try:
            like_regex(str(pattern.value) if isinstance(pattern, Constant) else "")
        except ValueError as error:
            raise NotTyped(str(error), refused=False) from None
    if made.name == "substring" and len(made.args) == 3:
        count = made.args[2]
        if isinstance(count, Constant) and isinstance(count.value, int) and count.value < 0:
            raise NotTyped("negative substring length not allowed", refused=False)


def concatenated(left: Expr, right: Expr) -> Expr:
    """left || right; one side must be text."""
    if not any(base(e.sql_type) in (*TEXTS, "unknown") for e in (left, right)):
        raise NotTyped(
            f"operator does not exist here: {left.sql_type} || {right.sql_type}",
            "cast one side to text",
        )
    return listed("||", (coerced(left, TEXT), coerced(right, TEXT)))


def concat(args: Sequence[Expr]) -> Expr:
    """concat(…): any types, NULL is empty."""
    for arg in args:
        if base(arg.sql_type) in ("boolean", "character"):
            raise NotTyped(f"concat({arg.sql_type}) is not supported", "cast it to text")
    made = call("concat", [coerced(a, TEXT) for a in args], TEXT)
    return Call(made.name, made.args, made.sql_type, made.type, False, made.can_fail)


def rounded(name: str, value: Expr, places: Expr | None) -> Expr:
    """round, trunc, ceil, floor: of integers and floats as double precision, as Postgres does."""
    if base(value.sql_type) == "numeric":
        return listed(name, (value,) if places is None else (value, places))
    if base(value.sql_type) not in NUMBERS:
        raise NotTyped(f"{name}({value.sql_type}) is not supported", "cast it to numeric")
    if places is None:
        return listed(name, (cast(value, DOUBLE),))
    if base(value.sql_type) in ("real", "double precision"):
        raise NotTyped(
            f"function {name}({value.sql_type}, integer) does not exist",
            "cast the value to numeric first",
            refused=False,
        )
    return listed(name, (cast(value, NUMERIC), places))


def extracted(field: str, value: Expr) -> Expr:
    """extract(field FROM date or timestamp)."""
    allowed = [f for f in FIELDS if base(value.sql_type) != "date" or f not in TIME_FIELDS]
    if field not in allowed:
        raise NotTyped(f"extract({field}) from {value.sql_type} is not supported", _one_of(allowed))
    return listed("extract", (Constant(field, TEXT.sql, TEXT.arrow), value))


def truncated(unit: str, value: Expr) -> Expr:
    """date_trunc(unit, timestamp); a date is a timestamptz at midnight."""
    if unit not in UNITS:
        raise NotTyped(f"date_trunc('{unit}') is not supported", _one_of(UNITS))
    if base(value.sql_type) == "date":
        value = cast(value, TIMESTAMPTZ)
    return listed("date_trunc", (Constant(unit, TEXT.sql, TEXT.arrow), value))


def _one_of(names: Sequence[str]) -> str:
    return "one of: " + ", ".join(names)


def condition(expr: Expr, where: str) -> Expr:
    """`expr` as a boolean."""
    expr = coerced(expr, BOOL) if is_unknown(expr) else expr
    if isinstance(expr, Constant) and expr.value is None:
        return literals.null(BOOL)
    if base(expr.sql_type) != "boolean":
        raise NotTyped(f"{where} must be boolean, not {expr.sql_type}", refused=False)
    return expr


def groupable(expr: Expr, what: str) -> None:
    """Raise NotTyped where equality of the type's text is not Postgres's equality."""
    if not functions.can_compare("=", expr.sql_type):
        raise NotTyped(f"{what} {expr.sql_type} is not supported yet", "cast it to text")
