"""Connections to Postgres: ordinary ones, and one that speaks the replication protocol.

All have the settings under which values mean the same in text everywhere (types.SESSION_SETTINGS).
Errors come out as SourceError with the URL's password masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn

from cdc.errors import SourceError, mask_url
from cdc.postgres.types import SESSION_SETTINGS

APPLICATION = "cdc"
CONNECT_TIMEOUT_S = 10
_NO_TIMEOUTS = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}

Connection = psycopg.Connection[tuple[Any, ...]]


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
        raise SourceError(
            f"no replication connection: {mask_url(message)}",
            where=mask_url(url),
            hint="the user needs the REPLICATION attribute, and pg_hba.conf must let it in",
        )
    return connection


def execute(connection: PGconn, command: str, where: str) -> list[tuple[str | None, ...]]:
    """Run one replication command; its rows as text. Raises SourceError."""
    result = connection.exec_(command.encode())
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise SourceError(error_text(result.error_message), where=where)
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
        raise SourceError(
            mask_url(str(error).strip()), where=mask_url(url), hint=_hint(error)
        ) from error


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
