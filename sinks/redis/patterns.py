"""Keys and members from rows, and back: what a template's names look like in Redis.

    order:{id}               order:17
    stock:{shop}:{article}   stock:north%3A1:screw      the shop is called "north:1"
    mail:{address}           mail:%null                 the address is NULL

1. A value stands as its plain text (cdc.json_rows.plain_texts); a column of the input's key whose
   equal values have several texts (numeric, floats) as in its canonical key (cdc.keys).
2. `%` is written %25, and NULL is %null, which no value can be then.
3. Where another placeholder follows, the first character of the text between the two is written in
   percent, so that the first such character ends the value. That character is no letter, digit or
   percent sign: a template that has one there, or nothing, is refused.

So two different rows never share a name, and a name is read back by one regular expression. A name
counts as ours only if rendering what was read gives the same name again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import BadData, SinkError
from cdc.json_rows import plain_texts, values_from_plain
from cdc.keys import encode_keys
from cdc.schema import Column, TableSchema
from cdc.templates import Template, parse_template

NULL = "%null"
_INTEGER = frozenset("-0123456789" + NULL)


@dataclass(frozen=True)
class Pattern:
    """A template over the columns of a schema. `canonical` names those of its key whose texts are
    those of the canonical key."""

    template: Template
    columns: tuple[Column, ...]
    canonical: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.template.columns)

    def render(self, rows: pa.RecordBatch) -> pa.StringArray:
        """One name per row, from the columns that the template has."""
        literals = self.template.literals
        if not self.columns:
            return pa.array([literals[0]] * rows.num_rows, pa.string())
        pieces: list[object] = []
        for literal, column, separator in zip(
            literals, self.columns, self._separators, strict=False
        ):
            pieces.append(literal)
            pieces.append(self._text(rows.column(column.name), column, separator))
        return pc.binary_join_element_wise(*pieces, literals[-1], "")

    def parse(self, names: pa.StringArray) -> tuple[npt.NDArray[np.bool_], pa.RecordBatch]:
        """Which of the names this pattern makes; and, of those, the columns."""
        found = self._match(names)
        kept, arrays = np.asarray(found.is_valid()), []
        texts = found.filter(pa.array(kept))
        for number, column in enumerate(self.columns):
            values, right = _values(texts.field(number), column)
            arrays.append(values)
            if not right.all():
                kept[np.flatnonzero(kept)[~right]] = False
                keep = pa.array(right)
                arrays, texts = [a.filter(keep) for a in arrays], texts.filter(keep)
        rows = _batch(self.columns, arrays, int(kept.sum()))
        same = np.asarray(pc.equal(self.render(rows), names.filter(pa.array(kept))))
        if not same.all():
            kept[np.flatnonzero(kept)[~same]] = False
            rows = rows.filter(pa.array(same))
        return kept, rows

    @property
    def glob(self) -> str:
        """What SCAN is asked for: every name of the pattern matches, and others may."""
        return "*".join(glob_escaped(literal) for literal in self.template.literals)

    def overlaps(self, other: Pattern) -> bool:
        """Whether some name may be one of both."""
        return _intersect(self._symbols, other._symbols)

    @cached_property
    def _separators(self) -> tuple[str, ...]:
        """Per placeholder the character that ends its value; empty for the last one."""
        return (*(literal[:1] for literal in self.template.literals[1:-1]), "")[: len(self.columns)]

    @cached_property
    def _regex(self) -> str:
        parts = []
        for number, separator in enumerate(self._separators):
            inside = f"[^{re.escape(separator)}]*" if separator else ".*"
            parts += [re.escape(self.template.literals[number]), f"(?P<c{number}>{inside})"]
        return rf"(?s)\A{''.join(parts)}{re.escape(self.template.literals[-1])}\z"

    @cached_property
    def _symbols(self) -> list[str | frozenset[str] | None]:
        """Characters; for a placeholder the set of characters it may repeat, None: any."""
        found: list[str | frozenset[str] | None] = []
        for number, literal in enumerate(self.template.literals):
            found += literal
            if number < len(self.columns):
                whole = pa.types.is_integer(self.columns[number].type)
                found.append(_INTEGER if whole else None)
        return found

    def _match(self, names: pa.StringArray) -> pa.StructArray:
        if not self.columns:
            mask = pc.not_equal(names, self.template.literals[0])
            return pa.StructArray.from_arrays(
                [pa.nulls(len(names), pa.string())], names=["none"], mask=mask
            )
        return pc.extract_regex(names, self._regex)

    def _text(self, values: pa.Array, column: Column, separator: str) -> pa.Array:
        if column.name in self.canonical:
            texts = pc.utf8_slice_codeunits(encode_keys([values], len(values)), 2, -2)
            texts = pc.if_else(values.is_valid(), texts, pa.scalar(None, pa.string()))
        else:
            texts = plain_texts(values, column)
        if not pa.types.is_integer(column.type):
            texts = pc.replace_substring(texts, "%", "%25")
        if separator:
            texts = pc.replace_substring(texts, separator, _percent(separator))
        return pc.fill_null(texts, NULL) if texts.null_count else texts


def pattern_of(text: str, schema: TableSchema, option: str, where: str) -> Pattern:
    """Raises SinkError for columns that the schema lacks, and for placeholders too close."""
    template = parse_template(text)
    unknown = template.unknown(column.name for column in schema.columns)
    if unknown:
        raise SinkError(
            f"`{option}` names column {unknown[0]}, which {schema.name} does not have",
            where=where,
            hint="its columns are " + ", ".join(c.name for c in schema.columns),
        )
    for literal in template.literals[1:-1]:
        if not literal or literal[0].isalnum() or literal[0] == "%":
            raise SinkError(
                f"`{option}` '{text}' does not say where one column ends and the next begins",
                where=where,
                hint="put a ':' between the braces",
            )
    columns = tuple(schema.column(name) for name in template.columns)
    canonical = frozenset(c.name for c in columns if c.name in schema.key and _has_many_texts(c))
    return Pattern(template, columns, canonical)


def glob_escaped(text: str) -> str:
    """The text as a glob that matches it alone."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


