"""YAML with places: typed access to a document's nodes, and every problem collected.

The file is composed to nodes, never constructed, so that each value keeps its line and column. A
`Section` is one mapping; its getters check type and range, take `${NAME}` from the environment and
note what is wrong instead of raising, so that one run names every mistake. A getter that noted a
problem returns its default; the caller raises before anybody uses it.

Messages quote a value as the file has it (`${SHOP_PASSWORD}`), never as the environment fills it,
and URLs with their password masked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cdc.config import Place
from cdc.errors import ConfigError, ConfigProblems, mask_url

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{[^}]*\}?")
_SIZE = re.compile(r"(?i)(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_JSON_SCALARS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_NOT_TEXT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:bool")


@dataclass
class Problems:
    """Where every mistake of one file is noted; `raise_any` reports them together."""

    file: str
    environ: Mapping[str, str]
    found: list[ConfigError] = field(default_factory=list)

    def note(self, place: Place, what: str, hint: str = "") -> None:
        self.found.append(ConfigError(what, where=str(place), hint=hint))

    def place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def raise_any(self) -> None:
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise ConfigProblems(sorted(self.found, key=_line))


def _line(error: ConfigError) -> tuple[int, int]:
    _, line, column = error.where.rsplit(":", 2)
    return int(line), int(column)


def compose(path: Path, environ: Mapping[str, str]) -> tuple[Problems, Section]:
    """The document's top mapping. Raises ConfigError when there is no file or no YAML in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "name the file with -f, or start from the README's connectors.yaml"
        raise ConfigError("there is no such file", where=str(path), hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file cannot be read: {error}", where=str(path)) from error
    problems = Problems(str(path), environ)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_syntax(error), where=_syntax_place(path, error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}", where=str(path)) from None
    if node is None:
        node = yaml.MappingNode("tag:yaml.org,2002:map", [], _start(path), _start(path))
    return problems, Section(problems, node, "the file")


def _start(path: Path) -> yaml.Mark:
    return yaml.Mark(str(path), 0, 0, 0, None, 0)


def _syntax(error: yaml.MarkedYAMLError) -> tuple[str]:
    context = f" {error.context}" if error.context else ""
    return (f"not YAML: {error.problem}{context}",)


def _syntax_place(path: Path, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return str(Place(str(path), mark.line + 1, mark.column + 1)) if mark else str(path)


class Section:
    """One mapping of the file. Keys nobody asked for are unknown: `done` reports them."""

    def __init__(self, problems: Problems, node: yaml.Node, title: str) -> None:
        self.problems, self.title, self.place = problems, title, problems.place(node)
        self._values: dict[str, yaml.Node] = {}
        self._keys: dict[str, Place] = {}
        self._asked: list[str] = []
        self._foreign: list[str] = []
        self._sections: dict[str, Section] = {}
        self._node = node
        if isinstance(node, yaml.MappingNode):
            self._read(node)
        elif node.tag != "tag:yaml.org,2002:null":
            problems.note(self.place, f"{title} must be a mapping, not {_kind(node)}")

    def _read(self, node: yaml.MappingNode) -> None:
        for key_node, value_node in node.value:
            place = self.problems.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.note(place, f"a key of {self.title} must be plain text")
            elif key_node.value in self._values:
                first = self._keys[key_node.value].line
                self.problems.note(
                    place,
                    f"'{key_node.value}' is given twice",
                    f"it stands already on line {first}",
                )
            else:
                self._values[key_node.value], self._keys[key_node.value] = value_node, place

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def names(self) -> list[str]:
        return list(self._values)

    def place_of(self, key: str) -> Place:
        """Where the value of `key` begins (the section, when there is none)."""
        node = self._values.get(key)
        return self.place if node is None else self.problems.place(node)

    def key_place(self, key: str) -> Place:
        return self._keys.get(key, self.place)

    def text_place(self, key: str) -> Place:
        """Where the text of a scalar begins: for a block (`|`), its first line."""
        node = self._values[key]
        place = self.problems.place(node)
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            return Place(place.file, place.line + 1, self._indent(node))
        quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
        return Place(place.file, place.line, place.column + int(quoted))

    def _indent(self, node: yaml.ScalarNode) -> int:
        lines = Path(self.problems.file).read_text(encoding="utf-8").splitlines()
        first = node.start_mark.line + 1
        body = lines[first : max(node.end_mark.line, first + 1)]
        return min((len(x) - len(x.lstrip()) for x in body if x.strip()), default=0) + 1

    def note(self, key: str, what: str, hint: str = "") -> None:
        self.problems.note(self.place_of(key), what, hint)

    def section(self, key: str, title: str = "") -> Section:
        """The mapping under `key`; an empty one when there is none."""
        self._asked.append(key)
        if key not in self._sections:
            node = self._values.get(key) or yaml.MappingNode(
                "tag:yaml.org,2002:map", [], self._node.start_mark, self._node.end_mark
            )
            self._sections[key] = Section(self.problems, node, title or f"`{key}`")
        return self._sections[key]

    def text(self, key: str, default: str | None = None) -> str:
        """A non-empty text. Without a default the key must be there."""
        raw = self._scalar(key, "text", required=default is None)
        if raw is None:
            return default or ""
        if self._values[key].tag in _NOT_TEXT:
            self.note(key, f"{key} must be text, not {_kind(self._values[key])}")
        elif not raw.strip():
            self.note(key, f"{key} must not be empty")
        return raw

    def maybe_empty(self, key: str, default: str = "") -> str:
        raw = self._scalar(key, "text", required=False)
        return default if raw is None else raw

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self.text(key, default)
        if value and value not in choices and key in self:
            self.note(
                key,
                f"{key} is {self.shown(key)}, not one of {', '.join(choices)}",
                nearest(value, choices),
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        raw = self._scalar(key, "true or false", required=False)
        if raw is not None and raw.strip().lower() not in {"true", "false"}:
            self.note(key, f"{key} must be true or false, not {self.shown(key)}")
        return default if raw is None else raw.strip().lower() == "true"

    def integer(self, key: str, default: int, least: int, most: int) -> int:
        raw = self._scalar(key, "a whole number", required=False)
        if raw is None:
            return default
        if not re.fullmatch(r"[+-]?\d{1,18}", raw.strip()):
            self.note(key, f"{key} must be a whole number, not {self.shown(key)}")
            return default
        if not least <= int(raw) <= most:
            self.note(key, f"{key} must lie between {least} and {most}, not {self.shown(key)}")
            return default
        return int(raw)

    def seconds(self, key: str, default: float, least: float = 0.0) -> float:
        raw = self._scalar(key, "a number of seconds", required=False)
        if raw is None:
            return default
        if not re.fullmatch(r"\d{1,12}(\.\d+)?", raw.strip()):
            self.note(key, f"{key} must be a number of seconds, not {self.shown(key)}")
        elif float(raw) < least:
            self.note(key, f"{key} must be at least {least:g}, not {self.shown(key)}")
        else:
            return float(raw)
        return default

    def size_bytes(self, key: str, default: int, least: int = 1) -> int:
        raw = self._scalar(key, "a size", required=False)
        if raw is None:
            return default
        match = _SIZE.fullmatch(raw.strip())
        if match is None:
            self.note(key, f"{key} must be a size, not {self.shown(key)}", "write it as 500MiB")
            return default
        size = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
        if size < least:
            self.note(key, f"{key} must be at least {least} bytes, not {self.shown(key)}")
        return size

    def texts(self, key: str, *, required: bool = True, single: bool = False) -> tuple[str, ...]:
        """A list of texts; with `single`, one text stands for a list of one."""
        self._asked.append(key)
        node = self._values.get(key)
        if node is None:
            if required:
                self._missing(key)
            return ()
        if single and isinstance(node, yaml.ScalarNode) and node.tag not in _NOT_TEXT:
            return (self.text(key),)
        if not isinstance(node, yaml.SequenceNode):
            wanted = "a name or a list of names" if single else "a list"
            self.note(key, f"{key} must be {wanted}, not {_kind(node)}")
            return ()
        if not node.value and required:
            self.note(key, f"{key} must name at least one")
        return tuple(self._item(key, item) for item in node.value)

    def item_place(self, key: str, index: int) -> Place:
        """The place of one entry of a list (or of the single text standing for it)."""
        node = self._values[key]
        if isinstance(node, yaml.SequenceNode) and index < len(node.value):
            return self.problems.place(node.value[index])
        return self.problems.place(node)

    def _item(self, key: str, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag not in _NOT_TEXT and node.value.strip():
            return self._filled(node)
        empty = isinstance(node, yaml.ScalarNode) and node.tag not in _NOT_TEXT
        wrong = "must not be empty" if empty else f"must be text, not {_kind(node)}"
        self.problems.note(self.problems.place(node), f"an entry of {key} {wrong}")
        return ""

    def strings(self, key: str) -> dict[str, str]:
        """A mapping of texts."""
        inner = self.section(key)
        return {name: inner.maybe_empty(name) for name in inner.names}

    def plain(self, key: str) -> dict[str, Any]:
        """A mapping of anything that JSON has, as Python values; texts filled in."""
        return self.section(key)._values_of_json()

    def _values_of_json(self) -> dict[str, Any]:
        return {
            name: self.section(name)._values_of_json()
            if isinstance(node, yaml.MappingNode)
            else self._plain(node)
            for name, node in self._values.items()
        }

    def is_text(self, key: str) -> bool:
        return isinstance(self._values.get(key), yaml.ScalarNode)

    def is_mapping(self, key: str) -> bool:
        return isinstance(self._values.get(key), yaml.MappingNode)

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return Section(self.problems, node, self.title)._values_of_json()
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag not in _JSON_SCALARS:
            return self._filled(node)
        return yaml.SafeLoader("").construct_object(node)

    def refuse(self, keys: Iterable[str], hint: str = "") -> None:
        """Keys that a later version brings: refused by name, not as unknown."""
        for key in keys:
            self._asked.append(key)
            if key in self:
                self.problems.note(
                    self.key_place(key), f"`{key}` is not supported yet in this version", hint
                )

    def refuse_foreign(self, keys: Iterable[str], owner: str, hint: str) -> None:
        """Keys that belong to something of another type: refused as such, not as unknown."""
        for key in keys:
            self._foreign.append(key)
            if key in self:
                self.problems.note(self.key_place(key), f"`{key}` belongs to {owner}", hint)

    def ignore(self, *keys: str) -> None:
        """These keys were dealt with elsewhere."""
        self._asked.extend(keys)

    def ignore_rest(self) -> None:
        self._asked.extend(self._values)

    def done(self) -> None:
        """Report the keys that no getter asked for."""
        known = sorted({*self._asked} - {*self._foreign})
        for key in self._values:
            if key not in self._asked and key not in self._foreign:
                self.problems.note(
                    self._keys[key],
                    f"unknown key '{key}' in {self.title}",
                    nearest(key, [*known, *self._foreign]) or f"known keys: {', '.join(known)}",
                )

    def shown(self, key: str) -> str:
        """The value as the file has it, fit for a message."""
        node = self._values[key]
        if not isinstance(node, yaml.ScalarNode):
            return _kind(node)
        return (
            "'" + mask_url(node.value if len(node.value) <= 60 else node.value[:57] + "...") + "'"
        )

    def raw(self, key: str) -> str:
        """A scalar's text before the environment fills it in."""
        node = self._values.get(key)
        return node.value if isinstance(node, yaml.ScalarNode) else ""

    def _scalar(self, key: str, wanted: str, *, required: bool) -> str | None:
        self._asked.append(key)
        node = self._values.get(key)
        if node is None:
            if required:
                self._missing(key)
            return None
        if not isinstance(node, yaml.ScalarNode):
            self.note(key, f"{key} must be {wanted}, not {_kind(node)}")
            return None
        return self._filled(node)

    def _missing(self, key: str) -> None:
        self.problems.note(self.place, f"{self.title} has no `{key}`", f"add `{key}: ...`")

    def _filled(self, node: yaml.ScalarNode) -> str:
        def fill(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name, default = match[1], match[2]
            if name is None:
                self.problems.note(
                    self.problems.place(node),
                    f"'{match[0]}' is not a reference to the environment",
                    "write ${NAME} or ${NAME:-default}; $${ for the characters themselves",
                )
                return ""
            value = self.problems.environ.get(name, "")
            if value or (name in self.problems.environ and default is None):
                return value
            if default is None:
                self.problems.note(
                    self.problems.place(node),
                    f"the environment has no variable {name}",
                    f"export {name}=..., or write ${{{name}:-default}}",
                )
            return default or ""

        return _VARIABLE.sub(fill, str(node.value))


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that names the most similar known name; empty when none is similar."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    names = {"null": "nothing", "bool": "true or false", "int": "a number", "float": "a number"}
    return names.get(node.tag.rpartition(":")[2], "text")
