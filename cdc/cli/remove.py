"""`cdc remove NAME`: a connector and what it created; what people own is left alone.

source   what it has on the server (Postgres: slot and publication; topics: a consumer group; MySQL:
         nothing), its topics and frontiers in the log, the agent's store
view     with the whole group it belongs to: their topics, frontiers and state
sink     its bookkeeping in the store and its positions in the log; never the tables
"""

from __future__ import annotations

import argparse
import shutil
import sys

from cdc.cli import parts
from cdc.cli.context import find, opened_log, opened_source
from cdc.cli.output import emit
from cdc.cli.reporting import is_alive, read_status, run_dir, status_path
from cdc.config import Config
from cdc.errors import CheckFailed, ConfigError

_MADE = {"postgres": "slot, publication, and ", "topics": "consumer group, and ", "mysql": ""}


def run(config: Config, arguments: argparse.Namespace) -> int:
    kind, name = find(config, arguments.name)
    connector, remove = {
        "source": (name, _remove_source),
        "view": (config.views[name].group if kind == "view" else "", _remove_group),
        "sink": (name, _remove_sink),
    }[kind]
    child_kind = "views" if kind == "view" else kind
    _refuse_running(config, child_kind, connector)
    if not arguments.yes and not _confirmed(f"Remove {_described(config, kind, connector)}?"):
        raise CheckFailed("nothing was removed", where=arguments.name)
    removed = remove(config, connector)
    status_path(run_dir(config.log.path), child_kind, connector).unlink(missing_ok=True)
    if arguments.json:
        emit({"name": arguments.name, "kind": kind, "removed": removed})
    else:
        for line in removed:
            print(f"removed {line}")
    return 0


def _described(config: Config, kind: str, connector: str) -> str:
    if kind == "source":
        made = _MADE[config.sources[connector].type]
        return f"source {connector}: {made}its topics in the log"
    if kind == "sink":
        return f"sink {connector}: its position (its tables stay)"
    views = ", ".join(group_views(config, connector))
    return f"view group {connector} ({views}): topics and state"


def group_views(config: Config, group: str) -> list[str]:
    return sorted(view.name for view in config.views.values() if view.group == group)


def _refuse_running(config: Config, kind: str, name: str) -> None:
    status = read_status(run_dir(config.log.path), kind, name)
    if status is not None and is_alive(status):
        raise CheckFailed(
            f"{name} is running (pid {status['pid']})", hint="stop `cdc run` first, then remove it"
        )


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("cdc remove asks first, and there is no terminal", hint="add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove_source(config: Config, name: str) -> list[str]:
    with opened_source(config, name) as source:
        removed = source.remove()
    with opened_log(config) as (log, reader):
        topics = [topic for topic in reader.topics() if topic.partition(".")[0] == name]
        log.remove(name)
    return [
        *removed,
        *(f"topic {topic}" for topic in topics),
        *_remove_state(config, "sources", name),
    ]


def _remove_group(config: Config, group: str) -> list[str]:
    views = group_views(config, group)
    with opened_log(config) as (log, reader):
        topics = [f"view.{view}" for view in views if f"view.{view}" in reader.topics()]
        log.remove(f"view.{group}")
    return [*(f"topic {topic}" for topic in topics), *_remove_state(config, "views", group)]


def _remove_sink(config: Config, name: str) -> list[str]:
    removed = parts.sinks().remove(config, name)
    with opened_log(config) as (log, _):
        log.remove(f"{name}/rebuild")  # of a rebuild that was killed
        log.remove(name)
    return [*removed, f"positions of {name} in the log"]


def _remove_state(config: Config, folder: str, name: str) -> list[str]:
    path = config.state.path / folder / name
    if not path.exists():
        return []
    shutil.rmtree(path)
    return [f"state of {name}"]
