"""Schema changes in the binlog (SEMANTICS 13): which can be followed, and how.

Two things arrive in the order of the binlog: statements (ddl.py), and descriptions of a table, by a
table map with full metadata or by information_schema. A description says what the columns are. The
statements since the last one say where each of them comes from: an older column, perhaps renamed,
or one that was added, with what older rows have in it. From both follows the next schema version:

    nothing changed             the known version
    column added                with the constant that older rows have
    column dropped, renamed     by our own number (attnum), if it is not of the key
    column retyped              if every value stays what it was (`carries`)
    table emptied, dropped      deletes of its live keys; what is made anew starts from nothing
    anything else               SnapshotNeeded: the agent reads all tables again. Also where another
                                table took the name, as gh-ost and pt-online-schema-change do it
    key changed, table gone     SchemaChanged, before anything wrong is published
    key no longer told          SnapshotNeeded, if a statement may have dropped it: the catalog says

Column.native holds the MySQL type, so that an older version is enough to compare with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from cdc.changes import column_value, conforms
from cdc.errors import SchemaChanged, SnapshotNeeded, SourceError
from cdc.mysql import ddl
from cdc.mysql.charsets import charset_of
from cdc.mysql.ddl import Added
from cdc.mysql.defaults import Defaults
from cdc.mysql.retyping import carries
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import FieldType, ZeroDates, is_binary, table_schema
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

_HINTS: Mapping[str, dict[str, object]] = {
    "JSON": {"json": True},
    "UUID": {"native": "uuid"},
    "INET4": {"native": "inet4"},
    "INET6": {"native": "inet6"},
}


@dataclass
class _Pending:
    """What statements said of a table since it was last described: column name → the older name, or
    what older rows have. `anew`: it was made anew and has no older rows; `lax`: a statement ran
    without strict mode, which changes values instead of refusing."""

    origins: dict[str, str | Added]
    anew: bool = False
    lax: bool = False

    def to_json(self) -> dict[str, Any]:
        origins = {n: o if isinstance(o, str) else asdict(o) for n, o in self.origins.items()}
        return {"origins": origins, "anew": self.anew, "lax": self.lax}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> _Pending:
        origins = body["origins"].items()
        found = {n: o if isinstance(o, str) else Added(**o) for n, o in origins}
        return cls(found, body["anew"], body["lax"])


@dataclass
class Evolution:
    """The captured tables of `source` as the binlog goes by. `fold`: names compare without case;
    `defaults`: those that row images leave out, told of what alters them."""

    source: str
    schemas: dict[str, TableSchema]
    zero_dates: ZeroDates
    fold: bool = False
    defaults: Defaults | None = None
    made: dict[str, bool] = field(default_factory=dict)
    """Tables that came into being under names that are not captured; whether the binlog has all of
    their rows."""
    _pending: dict[str, _Pending] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)

    def statement(
        self,
        sql: str,
        database: str,
        *,
        strict: bool = True,
        escapes: bool = True,
        updated: Collection[str] | None = (),
    ) -> tuple[str, ...]:
        """Take a statement in; the captured tables that it emptied. Raises SnapshotNeeded,
        SchemaChanged, and SourceError for rows that were changed by a statement: it names a
        captured table, or is known to change some of its database (`updated`; None: of any)."""
        emptied: list[str] = []
        for found in ddl.read_statement(sql, database, escapes=escapes):
            match found:
                case ddl.Emptied(table):
                    emptied += self._captured(table)
                case ddl.Dropped():
                    emptied += self._dropped(found)
                case ddl.Created():
                    emptied += self._created(found)
                case ddl.Renamed(pairs):
                    self._renamed(pairs)
                case ddl.Altered():
                    self._altered(found, strict)
                case ddl.RowsAsSql(verb, tables):
                    self._refuse_sql(verb, tables, updated)
        return tuple(dict.fromkeys(emptied))

    def is_touched(self, name: str) -> bool:
        """Whether a statement may have changed the table since it was last described."""
        return name in self._pending

    def described(self, now: MyTable) -> TableSchema:
        """The schema version of the rows behind a description; `schemas` has it from now on."""
        known = self.schemas[now.name]
        pending = self._pending.get(now.name) or _unchanged(known)
        declared = _declared(known, pending, now)
        touched = self.is_touched(now.name)
        step = _Step(known, pending, touched, declared, self.zero_dates, self.source)
        self.schemas[now.name] = step.schema()
        self._pending.pop(now.name, None)
        return self.schemas[now.name]

    def notes(self) -> dict[str, Any]:
        """What statements said since the tables were last described, as JSON; `resume` takes it."""
        touched = {name: found.to_json() for name, found in self._pending.items()}
        return {"touched": touched, "gone": sorted(self._gone)} if touched or self._gone else {}

    def resume(self, notes: Mapping[str, Any]) -> None:
        """Go on from the `notes` of an earlier run."""
        for name, body in notes.get("touched", {}).items():
            if name in self.schemas:
                self._pending[name] = _Pending.from_json(body)
        self._gone.update(self.schemas.keys() & set(notes.get("gone", ())))

    def _captured(self, table: str) -> list[str]:
        if table in self.schemas:
            return [table]
        folded = table.lower()
        return [n for n in self.schemas if n.lower() == folded] if self.fold else []

    def _stored(self, table: str) -> str:
        """The name under which the server keeps the table (lower_case_table_names)."""
        return table.lower() if self.fold else table

    def _dropped(self, found: ddl.Dropped) -> list[str]:
        if self.fold:
            found = ddl.Dropped(found.table.lower())
        names = [n for n in self.schemas if found.holds(n.lower() if self.fold else n)]
        self._gone.update(names)
        return names

    def _created(self, found: ddl.Created) -> list[str]:
        """Without OR REPLACE a table that exists stays what it is (IF NOT EXISTS)."""
        known = self._captured(found.table)
        if not known:
            self.made[self._stored(found.table)] = True
        names = [n for n in known if found.anew or n in self._gone]
        for name in names:
            if found.acting:
                raise _again(name, "it was made again with a foreign key that changes its rows")
            self._gone.discard(name)
            self._pending[name] = _Pending({}, anew=True)
            if self.defaults is not None:
                self.defaults.made_anew(name)
        return names if found.anew else []

    def _renamed(self, pairs: Sequence[tuple[str, str]]) -> None:
        taken = [n for _, new in pairs for n in self._captured(new)]
        for name in taken:
            raise SnapshotNeeded(
                "another table was renamed to it",
                where=name,
                hint="its rows are read again, as after every change that the binlog does not hold",
            )
        for old, new in pairs:
            for name in self._captured(old):
                raise SchemaChanged(
                    f"the table is now called {new}",
                    where=name,
                    hint="rename it back, or capture it under its new name from a new snapshot",
                )
            self.made[self._stored(new)] = self.made.pop(self._stored(old), False)

    def _altered(self, found: ddl.Altered, strict: bool) -> None:
        for name in self._captured(found.table):
            if found.rewritten:
                raise _again(name, found.rewritten)
            known = self.schemas[name]
            if self.defaults is not None:
                self.defaults.altered(as_table(known), found)
            pending = self._pending.setdefault(name, _unchanged(known))
            pending.lax = pending.lax or not strict
            pending.origins = _after(pending.origins, found)

    def _refuse_sql(
        self, verb: str, tables: Sequence[str], updated: Collection[str] | None
    ) -> None:
        named = [n for table in tables for n in self._captured(table)]
        self.made |= {table: False for table in tables if table in self.made}
        # Triggers and functions: which tables they change, only their databases tell.
        near = (n for n in self.schemas if updated is None or n.partition(".")[0] in updated)
        remedy = (
            "SET GLOBAL binlog_format = ROW, let every session begin anew, then "
            f"cdc remove {self.source}, and cdc run takes a new snapshot"
        )
        logged = f"a change was logged as a statement, not as rows: {verb} …"
        for name in named:
            raise SourceError(logged, where=name, hint=remedy)
        for name in near:
            raise SourceError(
                f"{logged}. It may have changed the table too, by triggers, functions or a view",
                where=name,
                hint=f"{remedy}. (MariaDB: a user with SELECT and TRIGGER on *.* sees all of them, "
                "and capture goes on behind a statement that names none)",
            )


def continued(known: TableSchema | None, fresh: TableSchema) -> TableSchema:
    """A table that is read again: its columns under the numbers that they have in the log. A column
    whose older values cannot be read as its type now gets a new number."""
    if known is None:
        return fresh
    there = {c.name: c for c in known.columns}
    last = max((c.attnum for c in known.columns), default=0)
    columns = []
    for column in fresh.columns:
        old = there.get(column.name)
        if old is not None and (conforms(old.type, column.type) or column.name in fresh.key):
            columns.append(replace(column, attnum=old.attnum, missing=old.missing))
        else:
            last += 1
            columns.append(replace(column, attnum=last))
    if tuple(columns) == known.columns and fresh.key == known.key:
        return known
    return replace(fresh, columns=tuple(columns), version=known.version + 1)


def as_table(schema: TableSchema) -> MyTable:
    """The table that a schema version describes."""
    columns = tuple(
        MyColumn(c.name, MyType.from_text(c.native), c.nullable) for c in schema.columns
    )
    return MyTable(schema.name, columns, schema.key)


def _again(table: str, why: str) -> SnapshotNeeded:
    return SnapshotNeeded(
        f"the table was changed in a way that the binlog does not hold: {why}",
        where=table,
        hint="its rows are read again; if its key changed too: cdc remove, then cdc run takes a "
        "new snapshot",
    )


def _unchanged(known: TableSchema) -> _Pending:
    return _Pending({c.name: c.name for c in known.columns})


def _after(origins: Mapping[str, str | Added], found: ddl.Altered) -> dict[str, str | Added]:
    """Where columns come from, one ALTER TABLE later. Its clauses speak of the names before it.
    Column names compare without case. What is added under a name that there is stays what it is
    (IF NOT EXISTS)."""
    names = {name.lower(): name for name in origins}
    gone = {names.get(name.lower(), name) for name in found.dropped}
    renamed = {new: names.get(old.lower(), old) for new, old in found.renamed.items()}
    moved = gone | set(renamed.values())
    after = {name: origin for name, origin in origins.items() if name not in moved}
    after |= {new: origins[old] for new, old in renamed.items() if old in origins}
    there = {name.lower() for name in after}
    return after | {n: added for n, added in found.added.items() if n.lower() not in there}


def _declared(known: TableSchema, pending: _Pending, now: MyTable) -> MyTable:
    """The description with what only a declaration says: JSON and UUID are stored as text and as
    bytes, and table maps show no more."""
    columns = []
    for column in now.columns:
        origin = _origin(pending.origins, column.name)
        kind = column.kind
        if isinstance(origin, Added) and origin.declared:
            hinted = replace(kind, **_HINTS[origin.declared])  # type: ignore[arg-type]
            kind = hinted if kind.code != FieldType.JSON else kind
        elif isinstance(origin, str):
            old = MyType.from_text(known.column(origin).native)
            same = replace(kind, json=old.json, native=old.native) == old
            kind = old if same else kind
        columns.append(replace(column, kind=kind))
    return replace(now, columns=tuple(columns))


def _origin(origins: Mapping[str, str | Added], name: str) -> str | Added | None:
    if name in origins:
        return origins[name]
    folded = name.lower()
    return next((origin for key, origin in origins.items() if key.lower() == folded), None)


@dataclass(frozen=True)
class _Step:
    """From one schema version to the next. `touched`: a statement may have altered the table."""

    known: TableSchema
    pending: _Pending
    touched: bool
    now: MyTable
    zero_dates: ZeroDates
    source: str

    def schema(self) -> TableSchema:
        fresh = table_schema(self.now, self.zero_dates, self.known.version + 1)
        last = max((c.attnum for c in self.known.columns), default=0)
        columns: list[Column] = []
        for column in fresh.columns:
            found = self._column(column, last + 1)
            last = max(last, found.attnum)
            columns.append(found)
        if not self.pending.anew:
            self._require_accounted(columns)
        key = fresh.key or self._untold_key(columns)
        made = replace(fresh, columns=tuple(columns), key=key)
        self._require_same_key(made)
        same = made.columns == self.known.columns
        return self.known if same else made

    def _column(self, column: Column, number: int) -> Column:
        if self.pending.anew:
            return self._made_anew(column, number)
        origin = _origin(self.pending.origins, column.name)
        if isinstance(origin, str):
            return self._kept(self.known.column(origin), column)
        if origin is None:
            raise _again(self.known.name, f"no statement added the column {column.name}")
        return replace(column, attnum=number, missing=self._older(column, origin))

    def _made_anew(self, column: Column, number: int) -> Column:
        """No rows are older than the table; deletes of its former rows have only keys."""
        for old in self.known.columns:
            if old.name == column.name and (old.type == column.type or old.name in self.known.key):
                return replace(column, attnum=old.attnum)
        return replace(column, attnum=number)

    def _kept(self, old: Column, new: Column) -> Column:
        made = replace(new, attnum=old.attnum, missing=old.missing)
        then, now = MyType.from_text(old.native), MyType.from_text(new.native)
        values_stay = then == now or (carries(then, now) and conforms(old.type, new.type))
        filled = old.nullable and not new.nullable and self.pending.lax
        if filled or not values_stay:
            raise _again(self.known.name, f"{new.name} is {_spelled(new)}, it was {_spelled(old)}")
        return made

    def _older(self, column: Column, added: Added) -> str | None:
        """`missing` of an added column."""
        try:
            if added.known:
                return constant(column, added.default)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
            pass  # a constant of another type: MySQL converted it, and we do not guess how
        raise _again(self.known.name, f"{column.name} was added, and older rows have a value in it")

    def _require_accounted(self, columns: Sequence[Column]) -> None:
        left = {c.attnum for c in self.known.columns} - {c.attnum for c in columns}
        still = {o for o in self.pending.origins.values() if isinstance(o, str)}
        for old in self.known.columns:
            if old.attnum in left and old.name in still:
                raise _again(self.known.name, f"no statement dropped the column {old.name}")

    def _untold_key(self, columns: Sequence[Column]) -> tuple[str, ...]:
        """Table maps say nothing of a unique index over a virtual column, which may serve as the
        key. Every other key they would say."""
        if self.touched:
            raise SnapshotNeeded(
                f"its key {_key(self.known)} may have been dropped: its rows no longer say one",
                where=self.known.name,
                hint="its rows are read again, if it still has that key; else give it the key "
                f"back, or cdc remove {self.source}, then cdc run takes a new snapshot",
            )
        numbers = [c.attnum for c in self.known.key_columns]
        names = {c.attnum: c.name for c in columns}
        return tuple(names[number] for number in numbers if number in names)

    def _require_same_key(self, made: TableSchema) -> None:
        def spelled(schema: TableSchema) -> list[tuple[str, int, str]]:
            return [(c.name, c.attnum, c.sql_type) for c in schema.key_columns]

        if spelled(made) != spelled(self.known):
            raise SchemaChanged(
                f"its key is {_key(made)}, it was {_key(self.known)}",
                where=self.known.name,
                hint=f"nothing after the change was published. cdc remove {self.source}, then "
                "cdc run takes a new snapshot",
            )


def _key(schema: TableSchema) -> str:
    return ", ".join(f"{c.name} {c.sql_type}" for c in schema.key_columns) or "nothing"


def _spelled(column: Column) -> str:
    return f"{column.sql_type}{'' if column.nullable else ' NOT NULL'}"


def constant(column: Column, default: str | None) -> str | None:
    """A column's constant default as Column.missing spells it. ValueError, pa.ArrowInvalid or
    pa.ArrowNotImplementedError where that is not known."""
    kind = MyType.from_text(column.native)
    if default is None:
        if not column.nullable:
            raise ValueError
        return None
    padded = kind.code == FieldType.STRING
    if column.type == pa.binary():
        if default or padded or kind.code == FieldType.GEOMETRY:
            raise ValueError
        return ""
    if column.sql_type in ("text", "json") or column.sql_type.startswith("character"):
        if kind.json or kind.native or (kind.labels and default not in kind.labels):
            raise ValueError
        if (
            kind.code == FieldType.VARCHAR
            and len(default) > kind.meta // charset_of(kind.collation).width
        ):
            raise ValueError  # blanks that do not fit are cut
        return default.rstrip(" ") if padded and not is_binary(kind) else default
    if column.type in (pa.string(), pa.bool_(), NUMERIC_TEXT):
        raise ValueError
    column_value(column, default)
    return default
