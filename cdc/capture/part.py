"""How the command line reaches capture: sources by their configuration."""

from __future__ import annotations

from collections.abc import Callable

from cdc.capture.agent import Report, run_capture
from cdc.config import Config
from cdc.errors import ConfigError
from cdc.log.api import Log
from cdc.postgres.source import PostgresSource
from cdc.source import Progress, Source, no_progress

_EXTRAS = {
    "mysql": ("is of type mysql, but the MySQL", "mysql"),
    "topics": ("reads topics, but the Kafka", "kafka"),
}
"""By type of source: what needs which extra."""


def make_source(config: Config, name: str, progress: Progress = no_progress) -> Source:
    """The source of that name; nothing is connected before it is used. Raises ConfigError when
    what it needs is not installed."""
    source = config.sources[name]
    if source.type == "postgres":
        return PostgresSource(source, config.state.path, progress)
    try:
        if source.type == "mysql":
            # reason: an extra, which not everybody has installed
            from cdc.mysql.source import MySqlSource  # noqa: PLC0415

            return MySqlSource(source, config.state.path, progress)
        # reason: the same
        from cdc.topics.source import TopicsSource  # noqa: PLC0415
    except ImportError as error:
        what, extra = _EXTRAS[source.type]
        raise ConfigError(
            f"source '{name}' {what} client is not installed",
            where=str(source.place),
            hint=f"pip install 'cdc-views[{extra}]'",
        ) from error
    return TopicsSource(source, f"{config.log.topic_prefix}{name}", progress)


def run_source(
    config: Config, name: str, log: Log, stop: Callable[[], bool], report: Report
) -> None:
    """Capture a source until `stop()`, or until its snapshot is complete (`snapshot: only`).
    Raises SourceError, Fenced and other LogErrors, BadData."""
    source = make_source(config, name, report)
    run_capture(source, log, config.sources[name], stop, report, config.log.partitions)
