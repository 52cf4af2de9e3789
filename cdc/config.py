"""connectors.yaml as frozen dataclasses, made once at the edge (`load`); nothing reads it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Place:
    """A place in the YAML, for errors."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


Format = Literal["avro", "json"]
Decimals = Literal["precise", "string", "double"]
Times = Literal["adaptive", "adaptive_time_microseconds", "connect"]
Snapshot = Literal["initial", "never", "only"]
ZeroDates = Literal["null", "epoch", "stop"]


@dataclass(frozen=True)
class LogConfig:
    """`path` is absolute. On Kafka it still holds what is local: state, sockets.

    config              handed to librdkafka as it is; may hold secrets
    schema_registry     Confluent's REST interface; empty: Avro's schemas live in `cdc.schemas`
    registry_config     handed to the registry's client as it is; may hold secrets
    schemas             json: the schema in every record, as JsonConverter with schemas.enable
    decimal_handling_mode, time_precision_mode   as Debezium's settings of these names
    transaction_metadata   the topic `<source>.transaction` and the `transaction` block
    oversized           what becomes of a record that the broker would not take
    replication_factor  of topics that are made; 0: the broker's default
    """

    type: Literal["embedded", "kafka"]
    path: Path
    bootstrap_servers: str = ""
    partitions: int = 1
    topic_prefix: str = ""
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    min_compaction_lag_s: float = 86400.0
    tombstone_retention_s: float = 86400.0
    format: Format = "avro"
    schema_registry: str = field(default="", repr=False)
    registry_config: Mapping[str, str] = field(default_factory=dict, repr=False)
    schemas: bool = False
    decimal_handling_mode: Decimals = "precise"
    time_precision_mode: Times = "adaptive"
    transaction_metadata: bool = False
    oversized: Literal["stop", "dead_letter"] = "stop"
    replication_factor: int = 0


@dataclass(frozen=True)
class StateConfig:
    path: Path
    memory_max_bytes: int = 500 * 2**20
    checkpoint_interval_s: float = 10.0


@dataclass(frozen=True)
class TableRules:
    """What is captured of one table: columns (empty: all), hashes/nulls as masks, a row filter."""

    columns: tuple[str, ...] = ()
    masks: Mapping[str, str] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class TopicsConfig:
    """Where a source of type `topics` reads: a broker's topics in Debezium's format.

    columns   per topic, SQL types: all columns' for JSON without schemas, else those to be changed
    keys      per topic, where the records have no keys, or not those that are wanted
    """

    bootstrap_servers: str
    config: Mapping[str, str] = field(repr=False)
    format: Format
    schema_registry: str = field(repr=False)
    registry_config: Mapping[str, str] = field(repr=False)
    decimal_handling_mode: Decimals = "precise"
    time_precision_mode: Times = "adaptive"
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class MySqlConfig:
    """What only a source of type `mysql` has.

    server_id          ours among the replicas of the server; no two may have the same
    zero_dates         what a date that is no date (0000-00-00, 2024-02-30) becomes
    minimal_row_image  binlog_row_image=MINIMAL is accepted, at the cost of a store of all rows
    heartbeat_s        how often an idle server says that it is there
    """

    server_id: int
    zero_dates: ZeroDates = "null"
    minimal_row_image: bool = False
    heartbeat_s: float = 10.0


@dataclass(frozen=True)
class SourceConfig:
    """`mysql` is MariaDB too, which the server says. Of type `mysql` there is `mysql`, and no slot
    or publication. Of type `topics`, `tables` are topics, `topics` says where, and there is no url
    or slot."""

    name: str
    type: Literal["postgres", "mysql", "topics"]
    url: str = field(repr=False)
    tables: tuple[str, ...]
    snapshot: Snapshot
    slot: str
    publication: str
    place: Place
    snapshot_workers: int = 2
    max_log_transaction_bytes: int = 64 * 2**20
    topics: TopicsConfig | None = None
    mysql: MySqlConfig | None = None

    @property
    def database(self) -> str:
        """The database's name; empty for topics."""
        return unquote(urlsplit(self.url).path.removeprefix("/"))

    @property
    def default_schema(self) -> str:
        """What stands between the source and a table where only these two are named. MySQL calls a
        schema database: it is the URL's; empty when that names none."""
        return self.database if self.type == "mysql" else "public"

    def full_name(self, table: str) -> str:
        """`schema.table` of a table that is named with or without its schema."""
        return table if "." in table else f"{self.default_schema}.{table}"

    def short_name(self, table: str) -> str:
        """The shortest name of `schema.table`."""
        return table.removeprefix(f"{self.default_schema}.")


@dataclass(frozen=True)
class ViewConfig:
    """`key` empty: derived. `sql_place` is where the SQL text begins, for marking errors."""

    name: str
    sql: str
    place: Place
    sql_place: Place
    key: tuple[str, ...] | None = None
    timezone: str = "UTC"
    source: str | None = None
    group: str = "main"


@dataclass(frozen=True)
class SinkConfig:
    """`inputs` are the names under `from:`. `options` are the kind's own, already checked, and
    may hold secrets, as `url` may.

    sql            table, schema
    elasticsearch  index (always), mappings and settings (always; {} when not given), api_key,
                   ca_certs (an absolute path)
    redis          value (always), and what goes with it: key, column, name, score, member; key,
                   name and member are templates whose braces are sound (cdc.templates)
    """

    name: str
    type: Literal["sql", "elasticsearch", "redis"]
    url: str = field(repr=False)
    inputs: tuple[str, ...]
    place: Place
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    places: Mapping[str, Place] = field(default_factory=dict, repr=False)
    """Where the options that the file has stand in it."""

    def place_of(self, option: str) -> Place:
        """Where an option stands, for errors; the sink's own place when it is not given."""
        return self.places.get(option, self.place)


@dataclass(frozen=True)
class Config:
    file: Path
    log: LogConfig
    state: StateConfig
    sources: Mapping[str, SourceConfig]
    views: Mapping[str, ViewConfig]
    sinks: Mapping[str, SinkConfig]
