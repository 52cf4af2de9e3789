"""FROM and WHERE to joins: which condition becomes a join key, a filter below, or one above.

Conjuncts are placed by what they read:

1. one side only, and unable to fail: a filter on that side (of a LEFT JOIN's ON: on the right
   side only; of WHERE: never below the null-extended side);
2. equalities between the two sides of a join: its keys;
3. everything else of a LEFT JOIN's ON: the residual, part of the match;
4. everything else, and whatever can fail: a filter above the joins (SEMANTICS 21, 27).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from views.plan import Call, Expr, Field, Filter, Join, Node, Scan
from views.sql import keys
from views.sql.keys import Facts
from views.sql.parse import SqlText
from views.sql.rewrite import columns_of, with_key
from views.sql.typed import call, can_fail, carried, numeric_carrier
from views.sql.types import BOOL

NOTHING = Facts()


@dataclass(frozen=True)
class Planned:
    """A node with what is known of its rows."""

    node: Node
    facts: Facts
    below: Facts = NOTHING
    """Of a projection: what is known of its input, to explain a key that is not passed on."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(c.name for c in self.node.columns)


@dataclass
class Member:
    """One side of joins, and where in the SQL it stands."""

    planned: Planned
    at: exp.Expr


@dataclass
class Group:
    """Members to be joined by inner joins, and the conjuncts over them."""

    members: list[Member]
    conjuncts: list[Expr] = field(default_factory=list)


def conjuncts_of(predicate: Expr) -> list[Expr]:
    """The operands of nested ANDs, in order."""
    if isinstance(predicate, Call) and predicate.name == "and":
        return [c for arg in predicate.args for c in conjuncts_of(arg)]
    return [predicate]


def filter_above(planned: Planned, conjuncts: Sequence[Expr]) -> Planned:
    """The rows for which all conjuncts are true."""
    if not conjuncts:
        return planned
    facts = keys.filtered(planned.facts, conjuncts)
    child, every = planned.node, list(conjuncts)
    if isinstance(child, Filter):
        every = [*conjuncts_of(child.predicate), *conjuncts]
        child = child.child
    if isinstance(child, Scan):
        child = with_key(child, facts.key)
    return Planned(Filter(child, conjunction(every)), facts)


def conjunction(conjuncts: Sequence[Expr]) -> Expr:
    """All of them, from left to right; the inverse of `conjuncts_of`."""
    predicate = conjuncts[0]
    for other in conjuncts[1:]:
        predicate = call("and", (predicate, other), BOOL)
    return predicate


def inner_joins(text: SqlText, group: Group) -> Planned:
    """All members of the group joined; conjuncts that read something else must not be in it."""
    late, rest = _pushed_down(group)
    current, remaining = group.members[0].planned, list(group.members[1:])
    while remaining:
        at = next((i for i, m in enumerate(remaining) if _pairs(current, m.planned, rest)), None)
        if at is None:
            raise text.refused(
                remaining[0].at,
                "a join without an equality between its sides is not supported yet",
                "join ON left.column = right.column",
            )
        member = remaining.pop(at)
        found = _pairs(current, member.planned, rest)
        rest = [c for c in rest if c not in [p.conjunct for p in found]]
        current = _join(current, member.planned, "inner", found, None)
    return filter_above(current, [*rest, *late])


def _pushed_down(group: Group) -> tuple[list[Expr], list[Expr]]:
    """(conjuncts that may fail or read no column, conjuncts over several members)."""
    late, rest = [], []
    for conjunct in group.conjuncts:
        read = columns_of(conjunct)
        homes = [m for m in group.members if read & m.planned.names]
        if can_fail(conjunct) or not homes:
            late.append(conjunct)
        elif len(homes) == 1:
            homes[0].planned = filter_above(homes[0].planned, [conjunct])
        else:
            rest.append(conjunct)
    return late, rest


@dataclass(frozen=True)
class Pair:
    left: Expr
    right: Expr
    conjunct: Expr


def _pairs(left: Planned, right: Planned, conjuncts: Iterable[Expr]) -> list[Pair]:
    """The equalities between the two sides."""
    out = []
    for conjunct in conjuncts:
        if not isinstance(conjunct, Call) or conjunct.name != "=":
            continue
        a, b = conjunct.args
        reads_a, reads_b = columns_of(a), columns_of(b)
        if not reads_a or not reads_b:
            continue
        if reads_a <= left.names and reads_b <= right.names:
            out.append(Pair(a, b, conjunct))
        elif reads_b <= left.names and reads_a <= right.names:
            out.append(Pair(b, a, conjunct))
    return out


def left_join(text: SqlText, left: Planned, right: Member, conjuncts: Sequence[Expr]) -> Planned:
    """left LEFT JOIN right ON all of `conjuncts`."""
    below = [c for c in conjuncts if _reads_only(c, right.planned) and not can_fail(c)]
    side = filter_above(right.planned, below)
    rest = [c for c in conjuncts if c not in below]
    found = _pairs(left, side, rest)
    if not found:
        raise text.refused(
            right.at,
            "an outer join without an equality between its sides is not supported yet",
            "LEFT JOIN … ON left.column = right.column",
        )
    used = [p.conjunct for p in found]
    residual = [c for c in rest if c not in used]
    return _join(left, side, "left", found, conjunction(residual) if residual else None)


def _reads_only(conjunct: Expr, planned: Planned) -> bool:
    read = columns_of(conjunct)
    return bool(read) and read <= planned.names


def _join(
    left: Planned, right: Planned, kind: str, pairs: Sequence[Pair], residual: Expr | None
) -> Planned:
    facts = keys.joined(left.facts, right.facts, kind, [(p.left, p.right) for p in pairs])
    sides: list[tuple[Field, ...]] = [left.node.columns, right.node.columns]
    if kind == "left":
        sides[1] = tuple(replace(f, nullable=True) for f in sides[1])
    node = Join(
        left.node,
        right.node,
        "left" if kind == "left" else "inner",
        tuple(_carried(p.left, p.right) for p in pairs),
        tuple(_carried(p.right, p.left) for p in pairs),
        residual,
        sides[0] + sides[1],
        facts.key,
    )
    return Planned(node, facts)


def _carried(side: Expr, other: Expr) -> Expr:
    """A join key in the carrier of both sides (only NUMERIC has more than one)."""
    target = numeric_carrier(side, other) if side.type != other.type else None
    return side if target is None or side.type == target.arrow else carried(side, target)
