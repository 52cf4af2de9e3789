"""What the stream must know of a QUERY besides its text: how it was run, and its first words."""

from __future__ import annotations

from cdc.mysql.events import Kind

_FIXED = 32
_FLAGS2, _SQL_MODE = 0, 1
_STRICT = 1 << 22 | 1 << 23
_LOAD_BYTES = 13


def is_strict(event: bytes) -> bool:
    """Whether it ran in a strict sql_mode, which refuses values that it would have to change. The
    status variables stand in a fixed order."""
    status = event[_FIXED : _FIXED + int.from_bytes(event[30:32], "little")]
    at = 5 if status[:1] == bytes([_FLAGS2]) else 0
    if status[at : at + 1] != bytes([_SQL_MODE]):
        return False
    return bool(int.from_bytes(status[at + 1 : at + 9], "little") & _STRICT)


def of_load(event: bytes) -> bytes:
    """The QUERY that an EXECUTE_LOAD_QUERY is, without what it says about the file."""
    head = event[:4] + bytes([Kind.QUERY]) + event[5:_FIXED]
    return head + event[_FIXED + _LOAD_BYTES :]


def words(sql: str, count: int) -> tuple[str, ...]:
    """The first words, in capitals."""
    return tuple(sql.upper().split(maxsplit=count)[:count])
