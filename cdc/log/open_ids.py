"""Where the configuration says that Avro schemas have their ids."""

from __future__ import annotations

from collections.abc import Mapping

from cdc.errors import ConfigError
from cdc.log.schema_ids import SchemaIds
from cdc.log.schema_topic import SchemaTopic
from cdc.log.topic_ids import TopicIds


def open_ids(registry: str, config: Mapping[str, str], topic: SchemaTopic) -> SchemaIds:
    """The registry at the URL, with its client's settings; an empty URL: the topic. Nothing is
    asked yet. Raises ConfigError when the registry's client is not installed or does not take the
    settings."""
    if not registry:
        return TopicIds(topic)
    try:
        # reason: imports an HTTP client, which takes 0.2 s, and is an extra
        from cdc.log.registry_ids import RegistryIds  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "a schema registry is configured, but its client is not installed",
            hint="pip install 'cdc-views[kafka]'",
        ) from error
    return RegistryIds(registry, config)
