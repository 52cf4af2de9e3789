"""Processes of ours, forked from one that has imported everything.

An interpreter that imports a connector needs most of a second of a core before it does anything,
and a test that kills a dozen of them does little else. So each test process has one *nursery*:

1. it imports what connectors import (_IMPORTED), and starts no thread
2. asked over a socket, with the descriptors for stdin, stdout and stderr, it forks
3. the fork takes over directory, environment and arguments, then runs the module or the text as
   `python -m` and `python -c` do; it is a process like any other, to be stopped and killed
4. the nursery waits for its forks and tells through a pipe how each ended

It ends when its test process does. `cdc run` starts its connectors in the ordinary way, here too;
tests/test_cli.py starts the command itself so.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
_IMPORTED = (
    *("cdc.cli.main", "cdc.cli.child", "cdc.capture.part", "cdc.topics.source"),
    *("views.part", "views.maintainer", "sinks.part", "sinks.stores", "compaction.part"),
    *("confluent_kafka.schema_registry", "duckdb_engine", "elastic_transport", "redis", "pytz"),
    *("tests.capture.topics_process", "tests.views.group", "tests.services.appending_process"),
)
_REQUEST_BYTES = 1 << 18
_TOLD_BYTES = 32


class Forked(subprocess.Popen[Any]):
    """`subprocess.Popen([sys.executable, *words])`, where `words` are `-m MODULE …` or
    `-c TEXT …`."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            list(words), stdin=stdin, stdout=stdout, stderr=stderr, text=text, cwd=cwd, env=env
        )

    # What follows replaces Popen's own fork and wait; all else is Popen's.

    def _execute_child(self, args: list[str], *given: Any) -> None:
        cwd, env, pipes = given[4], given[5], given[9:15]
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "words": args,
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        standard = (pipes[0], pipes[3], pipes[5])
        fds = [number if fd == -1 else fd for number, fd in enumerate(standard)]
        with theirs:
            message = json.dumps(request).encode()
            socket.send_fds(_nursery(), [message], [*fds, theirs.fileno()])
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self.pid = int(self._told.recv(_TOLD_BYTES))
        self._child_created = True

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._child_created:
            self._await_end(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and not self._await_end(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _await_end(self, timeout_s: float | None) -> bool:
        if not select.select([self._told], [], [], timeout_s)[0]:
            return False
        self.returncode = int(self._told.recv(_TOLD_BYTES))
        self._told.close()
        return True


def run(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """A fork to its end, with nothing to read: its status and what it wrote."""
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked(words, **given, text=True, cwd=cwd, env=env) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)


@cache
def _nursery() -> socket.socket:
    """Our end of the socket to the nursery, which is started once."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.services.forked", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _next_job(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for every request. Returns in each fork what it shall do, in the nursery None once
    nobody can ask any more."""
    running: dict[int, tuple[int, int]] = {}  # pidfd -> (pid, where to tell its end)
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for ready, _ in selector.select():
                if ready.fd in running:
                    selector.unregister(ready.fd)
                    _tell_end(ready.fd, *running.pop(ready.fd))
                    continue
                request, fds, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 4)
                if not request:
                    return None
                *standard, ending = fds
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for number, fd in enumerate(standard):
                        os.dup2(fd, number)
                    theirs = [fd for pidfd, (_, told) in running.items() for fd in (pidfd, told)]
                    for fd in (*fds, *theirs, channel.fileno()):
                        os.close(fd)
                    found: dict[str, Any] = json.loads(request)
                    return found
                for fd in standard:
                    os.close(fd)
                os.write(ending, b"%d" % pid)
                pidfd = os.pidfd_open(pid)
                running[pidfd] = (pid, ending)
                selector.register(pidfd, selectors.EVENT_READ)


def _tell_end(pidfd: int, pid: int, ending: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(ending, b"%d" % os.waitstatus_to_exitcode(status))
    os.close(ending)
    os.close(pidfd)


def _run(job: dict[str, Any]) -> None:
    """As the interpreter runs its command line."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    importlib.reload(importlib.import_module("cdc.faults"))  # it has read the environment
    if os.environ.get("PYTHONUNBUFFERED") and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    kind, what, *words = job["words"]
    sys.argv = [kind, *words]
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _ended(job: dict[str, Any]) -> int:
    """Run the job; its exit status. Taking the interpreter down would touch, and so copy, all that
    was imported: 0.4 s of a core."""
    status = 0
    try:
        _run(job)
    except SystemExit as error:
        told = error.code
        status = told if isinstance(told, int) else int(told is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for module in _IMPORTED:
        importlib.import_module(module)
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    gc.freeze()  # collecting would copy them, too
    job = _next_job(channel)
    os._exit(0 if job is None else _ended(job))


if __name__ == "__main__":
    main()
