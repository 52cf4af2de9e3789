"""The URL of a MySQL or MariaDB server, taken apart. Needs no client library: the configuration is
read without one.

`mysql://user:password@host:port/database?ssl-mode=...`, user and password percent-encoded. The
parameters are those of the `mysql` client: `ssl-mode` (DISABLED, PREFERRED, REQUIRED, VERIFY_CA,
VERIFY_IDENTITY), `ssl-ca`, `ssl-cert`, `ssl-key`, `socket`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from cdc.errors import ConfigError, mask_url

PORT = 3306
SCHEMES = ("mysql", "mariadb")
SSL_MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
EXAMPLE = "mysql://user:password@host:3306/database"
_PARAMETERS = ("ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket")


@dataclass(frozen=True)
class Address:
    """A URL taken apart."""

    host: str
    port: int
    user: str
    password: str
    database: str
    options: dict[str, str]


def address(url: str) -> Address:
    """The parts of a URL. ConfigError, without the password, where it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORT
    except ValueError as error:
        raise ConfigError("the URL cannot be taken apart", hint=f"write it as {EXAMPLE}") from error
    if parts.scheme not in SCHEMES or not parts.username:
        raise ConfigError(
            "no URL of a MySQL user", where=mask_url(url), hint=f"write it as {EXAMPLE}"
        )
    options = {name.replace("_", "-"): value for name, value in parse_qsl(parts.query)}
    for name in options:
        if name not in _PARAMETERS:
            raise ConfigError(
                f"the URL's parameter '{name}' is unknown",
                where=mask_url(url),
                hint=f"known are {', '.join(_PARAMETERS)}",
            )
    options["ssl-mode"] = options.get("ssl-mode", "PREFERRED").upper().replace("-", "_")
    if options["ssl-mode"] not in SSL_MODES:
        raise ConfigError(
            f"ssl-mode '{options['ssl-mode']}' is unknown",
            where=mask_url(url),
            hint=f"it is one of {', '.join(SSL_MODES)}",
        )
    return Address(
        parts.hostname or "localhost",
        port,
        unquote(parts.username),
        unquote(parts.password or ""),
        unquote(parts.path.lstrip("/")),
        options,
    )
