"""The log that the configuration names."""

from __future__ import annotations

from cdc.config import LogConfig
from cdc.errors import ConfigError
from cdc.log.api import Log
from cdc.log.embedded import EmbeddedLog


def open_log(config: LogConfig) -> Log:
    """Open the log. Cheap: nothing is made before somebody writes. Raises ConfigError when the
    Kafka client is not installed."""
    if config.type == "embedded":
        return EmbeddedLog(config)
    try:
        # reason: an extra, which not everybody has installed
        from cdc.log.kafka import KafkaLog  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "log.type is kafka, but the Kafka client is not installed",
            hint="pip install 'cdc-views[kafka]'",
        ) from error
    return KafkaLog(config)
