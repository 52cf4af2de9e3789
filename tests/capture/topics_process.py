"""An agent over foreign topics as a process, for tests that kill it:
`python -m tests.capture.topics_process JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cdc.config import LogConfig
from tests.capture.process import capture_until_told
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
    return capture_until_told(foreign)


if __name__ == "__main__":
    sys.exit(main())
