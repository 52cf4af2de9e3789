"""How the command line reaches capture: sources by their configuration."""

from __future__ import annotations

from collections.abc import Callable

from cdc.capture.agent import Report, run_capture
from cdc.config import Config
from cdc.errors import ConfigError
from cdc.log.api import Log
from cdc.postgres.source import PostgresSource, Progress
from cdc.source import Source


def _silent(**facts: object) -> None:
    """Progress that nobody looks at."""


def make_source(config: Config, name: str, progress: Progress = _silent) -> Source:
    """The source of that name; nothing is connected before it is used. Raises ConfigError when
    what it needs is not installed."""
    source = config.sources[name]
    if source.type == "postgres":
        return PostgresSource(source, config.state.path, progress)
    if source.type == "mysql":
        return _mysql_source(config, name, progress)
    try:
        # reason: an extra, which not everybody has installed
        from cdc.topics.source import TopicsSource  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"source '{name}' reads topics, but the Kafka client is not installed",
            where=str(source.place),
            hint="pip install 'cdc-views[kafka]'",
        ) from error
    return TopicsSource(source, f"{config.log.topic_prefix}{name}", progress)


def _mysql_source(config: Config, name: str, progress: Progress) -> Source:
    source = config.sources[name]
    try:
        # reason: an extra, which not everybody has installed
        from cdc.mysql.source import MySqlSource  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"source '{name}' is of type mysql, but the MySQL client is not installed",
            where=str(source.place),
            hint="pip install 'cdc-views[mysql]'",
        ) from error
    return MySqlSource(source, config.state.path, progress)


def run_source(
    config: Config, name: str, log: Log, stop: Callable[[], bool], report: Report
) -> None:
    """Capture a source until `stop()`, or until its snapshot is complete (`snapshot: only`).
    Raises SourceError, Fenced and other LogErrors, BadData."""
    source = make_source(config, name, report)
    run_capture(source, log, config.sources[name], stop, report, config.log.partitions)
