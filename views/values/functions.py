"""The allow-list: which functions and operators exist, for which types, and how they compute.

An entry is (name, argument types) → result type, whether it can raise, and the kernel. Anything
that is not listed is refused (SEMANTICS 23). tests/integration/test_expressions_oracle.py compares
every entry with Postgres on boundary values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from views.plan import Call, Constant, Expr
from views.sql.types import (
    BIGINT,
    BOOL,
    DATE,
    DOUBLE,
    INTEGER,
    INTEGERS,
    NUMERIC,
    REAL,
    SMALLINT,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    Type,
    base,
    comparable,
    digits,
    numeric,
    ordered,
)
from views.values import cast as casts
from views.values import compare, number, parse
from views.values import print as printed
from views.values import text as texts
from views.values import time as times
from views.values.arrays import KernelFactory, no_failure

Result = Callable[[Sequence[Expr]], Type]


@dataclass(frozen=True)
class Function:
    """One entry. `sql` renders a call with its arguments as {0}, {1}, …; `constant` are the
    arguments that must be literals; `fails`: it raises for some values."""

    name: str
    args: tuple[str, ...]
    result: Result
    kernel: KernelFactory
    sql: str
    fails: bool = False
    constant: tuple[int, ...] = ()
    nullable: bool | None = None
    """None: NULL when an argument is."""


def of(expr: Expr) -> Type:
    return Type(expr.sql_type, expr.type)


def may_be_null(expr: Expr) -> bool:
    return expr.value is None if isinstance(expr, Constant) else expr.nullable


def _always(type: Type) -> Result:
    return lambda args: type


def _digits2(args: Sequence[Expr]) -> tuple[int, int, int, int] | None:
    a, b = digits(of(args[0])), digits(of(args[1]))
    return None if a is None or b is None else (*a, *b)


def _sum_type(args: Sequence[Expr]) -> Type:
    found = _digits2(args)
    if found is None:
        return NUMERIC
    p1, s1, p2, s2 = found
    scale = max(s1, s2)
    return numeric(max(p1 - s1, p2 - s2) + scale + 1, scale)


def _product_type(args: Sequence[Expr]) -> Type:
    found = _digits2(args)
    if found is None:
        return NUMERIC
    p1, s1, p2, s2 = found
    return numeric(p1 + p2 + 1, s1 + s2)


def _remainder_type(args: Sequence[Expr]) -> Type:
    found = _digits2(args)
    if found is None:
        return NUMERIC
    p1, s1, p2, s2 = found
    scale = max(s1, s2)
    return numeric(max(p1 - s1, p2 - s2) + scale, scale)


def _rounded_type(args: Sequence[Expr]) -> Type:
    known = digits(of(args[0]))
    places = args[1].value if len(args) > 1 and isinstance(args[1], Constant) else 0
    if known is None or not isinstance(places, int):
        return NUMERIC
    return numeric(max(known[0] - known[1], 0) + 1 + max(places, 0), max(places, 0))


def _same_digits(args: Sequence[Expr]) -> Type:
    return Type("numeric", args[0].type)


def _extracted(args: Sequence[Expr]) -> Type:
    field = args[0].value if isinstance(args[0], Constant) else None
    if field in times.UNBOUNDED:
        return NUMERIC
    return numeric(8, times.SCALES.get(str(field), 0))


def _arithmetic() -> list[Function]:
    out = []
    for type in (SMALLINT, INTEGER, BIGINT):
        for op in "+-*/%":
            out.append(_operator(op, type.sql, type.sql, _always(type), number.integer(op), True))
        out += _unary(type.sql, _always(type), True)
    for type in (REAL, DOUBLE):
        for op in "+-*/":
            out.append(_operator(op, type.sql, type.sql, _always(type), number.floating(op), True))
        out += _unary(type.sql, _always(type), False)
    results = {"+": _sum_type, "-": _sum_type, "*": _product_type, "/": _always(NUMERIC)}
    for op in "+-*/%":
        result = results.get(op, _remainder_type)
        out.append(_operator(op, "numeric", "numeric", result, number.exact(op), op in "/%"))
    return out + _unary("numeric", _same_digits, False)


def _operator(
    op: str, left: str, right: str, result: Result, kernel: KernelFactory, fails: bool
) -> Function:
    return Function(op, (left, right), result, kernel, f"({{0}} {op} {{1}})", fails)


def _unary(type: str, result: Result, fails: bool) -> list[Function]:
    return [
        Function("neg", (type,), result, number.negate, "(- {0})", fails),
        Function("abs", (type,), result, number.absolute, "abs({0})", fails),
    ]


def _rounding() -> list[Function]:
    out = []
    for name in ("round", "trunc", "ceil", "floor"):
        out.append(
            Function(name, ("numeric",), _rounded_type, number.round_numeric, f"{name}({{0}})")
        )
        out.append(
            Function(
                name, ("double precision",), _always(DOUBLE), number.round_float, f"{name}({{0}})"
            )
        )
    for name in ("round", "trunc"):
        out.append(
            Function(
                name,
                ("numeric", "integer"),
                _rounded_type,
                number.round_numeric,
                f"{name}({{0}}, {{1}})",
                constant=(1,),
            )
        )
    return out


def _text_functions() -> list[Function]:
    def function(
        name: str,
        kernel: KernelFactory,
        sql: str,
        extra: tuple[str, ...] = (),
        result: Type = TEXT,
    ) -> Function:
        constant = tuple(range(1, 1 + len(extra)))
        return Function(name, ("text", *extra), _always(result), kernel, sql, constant=constant)

    text, count = ("text",), ("integer",)
    return [
        function("length", texts.length, "length({0})", result=INTEGER),
        function("octet_length", texts.octet_length, "octet_length({0})", result=INTEGER),
        function("lower", texts.lower, "lower({0})"),
        function("upper", texts.upper, "upper({0})"),
        function("reverse", texts.reverse, "reverse({0})"),
        function("substring", texts.substring, "substring({0}, {1})", count),
        function("substring", texts.substring, "substring({0}, {1}, {2})", (*count, *count)),
        function("left", texts.left, "left({0}, {1})", count),
        function("right", texts.right, "right({0}, {1})", count),
        function("btrim", texts.trim, "btrim({0}, {1})", text),
        function("ltrim", texts.trim, "ltrim({0}, {1})", text),
        function("rtrim", texts.trim, "rtrim({0}, {1})", text),
        function("replace", texts.replace, "replace({0}, {1}, {2})", (*text, *text)),
        function("starts_with", texts.starts_with, "starts_with({0}, {1})", text, BOOL),
        function("like", texts.like, "({0} LIKE {1})", text, BOOL),
        function("ilike", texts.like, "({0} ILIKE {1})", text, BOOL),
        Function("||", ("text", "text"), _always(TEXT), texts.concatenate, "({0} || {1})"),
    ]


def _time_functions() -> list[Function]:
    out = [
        Function("+", ("date", "integer"), _always(DATE), times.add_days(1), "({0} + {1})", True),
        Function("-", ("date", "integer"), _always(DATE), times.add_days(-1), "({0} - {1})", True),
        Function("-", ("date", "date"), _always(INTEGER), times.days_between, "({0} - {1})", True),
    ]
    for type in (TIMESTAMP, TIMESTAMPTZ):
        for op, sign in (("+", 1), ("-", -1)):
            out.append(
                Function(
                    op,
                    (type.sql, "interval"),
                    _always(type),
                    times.shift(sign),
                    f"({{0}} {op} {{1}})",
                    True,
                    (1,),
                )
            )
        out.append(
            Function(
                "date_trunc",
                ("text", type.sql),
                _always(type),
                times.truncate,
                "date_trunc({0}, {1})",
                True,
                (0,),
            )
        )
    for name in ("date", TIMESTAMP.sql, TIMESTAMPTZ.sql):
        out.append(
            Function(
                "extract",
                ("text", name),
                _extracted,
                times.extract,
                "extract({0} FROM {1})",
                constant=(0,),
                nullable=True,
            )
        )
    return out


_LISTED: tuple[Function, ...] = (
    *_arithmetic(),
    *_rounding(),
    *_text_functions(),
    *_time_functions(),
)
FUNCTIONS: dict[tuple[str, tuple[str, ...]], Function] = {(f.name, f.args): f for f in _LISTED}
NAMES = frozenset(f.name for f in _LISTED)

COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Cast:
    """An allowed cast. `fails`: it raises for some values."""

    kernel: KernelFactory
    fails: bool = False


def _casts() -> dict[tuple[str, str], Cast]:
    out: dict[tuple[str, str], Cast] = {}
    for at, source in enumerate(INTEGERS):
        for to, target in enumerate(INTEGERS):
            out[source, target] = Cast(casts.integer_to_integer, to < at)
        out[source, "numeric"] = Cast(casts.integer_to_numeric)
        for target in ("real", "double precision"):
            out[source, target] = Cast(casts.to_float)
            out[target, source] = Cast(casts.float_to_integer, True)
        out["numeric", source] = Cast(casts.numeric_to_integer, True)
        out["text", source] = Cast(parse.text_to_integer, True)
    out["numeric", "numeric"] = Cast(casts.numeric_to_numeric)
    for target in ("real", "double precision"):
        out["numeric", target] = Cast(casts.numeric_to_float, True)
        out[target, "numeric"] = Cast(casts.float_to_numeric)
        out["text", target] = Cast(parse.text_to_float, True)
    out["real", "double precision"] = Cast(casts.to_float)
    out["double precision", "real"] = Cast(casts.to_float, True)
    out["text", "numeric"] = Cast(parse.text_to_numeric, True)
    out["boolean", "integer"] = Cast(casts.boolean_to_integer)
    out["integer", "boolean"] = Cast(casts.integer_to_boolean)
    out["text", "boolean"] = Cast(parse.text_to_boolean, True)
    out["date", TIMESTAMP.sql] = Cast(casts_date := times.date_to_timestamp, True)
    out["date", TIMESTAMPTZ.sql] = Cast(casts_date, True)
    for source in (TIMESTAMP.sql, TIMESTAMPTZ.sql):
        out[source, "date"] = Cast(times.timestamp_to_date)
    out[TIMESTAMP.sql, TIMESTAMPTZ.sql] = Cast(times.same_instant)
    out[TIMESTAMPTZ.sql, TIMESTAMP.sql] = Cast(times.same_instant)
    return out | _text_casts()


def _text_casts() -> dict[tuple[str, str], Cast]:
    kernels: dict[str, KernelFactory] = {
        **dict.fromkeys((*INTEGERS, "oid"), printed.plain_text),
        "numeric": printed.numeric_to_text,
        "real": printed.float_to_text,
        "double precision": printed.float_to_text,
        "boolean": printed.boolean_to_text,
        "bytea": printed.bytes_to_text,
        "time without time zone": printed.time_to_text,
        **dict.fromkeys(("text", "character varying", "name", "uuid", "enum"), printed.unchanged),
        **dict.fromkeys(("json", "jsonb", "interval"), printed.unchanged),
        "character": printed.trimmed,
        **dict.fromkeys(("date", TIMESTAMP.sql, TIMESTAMPTZ.sql), printed.date_to_text),
    }
    out = {}
    for source, kernel in kernels.items():
        out[source, "text"] = Cast(kernel)
        out[source, "character varying"] = Cast(printed.to_varchar(kernel))
    return out


CASTS = _casts()

ZONED = {
    ("cast", "timestamp with time zone"),
    ("extract", "timestamp with time zone"),
    ("date_trunc", "timestamp with time zone"),
    ("+", "timestamp with time zone"),
    ("-", "timestamp with time zone"),
}
"""What depends on the view's time zone, by the type of an argument or of the result."""


