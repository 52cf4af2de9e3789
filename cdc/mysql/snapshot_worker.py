"""One worker process of a snapshot: SELECT in, finished Arrow rows out.

Run as `python -m cdc.mysql.snapshot_worker IN,OUT...` (cdc/worker_processes.py). Commands are an
`Assignment`, then `BEGIN` (again, until the coordinator is content with all read views), `Tables`,
and then one `Range` after another. The answers:

    V  the read view has begun                    MariaDB: a pickled BinlogPoint; else empty
    T  all tables are locked against DDL          empty
    B  rows of the range                          an Arrow IPC record batch message
    D  the range is done                          empty
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from typing import BinaryIO

from cdc.mysql.connection import Connection, close, connect, source_errors
from cdc.mysql.ranges import Range
from cdc.mysql.read_views import begin_view
from cdc.mysql.table_reader import (
    BEGIN,
    Assignment,
    ReadTable,
    TableAltered,
    Tables,
    read_rows,
    touch,
)
from cdc.worker_processes import ERROR, Send, error_message, main, next_command

VIEW, TABLES, ROWS, DONE = b"V", b"T", b"B", b"D"


def serve(commands: BinaryIO, send: Send) -> None:
    """Work off the commands."""
    assignment: Assignment = next_command(commands)
    connection = connect(assignment.url)
    with source_errors(assignment.url):
        tables: Mapping[str, ReadTable] = {}
        while (command := next_command(commands)) is not None:
            if command == BEGIN:
                point = begin_view(connection, assignment.mariadb)
                send(VIEW, pickle.dumps(point))
            elif isinstance(command, Tables):
                tables = command.tables
                try:
                    touch(connection, (read.table for read in tables.values()))
                except TableAltered as error:
                    send(ERROR, error_message(error))
                else:
                    send(TABLES, b"")
            else:
                _read_range(connection, tables[command.table], command, send)
    close(connection)


def _read_range(connection: Connection, read: ReadTable, part: Range, send: Send) -> None:
    for rows in read_rows(connection, read, part.condition):
        send(ROWS, rows.serialize())
    send(DONE, b"")


if __name__ == "__main__":
    main(serve, sys.argv[1:])
