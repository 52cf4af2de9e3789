"""Requests to Elasticsearch: bytes out, bytes back, and what an answer means.

The transport is Elastic's own (elastic_transport: TLS, authorization, a pool of connections); what
is repeated, and for how long, is decided here:

    no connection, time-out, 429, 502, 503, 504    again after RETRY_DELAYS_S; StoreUnavailable
                                                   after these, or when TIMEOUT_S is over
    401, 403                                       SinkError: the rights are missing
    other                                          the caller's

Every request that changes something may be repeated: writes carry versions, bookkeeping is compared
and set, and what exists already or is gone already is told from a failure by the caller.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from elastic_transport import SerializerCollection, Transport, TransportError
from elastic_transport.client_utils import basic_auth_to_header, url_to_node_config

from cdc.errors import SinkError, StoreUnavailable, mask_url

# It warns of every failure that is reported here with its cause.
logging.getLogger("elastic_transport").setLevel(logging.ERROR)

RETRY_DELAYS_S = (0.1, 0.2, 0.4, 0.8, 1.6)
TIMEOUT_S = 60.0
LATER = frozenset({429, 502, 503, 504})
_DENIED = frozenset({401, 403})
_REASON_MAX = 500


class _Bytes(SerializerCollection):
    """Bodies are bytes both ways, whatever their type: `_source` must not pass through floats, and
    what stands before a server may answer in HTML."""

    def dumps(self, data: Any, mimetype: str | None = None) -> bytes:
        return bytes(data)

    def loads(self, data: bytes, mimetype: str | None = None) -> bytes:
        return data


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status < 300

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error_type(self) -> str:
        """`index_not_found_exception`, …; empty where the body has none."""
        error = self._error()
        return str(error.get("type", "")) if isinstance(error, dict) else ""

    @property
    def reason(self) -> str:
        """What Elasticsearch says about a failure, on one line."""
        error = self._error()
        return reason_of(error) if error else self.body[:_REASON_MAX].decode(errors="replace")

    def _error(self) -> Any:
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found.get("error") if isinstance(found, dict) else None


class Server:
    """One Elasticsearch, by its URL. Used by several threads at once."""

    def __init__(self, url: str, *, api_key: str = "", ca_certs: Path | None = None) -> None:
        parts = urlsplit(url)
        self.name = mask_url(url)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        node = url_to_node_config(bare, use_default_ports_for_scheme=True)
        if ca_certs is not None:
            node = replace(node, ca_certs=str(ca_certs))
        self._headers = {"accept": "application/json", "content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"ApiKey {api_key}"
        elif parts.username is not None:
            user = (unquote(parts.username), unquote(parts.password or ""))
            self._headers["authorization"] = basic_auth_to_header(user)
        self._transport = Transport(
            [replace(node, request_timeout=TIMEOUT_S)],
            max_retries=0,
            retry_on_status=(),
        )
        self._transport.serializers = _Bytes()

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Any answer but those that mean "later" and "denied". `body` is bytes, or becomes JSON.
        Raises StoreUnavailable, SinkError."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        problem, began = "", time.monotonic()
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                meta, found = self._transport.perform_request(
                    method, path, body=data, headers=self._headers
                )
            except TransportError as error:
                problem = mask_url(str(error))
            else:
                answer = Answer(meta.status, found or b"")
                if meta.status not in LATER:
                    return self._allowed(answer, method, path)
                problem = f"{meta.status}: {answer.reason}"
            if delay_s is None or time.monotonic() - began > TIMEOUT_S:
                break
            time.sleep(delay_s)
        raise StoreUnavailable(f"Elasticsearch does not take requests: {problem}", where=self.name)

    def require(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of a successful answer. Raises SinkError for any other, StoreUnavailable."""
        answer = self.ask(method, path, body)
        if not answer.ok:
            raise refused(f"{method} {path.partition('?')[0]}", answer, self.name)
        return answer.json()

    def _allowed(self, answer: Answer, method: str, path: str) -> Answer:
        if answer.status not in _DENIED:
            return answer
        if answer.error_type == "cluster_block_exception":
            raise StoreUnavailable(
                f"Elasticsearch has closed the index for writing: {answer.reason}",
                where=self.name,
                hint="take its block away (`index.blocks.*`), or free space on its disks",
            )
        raise SinkError(
            f"Elasticsearch denies {method} {path.partition('?')[0]}: {answer.reason}",
            where=self.name,
            hint="check the user or `api_key`; docs/elasticsearch.md lists the rights it needs",
        )

    def close(self) -> None:
        self._transport.close()


def refused(what: str, answer: Answer, where: str) -> SinkError:
    return SinkError(f"Elasticsearch refuses {what}: {answer.reason}", where=where)


def reason_of(error: Any) -> str:
    """An error object of Elasticsearch's, with what caused it, on one line."""
    if not isinstance(error, dict):
        return str(error)[:_REASON_MAX]
    texts = [f"{error.get('type')}: {error.get('reason')}"]
    cause = error.get("caused_by")
    while isinstance(cause, dict):
        texts.append(str(cause.get("reason")))
        cause = cause.get("caused_by")
    return " ← ".join(texts).replace("\n", " ")[:_REASON_MAX]


def path_of(*names: str, **parameters: Any) -> str:
    """`/a/b?x=1` with every part quoted."""
    path = "/" + "/".join(quote(name, safe="") for name in names)
    if not parameters:
        return path
    return path + "?" + "&".join(f"{k}={quote(str(v), safe='*,.')}" for k, v in parameters.items())


__all__: Sequence[str] = ("LATER", "RETRY_DELAYS_S", "Answer", "Server", "path_of", "reason_of")
