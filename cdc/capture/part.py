"""How the command line reaches capture: sources by their configuration."""

from __future__ import annotations

from collections.abc import Callable

from cdc.capture.agent import Report, run_capture
from cdc.config import Config
from cdc.log.api import Log
from cdc.postgres.source import PostgresSource
from cdc.source import Source


def make_source(config: Config, name: str) -> Source:
    """The source of that name; nothing is connected before it is used."""
    return PostgresSource(config.sources[name], config.state.path)


def run_source(
    config: Config, name: str, log: Log, stop: Callable[[], bool], report: Report
) -> None:
    """Capture a source until `stop()`, or until its snapshot is complete (`snapshot: only`).
    Raises SourceError, Fenced and other LogErrors, BadData."""
    source = PostgresSource(config.sources[name], config.state.path, report)
    run_capture(source, log, config.sources[name], stop, report, config.log.partitions)
