"""What can be seen of a server before anything is written: its version, and our rights."""

from __future__ import annotations

from cdc.errors import SinkError
from sinks.elasticsearch.entry import BOOKKEEPING
from sinks.elasticsearch.server import Server, path_of

VERSION_MIN = 8
_CLUSTER = ["monitor"]
_INDEX = ["create_index", "delete_index", "manage", "read", "write", "view_index_metadata"]


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
