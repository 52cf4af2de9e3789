"""`cdc status`: where everything stands, whether or not `cdc run` runs.

Three kinds of facts are put together: what the log holds (frontiers, end offsets, dead letters),
what each sink's store says of itself, and what the processes said last. A source is asked for its
position now, for a short time only; when it does not answer it is `unreachable` and the rest is
still told. Lag is 0 exactly when nothing is missing; where that cannot be known, because the log is
not the one that a store was filled from, it is null and `lag_unknown` says why. A source of topics
is `unfenced` (its cuts are polls). In which unit a lag is told: cdc/cli/lag.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from typing import Any

from cdc.cli import parts
from cdc.cli.context import fenced, input_topic, opened_log, opened_source
from cdc.cli.lag import lag_between, lag_unit
from cdc.cli.log import frontier_name
from cdc.cli.output import emit, human_bytes, print_aligned
from cdc.cli.reporting import read_status, run_dir
from cdc.config import Config
from cdc.errors import CdcError, mask_url
from cdc.frontiers import Frontier
from cdc.log.api import Reader
from cdc.positions import NativePosition

SOURCE_TIMEOUT_S = 3.0
POSITION_MAX = 72
Facts = dict[str, Any]


def run(config: Config, arguments: argparse.Namespace) -> int:
    facts = gather(config)
    if arguments.json:
        emit(facts)
    else:
        _print(facts)
    return 0


def gather(config: Config) -> Facts:
    """Everything, as plain JSON values."""
    now = _positions_now(config)
    with opened_log(config) as (_, reader):
        sources = {name: _source(config, reader, name, now[name]) for name in config.sources}
        views = {name: _view(config, reader, name) for name in config.views}
        sinks = {name: _sink(config, reader, name) for name in config.sinks}
        letters = _dead_letters(reader)
    return {
        "log": {"type": config.log.type, "path": str(config.log.path)},
        "sources": sources,
        "views": views,
        "sinks": sinks,
        "dead_letters": sum(letters.values()),
        "dead_letters_by_connector": letters,
    }


def _positions_now(config: Config) -> dict[str, NativePosition | CdcError]:
    """Each source's position, or why there is none; all sources at once, at most 3 s."""
    pool = ThreadPoolExecutor(max_workers=max(1, len(config.sources)))
    asked = {name: pool.submit(_position_now, config, name) for name in config.sources}
    deadline = time.monotonic() + SOURCE_TIMEOUT_S
    found: dict[str, NativePosition | CdcError] = {}
    for name, answer in asked.items():
        try:
            found[name] = answer.result(max(0.0, deadline - time.monotonic()))
        except TooLate:
            found[name] = CdcError(f"no answer within {SOURCE_TIMEOUT_S:g} s")
        except CdcError as error:
            found[name] = error
    pool.shutdown(wait=False, cancel_futures=True)
    return found


def _position_now(config: Config, name: str) -> NativePosition:
    with opened_source(config, name) as source:
        return source.current_position()


def _source(config: Config, reader: Reader, name: str, now: NativePosition | CdcError) -> Facts:
    frontier = reader.newest_frontier(name)
    facts = _process(config, "source", name)
    facts |= {
        "fenced": fenced(config, reader, [name]),
        "position": str(frontier.positions) if frontier else None,
        "reachable": not isinstance(now, CdcError),
        "incomplete": list(frontier.incomplete) if frontier else [],
        "changes": sum(sum(ends) for ends in frontier.end_offsets.values()) if frontier else 0,
    }
    if isinstance(now, CdcError):
        return facts | {"unreachable": mask_url(now.what), "lag_bytes": None, "lag_s": None}
    facts["source_position"] = f"{name}@{now}"
    reached = frontier.positions.get(name) if frontier else None
    return facts | _source_lag(frontier, reached, now)


def _source_lag(
    frontier: Frontier | None, reached: NativePosition | None, now: NativePosition
) -> Facts:
    unit = lag_unit(now)
    lag: Facts = {"lag_bytes": None, "lag_s": None}
    if frontier is None or reached is None:
        return lag
    if reached.covers(now):
        return lag | {unit: 0, "lag_s": 0.0}
    return lag | {unit: lag_between(reached, now), "lag_s": _age_s(frontier)}


def _age_s(frontier: Frontier) -> float:
    return round(max(0.0, time.time() - frontier.appended_us / 1e6), 3)


def _view(config: Config, reader: Reader, name: str) -> Facts:
    group = config.views[name].group
    own = parts.views().status(config, group)
    frontier = reader.newest_frontier(f"view.{name}")
    facts = _process(config, "views", group) | {"group": group}
    told = own.get("views", {}).get(name)
    if facts["state"] not in ("stopped", "failed", "never started"):
        state = told.get("state") if isinstance(told, Mapping) else told
        facts["state"] = state or facts["state"]
    if told is not None:
        facts["detail"] = told
    facts |= {
        "position": str(frontier.positions) if frontier else None,
        "rows_published": sum(sum(ends) for ends in frontier.end_offsets.values())
        if frontier
        else 0,
    }
    if frontier is not None:
        known = [source for source in frontier.positions if source in config.sources]
        facts["fenced"] = fenced(config, reader, known)
    return facts | _behind_sources(reader, frontier)


