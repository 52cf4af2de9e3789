"""The items under `sinks:`: what each kind of store takes, and what it does not.

1. `type:` chooses the reader; options of another kind are named as such, not as unknown
2. the kind's own options become `SinkConfig.options`, defaults filled in
3. `check_sinks` compares sinks with each other, as two must not write to one place, and a Redis
   key with its view's, where the view declares one

What else needs the columns (does `key:` contain a derived key? is there a column `amount`?) is
known after planning only: the sink's `check` tells it, with `SinkConfig.place_of(option)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from cdc.config import SinkConfig, ViewConfig
from cdc.config_url import read_url
from cdc.config_yaml import Section, nearest
from cdc.errors import ConfigError
from cdc.templates import parse_template

Kind = Literal["sql", "elasticsearch", "redis"]
OPTIONS: Mapping[Kind, tuple[str, ...]] = {
    "sql": ("table", "schema"),
    "elasticsearch": ("index", "mappings", "settings", "api_key", "ca_certs"),
    "redis": ("value", "key", "column", "name", "score", "member"),
}
REDIS_VALUES: Mapping[str, tuple[str, ...]] = {
    "json": ("key",),
    "hash": ("key",),
    "string": ("key", "column"),
    "sorted_set": ("name", "score", "member"),
}
_REDIS_EXAMPLES = {
    "key": '`key: "order:{id}"`, with every column of the input\'s key in braces',
    "column": "`column: NAME`, the column whose text is the value",
    "name": "`name: NAME` of the sorted set; columns in braces make several",
    "score": "`score: COLUMN`, a number to sort by",
    "member": '`member: "{id}"`; `name` and `member` contain every column of the input\'s key',
}
# What a mapping has beside its fields (the `mapping` chapter of Elasticsearch's reference).
_MAPPING_KEYS = (
    *("properties", "dynamic", "dynamic_templates", "dynamic_date_formats", "date_detection"),
    *("numeric_detection", "runtime", "subobjects", "enabled", "_source", "_routing", "_meta"),
    *("_field_names", "_size"),
)
# An index behind the alias has a number appended; Elasticsearch allows 255 bytes.
_INDEX_MAX_BYTES = 235
_INDEX = re.compile(r"[^\s\"*\\<>|,/?#:A-Z_+.-][^\s\"*\\<>|,/?#:A-Z]*")


def read_sink(name: str, section: Section, file: Path) -> SinkConfig | None:
    """One sink; None when its type is not one that there is."""
    kind = section.choice("type", tuple(OPTIONS))
    if kind not in OPTIONS:
        section.ignore_rest()
        return None
    found = cast(Kind, kind)
    _refuse_foreign(section, found)
    inputs = section.texts("from", single=True)
    if found != "sql" and len(inputs) > 1:
        section.problems.note(
            section.item_place("from", 1),
            f"a sink of type {found} has one input, not {len(inputs)}",
            "give each input a sink of its own",
        )
    readers = {"sql": _sql, "elasticsearch": _elasticsearch, "redis": _redis}
    url, options = readers[found](section, inputs, file)
    places = {key: section.text_place(key) for key in OPTIONS[found] if key in section}
    return SinkConfig(name, found, url, inputs, section.place, options, places)


def check_sinks(
    sinks: Mapping[str, SinkConfig], views: Mapping[str, ViewConfig], section: Section
) -> None:
    """What one sink says about another, or about its view."""
    _check_shared_places(sinks, section)
    for sink in sinks.values():
        view = views.get(sink.inputs[0]) if sink.type == "redis" and sink.inputs else None
        if view is not None and view.key:
            _check_key(sink, view, section.section(sink.name))


def _check_key(sink: SinkConfig, view: ViewConfig, section: Section) -> None:
    """Keys are made of the row, and two rows must not make one."""
    options = [option for option in ("key", "name", "member") if option in sink.options]
    try:
        used = [c for option in options for c in parse_template(sink.options[option]).columns]
    except ConfigError:
        return
    missing = [column for column in view.key or () if column not in used]
    if options and missing:
        verb = "lack" if len(options) > 1 else "lacks"
        section.note(
            options[-1],
            f"{' and '.join(options)} {verb} {missing[0]} of the key of view '{view.name}'",
            f"write {{{missing[0]}}} into it: every row needs a place of its own",
        )


def _check_shared_places(sinks: Mapping[str, SinkConfig], section: Section) -> None:
    """Two sinks that write to one index or under one key would undo each other's work."""
    seen: dict[tuple[object, ...], str] = {}
    for sink in sinks.values():
        for option in _place_options(sink):
            place = (sink.type, sink.url, sink.options[option])
            first = seen.setdefault(place, sink.name)
            if first != sink.name:
                section.section(sink.name).note(
                    option if option in sink.places else "from",
                    f"sink '{first}' writes to {option} '{sink.options[option]}' of this server",
                    f"give one of them another `{option}`",
                )


def _place_options(sink: SinkConfig) -> list[str]:
    options = {"elasticsearch": ("index",), "redis": ("key", "name")}.get(sink.type, ())
    return [option for option in options if sink.options.get(option)]


def _refuse_foreign(section: Section, kind: Kind) -> None:
    """An option of another kind of store: named as such."""
    for other, options in OPTIONS.items():
        for option in options:
            if option in section and option not in OPTIONS[kind]:
                section.problems.note(
                    section.key_place(option),
                    f"`{option}` belongs to a sink of type {other}, and this one's is {kind}",
                    f"known keys: {', '.join(sorted((*OPTIONS[kind], 'from', 'type', 'url')))}",
                )
                section.ignore(option)