def find(name: str, args: Sequence[Expr]) -> Function | None:
    """The entry for exactly these argument types."""
    return FUNCTIONS.get((name, tuple(base(a.sql_type) for a in args)))


def can_compare(op: str, sql_type: str) -> bool:
    return comparable(sql_type) if op in ("=", "<>") else ordered(sql_type)


def kernel(call: Call) -> KernelFactory:
    """The kernel of a typed call (of AND, OR, CASE, COALESCE see views.values.expressions)."""
    special = _SPECIAL.get(call.name)
    if special is not None:
        return special
    if call.name in COMPARISONS:
        return compare.comparison
    if call.name == "cast":
        return cast_rule(call.args[0].sql_type, call.sql_type).kernel
    found = find(call.name, call.args)
    if found is None:
        raise KeyError(call.name)
    return found.kernel


def cast_rule(source: str, target: str) -> Cast:
    """Raises KeyError for a cast that is not listed."""
    left, right = base(source), base(target)
    found = CASTS.get((left, right))
    if found is None and left in ("character varying", "name", "character"):
        found = CASTS.get(("text", right))
    if found is None:
        found = CASTS["enum", right]
    return found


_SPECIAL: dict[str, KernelFactory] = {
    "is_null": no_failure(pc.is_null),
    "is_true": no_failure(lambda a: pc.fill_null(a, False)),
    "is_false": no_failure(lambda a: pc.fill_null(pc.invert(a), False)),
    "not": no_failure(pc.invert),
    "is_distinct": compare.distinct,
    "greatest": compare.extreme(">"),
    "least": compare.extreme("<"),
    "nullif": compare.nullif,
    "in": compare.in_list,
    "concat": texts.concat,
}


def bool_type() -> pa.DataType:
    return BOOL.arrow