def _behind_sources(reader: Reader, frontier: Frontier | None) -> Facts:
    """How far a view is behind the frontiers of its sources in the log."""
    if frontier is None:
        return _unknown_lag("nothing was published yet")
    lag: Facts = {"lag_bytes": 0}
    lag_s = 0.0
    for source, reached in frontier.positions.positions:
        newest = reader.newest_frontier(source)
        at = newest.positions.get(source) if newest is not None else None
        if newest is None or at is None:
            return _unknown_lag(f"the log has no frontier of {source}")
        if reached.covers(at):
            continue
        unit = lag_unit(at)
        lag[unit] = lag.get(unit, 0) + (lag_between(reached, at) or 0)
        lag_s = max(lag_s, (newest.commit_us - frontier.commit_us) / 1e6)
    return lag | {"lag_s": round(max(0.0, lag_s), 3)}


def _sink(config: Config, reader: Reader, name: str) -> Facts:
    facts = _process(config, "sink", name)
    own = parts.sinks().status(config, name)
    if own:
        facts["detail"] = own
        if facts["state"] not in ("stopped", "failed", "never started"):
            facts["state"] = own.get("state", facts["state"])
    try:
        position = parts.sinks().position(config, name)
    except CdcError as error:
        return facts | {"position": None, "unreachable": mask_url(error.what), "lag_changes": None}
    if position is None:
        return facts | {"position": None} | _unknown_lag("nothing was delivered yet")
    facts["position"] = str(position.vector)
    topics = [input_topic(config, name_in) for name_in in config.sinks[name].inputs]
    return facts | _behind_topics(reader, topics, position)


def _behind_topics(reader: Reader, topics: Sequence[str], position: Any) -> Facts:
    """How far a sink at `position` (a SinkPosition) is behind what the log shows of its inputs."""
    changes, lag_s = 0, 0.0
    there = set(reader.topics())
    for topic in topics:
        frontier = reader.newest_frontier(frontier_name(topic))
        if topic not in there or frontier is None or topic not in frontier.end_offsets:
            return _unknown_lag(f"the log has nothing of {topic}")
        generation = position.generations.get(topic)
        if generation is not None and generation != reader.generation(topic):
            return _unknown_lag(f"{topic} was made anew since the sink read it")
        missing = sum(frontier.end_offsets[topic]) - sum(position.offsets.get(topic, ()))
        if missing < 0:
            return _unknown_lag(f"the sink has read further in {topic} than the log goes")
        if missing:
            lag_s = max(lag_s, (frontier.commit_us - position.commit_us) / 1e6)
        changes += missing
    return {"lag_changes": changes, "lag_s": round(lag_s, 3)}


def _unknown_lag(why: str) -> Facts:
    return {"lag_bytes": None, "lag_changes": None, "lag_s": None, "lag_unknown": why}


def _process(config: Config, kind: str, name: str) -> Facts:
    """What the connector's process said last."""
    told = read_status(run_dir(config.log.path), kind, name)
    if told is None:
        return {"state": "never started", "pid": None, "rate_per_s": 0.0, "errors": []}
    kept = ("state", "pid", "since", "updated", "rate_per_s", "errors", "progress", "rows")
    return {key: told[key] for key in kept if key in told}


def _dead_letters(reader: Reader) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, letter in reader.dead_letters():
        counts[letter.connector] = counts.get(letter.connector, 0) + 1
    return counts


def _print(facts: Facts) -> None:
    header = ["KIND", "NAME", "STATE", "POSITION", "LAG", "RATE"]
    rows = [
        [kind, name, _state(one), _shortened(one["position"] or "-"), _lag(one), _rate(one)]
        for kind, section in (("source", "sources"), ("view", "views"), ("sink", "sinks"))
        for name, one in facts[section].items()
    ]
    print_aligned(header, rows)
    for section in ("sources", "views", "sinks"):
        for name, one in facts[section].items():
            if "unreachable" in one:
                print(f"{name}: unreachable: {one['unreachable']}")
            if one["position"] and "lag_unknown" in one:
                print(f"{name}: lag unknown: {one['lag_unknown']}")
            if one["state"] in ("failed", "crashed", "unavailable", "blocked"):
                for error in one["errors"][-1:]:
                    print(f"{name}: {error['error']}")
            detail = one.get("detail")
            if one["state"] == "blocked" and detail:
                print(f"{name}: {detail}")
            if isinstance(detail, dict) and "rebuild" in detail:
                print(f"{name}: {_rebuild(detail['rebuild'])}")
    whose = ", ".join(f"{n} {count}" for n, count in facts["dead_letters_by_connector"].items())
    print(f"dead letters: {facts['dead_letters']}" + (f" ({whose})" if whose else ""))


def _state(one: Facts) -> str:
    return str(one["state"]) + ("" if one.get("fenced", True) else ", unfenced")


def _shortened(position: str) -> str:
    """The offsets of many topics do not fit a line; `--json` has them all."""
    return position if len(position) <= POSITION_MAX else f"{position[: POSITION_MAX - 1]}…"


def _rebuild(told: Facts) -> str:
    """How far a rebuild that is running has come."""
    of = f" of {told['of']:,}" if "of" in told else ""
    return f"being rebuilt: {told.get('phase', 'starting')}, {told.get('done', 0):,}{of} records"


def _lag(one: Facts) -> str:
    told = []
    if one.get("lag_bytes") is not None:
        told.append(human_bytes(one["lag_bytes"]))
    for unit in ("changes", "transactions"):
        if one.get(f"lag_{unit}") is not None:
            told.append(f"{one[f'lag_{unit}']} {unit}")
    if one.get("lag_s") is not None:
        told.append(f"{one['lag_s']:.1f} s")
    return ", ".join(told) or "unknown"


def _rate(one: Facts) -> str:
    return f"{one['rate_per_s']:.0f}/s" if one.get("rate_per_s") else "-"
