"""The Elasticsearch sink that a configuration describes."""

from __future__ import annotations

from cdc.config import Config
from sinks.elasticsearch.server import Server
from sinks.elasticsearch.sink import ElasticsearchSink


def sink_of(config: Config, name: str) -> ElasticsearchSink:
    """See sinks.stores.sink_of. Nothing is asked of the server yet."""
    settings = config.sinks[name]
    options = settings.options
    server = Server(
        settings.url,
        api_key=str(options.get("api_key") or ""),
        ca_certs=options.get("ca_certs"),
    )
    return ElasticsearchSink(
        name,
        server,
        str(options["index"]),
        mappings=options.get("mappings"),
        settings=options.get("settings"),
    )
