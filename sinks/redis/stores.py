"""The Redis sink of a configuration."""

from __future__ import annotations

from cdc.config import Config
from sinks.redis.layout import Settings
from sinks.redis.sink import RedisSink


def sink_of(config: Config, name: str) -> RedisSink:
    """See sinks.stores.sink_of."""
    settings = config.sinks[name]
    return RedisSink(name, settings.url, Settings.of(settings.options))
