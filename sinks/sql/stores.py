"""Which database a SQL sink's URL names. Unknown schemes go to SQLAlchemy and its dialects."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from cdc.config import Config, SinkConfig
from cdc.errors import ConfigError, mask_url
from sinks.sql.duckdb_store import DuckDbStore
from sinks.sql.generic_store import GenericStore
from sinks.sql.postgres_store import PostgresStore
from sinks.sql.session import Store
from sinks.sql.sink import SqlSink


def sink_of(config: Config, name: str) -> SqlSink:
    """See sinks.stores.sink_of."""
    settings = config.sinks[name]
    return SqlSink(
        name,
        _store(settings, config.file.parent),
        schema_name=str(settings.options.get("schema") or ""),
        table=str(settings.options.get("table") or "{name}"),
    )


def _store(settings: SinkConfig, folder: Path) -> Store:
    try:
        url = sa.make_url(settings.url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ConfigError(
            f"'{mask_url(settings.url)}' is not a database URL",
            where=str(settings.place),
            hint="write it as duckdb:///file.duckdb or postgresql://user:password@host/database",
        ) from error
    backend = url.get_backend_name()
    if backend == "duckdb":
        return DuckDbStore(_file(url, settings, folder))
    if backend in {"postgresql", "postgres"}:
        return PostgresStore(url)
    if backend == "sqlite" and url.database:
        url = url.set(database=str(folder / url.database))
    return GenericStore(url)


def _file(url: sa.URL, settings: SinkConfig, folder: Path) -> Path:
    """DuckDB's file; a relative one lies beside the configuration."""
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            "nobody else could read a database in memory",
            where=str(settings.place),
            hint="name a file: duckdb:///warehouse.duckdb",
        )
    return folder / url.database
