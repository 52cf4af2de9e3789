"""Worker processes with a pipe in and a pipe out: how a snapshot reads on several cores.

The module that is run as the workers calls `main` with its pipes: pairs of file descriptors IN,OUT,
one per worker. One process starts, because to import everything takes longer than anything else
before the first row, and forks itself for the others. On IN come pickled commands, whatever the two
sides agree on; end of file ends the worker. On OUT, per message, a kind byte, a length (uint64) and
the body; an error (`ERROR`) is a pickled CdcError.

The pipe is the back-pressure: a full one stops the reading. If the agent dies, so does the worker,
by end of file or SIGPIPE.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from cdc.arrow_memory import lean_environment
from cdc.errors import CdcError, SourceError, SourceUnavailable

HEAD = struct.Struct(">cQ")
ERROR = b"E"
PIPE_BYTES = 2**20

Send = Callable[[bytes, bytes | pa.Buffer], None]
"""A worker's way to send a message of that kind."""


@dataclass
class Worker:
    """One worker and its pipes. `process` was started first and leads the group of all."""

    process: subprocess.Popen[bytes]
    stdin: BinaryIO
    stdout: BinaryIO

    def send(self, command: object) -> None:
        """Hand it a command. SourceUnavailable when it is gone."""
        try:
            pickle.dump(command, self.stdin)
            self.stdin.flush()
        except BrokenPipeError as error:
            raise _ended() from error

    def receive(self) -> tuple[bytes, pa.Buffer]:
        """Its next message; an error that it sent is raised, SourceUnavailable when it is gone."""
        head = self.stdout.read(HEAD.size)
        if len(head) < HEAD.size:
            raise _ended()
        kind, length = HEAD.unpack(head)
        body = pa.allocate_buffer(length)
        view, at = memoryview(body), 0
        while at < length:
            count = self.stdout.readinto(view[at:])  # type: ignore[attr-defined]
            if not count:
                raise SourceUnavailable("a snapshot worker ended in the middle of a message")
            at += count
        if kind == ERROR:
            raise _error_of(body)
        return kind, body

    def expect(self, kind: bytes) -> pa.Buffer:
        """The body of the next message, which must be of that kind."""
        found, body = self.receive()
        if found != kind:
            raise SourceError(f"a snapshot worker answered {found!r}")
        return body


def launch(module: str, count: int) -> list[Worker]:
    """Worker processes that run `python -m module`. They take long to start: launch them early."""
    if not count:
        return []
    commands, answers = [os.pipe() for _ in range(count)], [_wide_pipe() for _ in range(count)]
    theirs = [(c[0], a[1]) for c, a in zip(commands, answers, strict=True)]
    pairs = [f"{inward},{outward}" for inward, outward in theirs]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *pairs],
        pass_fds=[descriptor for pair in theirs for descriptor in pair],
        process_group=0,
        env=lean_environment(),
    )
    for descriptor in (d for pair in theirs for d in pair):
        os.close(descriptor)
    return [
        Worker(process, open(c[1], "wb"), open(a[0], "rb"))
        for c, a in zip(commands, answers, strict=True)
    ]


def end_workers(workers: Sequence[Worker]) -> None:
    """End the processes, whatever they are doing. More than once does no harm."""
    for process in {worker.process for worker in workers}:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for worker in workers:
        worker.stdout.close()
        with suppress(BrokenPipeError):
            worker.stdin.close()


def main(serve: Callable[[BinaryIO, Send], None], arguments: Sequence[str]) -> None:
    """Be the first worker, and fork the others: each holds no pipe but its own, so that the end
    of either side is seen. `serve` works off the commands until they end."""
    pairs = [(int(inward), int(outward)) for inward, outward in (a.split(",") for a in arguments)]
    mine = pairs[0]
    for pair in pairs[1:]:
        if os.fork() == 0:
            mine = pair
            break
    for descriptor in {d for pair in pairs for d in pair}.difference(mine):
        os.close(descriptor)
    _work(serve, *mine)


def error_message(error: CdcError) -> bytes:
    """The body of an error's message. A worker may go on after one that its coordinator expects."""
    return pickle.dumps((type(error), error.what, error.where, error.hint))


def next_command(commands: BinaryIO) -> Any:
    """The next command; None at the end."""
    try:
        return pickle.load(commands)
    except EOFError:
        return None


def _work(serve: Callable[[BinaryIO, Send], None], inward: int, outward: int) -> None:
    """One worker's life, over its two file descriptors."""
    out = io.FileIO(outward, "wb")

    def send(kind: bytes, body: bytes | pa.Buffer) -> None:
        for part in (HEAD.pack(kind, len(body)), body):
            left = memoryview(part)
            while left:
                left = left[out.write(left) or 0 :]

    with open(inward, "rb") as commands:
        try:
            serve(commands, send)
        except CdcError as error:
            send(ERROR, error_message(error))


def _wide_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # Best effort: rows come in megabytes, and 64 KiB a turn costs a turn of every thread.
        with suppress(OSError):
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def _ended() -> SourceUnavailable:
    return SourceUnavailable(
        "a snapshot worker ended before its work",
        hint="was it killed for memory? lower snapshot_workers",
    )


def _error_of(body: pa.Buffer) -> CdcError:
    error, what, where, hint = pickle.loads(body)
    found: CdcError = error(what, where=where, hint=hint)
    return found
