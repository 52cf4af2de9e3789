"""In words, where two Avro schemas differ: what a registry's refusal is about.

Compared is what readers resolve by: fields by their names, types, defaults. Order, documentation
and other annotations are not. A record is compared once, and its fields are named after it, however
often it is used: Debezium's envelope has the row under `before` and under `after`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_NAMED = ("record", "error", "enum", "fixed")


def differences(old: str, new: str) -> list[str]:
    """One line per difference of two schemas' JSON; none: they differ in annotations only.
    Raises ValueError for what is no JSON."""
    before, after = json.loads(old), json.loads(new)
    names = (_named(before), _named(after))
    return list(_Comparison(*names).types("the schema", before, after))


class _Comparison:
    """The named types of both sides, and the pairs of records that have been compared."""

    def __init__(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._old, self._new = old, new
        self._compared: set[tuple[str, str]] = set()

    def types(self, place: str, old: Any, new: Any) -> Iterator[str]:
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if isinstance(old, list) and isinstance(new, list):
            yield from self._unions(place, old, new)
        elif _kind(old) != _kind(new):
            yield f"{place}: {described(old)} -> {described(new)}"
        elif _kind(old) == "record":
            yield from self._records(place, old, new)
        elif _kind(old) == "array":
            yield from self.types(f"{place}[]", old["items"], new["items"])
        elif _kind(old) == "map":
            yield from self.types(f"{place}{{}}", old["values"], new["values"])
        elif _kind(old) == "enum":
            yield from _symbols(place, old["symbols"], new["symbols"])
        elif described(old) != described(new):
            yield f"{place}: {described(old)} -> {described(new)}"

    def _unions(self, place: str, old: list[Any], new: list[Any]) -> Iterator[str]:
        """Branches of one kind are compared, when each side has them once; else it is the types."""
        before = {_kind(_resolved(t, self._old)): t for t in old}
        after = {_kind(_resolved(t, self._new)): t for t in new}
        if before.keys() == after.keys() and len(before) == len(old) == len(new):
            for kind, branch in before.items():
                yield from self.types(place, branch, after[kind])
        else:
            texts = [
                described([_resolved(t, names) for t in union])
                for union, names in ((old, self._old), (new, self._new))
            ]
            if texts[0] != texts[1]:
                yield f"{place}: {texts[0]} -> {texts[1]}"

    def _records(self, place: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
        pair = (old["name"], new["name"])
        if pair in self._compared:
            return
        self._compared.add(pair)
        if _short(old) != _short(new):
            yield f"{place}: the record {_short(old)} -> {_short(new)}"
        before = {field["name"]: field for field in old["fields"]}
        after = {field["name"]: field for field in new["fields"]}
        for name, field in before.items():
            if name not in after:
                yield f"{_short(new)}.{name}: removed (was {self._field(field, self._old)})"
        for name, field in after.items():
            if name not in before:
                yield f"{_short(new)}.{name}: added ({self._field(field, self._new)})"
            else:
                yield from self._fields(f"{_short(new)}.{name}", before[name], field)

    def _fields(self, place: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
        yield from self.types(place, old["type"], new["type"])
        if _default(old) != _default(new):
            yield f"{place}: {_default(old)} -> {_default(new)}"

    def _field(self, field: Mapping[str, Any], names: Mapping[str, Any]) -> str:
        return f"{described(_resolved(field['type'], names))}, {_default(field)}"


def described(avro: Any) -> str:
    """A type in a few words: `long`, `bytes as decimal(12, 2)`, `null or string`."""
    if isinstance(avro, list):
        return " or ".join(described(branch) for branch in avro)
    if isinstance(avro, str):
        return avro
    kind = avro["type"]
    if not isinstance(kind, str):
        return described(kind)
    if kind == "array":
        return f"array of {described(avro['items'])}"
    if kind == "map":
        return f"map of {described(avro['values'])}"
    meaning = str(avro.get("logicalType") or avro.get("connect.name") or "")
    if meaning == "decimal":
        meaning += f"({avro.get('precision')}, {avro.get('scale', 0)})"
    size = f"({avro['size']})" if kind == "fixed" else ""
    if kind in _NAMED:
        kind = f"{kind} {_short(avro)}"
        meaning = meaning if "logicalType" in avro else ""
    return f"{kind}{size} as {meaning}" if meaning else f"{kind}{size}"


def _named(avro: Any, namespace: str = "") -> dict[str, Any]:
    """Every type that a schema defines: by its full name, and by its short one, which is enough
    to say what somebody meant."""
    found: dict[str, Any] = {}
    if isinstance(avro, list):
        for branch in avro:
            found |= _named(branch, namespace)
    elif isinstance(avro, dict):
        namespace = avro.get("namespace", namespace)
        if avro.get("type") in _NAMED:
            name = avro["name"]
            full = name if "." in name or not namespace else f"{namespace}.{name}"
            found |= {name: avro, full: avro, _short(avro): avro}
            namespace = full.rpartition(".")[0]
        for inner in (avro.get("type"), avro.get("items"), avro.get("values")):
            if isinstance(inner, dict | list):
                found |= _named(inner, namespace)
        for field in avro.get("fields", ()):
            found |= _named(field["type"], namespace)
    return found


def _resolved(avro: Any, names: Mapping[str, Any]) -> Any:
    """A type that is used by name, as it was defined; a wrapping `{"type": {...}}` taken off."""
    while isinstance(avro, dict) and not isinstance(avro["type"], str):
        avro = avro["type"]
    if isinstance(avro, str):
        return names.get(avro, avro)
    if isinstance(avro, dict):
        return names.get(avro["type"], avro)
    return avro


def _kind(avro: Any) -> str:
    if isinstance(avro, list):
        return "union"
    return str(avro["type"]) if isinstance(avro, dict) else str(avro)


def _short(avro: Mapping[str, Any]) -> str:
    return str(avro["name"]).rpartition(".")[2]


def _default(field: Mapping[str, Any]) -> str:
    return f"default {json.dumps(field['default'])}" if "default" in field else "no default"


def _symbols(place: str, old: list[str], new: list[str]) -> Iterator[str]:
    gone = [symbol for symbol in old if symbol not in new]
    come = [symbol for symbol in new if symbol not in old]
    if gone:
        yield f"{place}: without the symbols {', '.join(gone)}"
    if come:
        yield f"{place}: with the symbols {', '.join(come)} added"
