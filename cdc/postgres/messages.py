"""The messages of pgoutput that are not rows (protocol version 1).

Source: PostgreSQL documentation, "Logical Replication Message Formats". Begin and Commit may be
as frequent as rows and are read by the thousand in pgoutput.py; those here are rare.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cdc.errors import BadData

PG_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, where Postgres's clock starts, in microseconds since 1970."""


@dataclass(frozen=True)
class RelationColumn:
    """One column of a Relation message. `is_identity`: part of the replica identity (all columns
    are, under REPLICA IDENTITY FULL)."""

    name: str
    type_oid: int
    typmod: int
    is_identity: bool


@dataclass(frozen=True)
class Relation:
    """What the tuples that follow look like. `identity` is pg_class.relreplident: d, n, f, i."""

    oid: int
    namespace: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def table(self) -> str:
        """`schema.table`, as in TableSchema.name."""
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True)
class TypeName:
    """A type that is not built in, announced before the Relation that uses it."""

    oid: int
    namespace: str
    name: str


@dataclass(frozen=True)
class Origin:
    """The transaction was replicated from another server."""

    lsn: int
    name: str


@dataclass(frozen=True)
class LogicalMessage:
    """pg_logical_emit_message: our barriers and watermarks."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


@dataclass(frozen=True)
class Truncate:
    """TRUNCATE of relations (by oid) that are in the publication."""

    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


Control = Relation | TypeName | Origin | LogicalMessage | Truncate


def parse(body: bytes, *, where: str) -> Control:
    """The message in `body` (its kind byte first, no XLogData header). BadData when it is of an
    unknown kind or does not end where it should."""
    parser = _PARSERS.get(body[:1])
    if parser is None:
        raise _malformed(body, where)
    try:
        message, end = parser(body)
    except (struct.error, ValueError) as error:
        raise _malformed(body, where) from error
    if end != len(body):
        raise _malformed(body, where)
    return message


def _malformed(body: bytes, where: str) -> BadData:
    return BadData(
        f"not a pgoutput message that is understood: {body[:32].hex(' ')}",
        where=where,
        hint="the server speaks another version of the protocol, or the connection is damaged",
    )


def _relation(body: bytes) -> tuple[Relation, int]:
    (oid,) = struct.unpack_from(">I", body, 1)
    namespace, at = _text(body, 5)
    name, at = _text(body, at)
    identity, count = struct.unpack_from(">cH", body, at)
    at += 3
    columns = []
    for _ in range(count):
        flags = body[at]
        column, at = _text(body, at + 1)
        type_oid, typmod = struct.unpack_from(">Ii", body, at)
        at += 8
        columns.append(RelationColumn(column, type_oid, typmod, bool(flags & 1)))
    # The server leaves the schema empty for pg_catalog.
    space = namespace or "pg_catalog"
    return Relation(oid, space, name, identity.decode(), tuple(columns)), at


def _type(body: bytes) -> tuple[TypeName, int]:
    (oid,) = struct.unpack_from(">I", body, 1)
    namespace, at = _text(body, 5)
    name, at = _text(body, at)
    return TypeName(oid, namespace or "pg_catalog", name), at


def _origin(body: bytes) -> tuple[Origin, int]:
    (lsn,) = struct.unpack_from(">Q", body, 1)
    name, at = _text(body, 9)
    return Origin(lsn, name), at


def _message(body: bytes) -> tuple[LogicalMessage, int]:
    flags, lsn = struct.unpack_from(">BQ", body, 1)
    prefix, at = _text(body, 10)
    (length,) = struct.unpack_from(">I", body, at)
    content = body[at + 4 : at + 4 + length]
    return LogicalMessage(bool(flags & 1), lsn, prefix, content), at + 4 + length


def _truncate(body: bytes) -> tuple[Truncate, int]:
    count, options = struct.unpack_from(">IB", body, 1)
    relations = struct.unpack_from(f">{count}I", body, 6)
    return Truncate(relations, bool(options & 1), bool(options & 2)), 6 + 4 * count


def _text(body: bytes, at: int) -> tuple[str, int]:
    end = body.index(0, at)
    return body[at:end].decode(), end + 1


_PARSERS: Mapping[bytes, Callable[[bytes], tuple[Control, int]]] = {
    b"R": _relation,
    b"Y": _type,
    b"O": _origin,
    b"M": _message,
    b"T": _truncate,
}
