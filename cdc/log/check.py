"""`cdc check` of the log, whichever it is."""

from __future__ import annotations

import os
from collections.abc import Collection

from cdc.config import Config, LogConfig
from cdc.errors import LogError
from cdc.log.embedded_files import refuse_network_file_system
from cdc.source import Finding


def check_log(config: Config, tables: Collection[str] = ()) -> list[Finding]:
    """Everything that a run would need of the log, one finding each; never raises. `tables` are
    those that were found in the sources, as `source.schema.table`."""
    if config.log.type == "embedded":
        return _check_directory(config.log)
    try:
        # reason: an extra, which not everybody has installed
        from cdc.log import kafka_check  # noqa: PLC0415
    except ImportError:
        what = "log.type is kafka, but the Kafka client is not installed"
        return [Finding("error", "log", what, "pip install 'cdc-views[kafka]'")]
    return kafka_check.check_log(config, tables)


def _check_directory(log: LogConfig) -> list[Finding]:
    """The directory, or the nearest that exists above it, can be written, and is on a disk of this
    machine. Nothing is made."""
    there = next(path for path in (log.path, *log.path.parents) if path.exists())
    found = []
    if not there.is_dir():
        what, remedy = "the log's path is no directory", "set log.path to a directory"
        found.append(Finding("error", str(there), what, remedy))
    elif not os.access(there, os.W_OK | os.X_OK):
        what = "the log's directory cannot be written by this user"
        remedy = "make it writable, or set log.path to a directory on a local disk"
        found.append(Finding("error", str(there), what, remedy))
    try:
        refuse_network_file_system(there)
    except LogError as error:
        found.append(Finding("error", error.where, error.what, error.hint))
    return found
