"""What a statement of the binlog does to tables: DDL, and changes that were logged as SQL.

The columns behind a DDL statement are never taken from here: a table map or information_schema says
them (evolution.py). A statement says what those cannot: that rows were removed without row events,
which column was renamed, and what older rows have in a column that was added. What is not
understood with certainty is `rewritten`: then the table is read again.

The grammar is that of the MySQL 8.0 and MariaDB 10.11 reference manuals (SQL Statements, Data
Definition). Executable comments (/*!50100 … */, /*M! … */) are read as their contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise


@dataclass(frozen=True)
class Added:
    """What older rows have in an added column: the text of a constant (None: NULL), if `known`.
    `declared`: its type, where a table map shows only how the type is stored (JSON, UUID, …)."""

    default: str | None = None
    known: bool = True
    declared: str = ""


@dataclass(frozen=True)
class Emptied:
    """TRUNCATE of one table."""

    table: str


@dataclass(frozen=True)
class Dropped:
    """DROP TABLE, or DROP DATABASE (then `table` ends with a point)."""

    table: str

    def holds(self, name: str) -> bool:
        """Whether the table `name` is gone."""
        return name == self.table or (self.table.endswith(".") and name.startswith(self.table))


@dataclass(frozen=True)
class Created:
    """CREATE TABLE. `anew`: OR REPLACE, an older one of that name is gone with its rows; `acting`:
    with a foreign key that changes its rows (ON DELETE CASCADE, …)."""

    table: str
    anew: bool = False
    acting: bool = False


@dataclass(frozen=True)
class Renamed:
    """RENAME TABLE: all at once, from left to right."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Altered:
    """ALTER TABLE, CREATE INDEX and the like. `renamed`: new column name → old; `redefined`: the
    columns, by their former names, that may have another default now; `rewritten`: why the rows may
    have changed without row events ('' when they have not)."""

    table: str
    dropped: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, Added] = field(default_factory=dict)
    redefined: tuple[str, ...] = ()
    rewritten: str = ""


@dataclass(frozen=True)
class RowsAsSql:
    """INSERT, UPDATE, DELETE, REPLACE, LOAD DATA or the SELECT of a CREATE TABLE, logged as a
    statement; what it may change by its text. It may change more by triggers, or by the functions
    of a SELECT, DO or WITH."""

    verb: str
    tables: tuple[str, ...]


Statement = Emptied | Dropped | Created | Renamed | Altered | RowsAsSql

_TOKEN = re.compile(
    r"""
      (?P<blank>\s+ | /\*(?!!|M!).*?\*/ | (?:--(?=\s|$)|\#)[^\n]* | /\*M?!\d* | \*/)
    | `(?P<quoted>(?:[^`]|``)*)`
    | '(?P<single>(?:[^'\\]|''|\\.)*)'
    | "(?P<double>(?:[^"\\]|""|\\.)*)"
    | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?![\w$]) | \.\d+(?:[eE][+-]?\d+)?)
    | (?P<word>[\w$@]+)
    | (?P<sign>.)
    """,
    re.X | re.S,
)
_ESCAPE = re.compile(r"\\(.)", re.S)
_ESCAPED = {
    "0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": r"\%", "_": r"\_",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Token:
    """kind: word, name (in backticks), string, number, sign."""

    kind: str
    text: str

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text


def _tokens(sql: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "sign"
        text = match[kind]
        if kind == "quoted":
            yield _Token("name", text.replace("``", "`"))
        elif kind in ("single", "double"):
            mark = "'" if kind == "single" else '"'
            yield _Token("string", _unescaped(text.replace(mark * 2, mark)))
        elif kind != "blank":
            yield _Token(kind, text)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]), text)


_END = _Token("sign", "")


@dataclass
class _Reader:
    """A cursor over tokens; `database` is the statement's default."""

    tokens: Sequence[_Token]
    database: str
    at: int = 0

    @property
    def here(self) -> _Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else _END

    def next(self) -> _Token:
        token = self.here
        self.at += 1
        return token

    def accept(self, *words: str) -> str:
        """One of the words, if it comes next; else ''."""
        token = self.here
        if token.kind in ("word", "sign") and token.upper in words:
            self.at += 1
            return token.upper
        return ""

    def skip(self, *words: str) -> None:
        while self.accept(*words):
            pass

    def name(self) -> str:
        return self.next().text

    def table(self) -> str:
        """A table's name, with its database."""
        first = self.name()
        return f"{first}.{self.name()}" if self.accept(".") else f"{self.database}.{first}"

    def tables(self) -> list[str]:
        found = [self.table()]
        while self.accept(","):
            found.append(self.table())
        return found


