"""`cdc explain VIEW`: the plan, its operators and what they keep."""

from __future__ import annotations

import argparse

from cdc.cli import parts
from cdc.cli.context import known_tables, unknown
from cdc.cli.output import emit
from cdc.config import Config


def run(config: Config, arguments: argparse.Namespace) -> int:
    if arguments.view not in config.views:
        raise unknown("view", arguments.view, config.views)
    tables = known_tables(config)
    if arguments.json:
        emit(parts.views().explain_json(config, tables, arguments.view))
    else:
        print(parts.views().explain(config, tables, arguments.view))
    return 0
