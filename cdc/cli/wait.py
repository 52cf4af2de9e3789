"""`cdc wait SINK`: read your own writes. Returns when the sink contains a position."""

from __future__ import annotations

import argparse
import time

from cdc.cli.context import UNFENCED, fenced, known_tables, needs, opened_log, sink_named, unknown
from cdc.cli.output import emit
from cdc.cli.targets import positions_now, wait_for
from cdc.config import Config
from cdc.errors import CheckFailed
from cdc.positions import Vector


def run(config: Config, arguments: argparse.Namespace) -> int:
    sink = sink_named(config, arguments.sink)
    began = time.monotonic()
    if arguments.position:
        target = Vector.parse(arguments.position)
        for source in target:
            if source not in config.sources:
                raise unknown("source", source, config.sources)
    else:
        target = positions_now(config, needs(config, sink, known_tables(config)).sources)
    reached, vector = wait_for(config, sink.name, target, arguments.timeout, lambda: False)
    waited_s = time.monotonic() - began
    with opened_log(config) as (_, reader):
        whole = fenced(config, reader, target)
    if arguments.json:
        emit(
            {
                "sink": sink.name,
                "reached": reached,
                "target": str(target),
                "position": str(vector),
                "waited_s": round(waited_s, 3),
                "fenced": whole,
            }
        )
    elif reached:
        note = "" if whole else f" ({UNFENCED})"
        print(f"{sink.name} contains {target} (waited {waited_s:.3f} s){note}")
    if not reached and not arguments.json:
        raise CheckFailed(
            f"{sink.name} does not contain {target} after {arguments.timeout:g} s",
            where=f"sink {sink.name} at {str(vector) or 'nothing yet'}",
            hint="is `cdc run` running? `cdc status` shows what is behind",
        )
    return 0 if reached else 1