def read_statement(sql: str, database: str) -> tuple[Statement, ...]:
    """What the statement does; nothing for what does not touch rows or columns of base tables."""
    reader = _Reader(list(_tokens(sql)), database)
    verb = _verb(reader)
    read = _READ.get(verb)
    return tuple(read(reader)) if read is not None else ()


def names(sql: str) -> set[str]:
    """Everything in the statement that may be a name; a string too (ANSI_QUOTES)."""
    return {token.text for token in _tokens(sql) if token.kind in ("word", "name", "string")}


def words(sql: str) -> tuple[str, ...]:
    """The statement's words that are not quoted, in capitals, from its verb on."""
    reader = _Reader(list(_tokens(sql)), "")
    verb = _verb(reader)
    return (verb, *(t.upper for t in reader.tokens[reader.at :] if t.kind == "word"))


def _verb(reader: _Reader) -> str:
    """The statement's verb, without what MariaDB lets stand before it and logs with it: SET
    STATEMENT … FOR, and ANALYZE, which executes."""
    verb = reader.next().upper
    if verb == "SET" and reader.accept("STATEMENT"):
        depth = 0
        while reader.here is not _END and not (depth == 0 and reader.accept("FOR")):
            depth += {"(": 1, ")": -1}.get(reader.next().upper, 0)
        verb = reader.next().upper
    if verb == "ANALYZE":
        if reader.accept("FORMAT"):
            reader.skip("=")
            reader.next()
        verb = reader.next().upper
    return verb


def _truncate(reader: _Reader) -> Iterator[Statement]:
    reader.accept("TABLE")
    yield Emptied(reader.table())


def _drop(reader: _Reader) -> Iterator[Statement]:
    if reader.accept("DATABASE", "SCHEMA"):
        reader.skip("IF", "EXISTS")
        yield Dropped(f"{reader.name()}.")
    elif reader.accept("TABLE", "TABLES"):
        reader.skip("IF", "EXISTS")
        for table in reader.tables():
            yield Dropped(table)
    elif reader.accept("INDEX"):
        yield from _index(reader)


def _create(reader: _Reader) -> Iterator[Statement]:
    anew = bool(reader.accept("OR") and reader.accept("REPLACE"))
    if reader.accept("TABLE"):
        reader.skip("IF", "NOT", "EXISTS")
        table = reader.table()
        yield Created(table, anew, _has_foreign_action(reader))
        if _Token("word", "SELECT") in (replace(t, text=t.upper) for t in reader.tokens):
            yield RowsAsSql("CREATE TABLE … SELECT", (table,))
        return
    reader.skip("UNIQUE", "FULLTEXT", "SPATIAL", "ONLINE", "OFFLINE")
    if reader.accept("INDEX"):
        yield from _index(reader)


def _index(reader: _Reader) -> Iterator[Statement]:
    while reader.here is not _END:
        if reader.accept("ON"):
            yield Altered(reader.table())
            return
        reader.next()


def _rename(reader: _Reader) -> Iterator[Statement]:
    if not reader.accept("TABLE", "TABLES"):
        return
    reader.skip("IF", "EXISTS")
    pairs = []
    while True:
        old = reader.table()
        while reader.here is not _END and not reader.accept("TO"):
            reader.next()
        pairs.append((old, reader.table()))
        if not reader.accept(","):
            break
    yield Renamed(tuple(pairs))


