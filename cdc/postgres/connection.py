"""Connections to Postgres: ordinary ones, and one that speaks the replication protocol.

All have the settings under which values mean the same in text everywhere (types.SESSION_SETTINGS).
Errors come out as SourceError with the URL's password masked: as SourceUnavailable where trying
again may help, by the SQLSTATE. libpq has none for a connection that was refused; then the message
decides, and one that is not known (in another language) is worth another try.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn, PGresult

from cdc.errors import SourceError, SourceUnavailable, mask_url
from cdc.postgres.types import SESSION_SETTINGS

APPLICATION = "cdc"
CONNECT_TIMEOUT_S = 10
_NO_TIMEOUTS = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}

Connection = psycopg.Connection[tuple[Any, ...]]

# Connection exceptions, resources that ran out, the server stopping or starting, deadlocks, locks
# and slots that somebody holds, timeouts. Not: no slot is free (53400), database dropped (57P04).
_PASSING_CLASSES = ("08", "53", "57")
_PASSING = frozenset(("40001", "40P01", "55006", "55P03", "25P03", "25P04"))
_LASTING = frozenset(("53400", "57P04"))
_REFUSED_FOR_GOOD = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|(role|database) .* does not exist"
    r"|not permitted to log in|permission denied|must be superuser|not currently accepting"
    r"|does not support SSL|certificate|invalid port"
)


def connect(url: str) -> Connection:
    """An ordinary connection in autocommit mode. Raises SourceError."""
    with source_errors(url):
        return psycopg.connect(_conninfo(url), autocommit=True, prepare_threshold=None)


def connect_replication(url: str) -> PGconn:
    """A connection to a walsender of the URL's database. Raises SourceError."""
    connection = pq.PGconn.connect(_conninfo(url, replication="database").encode())
    if connection.status != pq.ConnStatus.OK:
        message = connection.error_message.decode(errors="replace").strip()
        connection.finish()
        raise kind_of(None, message)(
            f"no replication connection: {mask_url(message)}",
            where=mask_url(url),
            hint="the user needs the REPLICATION attribute, and pg_hba.conf must let it in",
        )
    return connection


def execute(connection: PGconn, command: str, where: str) -> list[tuple[str | None, ...]]:
    """Run one replication command; its rows as text. Raises SourceError."""
    result = connection.exec_(command.encode())
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise result_error(result, where)
    return [
        tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """psycopg's errors as SourceError, with the URL masked."""
    try:
        yield
    except psycopg.Error as error:
        what = str(error).strip()
        may_pass = error.sqlstate is not None or isinstance(error, psycopg.OperationalError)
        kind = kind_of(error.sqlstate, what) if may_pass else SourceError
        raise kind(mask_url(what), where=mask_url(url), hint=_hint(error)) from error


def result_error(result: PGresult | None, where: str, hint: str = "") -> SourceError:
    """What a result says that is not what was asked for; None: the connection ended without one."""
    if result is None:
        return SourceUnavailable("the server ended the connection", where=where, hint=hint)
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    text = error_text(result.error_message) or "the server ended the stream"
    kind = kind_of(None if state is None else state.decode(), text)
    return kind(text, where=where, hint=hint)


def kind_of(sqlstate: str | None, message: str) -> type[SourceError]:
    """SourceUnavailable where trying again may help; without a SQLSTATE the message decides."""
    if sqlstate is None:
        passes = _REFUSED_FOR_GOOD.search(message) is None
    else:
        passes = sqlstate not in _LASTING and (
            sqlstate.startswith(_PASSING_CLASSES) or sqlstate in _PASSING
        )
    return SourceUnavailable if passes else SourceError


def error_text(message: bytes) -> str:
    """libpq's message on one line, without its severity."""
    text = mask_url(message.decode(errors="replace").strip())
    return " ".join(text.removeprefix("ERROR:").split())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _conninfo(url: str, **extra: str) -> str:
    own = conninfo_to_dict(url)
    settings = " ".join(
        f"-c {name}={value}" for name, value in {**SESSION_SETTINGS, **_NO_TIMEOUTS}.items()
    )
    options = f"{own.get('options') or ''} {settings}".strip()
    defaults: dict[str, Any] = {
        "application_name": APPLICATION,
        "connect_timeout": CONNECT_TIMEOUT_S,
    }
    return make_conninfo("", **{**defaults, **own, "options": options, **extra})


def _hint(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "grant the right to the user of the URL, or connect as another"
    if isinstance(error, psycopg.OperationalError):
        return "is the server running, and are host, port, user and password right?"
    return ""
