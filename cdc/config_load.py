"""connectors.yaml → `Config`: read once, checked in full, every mistake reported together.

1. compose the YAML with its places (cdc.config_yaml)
2. read each section into its dataclass; names first, since sections refer to each other
3. check what crosses sections: `from:`, `source:`, clashing names (cdc.config_names)
4. raise all that was noted, or return the Config

Relative paths are relative to the file's directory. What a later version brings is refused by name
("not supported yet in this version"), so that nobody looks for a spelling mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast, get_args
from zoneinfo import available_timezones

from cdc.config import (
    Config,
    LogConfig,
    Snapshot,
    SourceConfig,
    StateConfig,
    ViewConfig,
)
from cdc.config_kafka import (
    check_topic_names,
    read_kafka_log,
    read_topics_source,
    refuse_kafka_log,
    refuse_topics_source,
)
from cdc.config_mysql import MYSQL_TYPES, read_mysql_source, refuse_mysql_source
from cdc.config_names import check_identifier, check_references, check_replication_name
from cdc.config_sinks import read_sink
from cdc.config_url import read_url
from cdc.config_yaml import Section, compose, nearest

LATER = "it comes in a later version"
SOURCE_TYPES = ("postgres", *MYSQL_TYPES, "topics")
POSTGRES_SCHEMES = ("postgresql", "postgres")
POSTGRES_URL = "postgresql://user:password@host:port/database"

Item = TypeVar("Item")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in `path`. Raises ConfigError (ConfigProblems when there are several)."""
    problems, top = compose(path, environ)
    log = _log(top.section("log"), path)
    state = _state(top.section("state"), log.path, path)
    sources = _named(top, "sources", "source", lambda name, inner: _source(name, inner, log))
    views = _named(top, "views", "view", _view)
    sinks = _named(top, "sinks", "sink", lambda name, section: read_sink(name, section, path))
    top.done()
    config = Config(path.absolute(), log, state, sources, views, sinks)
    check_references(problems, config, top)
    check_topic_names(config, top)
    problems.raise_any()
    return config


def _named(
    top: Section, key: str, kind: str, read: Callable[[str, Section], Item | None]
) -> dict[str, Item]:
    """The items of one of the three mappings, by name; those of a refused type are left out."""
    outer = top.section(key)
    found: dict[str, Item] = {}
    for name in outer.names:
        check_identifier(outer.problems, outer.key_place(name), kind, name)
        inner = outer.section(name, f"{kind} '{name}'")
        item = read(name, inner)
        inner.done()
        if item is not None:
            found[name] = item
    return found


def _log(section: Section, file: Path) -> LogConfig:
    kind = section.choice("type", ("embedded", "kafka"), "embedded")
    config = LogConfig(
        type="kafka" if kind == "kafka" else "embedded",
        path=_path(file, section.text("path", ".cdc")),
        min_compaction_lag_s=section.seconds("min_compaction_lag_s", 86400.0),
        tombstone_retention_s=section.seconds("tombstone_retention_s", 86400.0),
    )
    if kind == "kafka":
        config = read_kafka_log(section, config)
    else:
        refuse_kafka_log(section)
    section.done()
    return config


def _state(section: Section, log_path: Path, file: Path) -> StateConfig:
    config = StateConfig(
        path=_path(file, section.text("path", str(log_path / "state"))),
        memory_max_bytes=section.size_bytes("memory_max", 500 * 2**20, least=16 * 2**20),
        checkpoint_interval_s=section.seconds("checkpoint_interval_s", 10.0, least=0.1),
    )
    section.done()
    return config


def _source(name: str, section: Section, log: LogConfig) -> SourceConfig | None:
    kind = section.choice("type", SOURCE_TYPES)
    if kind == "topics":
        refuse_mysql_source(section, kind)
        return read_topics_source(name, section, log)
    refuse_topics_source(section, kind)
    section.refuse(("columns", "masks", "where"), LATER)
    if kind in MYSQL_TYPES:
        return read_mysql_source(name, section)
    refuse_mysql_source(section, kind)
    source = SourceConfig(
        name=name,
        type="postgres",
        url=read_url(section, POSTGRES_SCHEMES, POSTGRES_URL),
        tables=tuple(_table_pattern(t) for t in section.texts("tables")),
        snapshot=cast(Snapshot, section.choice("snapshot", get_args(Snapshot), "initial")),
        slot=section.text("slot", f"cdc_{name}"),
        publication=section.text("publication", f"cdc_{name}"),
        place=section.place,
        snapshot_workers=section.integer("snapshot_workers", 2, 1, 64),
        max_log_transaction_bytes=section.size_bytes(
            "max_log_transaction", 64 * 2**20, least=2**20
        ),
    )
    check_replication_name(section, "slot", source.slot)
    return source


def _view(name: str, section: Section) -> ViewConfig:
    sql = section.text("sql")
    zone = section.text("timezone", "UTC")
    zones = available_timezones()
    if zones and zone not in zones:
        section.note("timezone", f"'{zone}' is not a time zone", nearest(zone, zones))
    return ViewConfig(
        name=name,
        sql=sql,
        place=section.place,
        sql_place=section.text_place("sql") if "sql" in section else section.place,
        key=section.texts("key", required=False, single=True) if "key" in section else None,
        timezone=zone,
        source=section.text("source", "") or None,
        group=section.text("group", "main"),
    )


def _table_pattern(text: str) -> str:
    return text if "." in text or not text else f"public.{text}"


def _path(file: Path, text: str) -> Path:
    return (file.absolute().parent / Path(text).expanduser()).resolve()
