"""Names made from a row: `order:{id}`, a text with columns in braces.

A placeholder is a column's name and nothing else; `{{` and `}}` stand for the braces themselves.
Which columns there are is known only to whoever holds the schema: `unknown` compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from string import Formatter

from cdc.errors import ConfigError

_BRACES = 'a column in braces, such as "order:{id}"; {{ and }} for the characters themselves'


@dataclass(frozen=True)
class Template:
    """`literals` has one entry more than `columns`: literal, column, literal, column, …, literal.

    `text` is the template as it was written. A column may occur more than once.
    """

    text: str
    literals: tuple[str, ...]
    columns: tuple[str, ...]

    def __str__(self) -> str:
        return self.text

    def unknown(self, known: Iterable[str]) -> list[str]:
        """Its columns that are not among `known`, in the template's order."""
        names = set(known)
        return [column for column in dict.fromkeys(self.columns) if column not in names]


def parse_template(text: str) -> Template:
    """Raises ConfigError for braces that do not match, and for what is no plain column in them."""
    literals, columns, literal = [], [], ""
    try:
        for before, column, spec, conversion in Formatter().parse(text):
            literal += before
            if column is None:
                continue
            if spec or conversion or not column.strip():
                raise ConfigError(f"'{text}' has braces without a plain column name", hint=_BRACES)
            literals.append(literal)
            columns.append(column)
            literal = ""
    except ValueError:
        raise ConfigError(f"the braces of '{text}' do not match", hint=_BRACES) from None
    return Template(text, (*literals, literal), tuple(columns))
