"""SQL text to a syntax tree, and errors that mark their place in the text.

An error shows the line of SQL with a caret below the place; its `where` is the place in the YAML
file when the text came from one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from cdc.config import Place
from cdc.errors import Unsupported, ViewError

_SET_OPERATIONS = "only UNION ALL of the set operations can be kept up to date so far"


@dataclass(frozen=True)
class SqlText:
    """A view's SQL and where it stands. Whatever is wrong in it is raised through here."""

    view: str
    sql: str
    place: Place | None = None

    def refused(self, node: exp.Expr | None, what: str, hint: str = "") -> Unsupported:
        """To be raised for SQL that is correct, but refused rather than answered wrongly."""
        offset = start_of(node, self.sql)
        return Unsupported(self._marked(offset, what), where=self._where(offset), hint=hint)

    def failed(self, node: exp.Expr | None, what: str, hint: str = "") -> ViewError:
        """To be raised for SQL that Postgres would refuse, too."""
        return self.failed_at(start_of(node, self.sql), what, hint)

    def failed_at(self, offset: int | None, what: str, hint: str = "") -> ViewError:
        """`failed` at a character offset in the text."""
        return ViewError(self._marked(offset, what), where=self._where(offset), hint=hint)

    def word(self, node: exp.Expr) -> str:
        """The word that `node` begins with, as it is written; "" where that is not known."""
        start = node.meta.get("start")
        found = re.match(r"\w+", self.sql[start:]) if start is not None else None
        return found[0].lower() if found else ""

    def _marked(self, offset: int | None, what: str) -> str:
        what = f"view {self.view}: {what}"
        if offset is None:
            return what
        line, column = _line_column(self.sql, offset)
        text = self.sql.splitlines()[line - 1].replace("\t", " ")
        return f"{what}\n    {text}\n    {' ' * (column - 1)}^"

    def _where(self, offset: int | None) -> str:
        line, column = (1, 1) if offset is None else _line_column(self.sql, offset)
        if self.place is None:
            return f"line {line}, column {column}"
        at = Place(self.place.file, self.place.line + line - 1, self.place.column + column - 1)
        return str(at)


_KEYWORDS: dict[type[exp.Expr], str] = {
    exp.Exists: "EXISTS",
    exp.Order: "ORDER",
    exp.Limit: "LIMIT",
    exp.Offset: "OFFSET",
    exp.Fetch: "FETCH",
    exp.With: "WITH",
    exp.Join: "JOIN",
    exp.Having: "HAVING",
}


def start_of(node: exp.Expr | None, sql: str) -> int | None:
    """The offset of the first character of `node` that the parser remembers.

    Of a clause it remembers only what is inside: the keyword before that is looked up.
    """
    if node is None:
        return None
    starts = [n.meta["start"] for n in node.walk() if "start" in n.meta]
    if not starts:
        return start_of(node.parent, sql)
    keyword = _KEYWORDS.get(type(node))
    found = [m.start() for m in re.finditer(rf"(?i)\b{keyword}\b", sql) if m.start() < min(starts)]
    return found[-1] if keyword and found else min(starts)


def parse_select(text: SqlText) -> exp.Query:
    """The syntax tree of one SELECT (with its CTEs and UNIONs). Raises ViewError with the place."""
    try:
        statements = sqlglot.parse(text.sql, dialect="postgres")
    except ParseError as error:
        first = error.errors[0]
        offset = _offset(text.sql, first["line"], first["col"]) - len(first["highlight"] or "")
        what = f"the SQL cannot be read: {first['description']}"
        raise text.failed_at(max(offset, 0), what) from None
    except TokenError:
        raise text.failed_at(None, "the SQL cannot be read: a quote is not closed") from None
    queries = [s for s in statements if s is not None]
    if len(queries) != 1 or not isinstance(queries[0], exp.Query):
        raise text.failed_at(0, "a view is one SELECT", "write one SELECT statement without INTO")
    return queries[0]


def check_modifiers(text: SqlText, query: exp.Query) -> None:
    """Refuse the clauses of a SELECT or UNION that cannot be kept up to date yet."""
    for name, (what, hint) in _REFUSED_CLAUSES.items():
        clause = query.args.get(name)
        if clause:
            node = clause[0] if isinstance(clause, list) else clause
            raise text.refused(node if isinstance(node, exp.Expr) else query, what, hint)
    if isinstance(query, exp.SetOperation) and (
        not isinstance(query, exp.Union) or query.args.get("distinct")
    ):
        raise text.refused(
            query.expression, _SET_OPERATIONS, "UNION ALL, then SELECT DISTINCT over it"
        )


_SORT_LATER = "sort in the query that reads the sink: `cdc query SINK 'SELECT … ORDER BY …'`"
_REFUSED_CLAUSES = {
    "order": ("ORDER BY in a view is not supported yet", _SORT_LATER),
    "limit": ("LIMIT in a view is not supported yet", _SORT_LATER),
    "offset": ("OFFSET in a view is not supported yet", _SORT_LATER),
    "fetch": ("FETCH FIRST in a view is not supported yet", _SORT_LATER),
    "windows": ("window functions are not supported yet", "GROUP BY, or compute it on reading"),
    "qualify": ("QUALIFY is not Postgres SQL", ""),
    "laterals": ("LATERAL is not supported yet", "write it as a join"),
    "locks": ("FOR UPDATE has no meaning in a view", "remove it"),
    "into": ("SELECT INTO is not a view", "remove INTO"),
    "sample": ("TABLESAMPLE is not supported", "remove it"),
    "hint": ("hints are not Postgres SQL", "remove the comment"),
}


def _line_column(sql: str, offset: int) -> tuple[int, int]:
    before = sql[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _offset(sql: str, line: int, column: int) -> int:
    lines = sql.splitlines(keepends=True)
    return sum(len(text) for text in lines[: line - 1]) + column
