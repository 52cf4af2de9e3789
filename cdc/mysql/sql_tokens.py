"""The words, names and constants of an SQL statement, of MySQL and MariaDB.

Executable comments (/*!50100 … */, /*M! … */) are read as their contents. A statement may hold
megabytes of constants: tokens are read one by one, and a constant takes no memory but its own
(possessive quantifiers keep no way back).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Token:
    """kind: word, name (in backticks), quoted ("…": a string, or with ANSI_QUOTES a name), string,
    number, sign."""

    kind: str
    text: str

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text


END = Token("sign", "")

_BLANK = r"\s+ | /\*(?!!|M!).*?\*/ | (?:--(?=\s|$)|\#)[^\n]* | /\*M?!\d* | \*/"
# What begins with digits is a name where more than digits follows, or a point is before it.
_NUMBER = r"""\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?![\w$])
    | (?<![\w$`"])\.\d+(?:[eE][+-]?\d+)?(?![\w$])"""
_ESCAPE = re.compile(r"\\(.)", re.S)
_ESCAPED = {
    "0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": r"\%", "_": r"\_",
}  # fmt: skip
_NAME_CHARACTERS_MAX = 64


def _quoted(mark: str, escapes: bool) -> str:
    return (
        rf"(?:[^{mark}\\]++|{mark}{mark}|\\.)*+" if escapes else rf"(?:[^{mark}]++|{mark}{mark})*+"
    )


@cache
def _every(escapes: bool) -> re.Pattern[str]:
    return re.compile(
        rf"""
          (?P<blank>{_BLANK})
        | `(?P<name>{_quoted("`", False)})`
        | '(?P<string>{_quoted("'", escapes)})'
        | "(?P<quoted>{_quoted('"', escapes)})"
        | (?P<number>{_NUMBER})
        | (?P<word>[\w$@]+)
        | (?P<sign>.)
        """,
        re.X | re.S,
    )


@cache
def _names(escapes: bool) -> re.Pattern[str]:
    """All between two names is one match: statements with many rows are long."""
    return re.compile(
        rf"""
          (?:{_BLANK} | '{_quoted("'", escapes)}' | {_NUMBER} | [^\w\s$@`"'])++
        | `(?P<name>{_quoted("`", False)})`
        | "(?P<quoted>{_quoted('"', escapes)})"
        | (?P<word>[\w$@]+)
        | .
        """,
        re.X | re.S,
    )


def tokens(sql: str, *, escapes: bool) -> Iterator[Token]:
    """`escapes`: backslashes are escapes in strings, as they are without NO_BACKSLASH_ESCAPES."""
    for match in _every(escapes).finditer(sql):
        kind = match.lastgroup or "sign"
        if kind != "blank":
            yield Token(kind, _text(kind, match[kind], escapes))


def names(sql: str, *, escapes: bool) -> Iterator[str]:
    """Everything in the statement that may be a name."""
    for match in _names(escapes).finditer(sql):
        kind = match.lastgroup
        # An escape has twice the characters of what it means.
        if kind is not None and match.end() - match.start() <= 2 * _NAME_CHARACTERS_MAX + 2:
            yield _text(kind, match[kind], escapes)


def _text(kind: str, text: str, escapes: bool) -> str:
    mark = _MARKS.get(kind)
    if mark is None:
        return text
    text = text.replace(mark * 2, mark)
    if not escapes or kind == "name":
        return text
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]), text)


_MARKS = {"name": "`", "string": "'", "quoted": '"'}
