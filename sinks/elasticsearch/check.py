"""What can be seen before anything is written: the server's version, our rights, fields without a
column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdc.config_yaml import nearest
from cdc.errors import SinkError
from cdc.source import Finding
from sinks.elasticsearch.entry import BOOKKEEPING
from sinks.elasticsearch.server import Server, path_of

VERSION_MIN = 8
_CLUSTER = ["monitor"]
_INDEX = ["create_index", "delete_index", "manage", "read", "write", "view_index_metadata"]


def stray_fields(columns: Sequence[str], mappings: Mapping[str, Any], where: str) -> list[Finding]:
    """Fields of the user's mapping that no column fills, nor another field by `copy_to`."""
    fields: Mapping[str, Any] = mappings.get("properties") or {}
    filled = {*columns, *(name for field in fields.values() for name in _copies(field))}
    return [
        Finding(
            "warning",
            where,
            f"`mappings` has a field '{name}', and the input has no such column",
            nearest(name, columns) or f"its columns: {', '.join(columns)}",
        )
        for name, field in fields.items()
        if name not in filled and field.get("type") != "alias"
    ]


def _copies(field: Mapping[str, Any]) -> Sequence[str]:
    target = field.get("copy_to", ())
    return (target,) if isinstance(target, str) else target


def require_version(server: Server) -> None:
    """Raise SinkError for a server older than VERSION_MIN, StoreUnavailable for none."""
    version = version_of(server)
    if version and int(version.partition(".")[0]) < VERSION_MIN:
        raise SinkError(
            f"Elasticsearch {version} is too old",
            where=server.name,
            hint=f"versions from {VERSION_MIN} on are supported",
        )


def version_of(server: Server) -> str:
    """The server's version; empty where it does not tell (a user without the right to ask)."""
    answer = server.ask("GET", "/")
    if answer.ok:
        return str(answer.json()["version"]["number"])
    # Distributions without the root route answer here.
    path = path_of("_nodes", "_local", filter_path="nodes.*.version")
    answer = server.ask("GET", path)
    nodes = answer.json().get("nodes", {}) if answer.ok else {}
    return min((node["version"] for node in nodes.values()), default="")


def rights_lacking(server: Server, alias: str) -> str:
    """Rights that the user lacks; empty: none, or the server has no security switched on."""
    body = {
        "cluster": _CLUSTER,
        "index": [{"names": [alias, f"{alias}-*", BOOKKEEPING], "privileges": _INDEX}],
    }
    answer = server.ask("POST", "/_security/user/_has_privileges", body)
    if not answer.ok or answer.json().get("has_all_requested", True):
        return ""
    found = answer.json()
    lacking = {name for name, has in found["cluster"].items() if not has}
    for index, rights in found["index"].items():
        lacking |= {f"{name} on {index}" for name, has in rights.items() if not has}
    return ", ".join(sorted(lacking))
