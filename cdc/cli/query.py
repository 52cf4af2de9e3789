"""`cdc query SINK QUERY`: the store answers in its own language."""

from __future__ import annotations

import argparse

from cdc.cli import parts
from cdc.cli.context import sink_named
from cdc.cli.output import print_rows
from cdc.config import Config


def run(config: Config, arguments: argparse.Namespace) -> int:
    sink = sink_named(config, arguments.sink)
    result = parts.sinks().query(config, sink.name, arguments.query)
    print_rows(result.columns, result.rows, arguments.json)
    return 0
