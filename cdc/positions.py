"""Where in a source's history: native positions, and vectors of them (SEMANTICS 1).

A native position stands once per frontier and offers `covers`, not `<`: MySQL's GTID sets
can be incomparable. Inside the log, changes are ordered by (txn_seq, ordinal), which are plain
int64 columns of a change batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdc.errors import ConfigError


class NativePosition(Protocol):
    """A point in one source's history, in the source's own terms."""

    def covers(self, other: NativePosition) -> bool:
        """Whether everything up to `other` is also up to this position."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, order=True, slots=True)
class Lsn:
    """A Postgres log sequence number (byte position in the WAL).

    >>> str(Lsn.parse("0/16B3748")), Lsn.parse("1/0").value
    ('0/16B3748', 4294967296)
    """

    value: int

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """The LSN written `high/low` in hexadecimal; ConfigError when it is not one."""
        match = _LSN.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"'{text}' is not an LSN", hint="write it as 0/16B3748")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def covers(self, other: NativePosition) -> bool:
        return isinstance(other, Lsn) and self.value >= other.value

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"


_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass(frozen=True, slots=True)
class TopicOffsets:
    """How far some Kafka topics have been read: per topic and partition, the next offset.

    A topic or partition that is not listed has not been read at all. Topics stand in order.

    >>> str(TopicOffsets.parse("inv.public.orders:5.0+inv.public.lines:17"))
    'inv.public.lines:17+inv.public.orders:5.0'
    """

    offsets: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, offsets: Mapping[str, Sequence[int]]) -> TopicOffsets:
        return cls(tuple((topic, tuple(ends)) for topic, ends in sorted(offsets.items())))

    @classmethod
    def parse(cls, text: str) -> TopicOffsets:
        """Offsets written `topic:0.0.0`, topics joined by +; ConfigError when they are none."""
        found: dict[str, tuple[int, ...]] = {}
        for part in text.strip().split("+"):
            match = _TOPIC_OFFSETS.fullmatch(part)
            if match is None:
                raise ConfigError(
                    f"'{text}' is neither an LSN nor offsets of topics",
                    hint="write it as 0/16B3748, or as inv.public.orders:5.0",
                )
            found[match[1]] = tuple(int(at) for at in match[2].split("."))
        return cls.of(found)

    def covers(self, other: NativePosition) -> bool:
        if not isinstance(other, TopicOffsets):
            return False
        return not other.minus(self)

    def minus(self, other: TopicOffsets) -> int:
        """How many offsets there are up to here that are not up to `other`."""
        there = dict(other.offsets)
        return sum(
            max(0, at - (there[topic][number] if number < len(there.get(topic, ())) else 0))
            for topic, ends in self.offsets
            for number, at in enumerate(ends)
        )

    def __str__(self) -> str:
        return "+".join(f"{topic}:{'.'.join(map(str, ends))}" for topic, ends in self.offsets)


# What Kafka allows in a topic's name; no character of it separates.
_TOPIC_OFFSETS = re.compile(r"([A-Za-z0-9._-]+):(\d+(?:\.\d+)*)")


def parse_native(text: str) -> NativePosition:
    """A native position from its printed form."""
    return TopicOffsets.parse(text) if ":" in text else Lsn.parse(text)


@dataclass(frozen=True, slots=True)
class Vector(Mapping[str, NativePosition]):
    """One native position per source: what a cut, a view or a sink reflects.

    >>> str(Vector.parse("shop@0/16B3748,crm@0/1"))
    'crm@0/1,shop@0/16B3748'
    """

    positions: tuple[tuple[str, NativePosition], ...] = ()

    @classmethod
    def of(cls, positions: Mapping[str, NativePosition]) -> Vector:
        return cls(tuple(sorted(positions.items())))

    @classmethod
    def parse(cls, text: str) -> Vector:
        """Positions written `source@position`, joined by commas."""
        found: dict[str, NativePosition] = {}
        for part in filter(None, text.split(",")):
            source, at, native = part.strip().partition("@")
            if not at or not source:
                raise ConfigError(f"'{part}' is not a position", hint="write it as shop@0/16B3748")
            found[source] = parse_native(native)
        return cls.of(found)

    def covers(self, other: Mapping[str, NativePosition]) -> bool:
        """Whether, for every source of `other`, this vector has come at least as far."""
        return all(name in self and self[name].covers(p) for name, p in other.items())

    def advanced(self, newer: Mapping[str, NativePosition]) -> Vector:
        """This vector with the sources of `newer` replaced by theirs."""
        return Vector.of({**dict(self.positions), **newer})

    def __getitem__(self, source: str) -> NativePosition:
        for name, position in self.positions:
            if name == source:
                return position
        raise KeyError(source)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __str__(self) -> str:
        return ",".join(f"{name}@{position}" for name, position in self.positions)
