"""Kafka in connectors.yaml: the log of type kafka, and sources of type topics.

Names are Debezium's where Debezium has the setting. What a librdkafka `config` may not set is what
the log's promises stand on (committed records only, no duplicates, Java's partitioner); all else
goes through as it is. A key of another kind (`schemas` with avro, a slot of a source of topics) is
named as such, not as unknown.

A source of topics that names no brokers reads the log's own, with the log's `config`. One that
names others gets none of it: passwords go to the brokers that they were written for, and to the
registry that they were written for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, cast, get_args

from cdc.config import (
    Config,
    Decimals,
    Format,
    LogConfig,
    Place,
    SourceConfig,
    Times,
    TopicsConfig,
)
from cdc.config_yaml import Section, nearest
from cdc.errors import ConfigError
from cdc.topics.sql_types import column_declared

LOG_KEYS = (
    *("bootstrap_servers", "partitions", "replication_factor", "topic_prefix", "config"),
    *("format", "schemas", "schema_registry", "schema_registry_config"),
    *("decimal_handling_mode", "time_precision_mode", "transaction_metadata", "oversized"),
)
TOPICS_KEYS = (
    *("bootstrap_servers", "config", "format", "schema_registry", "schema_registry_config"),
    *("decimal_handling_mode", "time_precision_mode", "keys"),
)
"""Without `columns`, which a database may have in a later version."""
DATABASE_KEYS = ("url", "snapshot", "snapshot_workers")
POSTGRES_KEYS = ("slot", "publication")
OWNED = {
    "bootstrap.servers": "bootstrap_servers",
    "metadata.broker.list": "bootstrap_servers",
    "transactional.id": "topic_prefix",
    "group.id": "topic_prefix",
    **dict.fromkeys(
        (
            *("acks", "request.required.acks", "enable.idempotence", "partitioner"),
            *("isolation.level", "enable.auto.commit", "enable.auto.offset.store"),
            *("auto.offset.reset", "enable.partition.eof"),
        ),
        "",
    ),
}
"""What `config` may not set, and the key of ours that it may have been meant for."""
NAME_MAX = 249
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")
_NO_TOPIC = re.compile(r"[^A-Za-z0-9._*?\[\]!-]")
_URL = re.compile(r"https?://([^\s/@]+@)?[^\s/@]+(/[^\s@]*)?")
_GLOB = re.compile(r"[*?\[]")

Chosen = TypeVar("Chosen", bound=str)


def read_kafka_log(section: Section, config: LogConfig) -> LogConfig:
    """`config` with all that a log of type kafka has."""
    form = _format(section, "avro")
    registry = _registry(section, form)
    _belongs(section, "schemas", form, "json", "Avro's records name their schema by its id")
    return replace(
        config,
        bootstrap_servers=section.text("bootstrap_servers"),
        partitions=section.integer("partitions", 1, 1, 10_000),
        replication_factor=section.integer("replication_factor", 0, 1, 32_767),
        topic_prefix=_prefix(section),
        config=_client(section),
        format=form,
        schemas=section.flag("schemas", False),
        schema_registry=registry,
        registry_config=_registry_config(section, registry, form),
        decimal_handling_mode=_of(section, "decimal_handling_mode", Decimals, "precise"),
        time_precision_mode=_of(section, "time_precision_mode", Times, "adaptive"),
        transaction_metadata=section.flag("transaction_metadata", False),
        oversized=cast(
            Literal["stop", "dead_letter"],
            section.choice("oversized", ("stop", "dead_letter"), "stop"),
        ),
    )


def refuse_kafka_log(section: Section) -> None:
    """An embedded log has none of a Kafka log's keys."""
    section.refuse_foreign(LOG_KEYS, "a log of type kafka", "set `type: kafka`")


def read_topics_source(name: str, section: Section, log: LogConfig) -> SourceConfig:
    """A source of type topics; what it does not say is the log's, where that is on Kafka."""
    for keys, owner in ((DATABASE_KEYS, "postgres or mysql"), (POSTGRES_KEYS, "postgres")):
        owned = f"a source of type {owner}, and this one's is topics"
        section.refuse_foreign(keys, owned, "leave it out")
    topics = section.texts("tables")
    config = _topics(section, topics, log)
    _check_topics(name, section, topics, config, log)
    return SourceConfig(
        name=name,
        type="topics",
        url="",
        tables=topics,
        snapshot="initial",
        slot="",
        publication="",
        place=section.place,
        max_log_transaction_bytes=section.size_bytes(
            "max_log_transaction", 64 * 2**20, least=2**20
        ),
        topics=config,
    )


