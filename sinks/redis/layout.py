"""Where rows lie in Redis, from a sink's settings and its input's schema.

    json         key → the row as one JSON object
    hash         key → one field per column that is not NULL, as plain text
    string       key → one column's plain text
    sorted_set   name → members with a score

A *place* is what one row has for itself: its key, or name and member of a sorted set. Places hold
every column of the input's key, so no two rows share one. Where they hold other columns too, a row
moves when these change (`moves`), and the sink remembers each row's place (SEMANTICS 33).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import SinkError
from cdc.schema import Column, TableSchema
from sinks.redis.patterns import Pattern, pattern_of

BETWEEN = "\0"
"""Between name and member in the text of a place; no text of a database holds it."""

_TYPES = {"json": "string", "string": "string", "hash": "hash", "sorted_set": "zset"}


@dataclass(frozen=True)
class Settings:
    """What the YAML says, and what the data were written with. `key` of a sorted set is its
    `name`."""

    value: str
    key: str
    column: str = ""
    score: str = ""
    member: str = ""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        value = str(options.get("value") or "json")
        return cls(
            value,
            str(options["name" if value == "sorted_set" else "key"]),
            str(options.get("column") or ""),
            str(options.get("score") or ""),
            str(options.get("member") or ""),
        )

    @classmethod
    def from_json(cls, text: str) -> Settings:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def changed_from(self, old: Settings) -> list[str]:
        """`option: old → new` of each that differs, in the YAML's words."""
        names = {"key": "name"} if self.value == "sorted_set" == old.value else {}
        mine, theirs = asdict(self), asdict(old)
        return [
            f"{names.get(option, option)}: {theirs[option] or 'none'} → {mine[option] or 'none'}"
            for option in mine
            if mine[option] != theirs[option]
        ]


@dataclass(frozen=True)
class Layout:
    """Settings that fit a schema."""

    settings: Settings
    schema: TableSchema
    keys: Pattern
    members: Pattern | None

    @property
    def redis_type(self) -> str:
        """As TYPE and SCAN name it."""
        return _TYPES[self.settings.value]

    @property
    def moves(self) -> bool:
        """Whether a row's place depends on columns outside the input's key."""
        return not self.place_columns <= set(self.schema.key)

    @property
    def place_columns(self) -> frozenset[str]:
        return self.keys.names | (self.members.names if self.members else frozenset())

    @property
    def readable(self) -> tuple[str, ...]:
        """The columns that the store can give back, in the schema's order."""
        if self.settings.value in {"json", "hash"}:
            return tuple(column.name for column in self.schema.columns)
        kept = self.place_columns | {self.settings.column, self.settings.score}
        return tuple(column.name for column in self.schema.columns if column.name in kept)

    def places(self, rows: pa.RecordBatch) -> Places:
        keys = self.keys.render(rows)
        return Places(keys, self.members.render(rows) if self.members else None)

    def same_places(self, other: Layout) -> bool:
        """Whether both make the same names of the same rows."""
        mine, theirs = self.settings, other.settings
        return (mine.key, mine.member, self.redis_type, self.schema.key) == (
            theirs.key,
            theirs.member,
            other.redis_type,
            other.schema.key,
        )


@dataclass(frozen=True, eq=False)
class Places:
    """One place per row: `keys`, and of sorted sets `members` in them."""

    keys: pa.StringArray
    members: pa.StringArray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def texts(self) -> pa.StringArray:
        if self.members is None:
            return self.keys
        return pc.binary_join_element_wise(self.keys, self.members, BETWEEN)

    @classmethod
    def from_texts(cls, texts: pa.StringArray, in_sets: bool) -> Places:
        if not in_sets:
            return cls(texts)
        pairs = [text.split(BETWEEN, 1) for text in texts.to_pylist()]
        return cls(
            pa.array([name for name, _ in pairs], pa.string()),
            pa.array([member for _, member in pairs], pa.string()),
        )

    def filter(self, mask: pa.BooleanArray) -> Places:
        members = None if self.members is None else self.members.filter(mask)
        return Places(self.keys.filter(mask), members)


def layout_of(settings: Settings, schema: TableSchema, where: str) -> Layout:
    """Raises SinkError where the settings do not fit the schema."""
    in_sets = settings.value == "sorted_set"
    keys = pattern_of(settings.key, schema, "name" if in_sets else "key", where)
    members = pattern_of(settings.member, schema, "member", where) if in_sets else None
    layout = Layout(settings, schema, keys, members)
    _require_key(layout, where)
    if settings.value == "string":
        _column(schema, settings.column, "column", where)
    if in_sets:
        score = _column(schema, settings.score, "score", where)
        if not is_number(score):
            raise SinkError(
                f"`score` is column {score.name}, a {score.sql_type}: sorted sets sort by numbers",
                where=where,
                hint="choose a numeric column, or make one in a view: extract(epoch from …)",
            )
    return layout


def is_number(column: Column) -> bool:
    kind = column.type
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or isinstance(kind, pa.ExtensionType)
    )


def _require_key(layout: Layout, where: str) -> None:
    missing = [name for name in layout.schema.key if name not in layout.place_columns]
    if missing:
        option = "`name` and `member`" if layout.members else "`key`"
        example = ":".join(f"{{{name}}}" for name in layout.schema.key)
        raise SinkError(
            f"{option} must hold every column of the key of {layout.schema.name}, and lacks "
            + ", ".join(missing),
            where=where,
            hint=f'write it as "{layout.schema.name.rpartition(".")[2]}:{example}"',
        )


def _column(schema: TableSchema, name: str, option: str, where: str) -> Column:
    names: Sequence[str] = [column.name for column in schema.columns]
    if name not in names:
        raise SinkError(
            f"`{option}` is {name or 'missing'}, which is no column of {schema.name}",
            where=where,
            hint="its columns are " + ", ".join(names),
        )
    return schema.column(name)
