"""Random SELECTs within docs/sql.md, over the tables of fuzz_tables and views made before.

Every column has a kind; an expression of a kind is a column, a literal, or a function of
expressions. `approx` marks what Postgres computes inexactly (avg of floats): it is only selected.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.views.fuzz_tables import DECLARED

Columns = dict[str, str]
"""Name (or expression) → kind."""

_KINDS = {
    "smallint": "int", "integer": "int", "bigint": "int", "numeric": "free",
    "double precision": "float", "real": "float", "text": "text", "character varying": "text",
    "timestamp without time zone": "ts", "timestamp with time zone": "tz", "date": "date",
    "boolean": "bool", "character": "char", "uuid": "uuid",
}  # fmt: skip
_LITERALS = {
    "int": ["0", "1", "2", "-3", "100"],
    "num": ["1.5", "0.00", "-2.50", "100.000"],
    "free": ["1.50::numeric", "0::numeric"],
    "float": ["1.5::float8", "0::float8", "'NaN'::float8", "'-Infinity'::float8"],
    "text": ["''", "'a'", "'Zoë'", "'x_%'"],
    "ts": ["'2023-12-31 00:30:00'::timestamp"],
    "tz": ["'2023-12-31 00:30:00+00'::timestamptz"],
    "date": ["'2024-02-29'::date"],
    "bool": ["true", "false"],
    "char": ["'a'"],
    "uuid": ["'a0000000-0000-4000-8000-00000000000a'::uuid"],
}
_EXACT = ("int", "num", "free", "float", "text", "ts", "tz", "date", "bool", "char", "uuid")
_NUMBERS = ("int", "num", "free", "float")
_UNARY: dict[str, list[tuple[str, str]]] = {
    "int": [
        ("int", "abs({0})"), ("int", "({0} % 3)"), ("int", "({0} / 2)"), ("int", "- {0}"),
        ("text", "length({0})"), ("text", "octet_length({0})"), ("bool", "{0}::integer"),
        ("date", "({0} - '2024-01-01'::date)"), ("int", "nullif({0}, 1)"),
    ],
    "num": [
        ("num", "({0} * 2.5)"), ("num", "round({0}, 1)"), ("num", "trunc({0})"), ("num", "- {0}"),
        ("num", "abs({0})"), ("int", "{0}::numeric(20,2)"), ("num", "({0} % 1.5)"),
        ("ts", "extract(month FROM {0})"), ("num", "{0}::numeric(30,1)"),
    ],
    "free": [
        ("free", "({0} + 1.25)"), ("num", "({0} / 3)"), ("free", "round({0}, 2)"),
        ("int", "{0}::numeric"), ("free", "({0} * 0.5)"), ("free", "abs({0})"),
        ("ts", "extract(epoch FROM {0})"), ("int", "({0} / 7.0)"),
    ],
    "float": [
        ("float", "({0} + 0.5)"), ("float", "({0} * 2)"), ("float", "- {0}"),
        ("int", "{0}::float8"), ("float", "floor({0}::float8)"), ("float", "abs({0})"),
    ],
    "text": [
        ("text", "lower({0})"), ("text", "upper({0})"), ("text", "substring({0}, 2, 2)"),
        ("text", "left({0}, -1)"), ("text", "right({0}, 2)"), ("text", "trim({0})"),
        ("text", "replace({0}, 'a', 'bb')"), ("text", "reverse({0})"), ("int", "{0}::text"),
        ("num", "{0}::numeric(20,3)::text"), ("bool", "{0}::text"), ("text", "({0} || '!')"),
        ("text", "concat({0}, '-', {0})"), ("date", "{0}::text"), ("ts", "{0}::text"),
        ("char", "{0}::text"), ("uuid", "{0}::text"),
    ],
    "ts": [
        ("ts", "({0} + interval '1 day')"), ("ts", "date_trunc('month', {0})"),
        ("date", "{0}::timestamp"), ("tz", "{0}::timestamp"), ("ts", "({0} - interval '1 month')"),
    ],
    "tz": [("tz", "date_trunc('day', {0})"), ("ts", "{0}::timestamptz")],
    "char": [("char", "nullif({0}, 'A')")],
    "uuid": [("uuid", "nullif({0}, '00000000-0000-4000-8000-00000000000a')")],
    "date": [("date", "({0} + 1)"), ("ts", "{0}::date"), ("tz", "{0}::date")],
    "bool": [("text", "({0} LIKE '%a_')"), ("text", "({0} ILIKE 'a%')"), ("bool", "NOT {0}"),
             ("bool", "({0} IS NOT TRUE)"), ("text", "starts_with({0}, 'a')")],
}  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """Something in FROM: its text, its columns' kinds, and columns that are unique together."""

    sql: str
    columns: Columns
    key: tuple[str, ...]


