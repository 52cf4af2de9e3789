"""Typed expressions as text that a person reads, in errors and in `cdc explain`."""

from __future__ import annotations

from views.plan import Call, ColumnRef, Constant, Expr
from views.values.functions import COMPARISONS
from views.values.time import Interval

_INFIX = {*COMPARISONS, "+", "-", "*", "/", "%", "||"}
_SUFFIX = {"is_null": "IS NULL", "is_true": "IS TRUE", "is_false": "IS FALSE"}


def describe(expr: Expr) -> str:
    """SQL-like text of an expression; unambiguous, though not meant to be parsed again."""
    if isinstance(expr, ColumnRef):
        return expr.name
    if isinstance(expr, Constant):
        return _constant(expr)
    args = [describe(a) for a in expr.args]
    if expr.name in _INFIX and len(args) == 2:
        return f"({args[0]} {expr.name} {args[1]})"
    return _call(expr, args)


def _call(expr: Call, args: list[str]) -> str:
    if expr.name in ("and", "or"):
        return f"({f' {expr.name.upper()} '.join(args)})"
    if expr.name in _SUFFIX:
        return f"({args[0]} {_SUFFIX[expr.name]})"
    if expr.name == "not":
        return f"(NOT {args[0]})"
    if expr.name == "cast":
        return f"{args[0]}::{expr.sql_type}"
    if expr.name in ("like", "ilike"):
        return f"({args[0]} {expr.name.upper()} {args[1]})"
    if expr.name == "in":
        return f"({args[0]} IN ({', '.join(args[1:])}))"
    if expr.name == "is_distinct":
        return f"({args[0]} IS DISTINCT FROM {args[1]})"
    if expr.name == "neg":
        return f"(-{args[0]})"
    if expr.name == "case":
        arms = [f"WHEN {c} THEN {v}" for c, v in zip(args[0:-1:2], args[1:-1:2], strict=True)]
        return f"CASE {' '.join(arms)} ELSE {args[-1]} END"
    return f"{expr.name}({', '.join(args)})"


def _constant(expr: Constant) -> str:
    if expr.value is None:
        return "NULL"
    if isinstance(expr.value, bool):
        return str(expr.value).lower()
    if isinstance(expr.value, (str, bytes)):
        text = expr.value if isinstance(expr.value, str) else "\\x" + expr.value.hex()
        return "'" + text.replace("'", "''") + "'"
    if isinstance(expr.value, Interval):
        step = expr.value
        return f"interval '{step.months} months {step.days} days {step.us} us'"
    return str(expr.value)
