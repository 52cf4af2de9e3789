"""A TCP proxy in front of a real server, which damages what the server says where it is told.

The first answer that contains `Damage.match` is passed on up to `offset` bytes behind the match's
beginning; then the connection is cut, or the byte there has a bit flipped. Afterwards the proxy
only passes on. The match may be split over two reads.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal


@dataclass
class Damage:
    match: bytes
    kind: Literal["cut", "flip"]
    offset: int = 0
    done: bool = False

    def apply(self, held: bytes) -> tuple[bytes, bytes, bool]:
        """Of what came and was not passed on: what to pass on, what to keep back, whether to
        cut."""
        at = -1 if self.done else held.find(self.match)
        if at < 0:
            keep = 0 if self.done else min(len(held), len(self.match) - 1)
            return held[: len(held) - keep], held[len(held) - keep :], False
        place = at + self.offset
        if len(held) <= place:
            return b"", held, False
        self.done = True
        if self.kind == "cut":
            return held[:place], b"", True
        flipped = held[:place] + bytes([held[place] ^ 1]) + held[place + 1 :]
        return flipped, b"", False


@contextmanager
def damaging(port: int, damage: Damage) -> Iterator[int]:
    """A proxy to 127.0.0.1:`port`; yields its own port."""
    listener = socket.create_server(("127.0.0.1", 0))
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                pairs.append((client, server))
                for run in (_pass_on, _pass_back):
                    threading.Thread(target=run, args=(client, server, damage), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for each in (listener, *(end for pair in pairs for end in pair)):
            _end(each)


def _pass_on(client: socket.socket, server: socket.socket, damage: Damage) -> None:
    with suppress(OSError):
        while data := client.recv(65536):
            server.sendall(data)
    _end(server)


def _pass_back(client: socket.socket, server: socket.socket, damage: Damage) -> None:
    held = b""
    with suppress(OSError):
        while data := server.recv(65536):
            ready, held, cut = damage.apply(held + data)
            client.sendall(ready)
            if cut:
                break
            if len(held) < len(damage.match):
                # Kept back only while more of the match may follow at once.
                server.settimeout(0.05)
                try:
                    more = server.recv(65536, socket.MSG_PEEK)
                except TimeoutError:
                    client.sendall(held)
                    held = b""
                else:
                    if not more:
                        break
                finally:
                    server.settimeout(None)
        client.sendall(held)
    _end(client)
    _end(server)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
