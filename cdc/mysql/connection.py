"""Connections to MySQL and MariaDB, and the errors they end with.

What a URL may say stands in cdc/mysql/address.py.

Every session has the settings under which a value reads the same everywhere: time zone UTC,
utf8mb4, zero dates as they are, no limit of time or rows on a query, reads repeatable. Errors come
out as SourceError with the URL's password masked: as SourceUnavailable where trying again may help,
by the server's error number, or because the connection broke.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import pymysql
from pymysql.connections import Connection as PyConnection
from pymysql.cursors import Cursor

from cdc.errors import SourceError, SourceUnavailable, mask_url
from cdc.mysql.address import address

APPLICATION = "cdc"
CONNECT_TIMEOUT_S = 10
_DAY_S = 86400

Connection: TypeAlias = "PyConnection[Cursor]"
Row = tuple[Any, ...]

# A peer that is gone without a word is noticed after about a minute and a half.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))

_SESSION = (
    "time_zone = '+00:00'",
    "sql_mode = ''",
    "character_set_results = utf8mb4",
    f"wait_timeout = {30 * _DAY_S}",
    f"net_write_timeout = {_DAY_S}",
    f"net_read_timeout = {_DAY_S}",
    "sql_select_limit = DEFAULT",
    "sql_big_selects = 1",
    "sql_auto_is_null = 0",
)
# The estimates of a day ago (the default) know nothing of a table that was filled since.
_MYSQL = ("max_execution_time = 0", "information_schema_stats_expiry = 0")
_MARIADB = (
    "max_statement_time = 0",
    "idle_transaction_timeout = 0",
    "idle_readonly_transaction_timeout = 0",
)

# Cannot connect, gone, lost; too many connections, shutting down, network, lock wait, deadlock,
# resources of a user, killed, offline. Not: host blocked (1129), access denied.
_PASSING = frozenset(
    {2002, 2003, 2005, 2006, 2013, 2014, 2055}
    | {1040, 1041, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184}
    | {1203, 1205, 1213, 1226, 1317, 1927, 3024, 3032, 3168, 3169, 4031, 1969}
)
_DENIED = frozenset((1045, 1698, 1251, 1820, 1862, 3118, 4151))
_NO_RIGHT = frozenset((1044, 1142, 1143, 1227, 1370))
_UNKNOWN_DATABASE = 1049
_CANNOT_CONNECT = frozenset((2002, 2003, 2005))
_SSL = 2026


def connect(url: str) -> Connection:
    """A connection in autocommit mode, waiting for answers without limit. Raises SourceError."""
    to = address(url)
    encryption = _ssl(to.options, url)
    with source_errors(url):
        connection = pymysql.connect(
            host=to.host,
            port=to.port,
            user=to.user,
            password=to.password.encode(),  # a str would be sent as Latin-1
            database=to.database or None,
            unix_socket=to.options.get("socket"),
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=CONNECT_TIMEOUT_S,
            program_name=APPLICATION,
            **encryption,
        )
        own = _MARIADB if is_mariadb(connection) else _MYSQL
        execute(connection, "SET SESSION " + ", ".join((*_SESSION, *own)))
        execute(connection, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        _patient(connection)
    return connection


def is_mariadb(connection: Connection) -> bool:
    """Whether the server calls itself MariaDB."""
    return "mariadb" in str(internals(connection).server_version).lower()


def internals(connection: Connection) -> Any:
    """The connection with what PyMySQL does not declare: its socket, packets and server_status."""
    return connection


def execute(connection: Connection, statement: str, arguments: Sequence[Any] = ()) -> None:
    """Run one statement whose rows, if any, are of no interest."""
    query(connection, statement, arguments)


def query(connection: Connection, statement: str, arguments: Sequence[Any] = ()) -> list[Row]:
    """All rows of a statement, as tuples of Python values; `%s` stands for an argument."""
    with connection.cursor() as cursor:
        cursor.execute(statement, tuple(arguments) or None)
        return list(cursor.fetchall())


def close(connection: Connection) -> None:
    """Close, whatever state the connection is in. More than once does no harm."""
    with suppress(pymysql.Error):
        connection.close()


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """PyMySQL's errors, and those of its socket, as SourceError with the URL masked."""
    try:
        yield
    except (pymysql.MySQLError, OSError) as error:
        raise source_error(error, url) from error


def source_error(error: pymysql.MySQLError | OSError, url: str) -> SourceError:
    """What went wrong, as one of ours."""
    number = error_number(error)
    text = mask_url(str(error.args[-1] if error.args else error)).strip()
    if isinstance(error, OSError):
        text = f"the connection broke: {text}"
    kind = SourceUnavailable if _passes(error, number) else SourceError
    return kind(text or "the connection broke", where=mask_url(url), hint=_hint(number, text))


def error_number(error: BaseException) -> int:
    """The server's (or client's) error number; 0 without one."""
    first = error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else 0
    return first if isinstance(first, int) else 0


def _passes(error: BaseException, number: int) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    caused = getattr(error, "original_exception", None)
    if isinstance(caused, ssl.SSLCertVerificationError):
        return False
    # PyMySQL says so, without a number, of a connection that it closed after an error.
    closed = isinstance(error, pymysql.err.InterfaceError)
    return isinstance(error, OSError) or number in _PASSING or closed


def _hint(number: int, text: str) -> str:
    if number in _DENIED:
        return "are user and password of the URL right, and may the user come from this host?"
    if number in _NO_RIGHT:
        return "grant the right to the user of the URL, or connect as another"
    if number == _UNKNOWN_DATABASE:
        return "the URL's path names the database"
    if number == _SSL or "certificate" in text.lower():
        return "ssl-mode and ssl-ca of the URL say how the server is trusted"
    if number in _CANNOT_CONNECT:
        return "is the server running, and are host and port right?"
    return ""


def _ssl(options: dict[str, str], url: str) -> dict[str, Any]:
    """PyMySQL's arguments for an ssl-mode. SourceError when a certificate cannot be read."""
    mode = options["ssl-mode"]
    if mode == "DISABLED":
        return {"ssl_disabled": True}
    if mode == "PREFERRED" and "ssl-ca" not in options and "ssl-cert" not in options:
        return {}
    try:
        context = ssl.create_default_context(cafile=options.get("ssl-ca"))
        if "ssl-cert" in options:
            context.load_cert_chain(options["ssl-cert"], options.get("ssl-key"))
    except OSError as error:
        raise SourceError(
            f"the certificates of the URL cannot be read: {error}",
            where=mask_url(url),
            hint="ssl-ca, ssl-cert and ssl-key are files in PEM form on this machine",
        ) from error
    # Certificates that the server made itself lack what Python 3.13 asks for by default.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "VERIFY_IDENTITY"
    verify = mode in ("VERIFY_CA", "VERIFY_IDENTITY")
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return {"ssl": context}


def _patient(connection: Connection) -> None:
    """Wait for answers without limit, but notice a peer that is gone."""
    wire = internals(connection)
    wire._read_timeout = None
    sock: socket.socket = wire._sock
    sock.settimeout(None)
    if sock.family == socket.AF_UNIX:
        return
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
