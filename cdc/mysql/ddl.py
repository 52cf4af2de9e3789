"""What a statement of the binlog does to tables: DDL, and changes that were logged as SQL.

The columns behind a DDL statement are never taken from here: a table map or information_schema says
them (evolution.py). A statement says what those cannot: that rows were removed without row events,
which column was renamed, and what older rows have in a column that was added. What is not
understood with certainty is `rewritten`: then the table is read again.

The grammar is that of the MySQL 8.0 and MariaDB 10.11 reference manuals (SQL Statements, Data
Definition; Data Manipulation).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from cdc.mysql.sql_tokens import END, Token, tokens


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


@dataclass
class _Reader:
    """A cursor over tokens, those that were read and `more`; `database` is the statement's
    default."""

    tokens: list[Token]
    database: str
    at: int = 0
    more: Iterator[Token] = field(default_factory=lambda: iter(()))

    @property
    def here(self) -> Token:
        while self.at >= len(self.tokens):
            token = next(self.more, None)
            if token is None:
                return END
            self.tokens.append(token)
        return self.tokens[self.at]

    def all(self) -> list[Token]:
        """The tokens to the statement's end."""
        self.tokens.extend(self.more)
        return self.tokens

    def next(self) -> Token:
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

    def skip_to(self, *words: str) -> str:
        """Go behind the first of the words outside of parentheses; '' where there is none."""
        depth = 0
        while self.here is not END:
            if depth == 0 and (found := self.accept(*words)):
                return found
            depth += _DEPTH.get(self.next(), 0)
        return ""

    def name(self) -> str:
        return self.next().text

    def table(self) -> str:
        """A table's name, with its database. MariaDB lets a point stand before it."""
        self.accept(".")
        first = self.name()
        return f"{first}.{self.name()}" if self.accept(".") else f"{self.database}.{first}"

    def tables(self) -> list[str]:
        found = [self.table()]
        while self.accept(","):
            found.append(self.table())
        return found


_DEPTH = {Token("sign", "("): 1, Token("sign", ")"): -1}


def read_statement(sql: str, database: str, *, escapes: bool = True) -> tuple[Statement, ...]:
    """What the statement does; nothing for what does not touch rows or columns of base tables.
    `escapes`: backslashes are escapes in its strings (statements.has_escapes)."""
    reader = _Reader([], database, more=tokens(sql, escapes=escapes))
    verb = _verb(reader)
    read = _READ.get(verb)
    return tuple(read(reader)) if read is not None else ()


def words(sql: str, *, escapes: bool = True) -> tuple[str, ...]:
    """The statement's words that are not quoted, in capitals, from its verb on."""
    reader = _Reader([], "", more=tokens(sql, escapes=escapes))
    verb = _verb(reader)
    return (verb, *(t.upper for t in reader.all()[reader.at :] if t.kind == "word"))


def _verb(reader: _Reader) -> str:
    """The statement's verb, without what MariaDB lets stand before it and logs with it: SET
    STATEMENT … FOR, and ANALYZE, which executes."""
    verb = reader.next().upper
    if verb == "SET" and reader.accept("STATEMENT"):
        reader.skip_to("FOR")
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
        if any(t.kind == "word" and t.upper == "SELECT" for t in reader.all()):
            yield RowsAsSql("CREATE TABLE … SELECT", (table,))
        return
    reader.skip("UNIQUE", "FULLTEXT", "SPATIAL", "ONLINE", "OFFLINE")
    if reader.accept("INDEX"):
        yield from _index(reader)


def _index(reader: _Reader) -> Iterator[Statement]:
    while reader.here is not END:
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
        while reader.here is not END and not reader.accept("TO"):
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
    depth, held = 0, list[Token]()
    for token in reader.all()[reader.at :]:
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
    "CONVERT TABLE": "a table became a partition",
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
        found = replace(found, renamed=renamed, redefined=(*found.redefined, old))
        return _computed(found, clause)
    if verb in ("MODIFY", "ALTER") and following not in ("INDEX", "KEY", "CONSTRAINT", "CHECK"):
        clause.accept("COLUMN")
        clause.skip("IF", "EXISTS")
        found = replace(found, redefined=(*found.redefined, clause.name()))
        return _computed(found, clause)
    if verb == "DROP" and following not in _NOT_COLUMNS:
        clause.accept("COLUMN")
        clause.skip("IF", "EXISTS")
        return replace(found, dropped=(*found.dropped, clause.name()))
    return found


def _computed(found: Altered, definition: _Reader) -> Altered:
    """MODIFY and CHANGE: whether the server computes values anew. What is in parentheses may be a
    default's CAST (… AS …)."""
    outside = _outside_parentheses(definition.tokens[definition.at :])
    words = {token.upper for token in outside if token.kind == "word"}
    if "AS" in words:
        return replace(found, rewritten="a generated column was redefined")
    if words & {"AUTO_INCREMENT", "SERIAL"}:
        return replace(found, rewritten=f"zeros of {found.redefined[-1]} were numbered")
    return found


