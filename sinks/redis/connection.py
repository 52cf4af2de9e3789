"""One connection to Redis: commands in bulk, transactions, and what its errors mean.

redis-py reads the URL, connects, authenticates and speaks TLS; packed commands go over its
connection. Nothing is tried again here, and a lost connection is not replaced silently: a
connection is made by the first command after `drop`, and every error drops it, so that no answer
is taken for another's.

    StoreUnavailable   down, loading, read-only after a failover, out of memory, cannot save: later
    SinkError          a wrong password, a missing right, a command that the server refuses
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cdc.errors import ConfigError, SinkError, StoreUnavailable, mask_url
from sinks.redis.protocol import Argument, Commands, packed

ANSWER_S = 60.0
CONNECT_S = 5.0

_LATER = {
    "OOM": "give Redis more memory (maxmemory), or remove keys",
    "READONLY": "this server is a replica: the url must lead to the primary",
    "LOADING": "",
    "MASTERDOWN": "",
    "MISCONF": "Redis cannot save to its disk: see its log",
    "BUSY": "a script is running in Redis: SCRIPT KILL ends it",
    "NOREPLICAS": "Redis misses replicas that its min-replicas-to-write asks for",
    "TRYAGAIN": "",
    "CLUSTERDOWN": "",
}
_NEVER = {
    "NOPERM": "the sink's user needs the commands that docs/redis.md lists: see ACL SETUSER",
    "NOAUTH": "the url needs a password: redis://user:${PASSWORD}@host:6379/0",
    "MOVED": "Redis Cluster cannot change keys of several slots at once: use a server without it",
    "CROSSSLOT": "Redis Cluster cannot change keys of several slots at once: use a server without",
}


class Connection:
    """Used by one thread. `where` stands in every error."""

    def __init__(self, url: str, where: str) -> None:
        self._where = where
        try:
            pool = redis.ConnectionPool.from_url(
                url,
                socket_timeout=ANSWER_S,
                socket_connect_timeout=CONNECT_S,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except (ValueError, redis.RedisError) as error:
            raise ConfigError(
                f"'{mask_url(url)}' is not a Redis URL",
                where=where,
                hint="write it as redis://user:password@host:6379/0",
            ) from error
        pool.connection_kwargs["decode_responses"] = False
        self._pool = pool
        self._connection: Any = None

    def call(self, *arguments: Argument) -> Any:
        """One command's answer."""
        commands = Commands()
        commands.add(*arguments)
        return self.pipeline(commands)[0]

    def pipeline(self, commands: Commands) -> list[Any]:
        """The answers of several commands, sent at once."""
        with self._errors():
            self._send(commands.buffers)
            return self._answers(commands.count)

    def transaction(
        self, commands: Commands, before_exec: Callable[[], None] = lambda: None
    ) -> list[Any] | None:
        """MULTI … EXEC. None: nothing was done, since a watched key had changed. `before_exec` is
        called when all commands are on their way, but for EXEC.

        Raises SinkError where a command failed when it was its turn, which Redis finds out after
        having begun: the others were executed. The error's `executed` is True then.
        """
        with self._errors():
            self._send([packed("MULTI"), *commands.buffers])
            before_exec()
            self._send([packed("EXEC")])
            self._answers(commands.count + 1)
            answers = self._connection.read_response()
            if answers is not None:
                failed = [one for one in answers if isinstance(one, redis.RedisError)]
                if failed:
                    raise Halfway(
                        f"Redis refused one of the changes: {failed[0]}", where=self._where
                    )
        return answers

    def drop(self) -> None:
        """Close the connection, if there is one; the next command makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _send(self, buffers: Sequence[bytes | memoryview]) -> None:
        if self._connection is None:
            self._connection = self._pool.make_connection()
            self._connection.connect()
        joined = list(buffers) if len(buffers) > 8 else [b"".join(buffers)]
        self._connection.send_packed_command(joined, check_health=False)

    def _answers(self, count: int) -> list[Any]:
        read = self._connection.read_response
        return [read() for _ in range(count)]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.drop()
            if isinstance(error, redis.RedisError | OSError):
                raise self._meaning(error) from error
            raise

    def _meaning(self, error: Exception) -> SinkError:
        text = mask_url(str(error))
        code = _code(error)
        if code in _LATER:
            return StoreUnavailable(f"Redis: {text}", where=self._where, hint=_LATER[code])
        if isinstance(
            error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError
        ):
            hint = _NEVER.get(code, "see user and password of the url")
            return SinkError(f"Redis: {text}", where=self._where, hint=hint)
        if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
            return StoreUnavailable(f"Redis: {text}", where=self._where)
        return SinkError(f"Redis: {text}", where=self._where, hint=_NEVER.get(code, ""))


class Halfway(SinkError):
    """Some commands of a transaction were executed, and one was not."""


# redis-py takes the first word off an answer that it knows, and says it by the error's class.
_CODES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
}


def _code(error: Exception) -> str:
    """The first word of the server's answer."""
    return _CODES.get(type(error).__name__) or str(error).partition(" ")[0]