def _alter(reader: _Reader) -> Iterator[Statement]:
    ignore = False
    while word := reader.accept("ONLINE", "OFFLINE", "IGNORE"):
        ignore = ignore or word == "IGNORE"
    if not reader.accept("TABLE"):
        return
    reader.skip("IF", "EXISTS")
    table = reader.table()
    if reader.accept("WAIT"):
        reader.next()
    reader.accept("NOWAIT")
    found = Altered(table, rewritten="rows with equal keys were removed" if ignore else "")
    target = ""
    for clause in _clauses(reader):
        if clause.accept("RENAME"):
            if clause.accept("INDEX", "KEY"):
                continue
            if clause.accept("COLUMN"):
                old = clause.name()
                clause.accept("TO")
                found = replace(found, renamed={**found.renamed, clause.name(): old})
            else:
                clause.accept("TO", "AS", "=")
                target = clause.table()
            continue
        found = _clause(found, clause)
    yield found
    if target:
        yield Renamed(((table, target),))


def _clauses(reader: _Reader) -> Iterator[_Reader]:
    """The rest of the tokens, cut at the commas outside of parentheses."""
    depth, held = 0, list[_Token]()
    for token in reader.tokens[reader.at :]:
        if token.kind == "sign":
            depth += (token.text == "(") - (token.text == ")")
            if token.text == "," and depth == 0:
                yield _Reader(held, reader.database)
                held = []
                continue
        held.append(token)
    if held:
        yield _Reader(held, reader.database)


_NOT_COLUMNS = (
    "INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "CONSTRAINT", "PRIMARY", "FOREIGN", "CHECK",
    "PERIOD",
)  # fmt: skip
_CHANGES_ROWS = {
    "DISCARD": "its tablespace was discarded",
    "IMPORT": "its tablespace was imported",
    "EXCHANGE": "a partition was exchanged",
    "CONVERT PARTITION": "a partition became a table",
    "DROP PARTITION": "a partition was dropped",
    "TRUNCATE": "a partition was truncated",
    "REORGANIZE": "partitions were reorganized",
    "DROP SYSTEM": "system versioning was dropped",
    "ADD SYSTEM": "system versioning was added",
}
_FOREIGN_ACTION = re.compile(r"\bREFERENCES\b.* ON (?:DELETE|UPDATE) (?:CASCADE|SET NULL)\b")


def _clause(found: Altered, clause: _Reader) -> Altered:
    verb = clause.next().upper
    following = clause.here.upper
    reason = _CHANGES_ROWS.get(f"{verb} {following}") or _CHANGES_ROWS.get(verb)
    if _has_foreign_action(clause):
        # From now on; a snapshot begins with looking for such keys, and refuses them.
        reason = "a foreign key with an action was added"
    if reason:
        return replace(found, rewritten=reason)
    if verb == "ADD" and following not in (*_NOT_COLUMNS, "PARTITION"):
        clause.accept("COLUMN")
        clause.skip("IF", "NOT", "EXISTS")
        return replace(found, added={**found.added, **dict(_definitions(clause))})
    if verb == "CHANGE":
        clause.accept("COLUMN")
        clause.skip("IF", "EXISTS")
        old, new = clause.name(), clause.name()
        renamed = found.renamed if old == new else {**found.renamed, new: old}
        return replace(found, renamed=renamed, redefined=(*found.redefined, old))
    if verb in ("MODIFY", "ALTER") and following not in ("INDEX", "KEY", "CONSTRAINT", "CHECK"):
        clause.accept("COLUMN")
        clause.skip("IF", "EXISTS")
        return replace(found, redefined=(*found.redefined, clause.name()))
    if verb == "DROP" and following not in _NOT_COLUMNS:
        clause.accept("COLUMN")
        clause.skip("IF", "EXISTS")
        return replace(found, dropped=(*found.dropped, clause.name()))
    return found


def _has_foreign_action(reader: _Reader) -> bool:
    words = " ".join(token.upper for token in reader.tokens if token.kind == "word")
    return _FOREIGN_ACTION.search(words) is not None


def _definitions(clause: _Reader) -> Iterator[tuple[str, Added]]:
    """The columns of an ADD clause: one, or several in parentheses."""
    if not clause.accept("("):
        yield clause.name(), _added(clause)
        return
    inside = _Reader(clause.tokens[clause.at : -1], clause.database)
    for definition in _clauses(inside):
        if definition.here.upper not in _NOT_COLUMNS:
            yield definition.name(), _added(definition)


