"""The indexes of a sink: `<alias>-000001`, `-000002`, …, of which the alias names one.

Each says in its mapping's `_meta` whose it is, so that an index that was made just before a crash
is known again, and one of somebody else's is never taken. Bulk requests go to a second, hidden
alias of the index (`<index>.write`) that must exist: otherwise Elasticsearch would silently make an
index that somebody deleted, with a mapping of its own guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cdc.errors import SinkError, StoreUnavailable
from sinks.elasticsearch.server import Server, path_of, refused

_EXISTS = "resource_already_exists_exception"
_LOADING = {"index.refresh_interval": "-1", "index.number_of_replicas": 0}


def write_alias(index: str) -> str:
    return f"{index}.write"


class Indexes:
    """The indexes behind one alias. Raises StoreUnavailable, SinkError."""

    def __init__(self, server: Server, alias: str) -> None:
        self._server = server
        self._alias = alias
        self._numbered = re.compile(re.escape(alias) + r"-(\d{6,})")

    def names(self) -> dict[str, int]:
        """Existing indexes whose names are ours to give, with their numbers."""
        pattern = f"{self._alias}-*"
        path = path_of("_resolve", "index", pattern, expand_wildcards="all")
        found = self._server.require("GET", path)["indices"]
        matches = {item["name"]: self._numbered.fullmatch(item["name"]) for item in found}
        return {name: int(match[1]) for name, match in matches.items() if match}

    def next_name(self) -> str:
        return self.numbered(max(self.names().values(), default=0) + 1)

    def numbered(self, number: int) -> str:
        return f"{self._alias}-{number:06d}"

    def create(
        self, name: str, owner: str, shape: Mapping[str, Any], live: Mapping[str, Any]
    ) -> bool:
        """Make an index for `owner` (an entry's key); False: it is there already and is ours.
        Raises StoreUnavailable where it is another's: the next attempt takes the next number."""
        mappings = dict(shape["mappings"])
        mappings["_meta"] = {**(mappings.get("_meta") or {}), "cdc": owner}
        body = {
            "settings": {"index.number_of_shards": 1, **shape["settings"], **live},
            "mappings": mappings,
            "aliases": {write_alias(name): {"is_hidden": True}},
        }
        answer = self._server.ask("PUT", path_of(name), body)
        if answer.ok:
            return True
        if answer.error_type == _EXISTS:
            if self.owner(name) == owner:
                return False
            raise StoreUnavailable(f"another process has made {name} just now", where=self._alias)
        raise refused(f"the index {name}", answer, self._server.name)

    def exists(self, name: str) -> bool:
        return self._server.ask("HEAD", path_of(name)).ok

    def owner(self, name: str) -> str | None:
        """The entry for which an index was made; None: not one of ours."""
        answer = self._server.ask("GET", path_of(name, "_mapping"))
        if not answer.ok:
            return None
        (found,) = answer.json().values()
        owner: str | None = found["mappings"].get("_meta", {}).get("cdc")
        return owner

    def adopt(self, name: str, owner: str) -> None:
        """Write another owner into an index of ours."""
        (found,) = self._server.require("GET", path_of(name, "_mapping")).values()
        meta = {**found["mappings"].get("_meta", {}), "cdc": owner}
        self._server.require("PUT", path_of(name, "_mapping"), {"_meta": meta})

    def add_fields(self, name: str, properties: Mapping[str, Any]) -> None:
        self._server.require("PUT", path_of(name, "_mapping"), {"properties": properties})

    def delete(self, name: str) -> bool:
        """Whether it was there."""
        answer = self._server.ask("DELETE", path_of(name, ignore_unavailable="true"))
        if not answer.ok and answer.status != 404:
            raise refused(f"deleting {name}", answer, self._server.name)
        return answer.ok

    def behind_alias(self) -> set[str]:
        """The indexes that the alias names. Raises SinkError where an index has the name."""
        answer = self._server.ask("GET", path_of("_alias", self._alias))
        if answer.status == 404:
            if self.exists(self._alias):
                raise SinkError(
                    f"'{self._alias}' is an index that this sink has not made; it needs the name "
                    "for an alias",
                    where=self._server.name,
                    hint="give the sink another `index:`, or delete or rename that index",
                )
            return set()
        return set(answer.json())

    def point_alias(self, name: str) -> None:
        """Let the alias name `name` alone: atomic for whoever reads it."""
        others = self.behind_alias() - {name}
        actions: list[dict[str, Any]] = [
            {"remove": {"index": other, "alias": self._alias}} for other in sorted(others)
        ]
        actions.append({"add": {"index": name, "alias": self._alias}})
        self._server.require("POST", "/_aliases", {"actions": actions})

    def load_settings(self, name: str) -> dict[str, Any]:
        """The settings that `begin_load` changes, for `end_load` to give back."""
        path = path_of(name, "_settings", flat_settings="true")
        (found,) = self._server.require("GET", path).values()
        return {key: found["settings"].get(key) for key in _LOADING}

    def begin_load(self, name: str) -> None:
        """Neither refresh nor replicate: a load is ready sooner, and readers see it at its end."""
        self.set(name, _LOADING)

    def end_load(self, name: str, before: Mapping[str, Any]) -> None:
        self.set(name, before)
        self.refresh(name)

    def set(self, name: str, settings: Mapping[str, Any]) -> None:
        self._server.require("PUT", path_of(name, "_settings"), settings)

    def refresh(self, name: str) -> None:
        self._server.require("POST", path_of(name, "_refresh"))

    def is_empty(self, name: str) -> bool:
        self.refresh(name)
        count: int = self._server.require("GET", path_of(name, "_count"))["count"]
        return count == 0
