"""Ids of Avro schemas from a registry with Confluent's REST interface.

To register a schema:

1.  look it up under its subject (POST /subjects/S): most are known, and an older version must not
    be held against the newest
2.  ask whether the subject's compatibility allows it (POST /compatibility/subjects/S/versions, the
    check that registering makes; where that is not offered, .../versions/latest; where neither is,
    registering itself refuses)
3.  register it (POST /subjects/S/versions). 409: refused, unless somebody has registered it since

What the interface means is said in Confluent's "Schema Registry API Reference". `normalize` is
never asked for: it is the text as it is written that has the id, our own properties included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from cdc.errors import ConfigError, LogError, LogRefused, mask_url
from cdc.log.schema_difference import differences

PATIENCE_S = 25.0
"""How long a registry that is away is asked again; it may be restarting."""
CHECK_PATIENCE_S = 3.0

_DEFAULTS: Mapping[str, Any] = {"timeout": 5.0, "max.retries": 0}
_NUMBERS = (
    "timeout", "cache.capacity", "cache.latest.ttl.sec", "max.retries", "retries.wait.ms",
    "retries.max.wait.ms",
)  # fmt: skip
_MAY_PASS = (408, 429, 500, 502, 503, 504)
_NOT_OFFERED = (404, 405, 501)
_NOT_THERE = (40401, 40402, 40403)
_CHECKS = ("versions", "versions/latest")

T = TypeVar("T")


class RegistryIds:
    """See cdc.log.schema_ids.SchemaIds. Both directions are cached. Raises ConfigError when the
    client does not take the settings."""

    def __init__(
        self, url: str, config: Mapping[str, str], *, patience_s: float = PATIENCE_S
    ) -> None:
        plain, settings = _client_settings(url, config)
        self._url, self._patience_s = plain, patience_s
        try:
            self._client = SchemaRegistryClient(settings)
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(
                f"the schema registry's client does not take its settings: {mask_url(str(error))}",
                where=plain,
                hint="see log.schema_registry_config",
            ) from error
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, str] = {}

    def register(self, subject: str, schema: str) -> int:
        if (subject, schema) not in self._ids:
            found = self._looked_up(subject, schema)
            if found is None:
                self._check_compatible(subject, schema)
                found = self._registered(subject, schema)
            self._ids[subject, schema] = found
            self._schemas.setdefault(found, schema)
        return self._ids[subject, schema]

    def schema(self, schema_id: int) -> str:
        if schema_id not in self._schemas:
            found = self._ask(lambda: self._client.get_schema(schema_id), f"schema {schema_id}")
            self._schemas[schema_id] = str(found.schema_str)
        return self._schemas[schema_id]

    def check(self, subjects: Sequence[str] = ()) -> None:
        """Raises LogError unless the registry answers, and lets us read these subjects (none: the
        list of all); a subject need not exist."""
        if not subjects:
            self._ask(self._client.get_subjects, "subjects")
        for subject in subjects:
            self._unless_missing(partial(self._client.get_versions, subject), subject)

    def close(self) -> None:
        self._client.close()

    def _looked_up(self, subject: str, schema: str) -> int | None:
        found = self._unless_missing(
            lambda: self._client.lookup_schema(subject, Schema(schema, "AVRO")), subject
        )
        return None if found is None else int(found.schema_id)

    def _registered(self, subject: str, schema: str) -> int:
        try:
            return int(
                self._ask(
                    lambda: self._client.register_schema(subject, Schema(schema, "AVRO")),
                    subject,
                    passing=(409,),
                )
            )
        except SchemaRegistryError as error:
            since = self._looked_up(subject, schema)
            if since is None:
                raise self._incompatible(subject, schema, [str(error.error_message)]) from error
            return since

    def _check_compatible(self, subject: str, schema: str) -> None:
        body = Schema(schema, "AVRO").to_dict()
        for versions in _CHECKS:
            path = f"compatibility/subjects/{quote(subject, safe='')}/{versions}?verbose=true"
            try:
                # Of the client's own method only the verdict comes back, not the reasons.
                answer = self._ask(
                    partial(self._client._rest_client.post, path, body=body),
                    subject,
                    passing=_NOT_OFFERED,
                )
            except SchemaRegistryError as error:
                if error.error_code in _NOT_THERE:
                    return
                continue
            if answer.get("is_compatible") is False:
                raise self._incompatible(subject, schema, answer.get("messages") or [])
            return

    def _incompatible(self, subject: str, schema: str, reasons: Sequence[str]) -> LogRefused:
        latest = self._latest(subject)
        lines = _lines(latest, schema) if latest else []
        lines += [f"the registry: {reason}" for reason in reasons if _worth_saying(reason)]
        level, of = self._level(subject)
        return LogRefused(
            f"the new schema is not {level}-compatible with the registered one of this subject"
            + "".join(f"\n    {line}" for line in lines),
            where=f"{subject} at {self._url}",
            hint=f"{level} is the level of {of}: undo the change at the source, or allow it with\n"
            f"     curl -X PUT -H 'Content-Type: application/vnd.schemaregistry.v1+json' "
            f'--data \'{{"compatibility": "NONE"}}\' {self._url}/config/{quote(subject, safe="")}'
            "\n     and start again; set the level back afterwards",
        )

    def _latest(self, subject: str) -> str:
        self._client.clear_latest_caches()
        found = self._unless_missing(lambda: self._client.get_latest_version(subject), subject)
        return "" if found is None else str(found.schema.schema_str)

    def _level(self, subject: str) -> tuple[str, str]:
        """The compatibility that refused a subject's schema, and whose level it is. Apicurio says
        NONE for a subject without a level of its own."""
        own = self._unless_missing(lambda: self._client.get_compatibility(subject), subject)
        if own not in (None, "NONE"):
            return str(own), "the subject"
        common = self._unless_missing(self._client.get_compatibility, "config")
        return str(common or "the registry's"), "the registry"

    def _unless_missing(self, request: Callable[[], T], what: str) -> T | None:
        """None when the registry says that it has no such thing: with a code of its own, as
        40401. Without one it is the path that does not exist."""
        try:
            return self._ask(request, what, passing=(404,))
        except SchemaRegistryError as error:
            if (error.error_code or 0) // 100 != 404:
                raise self._refused(error, what) from error
            return None

    def _ask(self, request: Callable[[], T], what: str, passing: Sequence[int] = ()) -> T:
        """The answer to a request. Asks again while the registry is away, for `patience_s`. Raises
        LogError, but SchemaRegistryError for the HTTP statuses in `passing`."""
        deadline, pause_s = time.monotonic() + self._patience_s, 0.1
        while True:
            try:
                return request()
            except SchemaRegistryError as error:
                if error.http_status_code in passing:
                    raise
                if error.http_status_code not in _MAY_PASS or time.monotonic() > deadline:
                    raise self._refused(error, what) from error
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise LogError(
                    "the answer is not one of a schema registry",
                    where=f"{what} at {self._url}",
                    hint="see log.schema_registry: is there a path missing, as /apis/ccompat/v7?",
                ) from error
            except Exception as error:  # of the HTTP library, which the client does not hide
                if time.monotonic() > deadline:
                    raise self._away(error) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def _away(self, error: Exception) -> LogError:
        cause = mask_url(str(error)) or type(error).__name__
        return LogError(
            f"the schema registry does not answer: {cause}",
            where=self._url,
            hint="see log.schema_registry, and whether the registry is running",
        )

    def _refused(self, error: SchemaRegistryError, what: str) -> LogError:
        status = error.http_status_code
        hint = "the registry's own log may say more"
        if status in (401, 403):
            hint = "see log.schema_registry_config (basic.auth.user.info), and our rights there"
        elif status == 404:
            hint = "see log.schema_registry: another registry's records, or another path?"
        said = mask_url(str(error.error_message))
        return LogError(
            f"the schema registry refuses: {said} (HTTP {status})",
            where=f"{what} at {self._url}",
            hint=hint,
        )


def check_registry(
    url: str, config: Mapping[str, str], subjects: Sequence[str] = ()
) -> LogError | ConfigError | None:
    """What is wrong with a registry for somebody who wants to use these subjects, after a few
    seconds at most; None: it answers, and lets us read."""
    try:
        ids = RegistryIds(url, config, patience_s=CHECK_PATIENCE_S)
    except ConfigError as error:
        return error
    try:
        ids.check(subjects)
    except LogError as error:
        return error
    finally:
        ids.close()
    return None


def _client_settings(url: str, config: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The URL without user and password, and what the client is made with: numbers as numbers, and
    a user in the URL as a setting, since the HTTP library writes URLs into its log."""
    settings: dict[str, Any] = {**_DEFAULTS, **config}
    for name in _NUMBERS:
        if isinstance(settings.get(name), str):
            try:
                settings[name] = float(settings[name])
            except ValueError as error:
                raise ConfigError(
                    f"log.schema_registry_config: {name} is not a number: {settings[name]!r}"
                ) from error
    if settings.get("ssl.ca.location") == "false":
        settings["ssl.ca.location"] = False
    users = [_user(part) for part in url.split(",")]
    plain = ",".join(part for part, _ in users)
    user = next((user for _, user in users if user), "")
    if user and "basic.auth.user.info" in settings:
        raise ConfigError(
            "a user in the schema registry's URL and one in basic.auth.user.info",
            where=plain,
            hint="keep one of them",
        )
    if user:
        settings["basic.auth.user.info"] = user
    return plain, {**settings, "url": plain}


def _user(url: str) -> tuple[str, str]:
    """A URL without its user and password, and those as the client wants them."""
    parts = urlsplit(url.strip())
    user, at, place = parts.netloc.rpartition("@")
    plain = parts._replace(netloc=place).geturl().rstrip("/")
    return plain, unquote(user) if at else ""


def _lines(old: str, new: str) -> list[str]:
    try:
        found = differences(old, new)
    except (ValueError, KeyError, TypeError):
        return [f"registered: {old}", f"new: {new}"]
    return found or ["no field differs from the newest version; see the older ones"]


def _worth_saying(reason: str) -> bool:
    """Confluent's registry repeats the old schema and the level among its reasons."""
    return not any(reason.startswith(f"{{{word}") for word in ("oldSchema", "compatibility"))
