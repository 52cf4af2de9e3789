"""FROM: its items and joins, bound in the scopes that SQL gives them, then assembled.

`opened` plans the items and binds the ON conditions; the SELECT binds its WHERE in `scope`;
`joined` then places every conjunct (views.sql.joins). The items from one outer join to the next
form a group of inner joins, within which order is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from views.plan import Expr, Field
from views.sql import typed
from views.sql.aggregates import contains_aggregate
from views.sql.bind import Binder
from views.sql.joins import Group, Member, Planned, conjuncts_of, inner_joins, left_join
from views.sql.parse import SqlText
from views.sql.resolve import Relation, Scope, fold
from views.sql.rewrite import columns_of, refs
from views.sql.typed import NotTyped
from views.sql.types import base

Item = tuple[tuple[Relation, ...], Planned]


@dataclass
class Opened:
    """FROM with its items planned. `scope` is what WHERE and the SELECT list see."""

    text: SqlText
    first: exp.Expr
    joins: Sequence[exp.Join]
    items: Sequence[Planned]
    conditions: Sequence[list[Expr]]
    scope: Scope
    _where: list[Expr] = field(default_factory=list)

    def joined(self, where: Sequence[Expr]) -> Planned:
        """All items joined, and filtered by the conjuncts of WHERE."""
        self._where = list(where)
        group = Group([Member(self.items[0], self.first)])
        sides = [join.side for join in self.joins]
        steps = zip(self.joins, self.items[1:], self.conditions, strict=True)
        for at, (join, planned, on) in enumerate(steps):
            member = Member(planned, join.this)
            if join.side == "LEFT":
                # A RIGHT JOIN to come extends the left side with NULLs: WHERE holds above it only.
                free = "RIGHT" not in sides[at:]
                left = self._finished(group) if free else inner_joins(self.text, group)
                group = Group([Member(left_join(self.text, left, member, on), join)])
            elif join.side == "RIGHT":
                left = inner_joins(self.text, group)
                mirrored = left_join(self.text, planned, Member(left, join.this), on)
                group = Group([Member(mirrored, join)])
            else:
                group.members.append(member)
                group.conjuncts += on
        group.conjuncts += self._where
        return inner_joins(self.text, group)

    def _finished(self, group: Group) -> Planned:
        """The left side of an outer join, with what WHERE asks of it alone."""
        available = frozenset(n for m in group.members for n in m.planned.names)
        mine = [
            c
            for c in self._where
            if not typed.can_fail(c) and columns_of(c) and columns_of(c) <= available
        ]
        self._where = [c for c in self._where if c not in mine]
        group.conjuncts += mine
        return inner_joins(self.text, group)


def opened(
    text: SqlText,
    timezone: str,
    relation: Callable[[exp.Expr], Item],
    first: exp.Expr,
    joins: Sequence[exp.Join] = (),
) -> Opened:
    """Plan the items with `relation` and bind the ON conditions."""
    joins = [*(first.args.get("joins") or ()), *joins]
    if first.args.get("joins"):
        first = first.copy()
        first.set("joins", None)
    for join in joins:
        _check(text, join)
    items = [relation(first), *(relation(join.this) for join in joins)]
    _check_aliases(text, items, [first, *joins])
    shown = _shown(items, joins)
    merged: dict[str, Field] = {}
    conditions = []
    for at, join in enumerate(joins, 1):
        left = tuple(r for relations in shown[:at] for r in relations)
        conditions.append(_condition(text, timezone, join, left, shown[at], merged))
    everything = tuple(r for relations in shown for r in relations)
    return Opened(text, first, joins, [p for _, p in items], conditions, Scope(everything, merged))


def _check(text: SqlText, join: exp.Join) -> None:
    if join.args.get("method"):
        raise text.refused(
            join, f"{join.args['method']} JOIN is not supported", "write ON or USING"
        )
    if join.side == "FULL":
        hint = "UNION ALL of a LEFT JOIN and the other side's unmatched rows"
        raise text.refused(join, "FULL JOIN is not supported yet", hint)
    if join.kind not in ("", "INNER", "OUTER", "CROSS"):
        raise text.refused(join, f"{join.kind} JOIN is not supported", "write JOIN or LEFT JOIN")


def _check_aliases(text: SqlText, items: Sequence[Item], nodes: Sequence[exp.Expr]) -> None:
    seen: set[str] = set()
    for (relations, _), node in zip(items, nodes, strict=True):
        for relation in relations:
            if relation.alias in seen:
                hint = "give one of them another alias"
                raise text.failed(node, f"{relation.alias} stands in FROM more than once", hint)
            seen.add(relation.alias)


def _shown(items: Sequence[Item], joins: Sequence[exp.Join]) -> list[tuple[Relation, ...]]:
    """The relations, nullable where an outer join extends them with NULLs."""
    shown = [relations for relations, _ in items]
    for at, join in enumerate(joins, 1):
        if join.side == "LEFT":
            shown[at] = tuple(map(_nulled, shown[at]))
        elif join.side == "RIGHT":
            shown[:at] = [tuple(map(_nulled, relations)) for relations in shown[:at]]
    return shown


def _nulled(relation: Relation) -> Relation:
    return replace(relation, fields=tuple(replace(f, nullable=True) for f in relation.fields))


def _condition(
    text: SqlText,
    timezone: str,
    join: exp.Join,
    left: tuple[Relation, ...],
    right: tuple[Relation, ...],
    merged: dict[str, Field],
) -> list[Expr]:
    if join.args.get("using"):
        names = join.args["using"]
        equal = [_using(text, join, name, left, right, merged) for name in names]
        # `*` begins with the columns of the last USING, in its order.
        before = dict(merged)
        merged.clear()
        merged.update({fold(name): before[fold(name)] for name in names} | before)
        return equal
    on = join.args.get("on")
    if on is None:
        return []
    if contains_aggregate(on):
        raise text.failed(on, "aggregates are not allowed in JOIN conditions")
    binder = Binder(text, Scope((*left, *right), merged), timezone)
    return conjuncts_of(binder.condition(on, "JOIN/ON"))


def _using(
    text: SqlText,
    join: exp.Join,
    name: exp.Expr,
    left: tuple[Relation, ...],
    right: tuple[Relation, ...],
    merged: dict[str, Field],
) -> Expr:
    a = Scope(left, merged).column(text, join, None, name)
    b = Scope(right).column(text, join, None, name)
    try:
        equal = typed.compare("=", *refs((a, b)))
        merged[fold(name)] = _merged(join, a, b)
    except NotTyped as error:
        raise text.refused(join, error.what, error.hint) from None
    return equal


def _merged(join: exp.Join, a: Field, b: Field) -> Field:
    """The one column that USING makes of two: the kept side's, in the type of both. NotTyped."""
    type, _ = typed.unite(refs((a, b)), "JOIN/USING")
    kept = {"LEFT": (a,), "RIGHT": (b,)}.get(join.side, (a, b))
    for side in kept:
        if base(side.sql_type) == base(type.sql):
            return side
    what = f"USING of {a.sql_type} and {b.sql_type} is not supported here"
    raise NotTyped(what, "write ON left.column = right.column")
