"""Names in connectors.yaml: what they may be, and that each reference finds its target."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cdc.config import Config, Place, SinkConfig, SourceConfig, ViewConfig
from cdc.config_kafka import captures, known_tables
from cdc.config_mysql import check_server_ids
from cdc.config_sinks import check_sinks
from cdc.config_yaml import Problems, Section, nearest

RESERVED = ("view", "cdc", "dead-letters")
"""Not a source's: each is, or begins, a topic or a file of the log that is not a source's."""
_SQL_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_SINK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


def check_identifier(problems: Problems, place: Place, kind: str, name: str) -> None:
    """Sources and views are SQL names, and all names are parts of topics and file names."""
    pattern = _SINK_NAME if kind == "sink" else _SQL_NAME
    if kind == "source" and name in RESERVED:
        problems.note(
            place, f"'{name}' is reserved and cannot be a source's name", "choose another name"
        )
    elif not pattern.fullmatch(name) or len(name) > 63:
        hint = "letters, digits, _ and -" if kind == "sink" else "lower-case letters, digits and _"
        problems.note(place, f"'{name}' cannot be a {kind}'s name", f"use {hint}, at most 63")


def check_replication_name(section: Section, key: str, name: str) -> None:
    if not _SLOT.fullmatch(name):
        section.note(
            key,
            f"'{name}' cannot be a {key}'s name",
            "Postgres allows lower-case letters, digits and _, at most 63",
        )


def check_references(problems: Problems, config: Config, top: Section) -> None:
    """Everything that one section says about another."""
    views = top.section("views")
    for name in config.views:
        if name in config.sources:
            problems.note(
                views.key_place(name),
                f"'{name}' is a source's name too",
                "a view and a source may not share a name",
            )
    for view in config.views.values():
        _check_view(view, views.section(view.name), top.section("sources").names)
    sinks = top.section("sinks")
    for sink in config.sinks.values():
        _check_sink(sink, sinks.section(sink.name), config, top)
    check_sinks(config.sinks, config.views, sinks)
    _check_shared_slots(config.sources, top.section("sources"))
    check_server_ids(config.sources, top.section("sources"))


def _check_view(view: ViewConfig, section: Section, sources: list[str]) -> None:
    if view.source is not None and view.source not in sources:
        section.note(
            "source", f"there is no source '{view.source}'", _suggest(view.source, sources)
        )


def _check_sink(sink: SinkConfig, section: Section, config: Config, top: Section) -> None:
    views, sources = top.section("views").names, top.section("sources").names
    for index, name in enumerate(sink.inputs):
        place = section.item_place("from", index)
        if name in sink.inputs[:index]:
            section.problems.note(place, f"'{name}' is named twice")
        elif name and name not in views:
            problem = _unknown_input(name, views, sources, config.sources)
            if problem is not None:
                section.problems.note(place, *problem)


def _unknown_input(
    name: str, views: list[str], sources: list[str], captured: Mapping[str, SourceConfig]
) -> tuple[str, str] | None:
    """What is wrong with an input that is no view; None when it is a captured table."""
    source, dot, table = name.partition(".")
    if not dot:
        tables = [f"{s.name}.{s.short_name(t)}" for s in captured.values() for t in known_tables(s)]
        return f"there is no view '{name}'", _suggest(name, [*views, *tables])
    if source not in sources:
        hint = _suggest(name, [*views, *(f"{s}.{table}" for s in sources)])
        return f"there is no source '{source}'", hint
    if source not in captured:
        return None
    found = captured[source]
    full = found.full_name(table)
    if not found.tables or captures(found, full):
        return None
    known = [f"{source}.{found.short_name(t)}" for t in known_tables(found)]
    return f"source '{source}' does not capture {full}", _suggest(name, known)


def _suggest(name: str, known: list[str]) -> str:
    return nearest(name, known) or (f"there are: {', '.join(sorted(known))}" if known else "")


def _check_shared_slots(sources: Mapping[str, SourceConfig], section: Section) -> None:
    seen: dict[tuple[str, str], str] = {}
    for source in (s for s in sources.values() if s.slot):
        first = seen.setdefault((source.url, source.slot), source.name)
        if first != source.name:
            section.section(source.name).note(
                "slot", f"source '{first}' uses slot '{source.slot}' of the same server"
            )