def refuse_topics_source(section: Section, kind: str) -> None:
    """A database has none of the keys of topics."""
    owner = f"a source of type topics, and this one's is {kind}"
    section.refuse_foreign(TOPICS_KEYS, owner, "leave it out")


def _topics(section: Section, tables: tuple[str, ...], log: LogConfig) -> TopicsConfig:
    own = "bootstrap_servers" in section or log.type == "embedded"
    servers = section.text("bootstrap_servers", None if own else log.bootstrap_servers)
    same = servers == log.bootstrap_servers
    form = _format(section, log.format)
    registry = _registry(section, form)
    if form == "avro" and "schema_registry" not in section:
        registry = log.schema_registry
    registry_config = _registry_config(section, registry, form)
    if "schema_registry_config" not in section and registry == log.schema_registry:
        registry_config = dict(log.registry_config)
    return TopicsConfig(
        bootstrap_servers=servers,
        config=_client(section) if "config" in section or not same else log.config,
        format=form,
        schema_registry=registry,
        registry_config=registry_config if registry else {},
        decimal_handling_mode=_of(section, "decimal_handling_mode", Decimals, "precise"),
        time_precision_mode=_of(section, "time_precision_mode", Times, "adaptive"),
        columns=_columns(section, tables),
        keys=_keys(section, tables),
    )


def _columns(section: Section, topics: tuple[str, ...]) -> Mapping[str, Mapping[str, str]]:
    outer = section.section("columns")
    _check_named(outer, topics, "columns")
    found = {}
    for topic in outer.names:
        inner = outer.section(topic, f"`columns` of {topic}")
        found[topic] = {name: inner.text(name) for name in inner.names}
        for name, text in found[topic].items():
            _check_type(inner, name, text)
        if outer.is_mapping(topic) and not inner.names:
            outer.note(topic, f"`columns` of {topic} names no column", "write {id: bigint, ...}")
    return found


def _check_type(section: Section, column: str, text: str) -> None:
    try:
        column_declared(column, text)
    except ConfigError as error:
        section.note(column, error.what, error.hint)