@dataclass(frozen=True)
class View:
    sql: str
    columns: Columns
    key: tuple[str, ...]
    declared: bool

    def relation(self, name: str) -> Relation:
        return Relation(name, self.columns, self.key)


def _tables() -> list[Relation]:
    found = []
    for name, (key, columns) in DECLARED.items():
        kinds = {c: _KINDS[t.split("(")[0]] for c, t in columns.items()}
        kinds |= {c: "num" for c, t in columns.items() if t.startswith("numeric(")}
        found.append(Relation(name, kinds, tuple(key.split())))
    return found


@dataclass
class Generator:
    """Makes views from one random source. `views` are those that later ones may read."""

    rng: random.Random
    views: dict[str, View] = field(default_factory=dict)

    def view(self) -> View:
        """One view; the caller puts it into `views` if it is accepted."""
        shape = self.rng.choice(["plain", "plain", "group", "group", "group", "distinct", "union"])
        if shape == "union":
            return self._union()
        ctes: list[str] = []
        select, columns, key = self._select(shape, ctes)
        if ctes:
            select = f"WITH {', '.join(ctes)} {select}"
        return View(select, columns, key, False)

    def _select(self, shape: str, ctes: list[str] | None) -> tuple[str, Columns, tuple[str, ...]]:
        source, scope, keys = self._from(ctes)
        where = f" WHERE {self._condition(scope, 2)}" if self.rng.random() < 0.5 else ""
        if shape == "group":
            return self._grouped(source + where, scope)
        if shape == "distinct":
            picked = self._picked(scope, self.rng.randrange(1, 4))
            columns = {f"c{i}": kind for i, (_, kind) in enumerate(picked)}
            body = ", ".join(f"{e} AS c{i}" for i, (e, _) in enumerate(picked))
            return f"SELECT DISTINCT {body} FROM {source}{where}", columns, tuple(columns)
        chosen = [(k, scope[k]) for k in keys] + self._picked(scope, self.rng.randrange(4))
        body = ", ".join(f"{e} AS c{i}" for i, (e, _) in enumerate(chosen))
        columns = {f"c{i}": kind for i, (_, kind) in enumerate(chosen)}
        key = tuple(f"c{i}" for i in range(len(keys)))
        return f"SELECT {body} FROM {source}{where}", columns, key

    def _picked(self, scope: Columns, count: int) -> list[tuple[str, str]]:
        known = [k for k in scope.values() if k != "approx"] or ["int"]
        kinds = [self.rng.choice(known) for _ in range(count)]
        kinds = [k if self.rng.random() < 0.5 else self.rng.choice(_EXACT) for k in kinds]
        return [(self.expr(scope, k, 2), k) for k in kinds]

    def _union(self) -> View:
        parts = []
        for number in range(self.rng.choice([2, 2, 3])):
            table = self.rng.choice([t for t in _tables() if t.key == ("id",)])
            scope = {f"t.{c}": k for c, k in table.columns.items()}
            where = f" WHERE {self._condition(scope, 1)}" if self.rng.random() < 0.5 else ""
            kinds = ("num", "text", "float")
            more = ", ".join(f"{self.expr(scope, k, 1)} AS {k}_" for k in kinds)
            parts.append(f"SELECT {number} AS part, t.id AS id, {more} FROM {table.sql} t{where}")
        columns = {"part": "int", "id": "int", "num_": "num", "text_": "text", "float_": "float"}
        return View(" UNION ALL ".join(parts), columns, ("part", "id"), True)

    def _grouped(self, source: str, scope: Columns) -> tuple[str, Columns, tuple[str, ...]]:
        rng = self.rng
        group = self._picked(scope, rng.choice([0, 1, 1, 1, 2]))
        group = [(e, k) for e, k in group if e in scope or "(" in e]
        calls = [self._call(scope) for _ in range(rng.randrange(1, 5))]
        items = [*group, *calls]
        body = ", ".join(f"{e} AS c{i}" for i, (e, _) in enumerate(items))
        columns = {f"c{i}": kind for i, (_, kind) in enumerate(items)}
        sql = f"SELECT {body} FROM {source}"
        if group:
            inputs = {c.partition(".")[2] for c in scope}
            texts = [
                rng.choice([e, str(i + 1), f"c{i}"]) if f"c{i}" not in inputs else e
                for i, (e, _) in enumerate(group)
            ]
            sql += " GROUP BY " + ", ".join(texts)
        if rng.random() < 0.3:
            call, kind = self._call(scope)
            if kind != "approx":
                sql += f" HAVING {self._compared(call, kind)}"
        return sql, columns, tuple(f"c{i}" for i in range(len(group)))

    def _call(self, scope: Columns) -> tuple[str, str]:
        rng, where = self.rng, ""
        if rng.random() < 0.25:
            where = f" FILTER (WHERE {self._condition(scope, 1)})"
        name = rng.choice(["count(*)", "count", "sum", "sum", "avg", "min", "max"])
        if name == "count(*)":
            return f"count(*){where}", "int"
        kinds = _NUMBERS if name in ("sum", "avg") else _EXACT if name == "count" else _EXACT[:-3]
        kind = rng.choice([k for k in scope.values() if k in kinds] or list(kinds))
        distinct = "DISTINCT " if rng.random() < 0.3 else ""
        result = {"count": "int", "sum": kind, "avg": "free"}.get(name, kind)
        if name == "sum" and kind == "int":
            result = "free"
        if name == "avg" and kind == "float":
            result = "approx"
        return f"{name}({distinct}{self.expr(scope, kind, 1)}){where}", result

    def _from(self, ctes: list[str] | None) -> tuple[str, Columns, list[str]]:
        """(FROM's text, columns in scope, columns that are unique together)."""
        rng, keys = self.rng, list[str]()
        scope: Columns = {}
        count = rng.choice([1, 1, 2, 2, 2, 3, 4]) if ctes is not None else 1
        sql = ""
        for i in range(count):
            relation, alias = self._relation(ctes), f"q{i}"
            mine = {f"{alias}.{c}": k for c, k in relation.columns.items()}
            named = f"{relation.sql} {rng.choice(['', 'AS '])}{alias}"
            shared = [c for c in relation.columns if _owners(scope, c) == 1] if i else []
            if shared and i == count - 1 and rng.random() < 0.5:
                merged = rng.choice(shared)
                on, scope = f"USING ({merged})", scope | {merged: relation.columns[merged]}
            else:
                on = self._on(scope, mine) if i else ""
            if i and not on:
                continue
            kind = rng.choice(["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN"])
            sql += f" {kind} {named} {on}" if sql else named
            scope |= mine
            keys += [f"{alias}.{k}" for k in relation.key]
        return sql, scope, keys

    def _relation(self, ctes: list[str] | None) -> Relation:
        rng, roll = self.rng, self.rng.random()
        usable = {n: v for n, v in self.views.items() if "approx" not in v.columns.values()}
        if usable and roll < 0.25:
            name = rng.choice(list(usable))
            return usable[name].relation(name)
        if ctes is not None and roll < 0.5:
            sql, columns, key = self._select(rng.choice(["plain", "group", "distinct"]), None)
            if roll < 0.35:
                name = f"cte{len(ctes)}"
                ctes.append(f"{name} AS ({sql})")
                return Relation(name, columns, key)
            return Relation(f"({sql})", columns, key)
        return rng.choice(_tables())

    def _on(self, left: Columns, right: Columns) -> str:
        rng, found = self.rng, []
        for _ in range(rng.choice([1, 1, 1, 2])):
            mine = rng.choice([c for c, k in right.items() if k != "approx"] or [""])
            near = [c for c, k in left.items() if mine and _joinable(k, right[mine])]
            if not near:
                return ""
            a, b = rng.choice(near), mine
            if rng.random() < 0.2:
                a = self._wrapped(a, left[a])
            found.append(f"{a} = {b}" if rng.random() < 0.5 else f"{b} = {a}")
        if rng.random() < 0.3:
            found.append(self._condition(left | right, 1))
        return "ON " + " AND ".join(found)

    def _wrapped(self, column: str, kind: str) -> str:
        own = [sql for given, sql in _UNARY[kind] if given == kind]
        return self.rng.choice(own).format(column)

    def expr(self, scope: Columns, kind: str, depth: int) -> str:
        """An expression of the kind over the scope's columns."""
        rng = self.rng
        mine = [c for c, k in scope.items() if k == kind]
        if depth and rng.random() < 0.45:
            return self._composed(scope, kind, depth - 1)
        if mine and rng.random() < 0.9:
            return rng.choice(mine)
        return rng.choice(_LITERALS[kind]) if rng.random() < 0.5 or not mine else rng.choice(mine)

    def _composed(self, scope: Columns, kind: str, depth: int) -> str:
        rng = self.rng
        roll = rng.random()
        if kind == "bool" and roll < 0.5:
            return f"({self._condition(scope, depth)})"
        if roll < 0.15:
            parts = [self.expr(scope, kind, depth) for _ in range(2)]
            return f"{rng.choice(['coalesce', 'greatest', 'least'])}({', '.join(parts)})"
        if roll < 0.3:
            test, a = self._condition(scope, 0), self.expr(scope, kind, depth)
            other = f" ELSE {self.expr(scope, kind, depth)}" if rng.random() < 0.6 else ""
            return f"CASE WHEN {test} THEN {a}{other} END"
        if roll < 0.4 and kind in ("num", "free", "float"):
            a, b = self.expr(scope, kind, depth), self.expr(scope, kind, depth)
            return f"({a} {rng.choice('+-')} {b})"
        given, sql = rng.choice(_UNARY[kind])
        return sql.format(f"({self.expr(scope, given, depth)})")

    def _condition(self, scope: Columns, depth: int) -> str:
        rng = self.rng
        if depth and rng.random() < 0.4:
            op = rng.choice(["AND", "OR"])
            a, b = self._condition(scope, depth - 1), self._condition(scope, depth - 1)
            return f"({a} {op} {b})" if rng.random() < 0.8 else f"NOT ({a} {op} {b})"
        kind = rng.choice([k for k in scope.values() if k != "approx"] or ["int"])
        left = self.expr(scope, kind, min(depth, 1))
        if rng.random() < 0.4:
            return self._compared(left, kind)
        op = rng.choice(_COMPARISONS)
        return f"{left} {op} {self.expr(scope, kind, 0)}"

    def _compared(self, left: str, kind: str) -> str:
        rng = self.rng
        a, b = rng.choice(_LITERALS[kind]), rng.choice(_LITERALS[kind])
        return rng.choice(
            [
                f"{left} IS NULL",
                f"{left} IS NOT NULL",
                f"{left} BETWEEN {a} AND {b}",
                f"{left} IN ({a}, {b})",
                f"{left} NOT IN ({a}, {b})",
                f"{left} {rng.choice(_COMPARISONS)} {a}",
            ]
        )


_COMPARISONS: Sequence[str] = (
    "=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM",
)  # fmt: skip


def _owners(scope: Columns, column: str) -> int:
    return sum(c.partition(".")[2] == column for c in scope)


def _joinable(left: str, right: str) -> bool:
    return (
        left == right
        or {left, right} <= set(_NUMBERS)
        or {left, right} in ({"ts", "tz"}, {"ts", "date"}, {"tz", "date"}, {"text", "char"})
    )