def _has_many_texts(column: Column) -> bool:
    return isinstance(column.type, pa.ExtensionType) or pa.types.is_floating(column.type)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _values(texts: pa.StringArray, column: Column) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The values of the texts of one placeholder; and which of them are of the type."""
    nulls = pc.equal(texts, NULL)
    if pc.any(pc.match_substring(texts, "%")).as_py():
        plain = [
            None if null else unquote(text)
            for text, null in zip(texts.to_pylist(), nulls.to_pylist(), strict=True)
        ]
        texts = pa.array(plain, pa.string())
    try:
        return values_from_plain(texts, column), np.ones(len(texts), np.bool_)
    except BadData:
        right = np.array([_is_of(text, column) for text in texts.to_pylist()])
    none = pa.scalar(None, pa.string())
    return values_from_plain(pc.if_else(pa.array(right), texts, none), column), right


def _is_of(text: str | None, column: Column) -> bool:
    try:
        values_from_plain(pa.array([text], pa.string()), column)
    except BadData:
        return False
    return True


def _batch(columns: Sequence[Column], arrays: list[pa.Array], count: int) -> pa.RecordBatch:
    """A record batch of the columns, each name once."""
    once = dict(zip((c.name for c in columns), arrays, strict=True))
    if not once:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    kinds = {c.name: c.type for c in columns}
    fields = pa.schema([pa.field(name, kinds[name]) for name in once])
    return pa.RecordBatch.from_arrays(list(once.values()), schema=fields)


def _intersect(
    left: Sequence[str | frozenset[str] | None], right: Sequence[str | frozenset[str] | None]
) -> bool:
    """Whether two patterns have a name in common: a walk over both at once."""
    ahead, seen = [(0, 0)], {(0, 0)}
    while ahead:
        i, j = ahead.pop()
        if i == len(left) and j == len(right):
            return True
        for step in _steps(left, right, i, j):
            if step not in seen:
                seen.add(step)
                ahead.append(step)
    return False


def _steps(
    left: Sequence[str | frozenset[str] | None],
    right: Sequence[str | frozenset[str] | None],
    i: int,
    j: int,
) -> list[tuple[int, int]]:
    """Where one may go: past a placeholder, or over one character that both allow."""
    found = []
    a = left[i] if i < len(left) else ""
    b = right[j] if j < len(right) else ""
    if not isinstance(a, str):
        found.append((i + 1, j))
    if not isinstance(b, str):
        found.append((i, j + 1))
    if a == "" or b == "" or not _agree(a, b):
        return found
    return [*found, (i + isinstance(a, str), j + isinstance(b, str))]


def _agree(a: str | frozenset[str] | None, b: str | frozenset[str] | None) -> bool:
    if isinstance(a, str):
        return b == a if isinstance(b, str) else b is None or a in b
    if isinstance(b, str):
        return a is None or b in a
    return a is None or b is None or bool(a & b)


__all__: Sequence[str] = ("NULL", "Pattern", "glob_escaped", "pattern_of")
