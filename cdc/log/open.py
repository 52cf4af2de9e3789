"""The log that the configuration names."""

from __future__ import annotations

from cdc.config import LogConfig
from cdc.log.api import Log
from cdc.log.embedded import EmbeddedLog


def open_log(config: LogConfig) -> Log:
    """Open the log. Cheap: nothing is made before somebody writes."""
    return EmbeddedLog(config)
