"""An agent over foreign topics as a process, for tests that kill it:
`python -m tests.capture.topics_process JSON`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from cdc.capture.agent import run_capture
from cdc.config import LogConfig
from cdc.errors import CdcError
from tests.capture.test_topics_fenced import Downstream
from tests.fix_topics import Foreign


def _fenced(settings: dict[str, Any]) -> Downstream:
    upstream = LogConfig(
        "kafka",
        Path(),
        bootstrap_servers=settings["bootstrap"],
        topic_prefix=settings["prefix"],
        format=settings["format"],
    )
    return Downstream(upstream, Path(settings["folder"]))


def main() -> int:
    settings = json.loads(sys.argv[1])
    foreign = (
        _fenced(settings)
        if "format" in settings
        else Foreign(
            settings["bootstrap"],
            Path(settings["folder"]),
            settings["kind"],
            settings["prefix"],
            tuple(settings["tables"]),
        )
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        run_capture(
            foreign.source(), foreign.log, foreign.config, stop.is_set, lambda **facts: None
        )
    except CdcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
