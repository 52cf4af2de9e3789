"""Names in a view's SQL: tables of sources, other views, CTEs; columns of what stands in FROM."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from cdc.errors import UnknownTable, ViewError
from cdc.schema import TableSchema
from views.plan import Field
from views.sql.parse import SqlText

DEFAULT_SCHEMA = "public"


@dataclass(frozen=True)
class Catalog:
    """What a view's SQL may name.

    `tables` is keyed `source.schema.table`, `views` by view name. `elsewhere` are views that
    exist but cannot be read, with the reason. `source` is the view's `source:`, preferred for
    unqualified tables. `schemas`: per source, that of tables that are named without one;
    `public` where it says nothing.
    """

    tables: Mapping[str, TableSchema]
    views: Mapping[str, TableSchema] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    schemas: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, text: SqlText, node: exp.Table) -> tuple[str, TableSchema]:
        """(input, schema) of a table or view: `source.schema.table` or `view.<name>`."""
        parts = [fold(p) for p in node.parts if isinstance(p, exp.Identifier)]
        if len(parts) == 1:
            return self._unqualified(text, node, parts[0])
        if parts[0] == "view" and len(parts) == 2:
            return self._unqualified(text, node, parts[1])
        names = [".".join(parts) if len(parts) == 3 else self._full(*parts[:2])]
        if len(parts) == 2 and self.source is not None:
            names.append(f"{self.source}.{parts[0]}.{parts[1]}")
        for name in names:
            if name in self.tables:
                return name, self.tables[name]
        raise self._unknown(text, node, ".".join(parts))

    def _unqualified(self, text: SqlText, node: exp.Table, name: str) -> tuple[str, TableSchema]:
        if name in self.views:
            return f"view.{name}", self.views[name]
        if name in self.elsewhere:
            raise text.refused(node, self.elsewhere[name])
        if self.source is not None:
            preferred = self._full(self.source, name)
            if preferred in self.tables:
                return preferred, self.tables[preferred]
        found = [t for t in self.tables if t.rsplit(".", 1)[1] == name]
        if self.source is not None:
            found = [t for t in found if t.startswith(self.source + ".")]
        if len(found) == 1:
            return found[0], self.tables[found[0]]
        if found:
            raise text.failed(
                node, f"table {name} is ambiguous", "one of: " + ", ".join(sorted(found))
            )
        raise self._unknown(text, node, name)

    def _unknown(self, text: SqlText, node: exp.Table, name: str) -> ViewError:
        known = [*self.tables, *self.views]
        shown = {self._short(t): t for t in known}
        near = difflib.get_close_matches(name, [*shown, *known], 3, 0.5)
        hint = ("did you mean " + ", ".join(near) + "?") if near else _listing(sorted(shown))
        error = text.failed(node, f"there is no captured table or view {name}", hint)
        return UnknownTable(error.what, where=error.where, hint=error.hint)

    def _full(self, source: str, table: str) -> str:
        return f"{source}.{self.schemas.get(source, DEFAULT_SCHEMA)}.{table}"

    def _short(self, name: str) -> str:
        source = name.partition(".")[0]
        return name.replace(f".{self.schemas.get(source, DEFAULT_SCHEMA)}.", ".", 1)


def _listing(names: Sequence[str]) -> str:
    return "there are: " + ", ".join(names[:20]) if names else "no table is captured"


@dataclass(frozen=True)
class Relation:
    """One item of FROM: its alias, its columns' names in SQL, and the fields they stand for."""

    alias: str
    names: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Scope:
    """The relations whose columns an expression may use. `merged`: columns of JOIN USING."""

    relations: tuple[Relation, ...]
    merged: Mapping[str, Field] = field(default_factory=dict)

    def column(self, text: SqlText, node: exp.Expr, table: str | None, name: exp.Expr) -> Field:
        """The field of `table.name`, or of an unqualified name that is unique."""
        wanted = fold(name)
        alias = None if table is None else self._alias(text, node, table)
        if alias is None and wanted in self.merged:
            return self.merged[wanted]
        found = [
            f
            for r in self.relations
            if alias is None or r.alias == alias
            for n, f in zip(r.names, r.fields, strict=True)
            if n == wanted
        ]
        if len(found) == 1:
            return found[0]
        if found:
            homes = [f"{r.alias}.{wanted}" for r in self.relations if wanted in r.names]
            raise text.failed(node, f"column {wanted} is ambiguous", "write " + " or ".join(homes))
        raise self._unknown(text, node, alias, wanted)

    def has(self, name: str) -> bool:
        return name in self.merged or any(name in r.names for r in self.relations)

    def star(self) -> list[tuple[str | None, str]]:
        """(alias, column) of `*`: the merged columns of USING first, without an alias."""
        out: list[tuple[str | None, str]] = [(None, name) for name in self.merged]
        return out + [(r.alias, n) for r in self.relations for n in r.names if n not in self.merged]

    def star_of(self, text: SqlText, node: exp.Column) -> list[tuple[str | None, str]]:
        """(alias, column) of `alias.*`."""
        alias = self._alias(text, node, node.table)
        return [(alias, n) for r in self.relations if r.alias == alias for n in r.names]

    def _alias(self, text: SqlText, node: exp.Expr, table: str) -> str:
        given = node.args.get("table")
        wanted = fold(given) if isinstance(given, exp.Identifier) else table
        aliases = [r.alias for r in self.relations]
        if wanted not in aliases:
            hint = "FROM has: " + ", ".join(aliases)
            raise text.failed(node, f"there is no table or alias {wanted} in FROM", hint)
        return wanted

    def _unknown(self, text: SqlText, node: exp.Expr, alias: str | None, wanted: str) -> ViewError:
        known = [n for r in self.relations if alias in (None, r.alias) for n in r.names]
        near = difflib.get_close_matches(wanted, known, 3, 0.5)
        hint = ("did you mean " + ", ".join(near) + "?") if near else _columns(known)
        home = f" in {alias}" if alias else ""
        return text.failed(node, f"there is no column {wanted}{home}", hint)


def _columns(names: Sequence[str]) -> str:
    return "columns: " + ", ".join(names[:30])


def fold(identifier: exp.Expr) -> str:
    """An identifier's name: lower case unless quoted."""
    quoted = bool(identifier.args.get("quoted"))
    return identifier.name if quoted else identifier.name.lower()
