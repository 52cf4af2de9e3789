"""Where in a source's history: native positions, and vectors of them (SEMANTICS 1).

A native position stands once per frontier and offers `covers`, not `<`: MySQL's GTID sets
can be incomparable. Inside the log, changes are ordered by (txn_seq, ordinal), which are plain
int64 columns of a change batch.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


Intervals = tuple[tuple[int, int], ...]
"""Transaction numbers, first and last included; disjoint, ascending, never adjacent."""


@dataclass(frozen=True, slots=True)
class GtidSet:
    """MySQL's executed transactions: per server (and tag), intervals of transaction numbers.

    Written as MySQL does but for its commas: servers are joined by +, and a single transaction is
    an interval too, so that no other position looks alike. Servers stand in order.

    >>> uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
    >>> executed = GtidSet.parse(f"{uuid}:1-3:11:47-49")
    >>> str(executed).removeprefix(uuid), executed.covers(GtidSet.parse(f"{uuid}:2:48"))
    (':1-3:11-11:47-49', True)
    """

    servers: tuple[tuple[str, Intervals], ...] = ()

    @classmethod
    def of(cls, servers: Mapping[str, Iterable[tuple[int, int]]]) -> GtidSet:
        """Intervals in any order, which may overlap, by `uuid` or `uuid:tag`."""
        joined = {name: _joined(intervals) for name, intervals in servers.items()}
        return cls(tuple((name, found) for name, found in sorted(joined.items()) if found))

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """The set as printed here, or by MySQL (`uuid:1-3:5,uuid2:1`; empty: no transaction).
        ConfigError when it is none."""
        found: dict[str, list[tuple[int, int]]] = {}
        for part in filter(None, re.split(r"[+,\s]+", text)):
            if part == _NO_GTIDS:
                continue
            uuid, *rest = part.split(":")
            name = uuid.lower()
            if not (_UUID.fullmatch(name) and rest):
                raise _no_gtids(text)
            for word in rest:
                interval = _INTERVAL.fullmatch(word)
                if interval is not None:
                    first, last = int(interval[1]), int(interval[2] or interval[1])
                    if not 0 < first <= last:
                        raise _no_gtids(text)
                    found.setdefault(name, []).append((first, last))
                elif _TAG.fullmatch(word):
                    name = f"{uuid.lower()}:{word}"
                else:
                    raise _no_gtids(text)
        return cls.of(found)

    def covers(self, other: NativePosition) -> bool:
        if not isinstance(other, GtidSet):
            return False
        mine = dict(self.servers)
        return all(
            _contain(mine.get(name, ()), first, last)
            for name, intervals in other.servers
            for first, last in intervals
        )

    def union(self, other: GtidSet) -> GtidSet:
        both = {name: list(intervals) for name, intervals in self.servers}
        for name, intervals in other.servers:
            both.setdefault(name, []).extend(intervals)
        return GtidSet.of(both)

    def minus(self, other: GtidSet) -> int:
        """How many transactions are in this set and not in `other`."""
        return self.union(other)._count() - other._count()

    def _count(self) -> int:
        return sum(last - first + 1 for _, found in self.servers for first, last in found)

    def __str__(self) -> str:
        return (
            "+".join(
                ":".join([name, *(f"{first}-{last}" for first, last in intervals)])
                for name, intervals in self.servers
            )
            or _NO_GTIDS
        )


def _joined(intervals: Iterable[tuple[int, int]]) -> Intervals:
    found: list[tuple[int, int]] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def _contain(intervals: Intervals, first: int, last: int) -> bool:
    at = bisect_right(intervals, (first, _AFTER_ALL)) - 1
    return at >= 0 and last <= intervals[at][1]


def _no_gtids(text: str) -> ConfigError:
    return ConfigError(f"'{text}' is not a GTID set", hint="write it as uuid:1-77")


_AFTER_ALL = 2**64
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTERVAL = re.compile(r"(\d+)(?:-(\d+))?")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_NO_GTIDS = "gtid:0-0"
_GTID_SET = re.compile(r"gtid:0-0|[0-9A-Fa-f-]{36}:(\w+:)?\d+-\d+([:+].*)?")


@dataclass(frozen=True, slots=True)
class MariaGtid:
    """MariaDB's position: the newest transaction of each replication domain, as
    `domain-server-number`, domains in order and joined by +.

    >>> str(MariaGtid.parse("1-7-5,0-1-1234"))
    '0-1-1234+1-7-5'
    """

    domains: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, newest: Mapping[int, tuple[int, int]]) -> MariaGtid:
        """By domain: server and number."""
        return cls(tuple((domain, *newest[domain]) for domain in sorted(newest)))

    @classmethod
    def parse(cls, text: str) -> MariaGtid:
        """The position as printed here, or by MariaDB (joined by commas; empty: nothing).
        ConfigError when it is none."""
        newest: dict[int, tuple[int, int]] = {}
        for part in filter(None, re.split(r"[+,\s]+", text)):
            match = _MARIA_GTID.fullmatch(part)
            if match is None:
                raise ConfigError(
                    f"'{text}' is not a position of MariaDB", hint="write it as 0-1-1234"
                )
            if part != _NO_MARIA_GTID:
                newest[int(match[1])] = (int(match[2]), int(match[3]))
        return cls.of(newest)

    def covers(self, other: NativePosition) -> bool:
        return isinstance(other, MariaGtid) and not other.minus(self)

    def minus(self, other: MariaGtid) -> int:
        """How many transaction numbers there are up to here that are not up to `other`."""
        there = {domain: number for domain, _, number in other.domains}
        return sum(max(0, number - there.get(domain, 0)) for domain, _, number in self.domains)

    def __str__(self) -> str:
        return "+".join(f"{d}-{server}-{n}" for d, server, n in self.domains) or _NO_MARIA_GTID


_MARIA_GTID = re.compile(r"(\d+)-(\d+)-(\d+)")
_NO_MARIA_GTID = "0-0-0"


@dataclass(frozen=True, slots=True)
class BinlogPosition:
    """A byte of a binlog file: where a server without GTIDs is.

    >>> BinlogPosition.parse("binlog.000010/4").covers(BinlogPosition.parse("binlog.000009/1234"))
    True
    """

    file: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> BinlogPosition:
        """The position written `file/offset`; ConfigError when it is none."""
        match = _BINLOG_POSITION.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"'{text}' is not a position in a binlog", hint="write it as binlog.000003/1234"
            )
        return cls(match[1], int(match[2]))

    @property
    def number(self) -> int:
        """The file's number in its server's sequence."""
        return int(self.file.rpartition(".")[2])

    def covers(self, other: NativePosition) -> bool:
        return (
            isinstance(other, BinlogPosition)
            and self.file.rpartition(".")[0] == other.file.rpartition(".")[0]
            and (self.number, self.offset) >= (other.number, other.offset)
        )

    def __str__(self) -> str:
        return f"{self.file}/{self.offset}"


_BINLOG_POSITION = re.compile(r"([^\s,@+:/]+\.\d+)/(\d+)")


def parse_native(text: str) -> NativePosition:
    """A native position from its printed form."""
    if _GTID_SET.fullmatch(text):
        return GtidSet.parse(text)
    if ":" in text:
        return TopicOffsets.parse(text)
    if _MARIA_GTID.match(text):
        return MariaGtid.parse(text)
    return BinlogPosition.parse(text) if _BINLOG_POSITION.fullmatch(text) else Lsn.parse(text)


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
