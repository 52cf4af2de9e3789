"""What is known of a node's rows: candidate keys, and columns that are always equal (SEMANTICS 28).

Rules, bottom up:

1. A scan has the key of its topic.
2. A filter `column = literal` takes the column out of every key; `a = b` makes a and b equal.
3. A join whose right columns contain a key of the right side finds at most one partner: every key
   of the left side stays a key. An inner join does the same the other way round. Otherwise a key
   of the left together with one of the right is a key, less those columns of the latter that
   equal columns of the left row (NULLs of an outer join included: an unmatched left row appears
   once).
4. GROUP BY and DISTINCT make keys of their columns.
5. A projection keeps the keys whose columns it passes on, themselves or through an equal column.
6. UNION ALL has no key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from views.plan import Call, ColumnRef, Constant, Expr, Field
from views.sql.types import NUMBERS, TEXTS, base

KEYS_MAX = 6


@dataclass(frozen=True)
class Facts:
    """`keys`: sets of column names, in key order, each unique in the node's rows; best first.
    `equal`: sets of columns that have the same value in every row."""

    keys: tuple[tuple[str, ...], ...] = ()
    equal: tuple[frozenset[str], ...] = ()

    def same(self, column: str) -> frozenset[str]:
        """The columns always equal to `column`, itself included."""
        for group in self.equal:
            if column in group:
                return group
        return frozenset((column,))

    @property
    def key(self) -> tuple[str, ...] | None:
        return self.keys[0] if self.keys else None


def filtered(facts: Facts, conjuncts: Sequence[Expr]) -> Facts:
    """Rule 2."""
    pinned: set[str] = set()
    equal = facts.equal
    for conjunct in conjuncts:
        if not isinstance(conjunct, Call) or conjunct.name != "=":
            continue
        left, right = (plain(a) for a in conjunct.args)
        if left and right:
            equal = _united(equal, left, right)
        elif left and isinstance(conjunct.args[1], Constant):
            pinned.add(left)
        elif right and isinstance(conjunct.args[0], Constant):
            pinned.add(right)
    merged = Facts(facts.keys, equal)
    fixed = {same for p in pinned for same in merged.same(p)}
    return Facts(_best([tuple(c for c in k if c not in fixed) for k in facts.keys]), equal)


def joined(left: Facts, right: Facts, kind: str, pairs: Sequence[tuple[Expr, Expr]]) -> Facts:
    """Rule 3, for a join on the equality of `pairs`."""
    plain_pairs = [(plain(a), plain(b)) for a, b in pairs]
    left_columns = {s for a, _ in plain_pairs if a for s in left.same(a)}
    right_columns = {s for _, b in plain_pairs if b for s in right.same(b)}
    keys: list[tuple[str, ...]] = []
    if any(set(k) <= right_columns for k in right.keys):
        keys += left.keys
    if kind == "inner" and any(set(k) <= left_columns for k in left.keys):
        keys += right.keys
    if not keys:
        rest = [tuple(c for c in b if c not in right_columns) for b in right.keys]
        keys = [a + b for a in left.keys for b in rest]
    equal = (*left.equal, *right.equal)
    if kind == "inner":
        for a, b in plain_pairs:
            if a and b:
                equal = _united(equal, a, b)
    return Facts(_best(keys), equal)


def projected(facts: Facts, columns: Sequence[Field], exprs: Sequence[Expr]) -> Facts:
    """Rule 5."""
    passed: dict[str, list[str]] = {}
    for column, expr in zip(columns, exprs, strict=True):
        if name := plain(expr):
            passed.setdefault(name, []).append(column.name)
    keys = [k for key in facts.keys if (k := _renamed(facts, key, passed)) is not None]
    groups = {c: [p for s in sorted(facts.same(c)) for p in passed.get(s, ())] for c in passed}
    equal = tuple({frozenset(g): None for g in groups.values() if len(g) > 1})
    return Facts(_best(keys), equal)


def _renamed(
    facts: Facts, key: tuple[str, ...], passed: Mapping[str, Sequence[str]]
) -> tuple[str, ...] | None:
    out = []
    for column in key:
        homes = [column, *sorted(facts.same(column) - {column})]
        found = [p for home in homes for p in passed.get(home, ())]
        if not found:
            return None
        out.append(found[0])
    return tuple(dict.fromkeys(out))


def plain(expr: Expr) -> str | None:
    """The column that `expr` is, seen through casts that keep different values different."""
    if isinstance(expr, ColumnRef):
        return expr.name
    if isinstance(expr, Call) and expr.name == "cast" and not expr.can_fail:
        source, target = base(expr.args[0].sql_type), base(expr.sql_type)
        exact = NUMBERS[:4]
        widened = source in exact and target in exact and exact.index(source) <= exact.index(target)
        if widened or (source in TEXTS and target == "text"):
            return plain(expr.args[0])
    return None


def _united(equal: tuple[frozenset[str], ...], left: str, right: str) -> tuple[frozenset[str], ...]:
    touched = [g for g in equal if left in g or right in g]
    group = frozenset((left, right)).union(*touched)
    return (*(g for g in equal if g not in touched), group)


def _best(keys: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Without those that contain another, shortest first, in the order they were found."""
    unique = list(dict.fromkeys(tuple(dict.fromkeys(k)) for k in keys))
    minimal = [k for k in unique if not any(set(o) < set(k) for o in unique)]
    return tuple(sorted(minimal, key=len)[:KEYS_MAX])