def _sql(section: Section, inputs: tuple[str, ...], file: Path) -> tuple[str, dict[str, Any]]:
    options = {key: section.text(key) for key in OPTIONS["sql"] if key in section}
    section.ignore(*OPTIONS["sql"])
    if len(inputs) > 1 and "{name}" not in options.get("table", "{name}"):
        section.note(
            "table",
            "`table` names one table, but this sink has several inputs",
            'write a template, such as "{schema}_{name}", or give each input a sink of its own',
        )
    return read_url(section), dict(options)


def _elasticsearch(
    section: Section, inputs: tuple[str, ...], file: Path
) -> tuple[str, dict[str, Any]]:
    url = read_url(section, ("http", "https"), "https://user:password@host:9200")
    options: dict[str, Any] = {
        "index": section.text("index", inputs[0].rpartition(".")[2] if inputs else ""),
        "mappings": section.plain("mappings"),
        "settings": section.plain("settings"),
    }
    _check_index(section, options["index"])
    _check_mappings(section, options["mappings"])
    section.ignore("api_key", "ca_certs")
    if "api_key" in section:
        options["api_key"] = section.text("api_key")
        if "@" in urlsplit(url).netloc:
            section.note(
                "api_key", "`api_key` and a user in the url are given", "leave one of them out"
            )
    if "ca_certs" in section:
        options["ca_certs"] = _certificates(section, url, file)
    return url, options


def _check_index(section: Section, index: str) -> None:
    if not index or (_INDEX.fullmatch(index) and len(index.encode()) <= _INDEX_MAX_BYTES):
        return
    section.note(
        "index" if "index" in section else "from",
        f"'{index}' cannot be an index's name",
        "write an `index:` of lower-case letters, digits, - and _ that begins with a letter or "
        f"digit, at most {_INDEX_MAX_BYTES} bytes",
    )


def _check_mappings(section: Section, mappings: Mapping[str, Any]) -> None:
    inner = section.section("mappings")
    for key in mappings:
        if key not in _MAPPING_KEYS:
            hint = nearest(key, _MAPPING_KEYS) or "fields stand one deeper, under `properties`"
            inner.problems.note(inner.key_place(key), f"unknown key '{key}' in `mappings`", hint)
    if not isinstance(mappings.get("properties", {}), dict):
        inner.note("properties", "`properties` must be a mapping of field names")
        return
    fields = inner.section("properties")
    for name, field in mappings.get("properties", {}).items():
        if not isinstance(field, dict):
            fields.note(name, f"field '{name}' must be a mapping", "write it as {type: keyword}")


def _certificates(section: Section, url: str, file: Path) -> Path:
    path = (file.absolute().parent / Path(section.text("ca_certs")).expanduser()).resolve()
    if not url.startswith("https://"):
        section.note("ca_certs", "`ca_certs` is for a url that begins with https://")
    elif not path.is_file():
        section.note("ca_certs", f"there is no file {section.shown('ca_certs')}")
    return path


def _redis(section: Section, inputs: tuple[str, ...], file: Path) -> tuple[str, dict[str, Any]]:
    url = read_url(section, ("redis", "rediss", "unix"), "redis://user:password@host:6379/0")
    _check_database(section, url)
    value = section.choice("value", tuple(REDIS_VALUES), "json")
    options: dict[str, Any] = {"value": value}
    wanted = REDIS_VALUES.get(value)
    section.ignore(*OPTIONS["redis"])
    for option in OPTIONS["redis"][1:] if wanted is not None else ():
        if option in (wanted or ()):
            _redis_option(section, option, value, options)
        elif option in section:
            _refuse_with_value(section, option, value)
    return url, options


def _redis_option(section: Section, option: str, value: str, options: dict[str, Any]) -> None:
    if option not in section:
        where = f"{section.title} of value {value}"
        section.problems.note(
            section.place, f"{where} has no `{option}`", f"add {_REDIS_EXAMPLES[option]}"
        )
        return
    if section.is_mapping(option):
        section.note(
            option, f"{option} is YAML's mapping in braces, not text", "put it in double quotes"
        )
        return
    options[option] = text = section.text(option)
    if option in {"column", "score"}:
        if text.startswith("{") and text.endswith("}"):
            section.note(
                option, f"{option} is one column's name", f"write it without braces: {text[1:-1]}"
            )
        return
    try:
        parse_template(text)
    except ConfigError as error:
        section.note(option, error.what, error.hint)


def _refuse_with_value(section: Section, option: str, value: str) -> None:
    owners = [kind for kind, options in REDIS_VALUES.items() if option in options]
    own = ", ".join(f"`{o}`" for o in REDIS_VALUES[value])
    section.problems.note(
        section.key_place(option),
        f"`{option}` belongs to value: {' | '.join(owners)}, and this sink's is {value}",
        f"value: {value} takes {own}",
    )


def _check_database(section: Section, url: str) -> None:
    """The path of redis://host:port/0 is a database's number; a unix socket's is a file."""
    if not url.startswith(("redis://", "rediss://")):
        return
    database = urlsplit(url).path.strip("/")
    if not re.fullmatch(r"\d{0,4}", database):
        section.note(
            "url", "the url's path is no database number", "write it as redis://host:6379/0"
        )
