"""Sources of type mysql (MariaDB: the same, the server says which it is) in connectors.yaml."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast, get_args

from cdc.config import MySqlConfig, Snapshot, SourceConfig, ZeroDates
from cdc.config_kafka import POSTGRES_KEYS
from cdc.config_url import read_url
from cdc.config_yaml import Section, nearest
from cdc.errors import ConfigError
from cdc.mysql.address import EXAMPLE, SCHEMES, address

MYSQL_TYPES = ("mysql", "mariadb")
MYSQL_KEYS = ("server_id", "zero_dates", "minimal_row_image", "heartbeat_s")


def read_mysql_source(name: str, section: Section) -> SourceConfig:
    """A source of type mysql; what is wrong is noted with its place."""
    section.refuse_foreign(
        POSTGRES_KEYS,
        "a source of type postgres, and this one's is mysql",
        "leave it out: MySQL keeps its binlog by time, see binlog_expire_logs_seconds",
    )
    source = SourceConfig(
        name=name,
        type="mysql",
        url=_url(section),
        tables=section.texts("tables"),
        snapshot=cast(Snapshot, section.choice("snapshot", get_args(Snapshot), "initial")),
        slot="",
        publication="",
        place=section.place,
        snapshot_workers=section.integer("snapshot_workers", 2, 1, 64),
        max_log_transaction_bytes=section.size_bytes(
            "max_log_transaction", 64 * 2**20, least=2**20
        ),
        mysql=MySqlConfig(
            server_id=section.integer("server_id", 0, 1, 2**32 - 1) or derived_server_id(name),
            zero_dates=_zero_dates(section),
            minimal_row_image=section.flag("minimal_row_image", False),
            heartbeat_s=section.seconds("heartbeat_s", 10.0, least=0.1),
        ),
    )
    return _with_databases(source, section)


def refuse_mysql_source(section: Section, kind: str) -> None:
    """Other sources have none of MySQL's keys."""
    owner = f"a source of type mysql, and this one's is {kind}"
    section.refuse_foreign(MYSQL_KEYS, owner, "leave it out")


def derived_server_id(name: str) -> int:
    """The same for a source's name on every machine, and above what people give their servers.

    >>> 2**31 <= derived_server_id("shop") < 2**32
    True
    """
    return 2**31 + (zlib.crc32(name.encode()) >> 1)


def check_server_ids(sources: Mapping[str, SourceConfig], section: Section) -> None:
    """Of two replicas with one server_id, the server ends the older one's connection."""
    seen: dict[tuple[str, int, int], str] = {}
    for source in sources.values():
        if source.mysql is None or not section.section(source.name).is_text("url"):
            continue
        try:
            server = address(source.url)
        except ConfigError:
            continue  # noted where it was read
        key = (server.host, server.port, source.mysql.server_id)
        first = seen.setdefault(key, source.name)
        if first != source.name:
            section.section(source.name).note(
                "server_id",
                f"source '{first}' has server_id {source.mysql.server_id} on the same server",
                "give each source a `server_id` of its own",
            )


def _url(section: Section) -> str:
    url = read_url(section, SCHEMES, EXAMPLE)
    if url and url.partition("://")[0] in SCHEMES:
        try:
            address(url)
        except ConfigError as error:
            section.note("url", error.what, error.hint)
    return url


def _zero_dates(section: Section) -> ZeroDates:
    """`null` without quotes is YAML's null, and means the word."""
    text = section.maybe_empty("zero_dates", "null")
    if text not in get_args(ZeroDates):
        choices = get_args(ZeroDates)
        section.note(
            "zero_dates",
            f"zero_dates is {section.shown('zero_dates')}, not one of {', '.join(choices)}",
            nearest(text, choices),
        )
        return "null"
    return cast(ZeroDates, text)


def _with_databases(source: SourceConfig, section: Section) -> SourceConfig:
    """With the URL's database before tables that name none."""
    tables = []
    for index, table in enumerate(source.tables):
        if table and "." not in table and not source.database:
            section.problems.note(
                section.item_place("tables", index),
                f"'{table}' names no database, and neither does the url",
                f"write database.{table}, or end the url with /database",
            )
        tables.append(source.full_name(table) if table else table)
    return replace(source, tables=tuple(tables))
