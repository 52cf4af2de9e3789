"""`cdc query` of a Redis sink: a key, a pattern, a range, or one of Redis's reading commands.

    order:17                                   the key's value: text, fields, or members with scores
    order:1*                                   keys and values of a pattern (* ? [ ])
    leaderboard 0 9 rev                        ranks 0 to 9 of a sorted set; rev: highest first
    ZREVRANGE leaderboard 0 9 WITHSCORES       a command that only reads

A key that exists is taken as such first. Words may be put in quotation marks.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from cdc.errors import SinkError
from sinks.api import QueryResult
from sinks.documents import parsed
from sinks.redis.connection import Connection
from sinks.redis.protocol import Commands
from sinks.redis.read import scan

KEYS_MAX = 10_000
_READING = frozenset(
    [
        "bitcount",
        "dbsize",
        "exists",
        "expiretime",
        "get",
        "getbit",
        "getrange",
        "hexists",
        "hget",
        "hgetall",
        "hkeys",
        "hlen",
        "hmget",
        "hrandfield",
        "hscan",
        "hstrlen",
        "hvals",
        "lindex",
        "llen",
        "lrange",
        "mget",
        "pexpiretime",
        "pttl",
        "randomkey",
        "scan",
        "scard",
        "sdiff",
        "sinter",
        "sismember",
        "smembers",
        "smismember",
        "sscan",
        "strlen",
        "sunion",
        "ttl",
        "type",
        "xlen",
        "xrange",
        "xrevrange",
        "zcard",
        "zcount",
        "zlexcount",
        "zmscore",
        "zrandmember",
        "zrange",
        "zrangebylex",
        "zrangebyscore",
        "zrank",
        "zrevrange",
        "zrevrangebylex",
        "zrevrangebyscore",
        "zrevrank",
        "zscan",
        "zscore",
    ]
)


def answer(connection: Connection, text: str, where: str) -> QueryResult:
    """Raises SinkError for what is none of these, and for what Redis refuses."""
    text = text.strip()
    if not text:
        raise _not_understood(where)
    if connection.call("TYPE", text) != b"none":
        return _key(connection, text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SinkError(f"query: {error}", where=where) from error
    if words and words[0].lower() in _READING:
        return _command(connection, words)
    if len(words) == 1:
        found = _pattern(connection, words[0], where) if re.search(r"[*?\[]", text) else None
        return found or _key(connection, words[0])
    if _is_range(words):
        return _range(connection, words)
    raise _not_understood(where)


def _key(connection: Connection, key: str) -> QueryResult:
    kind = connection.call("TYPE", key)
    match kind:
        case b"string":
            return QueryResult(("key", "value"), [[key, _document(connection.call("GET", key))]])
        case b"hash":
            return _pairs(("field", "value"), connection.call("HGETALL", key))
        case b"zset":
            flat = connection.call("ZRANGE", key, 0, -1, "WITHSCORES")
            return _pairs(("member", "score"), flat)
        case b"set":
            return QueryResult(("member",), [[_text(m)] for m in connection.call("SMEMBERS", key)])
        case b"list":
            return QueryResult(
                ("element",), [[_text(e)] for e in connection.call("LRANGE", key, 0, -1)]
            )
    return QueryResult(("key", "value"), [])


def _pattern(connection: Connection, glob: str, where: str) -> QueryResult:
    keys: set[bytes] = set()
    for page in scan(connection, glob):
        keys.update(page)
        if len(keys) > KEYS_MAX:
            raise SinkError(
                f"more than {KEYS_MAX:,} keys match {glob}", where=where, hint="narrow the pattern"
            )
    ordered = sorted(keys)
    kinds, values = Commands(), Commands()
    for key in ordered:
        kinds.add("TYPE", key)
    read = {b"string": ("GET",), b"hash": ("HGETALL",), b"zset": ("ZRANGE",)}
    found = connection.pipeline(kinds)
    for key, kind in zip(ordered, found, strict=True):
        tail = ("0", "-1", "WITHSCORES") if kind == b"zset" else ()
        values.add(*read.get(kind, ("TYPE",)), key, *tail)
    answers = connection.pipeline(values)
    rows = [
        [_text(key), _value(kind, one)]
        for key, kind, one in zip(ordered, found, answers, strict=True)
    ]
    return QueryResult(("key", "value"), rows)


def _value(kind: bytes, answer: Any) -> Any:
    if kind in {b"hash", b"zset"}:
        return {_text(a): _text(b) for a, b in zip(answer[::2], answer[1::2], strict=True)}
    return _document(answer) if kind == b"string" else _text(answer)


def _document(value: bytes | None) -> Any:
    """A JSON object as such, so that it is not printed as a text inside JSON; else the text."""
    if value is not None and value.startswith(b"{"):
        try:
            return parsed(value)
        except ValueError:
            pass  # a text that only begins like one
    return _text(value)


def _is_range(words: Sequence[str]) -> bool:
    numbers = len(words) in {3, 4} and all(re.fullmatch(r"-?\d+", word) for word in words[1:3])
    return numbers and (len(words) == 3 or words[3].lower() == "rev")


def _range(connection: Connection, words: Sequence[str]) -> QueryResult:
    flat = connection.call("ZRANGE", *words[:3], *words[3:], "WITHSCORES")
    return _pairs(("member", "score"), flat)


def _command(connection: Connection, words: Sequence[str]) -> QueryResult:
    found = connection.call(*words)
    scored = any(word.lower() == "withscores" for word in words)
    if scored and isinstance(found, list):
        return _pairs(("member", "score"), found)
    if words[0].lower() == "hgetall":
        return _pairs(("field", "value"), found)
    values = found if isinstance(found, list) else [found]
    return QueryResult(("value",), [[_plain(value)] for value in values])


def _pairs(columns: tuple[str, str], flat: Sequence[bytes]) -> QueryResult:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return QueryResult(columns, [[_text(a), _text(b)] for a, b in pairs])


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return _text(value) if isinstance(value, bytes) else value


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _not_understood(where: str) -> SinkError:
    return SinkError(
        "this is no key, pattern, range or reading command",
        where=where,
        hint="write order:17, order:1*, leaderboard 0 9 rev, or ZSCORE leaderboard 17",
    )
