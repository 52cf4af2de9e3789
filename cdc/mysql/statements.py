"""What the stream must know of a QUERY besides its text: how it was run, and its first words."""

from __future__ import annotations

from cdc.mysql.events import Kind

_FIXED = 32
_FLAGS2, _SQL_MODE = 0, 1
_UPDATED, _MANY = 12, 254
_STATUS_BYTES = {0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4}
_STATUS_STRINGS = {2: (1, 1), 5: (1, 0), 6: (1, 0), 11: (2, 0)}
"""By code, how many strings with a byte of length, and the bytes behind them."""
_NO_BACKSLASH_ESCAPES, _STRICT = 1 << 20, 1 << 21 | 1 << 22
_LOAD_BYTES = 13


def is_strict(event: bytes) -> bool:
    """Whether it ran in a strict sql_mode, which refuses values that it would have to change."""
    return bool(_sql_mode(event) & _STRICT)


def has_escapes(event: bytes) -> bool:
    """Whether backslashes are escapes in its strings."""
    return not _sql_mode(event) & _NO_BACKSLASH_ESCAPES


def _sql_mode(event: bytes) -> int:
    """The status variables stand in a fixed order."""
    status = _status(event)
    at = 5 if status[:1] == bytes([_FLAGS2]) else 0
    if status[at : at + 1] != bytes([_SQL_MODE]):
        return 0
    return int.from_bytes(status[at + 1 : at + 9], "little")


def _status(event: bytes) -> bytes:
    return event[_FIXED : _FIXED + int.from_bytes(event[30:32], "little")]


def updated_databases(event: bytes) -> tuple[str, ...] | None:
    """MySQL: the databases of the tables that a statement changes, also by triggers and functions
    (Q_UPDATED_DB_NAMES among the status variables); None: too many to be named. MariaDB never says
    any."""
    status = _status(event)
    at = 0
    while at < len(status):
        code, at = status[at], at + 1
        if code == _UPDATED:
            count = status[at] if at < len(status) else 0
            names = status[at + 1 :].split(b"\0")[:count]
            return None if count >= _MANY else tuple(n.decode("utf-8", "replace") for n in names)
        if code in _STATUS_BYTES:
            at += _STATUS_BYTES[code]
        elif code in _STATUS_STRINGS:
            strings, more = _STATUS_STRINGS[code]
            for _ in range(strings):
                at += 1 + (status[at] if at < len(status) else 0)
            at += more
        else:
            break
    return ()


def of_load(event: bytes) -> bytes:
    """The QUERY that an EXECUTE_LOAD_QUERY is, without what it says about the file."""
    head = event[:4] + bytes([Kind.QUERY]) + event[5:_FIXED]
    return head + event[_FIXED + _LOAD_BYTES :]


def words(sql: str, count: int) -> tuple[str, ...]:
    """The first words, in capitals."""
    return tuple(sql.upper().split(maxsplit=count)[:count])
