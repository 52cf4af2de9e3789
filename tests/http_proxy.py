"""An HTTP proxy in front of a real server, which fails as it is told.

Requests whose path contains a fault's `match` meet it, `times` times; the others pass. A fault
either answers with `status` in the server's stead, or passes the request on and then cuts the
connection (`after`), so that the client never learns of a write that has happened.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Fault:
    match: str
    times: int = 1
    status: int = 503
    after: bool = False


@dataclass
class Proxy:
    """`passed`: the methods and paths of requests that reached the server. `authorization`: what
    this header must say; other requests are answered with 401."""

    url: str
    authorization: str = ""
    faults: list[Fault] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.match in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    @property
    def exhausted(self) -> bool:
        """Whether every fault has happened as often as it was to."""
        return all(fault.times == 0 for fault in self.faults)


@contextmanager
def proxy_to(upstream: str, *faults: Fault) -> Iterator[Proxy]:
    """A proxy on a port of its own, ended with the block."""
    target = urlsplit(upstream)
    proxy = Proxy("", faults=list(faults))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(self.path)
            if fault is not None and not fault.after:
                self._answer(fault.status, {}, b'{"error":{"type":"scripted","reason":"fault"}}')
                return
            if proxy.authorization not in ("", self.headers.get("Authorization")):
                self._answer(401, {}, b'{"error_code":40101,"message":"who are you?"}')
                return
            proxy.passed.append(f"{self.command} {self.path}")
            status, headers, found = self._ask(body)
            if fault is not None:
                self.close_connection = True
                self.connection.close()
                return
            self._answer(status, headers, found)

        def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = HTTPConnection(target.hostname or "", target.port, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            found = answer.read()
            connection.close()
            return answer.status, dict(answer.getheaders()), found

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in (headers or {"Content-Type": "text/plain"}).items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
