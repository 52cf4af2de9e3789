"""A process that appends for ever: `python -m tests.services.appending_process BOOTSTRAP PREFIX`.

Append number n has the ids n * ROWS … (n + 1) * ROWS - 1 and the frontier n, so what the topic
must have follows from its newest frontier. It goes on behind that, prints `n` after each append,
and ends with status 3 and the error's class and text when an append fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cdc.changes import C
from cdc.config import LogConfig
from cdc.errors import CdcError
from cdc.log.api import Log, Producer
from cdc.log.open import open_log
from tests.fix_log import SPEC, TOPIC, changes, frontier

ROWS = 500
NAME = "shop"


def next_number(log: Log) -> int:
    """What comes behind the newest frontier."""
    reader = log.reader()
    newest = reader.newest_frontier(NAME)
    reader.close()
    return 0 if newest is None else newest.txn_seq + 1


def append(producer: Producer, number: int) -> None:
    rows = changes(range(number * ROWS, (number + 1) * ROWS), op=C, txn_seq=number)
    producer.append([(TOPIC, rows)], [frontier(number)])


def main() -> int:
    bootstrap, prefix = sys.argv[1:]
    config = LogConfig("kafka", Path(), bootstrap_servers=bootstrap, topic_prefix=prefix)
    try:
        log = open_log(config)
        producer = log.producer(NAME)
        producer.create_topics([SPEC])
        number = next_number(log)
        while True:
            append(producer, number)
            print(number, flush=True)
            number += 1
    except CdcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
