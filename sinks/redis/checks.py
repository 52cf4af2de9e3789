"""What `cdc check` says about a Redis server and a sink's place in it."""

from __future__ import annotations

import pyarrow as pa

from cdc.errors import SinkError
from cdc.source import Finding
from sinks.redis.connection import Connection
from sinks.redis.entry import SINKS, read_entry
from sinks.redis.layout import Layout
from sinks.redis.opening import Opening, misfits
from sinks.redis.write import Area

_EXACT = 2**53


def findings(
    connection: Connection, sink: str, layout: Layout, input_name: str, where: str
) -> list[Finding]:
    """Raises SinkError where nothing can be found out."""
    found = [*_server(connection, where), *_place(connection, sink, layout, where)]
    found += _score(layout, where)
    if not any(one.severity == "error" for one in found):
        what = f"{input_name} → {layout.settings.value} '{layout.settings.key}'"
        found.append(Finding("ok", where, what))
    return found


def _server(connection: Connection, where: str) -> list[Finding]:
    text = connection.call("INFO").decode()
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    found = []
    version = facts.get("valkey_version") or facts.get("redis_version", "0")
    if int(version.partition(".")[0]) < 7:
        what = f"the server is version {version}; 7 is the oldest that is supported"
        found.append(Finding("error", where, what, "use Redis 7 or newer, or Valkey"))
    if facts.get("redis_mode") == "cluster" or facts.get("cluster_enabled") == "1":
        what = "Redis Cluster cannot change keys of several slots in one transaction"
        found.append(Finding("error", where, what, "use a server without cluster mode"))
    policy = facts.get("maxmemory_policy", "noeviction")
    limited = facts.get("maxmemory", "0") != "0"
    if policy.startswith("allkeys"):
        what = f"maxmemory-policy is {policy}: a full server drops rows, and the sink's position"
        found.append(
            Finding(
                "error" if limited else "warning",
                where,
                what,
                "CONFIG SET maxmemory-policy noeviction (or a volatile- one)",
            )
        )
    return found


def _place(connection: Connection, sink: str, layout: Layout, where: str) -> list[Finding]:
    found = _overlaps(connection, sink, layout, where)
    entry = read_entry(connection, sink)
    before = entry.layout(where)
    if before is not None and entry.position is not None:
        changed = misfits(before, layout)
        if changed:
            what = f"its keys were written with other settings ({'; '.join(changed)})"
            found.append(Finding("error", where, what, f"cdc rebuild {sink}"))
    elif before is None:
        try:
            Opening(connection, sink, Area.live(sink), layout, False).require_nobody()
        except SinkError as error:
            found.append(Finding("error", where, error.what, error.hint))
    return found


def _overlaps(connection: Connection, sink: str, layout: Layout, where: str) -> list[Finding]:
    """Other sinks of this database whose template may make the same names."""
    found = []
    for name in sorted(word.decode() for word in connection.call("SMEMBERS", SINKS)):
        if name.partition("/")[0] == sink:
            continue
        entry = read_entry(connection, name)
        other = entry.layout(where) if entry.owner else None
        if other is not None and layout.keys.overlaps(other.keys):
            what = f"'{layout.settings.key}' and '{other.settings.key}' of sink {name} may name "
            what += "the same key"
            found.append(Finding("error", where, what, "begin one of them differently"))
    return found


def _score(layout: Layout, where: str) -> list[Finding]:
    """Scores are doubles: integers above 2^53 and more than 15 digits lose some."""
    if not layout.settings.score:
        return []
    column = layout.schema.column(layout.settings.score)
    kind = column.type
    wide = kind == pa.int64() or isinstance(kind, pa.ExtensionType)
    if not wide and not (pa.types.is_decimal(kind) and kind.precision > 15):
        return []
    what = f"scores are floating point: {column.sql_type} beyond 2^53 ({_EXACT:,}) or 15 digits is "
    return [Finding("warning", where, what + "rounded", "compare such values elsewhere")]
