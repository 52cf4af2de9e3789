"""A capture agent as a process, for tests that kill it: `python -m tests.capture.process JSON`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from cdc.capture.agent import run_capture
from cdc.errors import CdcError
from tests.fix_capture import Capture, Captured
from tests.fix_log import heard


def main() -> int:
    settings = json.loads(sys.argv[1])
    into = settings["into"]
    capture = Capture(
        settings["url"],
        Path(settings["folder"]),
        tuple(settings["tables"]),
        max_log_transaction_bytes=settings["max_log_transaction_bytes"],
        into=into and heard(into),
    )
    return capture_until_told(capture)


def capture_until_told(captured: Captured) -> int:
    """An agent until SIGTERM; the process's exit status."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        run_capture(
            captured.source(), captured.log, captured.config, stop.is_set, lambda **facts: None
        )
    except CdcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
