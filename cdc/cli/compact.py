"""`cdc compact [TOPIC…]`: fewer bytes, same answer, now."""

from __future__ import annotations

import argparse

from cdc.cli import parts
from cdc.cli.output import emit, print_aligned
from cdc.config import Config


def run(config: Config, arguments: argparse.Namespace) -> int:
    counts = parts.compaction().compact(config, arguments.topics)
    if arguments.json:
        for topic, (before, after) in sorted(counts.items()):
            emit({"topic": topic, "records_before": before, "records_after": after})
    else:
        rows = [[topic, f"{a:,}", f"{b:,}"] for topic, (a, b) in sorted(counts.items())]
        print_aligned(["TOPIC", "RECORDS BEFORE", "AFTER"], rows)
    return 0
