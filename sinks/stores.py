"""Which kind of store a sink is. Each kind's client library is an extra of its own."""

from __future__ import annotations

from importlib import import_module

from cdc.config import Config
from cdc.errors import ConfigError
from sinks.api import Sink

_MODULES = {
    "sql": "sinks.sql.stores",
    "elasticsearch": "sinks.elasticsearch.stores",
    "redis": "sinks.redis.stores",
}


def sink_of(config: Config, name: str) -> Sink:
    """The sink `name`, not opened. Raises ConfigError, SinkError."""
    settings = config.sinks[name]
    try:
        module = import_module(_MODULES[settings.type])
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a sink of type {settings.type} needs the package {error.name}",
            where=str(settings.place),
            hint=f"pip install 'cdc-views[{settings.type}]'",
        ) from error
    found: Sink = module.sink_of(config, name)
    return found
