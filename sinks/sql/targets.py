"""What an input's table looks like in a SQL store: its name, its columns, its primary key.

The primary key is the input's key. Where a key column is nullable, where the store would compare
its values otherwise than the source does, or where there is no key, the table gets a column `_key`
with the canonical key text as primary key instead (SEMANTICS 28).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import pyarrow as pa

from cdc.errors import ConfigError, SinkError
from cdc.keys import encode_keys
from cdc.schema import Column, TableSchema
from sinks.api import SinkInput

KEY_COLUMN = Column("_key", pa.string(), "text", nullable=False)
BOOKKEEPING = "_cdc_sink"
SHADOW = "__cdc_new"
REBUILT = "__cdc_rebuild"
OLD = "__cdc_old"
_NAME_BYTES_MIN = 63
"""The shortest limit on names among stores (Postgres): it cuts longer ones without a word."""

TypeName = Callable[[Column], str]
"""A column's type as the store spells it in CREATE TABLE."""


@dataclass(frozen=True)
class Target:
    """One table of the store. `columns` are the input's, then `_key` where there is one."""

    input: SinkInput
    schema_name: str
    table: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]

    @property
    def has_key_column(self) -> bool:
        return self.primary_key == (KEY_COLUMN.name,) and KEY_COLUMN in self.columns

    @property
    def key_columns(self) -> tuple[Column, ...]:
        named = {column.name: column for column in self.columns}
        return tuple(named[name] for name in self.primary_key)

    def stored_rows(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows in the input's schema as the table's columns."""
        if not self.has_key_column:
            return rows
        schema = self.input.schema
        keys = rows.select(list(schema.key))
        return _with_key_column(rows, _key_texts(keys, schema))

    def stored_keys(self, keys: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of the input's key columns as the table's primary key columns."""
        if not self.has_key_column:
            return keys
        texts = _key_texts(keys, self.input.schema)
        return pa.RecordBatch.from_arrays([texts], names=[KEY_COLUMN.name])


def target_of(
    item: SinkInput, schema_name: str, template: str, by_text: Callable[[Column], bool]
) -> Target:
    """The table for one input. `by_text`: key columns whose equality the store gets wrong."""
    schema = item.schema
    if KEY_COLUMN.name in (column.name for column in schema.columns):
        raise SinkError(
            "a column named _key collides with the sink's own",
            where=item.name,
            hint="rename it in a view over the table",
        )
    key = schema.key_columns
    if key and not any(column.nullable or by_text(column) for column in key):
        columns, primary_key = schema.columns, schema.key
    else:
        columns, primary_key = (*schema.columns, KEY_COLUMN), (KEY_COLUMN.name,)
    table = table_name(item.name, template, default_schema(item))
    return Target(item, schema_name, table, columns, primary_key)


def targets_of(
    inputs: Sequence[SinkInput],
    schema_name: str,
    template: str,
    by_text: Callable[[Column], bool],
) -> tuple[Target, ...]:
    """The tables for all inputs. Raises ConfigError when two would share one."""
    targets = tuple(target_of(item, schema_name, template, by_text) for item in inputs)
    taken: dict[str, str] = {}
    for target in targets:
        other = taken.setdefault(target.table.lower(), target.input.name)
        if other != target.input.name or target.table == BOOKKEEPING:
            raise ConfigError(
                f"'{other}' and '{target.input.name}' would both be written to table "
                f"'{target.table}'",
                hint='give the sink a template, such as `table: "{source}_{name}"`',
            )
    return targets


def default_schema(item: SinkInput) -> str:
    """The schema of an input that is named without one: a table's own; `public` for a view."""
    parts = item.topic.split(".")
    return parts[1] if len(parts) > 2 else "public"


def table_name(input_name: str, template: str, schema: str = "public") -> str:
    """The table of an input: `template` with {name}, {source}, {schema} filled in. `schema` is
    that of a name without one.

    >>> table_name("shop.customers", "{name}"), table_name("shop.sales.items", "{source}_{name}")
    ('customers', 'shop_items')
    """
    parts = input_name.split(".")
    fields = {
        "name": parts[-1],
        "source": parts[0] if len(parts) > 1 else "",
        "schema": parts[1] if len(parts) > 2 else schema,
    }
    try:
        return template.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"'{template}' is no template for a table's name",
            hint="it may contain {name}, {source} and {schema}",
        ) from error


def shadow_of(target: Target) -> Target:
    """The table beside the target's in which a reload gathers its rows."""
    return beside(target, SHADOW)


def beside(target: Target, suffix: str) -> Target:
    """The same table under its name with SHADOW, REBUILT or OLD, cut where that is too long."""
    return replace(target, table=name_beside(target.table, suffix))


def name_beside(table: str, suffix: str) -> str:
    name = table + suffix
    if len(name.encode()) <= _NAME_BYTES_MIN:
        return name
    mark = f"_{sha256(table.encode()).hexdigest()[:8]}{suffix}"
    kept = table.encode()[: _NAME_BYTES_MIN - len(mark)]
    return kept.decode(errors="ignore") + mark


def require_names(target: Target, bytes_max: int, folds_case: bool) -> None:
    """Raise SinkError for names that the store would cut short or take for one another."""
    for suffix in (SHADOW, REBUILT, OLD):
        if target.table.endswith(suffix):
            raise SinkError(
                f"tables with names in {suffix} are the sinks' own",
                where=target.input.name,
                hint="give the sink a `table:`",
            )
    names = [column.name for column in target.columns]
    for name in (target.table, *names):
        if len(name.encode()) > bytes_max:
            raise SinkError(
                f"'{name}' is longer than the {bytes_max} bytes that a name may have in this store",
                where=target.input.name,
                hint="give the sink a `table:`, or rename the column in a view",
            )
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower() if folds_case else name, name)
        if other != name:
            raise SinkError(
                f"columns '{other}' and '{name}' are the same to this store",
                where=target.input.name,
                hint="rename one of them in a view over the table",
            )


def missing_columns(
    target: Target,
    found: Mapping[str, str],
    primary_key: Sequence[str],
    type_name: TypeName,
    sink: str,
) -> tuple[Column, ...]:
    """The columns that the store's table (`found`: name → type) lacks; they are to be added.

    Raises SinkError for every other difference: following it needs a rebuild.
    """
    problems = [
        f"column '{column.name}' is {found[column.name]} there and {type_name(column)} here"
        for column in target.columns
        if column.name in found and found[column.name].lower() != type_name(column).lower()
    ]
    known = {column.name for column in target.columns}
    problems += [f"column '{name}' is not in the input" for name in found if name not in known]
    if tuple(primary_key) != target.primary_key:
        there, here = ", ".join(primary_key) or "none", ", ".join(target.primary_key)
        problems.append(f"the primary key is ({there}) there and ({here}) here")
    if problems:
        raise SinkError(
            f"the table does not fit its input: {'; '.join(problems)}",
            where=f"table {target.table}",
            hint=f"`cdc rebuild {sink}` makes it anew from the log, and keeps this one as "
            f"{name_beside(target.table, OLD)}",
        )
    return tuple(column for column in target.columns if column.name not in found)


def _key_texts(keys: pa.RecordBatch, schema: TableSchema) -> pa.Array:
    return encode_keys([keys.column(i) for i in range(len(schema.key))], keys.num_rows)


def _with_key_column(rows: pa.RecordBatch, texts: pa.Array) -> pa.RecordBatch:
    fields = [*rows.schema, pa.field(KEY_COLUMN.name, pa.string())]
    return pa.RecordBatch.from_arrays([*rows.columns, texts], schema=pa.schema(fields))
