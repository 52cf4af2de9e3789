"""The shape of one JSON object: where its values stand in its text, and what is fixed between them.

*Slots* are the values that are no objects, with their paths. A record of a log has a *head*, the
rows before and after a change, and behind it a *tail*, the envelope's other members: these hardly
differ from record to record but in digits. The cut between both stands behind a member of the
outermost object, so that any head and any tail together are an object again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str, ...]
_Token: TypeAlias = tuple[bytes, int, int]

_TOKEN = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*"|[^ \t\r\n,:{}\[\]"]+|[{}\[\],:])')


class Irregular(Exception):
    """The objects cannot be read along few shapes: read them one depth at a time."""


@dataclass(frozen=True)
class Slot:
    """A value: where its text starts and stops."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Shape:
    """An object's text or a part of it, its slots, and where the object's own members stop,
    counted from the text's beginning; the byte behind a part."""

    text: bytes
    slots: tuple[Slot, ...]
    members: tuple[tuple[str, int], ...]
    behind: bytes = b""

    def names(self) -> set[str]:
        """Those of the object's own members."""
        return {name for name, _ in self.members}

    def cut(self, in_tail: Callable[[str], bool]) -> tuple[Shape, Shape]:
        """Head and tail; in the tail are the last members, as far as all of them are `in_tail`.
        Where none is, the tail is empty."""
        place = max((stop for name, stop in self.members if not in_tail(name)), default=0)
        if not self.members or place == self.members[-1][1]:
            place = len(self.text)
        return self._part(0, place), self._part(place, len(self.text))

    def _part(self, start: int, stop: int) -> Shape:
        slots = tuple(
            Slot(slot.path, slot.start - start, slot.stop - start)
            for slot in self.slots
            if start <= slot.start < stop
        )
        members = tuple((name, at - start) for name, at in self.members if start < at <= stop)
        return Shape(self.text[start:stop], slots, members, self.text[stop : stop + 1])


def shape_of(text: bytes) -> Shape:
    """Irregular for text that is no object, or one in which an object has a name twice."""
    try:
        if not isinstance(json.loads(text), dict) or text[:1] != b"{" or text[-1:] != b"}":
            raise Irregular
    except ValueError as error:
        raise Irregular from error
    tokens = [(match[1], match.start(1), match.end(1)) for match in _TOKEN.finditer(text)]
    slots: list[Slot] = []
    members: list[tuple[str, int]] = []
    _object(tokens, 0, (), slots, members)
    return Shape(text, tuple(slots), tuple(members))


def _object(
    tokens: list[_Token],
    opening: int,
    path: Path,
    slots: list[Slot],
    members: list[tuple[str, int]],
) -> int:
    """Add the slots of the (valid) object whose brace is token `opening`, and where its own
    members stop; the token behind it."""
    place = opening + 1
    names: set[str] = set()
    while tokens[place][0] != b"}":
        if tokens[place][0] == b",":
            place += 1
        name = _name(tokens[place][0])
        value = place + 2
        here = (*path, name)
        if tokens[value][0] == b"{":
            place = _object(tokens, value, here, slots, [])
        else:
            place = _array(tokens, value) if tokens[value][0] == b"[" else value + 1
            slots.append(Slot(here, tokens[value][1], tokens[place - 1][2]))
        if name in names:
            raise Irregular
        names.add(name)
        members.append((name, tokens[place - 1][2]))
    return place + 1


def _name(token: bytes) -> str:
    found: str = json.loads(token) if b"\\" in token else token[1:-1].decode()
    return found


def _array(tokens: list[_Token], opening: int) -> int:
    """The token behind the array whose bracket is token `opening`."""
    depth = 0
    for place in range(opening, len(tokens)):
        depth += (tokens[place][0] == b"[") - (tokens[place][0] == b"]")
        if depth == 0:
            return place + 1
    raise Irregular