def _keys(section: Section, topics: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    outer = section.section("keys")
    _check_named(outer, topics, "keys")
    return {topic: outer.texts(topic, single=True) for topic in outer.names}


def _check_named(section: Section, topics: tuple[str, ...], key: str) -> None:
    """What is said per topic is said of a topic that is read."""
    for name in section.names:
        if not any(fnmatchcase(name, topic) for topic in topics):
            hint = nearest(name, topics) or f"`tables` has: {', '.join(topics)}"
            place = section.key_place(name)
            section.problems.note(place, f"`{key}`: no topic '{name}' is read", hint)


def _check_topics(
    name: str, section: Section, topics: tuple[str, ...], config: TopicsConfig, log: LogConfig
) -> None:
    own = f"{log.topic_prefix}{name}." if config.bootstrap_servers == log.bootstrap_servers else ""
    tables: dict[str, str] = {}
    for index, topic in enumerate(topics):
        place = section.item_place("tables", index)
        wrong = _NO_TOPIC.search(topic)
        if wrong is not None:
            what = f"'{topic}' cannot be a topic's name: it has '{wrong[0]}'"
            section.problems.note(place, what, "topics have letters, digits, . _ and -")
        elif own and (topic.startswith(own) or fnmatchcase(f"{own}public.t", topic)):
            what = f"source '{name}' would read what it writes itself: '{topic}'"
            hint = "name the topics more closely, or give the source another name"
            section.problems.note(place, what, hint)
        elif topic and not _GLOB.search(topic):
            table = table_of(topic)
            first = tables.setdefault(table, topic)
            if first != topic:
                what = f"'{topic}' and '{first}' would both be the table {table}"
                section.problems.note(place, what, "give each a source of its own")


def table_of(topic: str) -> str:
    """The table that a topic holds, as `schema.table`: the last two parts of its name.

    >>> table_of("inv.public.orders"), table_of("orders")
    ('public.orders', 'public.orders')
    """
    schema, _, table = topic.rpartition(".")
    return f"{schema.rpartition('.')[2] or 'public'}.{table}"


def captures(source: SourceConfig, table: str) -> bool:
    """Whether `tables` of a source let it have `schema.table`."""
    if source.type != "topics":
        return any(fnmatchcase(table, pattern) for pattern in source.tables)
    return any(_may_hold(pattern, table) for pattern in source.tables)


def _may_hold(pattern: str, table: str) -> bool:
    """Whether some topic that fits `pattern` has this table: a part of the pattern that begins the
    name, begins behind a dot, or at a `*` (which goes on in it), fits the table."""
    if not _GLOB.search(pattern):
        return table_of(pattern) == table
    starts = [0, *(at + (char == ".") for at, char in enumerate(pattern) if char in ".*")]
    ends = [pattern[at:] for at in starts]
    bare = table.removeprefix("public.")
    return any(fnmatchcase(table, end) for end in ends) or (
        bare != table and fnmatchcase(bare, pattern)
    )


def known_tables(source: SourceConfig) -> list[str]:
    """`schema.table` (or globs of them) as they may be written behind a source's name."""
    if source.type == "topics":
        return [table_of(topic) for topic in source.tables]
    return list(source.tables)


def name_problem(topic: str) -> tuple[str, str] | None:
    """Why Kafka would not have a topic of this name, and what to do; None: it would."""
    wrong = _ILLEGAL.search(topic)
    if wrong is not None:
        return (
            f"'{topic}' cannot be a topic's name: it has '{wrong[0]}'",
            "Kafka allows letters, digits, . _ and - only: leave the table out",
        )
    if len(topic) > NAME_MAX:
        return (
            f"the topic's name '{topic[:40]}…' has {len(topic)} characters, and Kafka allows "
            f"{NAME_MAX}",
            "shorten `log.topic_prefix` or the name",
        )
    return None


def check_topic_names(config: Config, top: Section) -> None:
    """All topics that the file names can be made on Kafka."""
    prefix = config.log.topic_prefix
    if config.log.type != "kafka" or name_problem(f"{prefix}cdc.schemas"):
        return
    for place, topic in _topics_named(config, top):
        wrong = name_problem(prefix + topic)
        if wrong is not None:
            top.problems.note(place, *wrong)


def _topics_named(config: Config, top: Section) -> Iterator[tuple[Place, str]]:
    sources, views = top.section("sources"), top.section("views")
    for source in config.sources.values():
        yield sources.key_place(source.name), f"{source.name}.transaction"
        section = sources.section(source.name)
        for index, table in enumerate(source.tables):
            if table and not _GLOB.search(table):
                known = table_of(table) if source.type == "topics" else table
                yield section.item_place("tables", index), f"{source.name}.{known}"
    for name in config.views:
        yield views.key_place(name), f"view.{name}.frontier"


def _prefix(section: Section) -> str:
    prefix = section.maybe_empty("topic_prefix")
    wrong = _ILLEGAL.search(prefix)
    if wrong is not None:
        what = f"topic_prefix has '{wrong[0]}', which no topic's name may have"
        section.note("topic_prefix", what, "use letters, digits, . _ and -")
    elif len(prefix) > NAME_MAX - len("cdc.schemas"):
        what = f"topic_prefix has {len(prefix)} characters, and a whole name at most {NAME_MAX}"
        section.note("topic_prefix", what, "shorten it: names of tables follow")
    return prefix


def _client(section: Section) -> dict[str, str]:
    """librdkafka's settings, less those that are ours."""
    settings = section.strings("config")
    inner = section.section("config")
    for name in settings:
        if name in OWNED:
            own = OWNED[name]
            inner.problems.note(
                inner.key_place(name),
                f"`{name}` is not for `config`: cdc-views sets it",
                f"see `{own}`" if own else "leave it out: what the log promises stands on it",
            )
    return settings


def _format(section: Section, default: Format) -> Format:
    return _of(section, "format", Format, default)


def _of(section: Section, key: str, choices: Any, default: Chosen) -> Chosen:
    """One of a Literal's values."""
    return cast(Chosen, section.choice(key, get_args(choices), default))


def _registry(section: Section, form: Format) -> str:
    _belongs(section, "schema_registry", form, "avro", "a registry is for Avro's schemas")
    url = section.text("schema_registry", "")
    if url and not all(_URL.fullmatch(part.strip()) for part in url.split(",")):
        section.note(
            "schema_registry",
            "schema_registry is no http or https URL",
            "write it as https://host:8081; for user and password see `schema_registry_config`, or "
            "percent-encode @ : / ? # in them",
        )
    return url


def _registry_config(section: Section, registry: str, form: Format) -> dict[str, str]:
    key = "schema_registry_config"
    if key in section and (form == "json" or not registry):
        section.problems.note(
            section.key_place(key), f"`{key}` is given without a registry", "add `schema_registry`"
        )
    settings = section.strings(key)
    inner = section.section(key)
    if "url" in inner:
        what = "`url` is not for `schema_registry_config`"
        inner.problems.note(inner.key_place("url"), what, "see `schema_registry`")
    return settings


def _belongs(section: Section, key: str, form: Format, owner: Format, why: str) -> None:
    if key in section and form != owner:
        section.problems.note(
            section.key_place(key),
            f"`{key}` belongs to format {owner}, and this one is {form}",
            f"{why}: leave it out, or set `format: {owner}`",
        )
