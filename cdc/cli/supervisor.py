"""Each connector in a process of its own, started, watched and ended here.

1. `start` launches every connector; their order is that of dependency, but none waits for another
2. `tick`, called again and again, notices who ended and, as cdc.cli.restart decides, starts it
   again after a delay or leaves it failed; the others go on
3. `stop` asks all to end (SIGTERM), waits while they finish the work in hand, kills who will not

Each child's stdin is a pipe that this process holds open: when it dies, in whatever way, its
children notice. What a child writes is passed on line by line, with the connector's name before it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdc.arrow_memory import lean_environment
from cdc.cli.restart import Attempts, Ending, RestartPolicy, after, ending

STOP_GRACE_S = 30.0


@dataclass(frozen=True)
class Connector:
    """One child: kind as in cdc.cli.child, and the name there."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name if self.kind in ("source", "sink") else f"{self.kind} {self.name}"


@dataclass
class _Running:
    connector: Connector
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    attempts: Attempts = field(default_factory=Attempts)
    start_at: float | None = None
    result: Ending | None = None


class Supervisor:
    """The children of one `cdc run`. For one thread."""

    def __init__(
        self,
        file: Path,
        connectors: Sequence[Connector],
        policy: RestartPolicy,
        say: Callable[[str], None],
    ) -> None:
        self._file, self._policy, self._say = file, policy, say
        self._children = [_Running(connector) for connector in connectors]

    def start(self) -> None:
        for child in self._children:
            self._launch(child)

    def tick(self) -> None:
        """Notice who ended, and start again whose time has come."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process.returncode, now)
            elif child.start_at is not None and now >= child.start_at:
                self._launch(child)

    @property
    def failed(self) -> list[Connector]:
        """Those that stopped for good on an error."""
        return [c.connector for c in self._children if c.result not in (None, "done")]

    @property
    def is_over(self) -> bool:
        """Whether nobody but the compactor is left running, or will be started again."""
        return all(c.result for c in self._children if c.connector.kind != "compaction")

    def stop(self, grace_s: float = STOP_GRACE_S) -> bool:
        """End all; whether each of them ended in order by itself."""
        for child in self._children:
            child.start_at = None
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline, orderly = time.monotonic() + grace_s, True
        for child in self._children:
            if child.process is None:
                continue
            try:
                returncode = child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(f"{child.connector}: did not end within {grace_s:.0f} s, killed")
                child.process.kill()
                returncode = child.process.wait()
            # Ended by the signal itself: it was still starting, and had begun nothing.
            # What is away keeps it from finishing, and takes nothing from the next start.
            ended = ending(returncode) in ("done", "unavailable")
            orderly = orderly and (returncode == -signal.SIGTERM or ended)
            self._release(child)
        return orderly

    def _launch(self, child: _Running) -> None:
        child.start_at, child.started = None, time.monotonic()
        connector = child.connector
        command = ["-m", "cdc.cli.child", connector.kind, connector.name, "-f", str(self._file)]
        child.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=lean_environment() if connector.kind == "source" else None,
        )
        threading.Thread(target=self._pass_on, args=(connector, child.process), daemon=True).start()

    def _pass_on(self, connector: Connector, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text, prefix = line.decode(errors="replace").rstrip(), f"{connector}: "
            self._say(text if text.startswith(prefix) else prefix + text)

    def _ended(self, child: _Running, returncode: int, now: float) -> None:
        how = ending(returncode)
        self._release(child)
        if how in ("done", "failed"):
            child.result = how
            if how == "failed":
                self._say(f"{child.connector}: stopped; the others go on")
            return
        child.attempts, delay_s = after(self._policy, child.attempts, now - child.started)
        if delay_s is None:
            child.result = how
            self._say(f"{child.connector}: {how} {self._policy.tries} times in a row, given up")
        else:
            why = f"killed by signal {-returncode}" if returncode < 0 else how
            self._say(f"{child.connector}: {why}; starting again in {delay_s:.1f} s")
            child.start_at = now + delay_s

    def _release(self, child: _Running) -> None:
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None