def _has_foreign_action(reader: _Reader) -> bool:
    words = " ".join(token.upper for token in reader.all() if token.kind == "word")
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
_ROUNDS = frozenset({"FLOAT", "DOUBLE", "REAL"})
_TIMES = frozenset({"DATETIME", "TIMESTAMP", "TIME"})
_YEAR = re.compile(r"19\d\d|20\d\d|21[0-5]\d")
_DISGUISED = ("JSON", "UUID", "INET4", "INET6")
_COMPUTED = {"AUTO_INCREMENT", "AS", "GENERATED", "PRIMARY"}
_UNKNOWN = Added(known=False)


def _added(definition: _Reader) -> Added:
    """From a column's definition, its name already read."""
    kind = definition.next().upper
    declared = kind if kind in _DISGUISED else ""
    rest = _outside_parentheses(definition.tokens[definition.at :])
    words = [token.upper for token in rest if token.kind == "word"]
    if kind == "SERIAL" or _COMPUTED & set(words):
        return Added(known=False, declared=declared)
    if "DEFAULT" in words:
        place = next(n for n, t in enumerate(rest) if t.kind == "word" and t.upper == "DEFAULT")
        found = _default(rest[place + 1 :], kind)
        # FLOAT(7,2), DATETIME(3): what does not fit is rounded.
        cut = kind in _TIMES or (kind in _ROUNDS and Token("sign", "(") in rest)
        if cut and "." in (found.default or ""):
            found = _UNKNOWN
        return replace(found, declared=declared)
    required = ("NOT", "NULL") in pairwise(words)
    # A TIMESTAMP without either is what explicit_defaults_for_timestamp says.
    if not required and (kind != "TIMESTAMP" or "NULL" in words):
        return Added(None, declared=declared)
    if kind in _ZERO:
        return Added("0")
    return Added("") if kind in _EMPTY else Added(known=False, declared=declared)


def _outside_parentheses(tokens: Sequence[Token]) -> list[Token]:
    """Without what stands in parentheses, but for the first of each pair."""
    depth, found = 0, []
    for token in tokens:
        if depth == 0:
            found.append(token)
        depth += _DEPTH.get(token, 0)
    return found


def _default(tokens: Sequence[Token], kind: str) -> Added:
    """The constant behind DEFAULT, as the server keeps it in a column of that type."""
    sign = ""
    if tokens and tokens[0].text in ("-", "+"):
        sign, tokens = tokens[0].text.strip("+"), tokens[1:]
    if not tokens or (len(tokens) > 1 and tokens[1].kind != "word"):
        return _UNKNOWN  # 'a' 'b' is 'ab'
    first = tokens[0]
    if kind == "YEAR" and first.kind != "word":
        return Added(first.text) if not sign and _YEAR.fullmatch(first.text) else _UNKNOWN
    if first.kind == "number" and kind in _ZERO:
        return Added(sign + first.text)
    if first.kind in ("string", "quoted") and not sign:
        return Added(first.text)
    if first.kind == "word" and first.upper == "NULL":
        return Added(None)
    if first.kind == "word" and first.upper in _TRUTH and kind in _ZERO:
        return Added(_TRUTH[first.upper])
    return _UNKNOWN


_TRUTH = {"TRUE": "1", "FALSE": "0"}


def _inserted(verb: str, reader: _Reader) -> Iterator[Statement]:
    reader.skip("LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE", "INTO")
    yield RowsAsSql(verb, (reader.table(),))


def _loaded(reader: _Reader) -> Iterator[Statement]:
    reader.skip_to("INTO")
    reader.accept("TABLE")
    yield RowsAsSql("LOAD DATA", (reader.table(),))


def _changed(verb: str, ends: tuple[str, ...], reader: _Reader) -> Iterator[Statement]:
    """Every name up to one of the words: which of the tables are changed and not only read, the
    columns would say, and what else stands there cannot be told from them."""
    found: list[str] = []
    depth = 0
    while reader.here is not END and not (depth == 0 and reader.accept(*ends)):
        if reader.here.kind not in ("word", "name", "quoted"):
            depth += _DEPTH.get(reader.next(), 0)
            continue
        found.append(reader.table())
        while reader.accept("."):
            reader.next()
    yield RowsAsSql(verb, tuple(dict.fromkeys(found)))


def _with(reader: _Reader) -> Iterator[Statement]:
    verb = reader.skip_to("UPDATE", "DELETE")
    yield from _READ[verb](reader) if verb else (RowsAsSql("WITH", ()),)


_READ: Mapping[str, Callable[[_Reader], Iterator[Statement]]] = {
    "TRUNCATE": _truncate,
    "DROP": _drop,
    "CREATE": _create,
    "RENAME": _rename,
    "ALTER": _alter,
    "INSERT": partial(_inserted, "INSERT"),
    "REPLACE": partial(_inserted, "REPLACE"),
    "UPDATE": partial(_changed, "UPDATE", ("SET",)),
    "DELETE": partial(_changed, "DELETE", ("WHERE", "ORDER", "LIMIT")),
    "LOAD": _loaded,
    "SELECT": lambda reader: iter((RowsAsSql("SELECT", ()),)),
    "DO": lambda reader: iter((RowsAsSql("DO", ()),)),
    "WITH": _with,
}
"""Temporary tables have no row events, and no rows that are captured: they are passed over."""
