"""What most commands need: the configuration, the log, the tables' schemas, who needs whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

from cdc.capture.part import make_source
from cdc.captured import Beginning, captured
from cdc.cli import parts
from cdc.cli.output import say
from cdc.config import Config, SinkConfig
from cdc.config_yaml import nearest
from cdc.errors import CdcError, ConfigError, SourceError
from cdc.log.api import Log, Reader
from cdc.log.open import open_log
from cdc.schema import TableSchema
from cdc.source import Source
from cdc.topics import FENCED

UNFENCED = "unfenced: its cuts are polls of topics, not transactions"
Kind = Literal["source", "view", "sink"]
Tables = Mapping[str, TableSchema]


@dataclass(frozen=True)
class Needs:
    """What a sink stands on."""

    sources: tuple[str, ...]
    groups: tuple[str, ...]


@contextmanager
def opened_log(config: Config) -> Iterator[tuple[Log, Reader]]:
    with closing(open_log(config.log)) as log, closing(log.reader()) as reader:
        yield log, reader


@contextmanager
def opened_source(config: Config, name: str) -> Iterator[Source]:
    with closing(make_source(config, name)) as source:
        yield source


def fenced(config: Config, reader: Reader, sources: Iterable[str]) -> bool:
    """Whether what these sources give is cut between transactions."""
    return all(_is_fenced(config, reader, name) for name in sources)


def _is_fenced(config: Config, reader: Reader, name: str) -> bool:
    if config.sources[name].type != "topics":
        return True
    newest = reader.newest_frontier(name)
    return newest is not None and bool(newest.resume.get(FENCED))


def find(config: Config, name: str) -> tuple[Kind, str]:
    """The connector that a name on the command line means; `kind:name` where two share one."""
    groups: dict[Kind, Iterable[str]] = {
        "source": config.sources,
        "view": config.views,
        "sink": config.sinks,
    }
    kind, colon, bare = name.partition(":")
    wanted = bare if colon else name
    matches: list[Kind] = [
        k for k, names in groups.items() if wanted in names and (not colon or k == kind)
    ]
    if len(matches) == 1:
        return matches[0], wanted
    if matches:
        spelled = " or ".join(f"{kind}:{wanted}" for kind in matches)
        raise ConfigError(f"'{name}' is ambiguous", hint=f"write {spelled}")
    raise unknown("connector", name, [*config.sources, *config.views, *config.sinks])


def sink_named(config: Config, name: str) -> SinkConfig:
    if name not in config.sinks:
        raise unknown("sink", name, config.sinks)
    return config.sinks[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    names = sorted(known)
    there_are = f"there are: {', '.join(names)}" if names else f"the file has no {kind}"
    return ConfigError(f"there is no {kind} '{name}'", hint=nearest(name, names) or there_are)


def known_tables(config: Config) -> dict[str, TableSchema]:
    """The log's tables, and for sources that are not in it yet (or not fully) the source's own."""
    with opened_log(config) as (_, reader):
        known = captured(reader, config.sources, Beginning())
    found = dict(known.tables)
    for name in (config.sources.keys() - known.complete) | known.may_find_more:
        try:
            with opened_source(config, name) as source:
                own = {f"{name}.{table}": schema for table, schema in source.tables().items()}
                found = own | found
        except SourceError as error:
            say(f"{name}: {error.what}")
            if not any(topic.startswith(f"{name}.") for topic in found):
                raise
    return found


def table_topic(config: Config, name: str) -> str:
    """The topic of a table named as in `from:`: `shop.orders` is `shop.public.orders`."""
    source, _, table = name.partition(".")
    return f"{source}.{config.sources[source].full_name(table)}"


def input_topic(config: Config, name: str) -> str:
    return f"view.{name}" if name in config.views else table_topic(config, name)


def input_schemas(config: Config, sink: SinkConfig, tables: Tables) -> dict[str, TableSchema]:
    """The schema of each input of a sink, by its name under `from:`."""
    views = (
        parts.views().schemas(config, tables)
        if any(name in config.views for name in sink.inputs)
        else {}
    )
    found = {}
    for name in sink.inputs:
        schema = views.get(name) or tables.get(table_topic(config, name))
        if schema is None:
            raise CdcError(f"there is no table '{name}'", where=f"sink {sink.name}")
        found[name] = schema
    return found


def needs(config: Config, sink: SinkConfig, tables: Tables) -> Needs:
    """The sources and view groups that feed a sink."""
    sources: set[str] = set()
    groups: set[str] = set()
    for name in sink.inputs:
        if name in config.views:
            read = parts.views().inputs(config, tables, name)
            sources |= {table.partition(".")[0] for table in read}
            groups.add(config.views[name].group)
        else:
            sources.add(name.partition(".")[0])
    return Needs(tuple(sorted(sources)), tuple(sorted(groups)))