_ZERO = frozenset({
    "TINYINT", "SMALLINT", "MEDIUMINT", "INT", "INTEGER", "BIGINT", "DECIMAL", "DEC",
    "NUMERIC", "FIXED", "FLOAT", "DOUBLE", "REAL", "BOOL", "BOOLEAN",
})  # fmt: skip
_EMPTY = frozenset({
    "CHAR", "VARCHAR", "NCHAR", "NVARCHAR", "CHARACTER", "TINYTEXT", "TEXT", "MEDIUMTEXT",
    "LONGTEXT", "VARBINARY", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB",
})  # fmt: skip
_DISGUISED = ("JSON", "UUID", "INET4", "INET6")
_COMPUTED = {"AUTO_INCREMENT", "AS", "GENERATED", "PRIMARY"}
_UNKNOWN = Added(known=False)


def _added(definition: _Reader) -> Added:
    """From a column's definition, its name already read."""
    kind = definition.next().upper
    declared = kind if kind in _DISGUISED else ""
    rest = definition.tokens[definition.at :]
    words = [token.upper for token in rest if token.kind == "word"]
    if kind == "SERIAL" or _COMPUTED & set(words):
        return Added(known=False, declared=declared)
    for place, token in enumerate(rest):
        if token.kind == "word" and token.upper == "DEFAULT":
            return replace(_default(rest[place + 1 :]), declared=declared)
    required = ("NOT", "NULL") in pairwise(words)
    # A TIMESTAMP without either is what explicit_defaults_for_timestamp says.
    if not required and (kind != "TIMESTAMP" or "NULL" in words):
        return Added(None, declared=declared)
    if kind in _ZERO:
        return Added("0")
    return Added("") if kind in _EMPTY else Added(known=False, declared=declared)


def _default(tokens: Sequence[_Token]) -> Added:
    """The constant behind DEFAULT."""
    sign = ""
    if tokens and tokens[0].text in ("-", "+"):
        sign, tokens = tokens[0].text.strip("+"), tokens[1:]
    if not tokens:
        return _UNKNOWN
    first = tokens[0]
    if first.kind == "number":
        return Added(sign + first.text)
    if first.kind == "string" and not sign:
        return Added(first.text)
    if first.kind == "word" and first.upper in _CONSTANTS:
        return Added(_CONSTANTS[first.upper])
    return _UNKNOWN


_CONSTANTS: Mapping[str, str | None] = {"NULL": None, "TRUE": "1", "FALSE": "0"}
_STOPS = ("SET", "WHERE", "VALUES", "VALUE", "SELECT", "ORDER", "LIMIT", "ON", "PARTITION")


def _changed(verb: str, reader: _Reader) -> Iterator[Statement]:
    """Every name that stands where the statement names what it changes: rather too many."""
    tables: list[str] = []
    while reader.here is not _END and not reader.accept(*_STOPS, "("):
        token = reader.here
        # A string is a name too: ANSI_QUOTES.
        if token.kind not in ("word", "name", "string") or token.upper in _NOISE:
            reader.next()
            continue
        tables.append(reader.table())
    yield RowsAsSql(verb, tuple(dict.fromkeys(tables)))


_NOISE = frozenset({
    "LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE", "INTO", "FROM", "USING",
    "TABLE", "DATA", "XML", "LOCAL", "INFILE", "CONCURRENT", "REPLACE", "JOIN", "INNER",
    "LEFT", "RIGHT", "CROSS", "OUTER", "NATURAL", "AS",
})  # fmt: skip

_READ: Mapping[str, Callable[[_Reader], Iterator[Statement]]] = {
    "TRUNCATE": _truncate,
    "DROP": _drop,
    "CREATE": _create,
    "RENAME": _rename,
    "ALTER": _alter,
    "INSERT": partial(_changed, "INSERT"),
    "REPLACE": partial(_changed, "REPLACE"),
    "UPDATE": partial(_changed, "UPDATE"),
    "DELETE": partial(_changed, "DELETE"),
    "LOAD": partial(_changed, "LOAD DATA"),
    "SELECT": lambda reader: iter((RowsAsSql("SELECT", ()),)),
    "DO": lambda reader: iter((RowsAsSql("DO", ()),)),
    "WITH": lambda reader: iter((RowsAsSql("WITH", ()),)),
}
"""Temporary tables have no row events, and no rows that are captured: they are passed over."""
