"""One connector's process: `python -m cdc.cli.child KIND NAME -f FILE`, started by `cdc run`.

KIND is source, views (NAME is the group), sink or compaction. The process ends

- on SIGTERM, after the work in hand, with 0, unless the log is away;
- when its parent is gone (its stdin, a pipe that the parent holds open, ends; on Linux the kernel
  sends SIGTERM as well), in the same way;
- on an error, which it writes to its status file and to stderr, with a status of
  cdc.cli.restart.Exit.

SIGINT is ignored: Ctrl-C reaches the whole process group, and the supervisor passes it on.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

from cdc.capture.part import run_source
from cdc.cli import parts
from cdc.cli.reporting import Reporter, run_dir
from cdc.cli.restart import Exit, exit_of
from cdc.config import Config
from cdc.config_load import load
from cdc.errors import CdcError, mask_url
from cdc.log.api import Log
from cdc.log.open import open_log

OURS = ("cdc", "compaction", "sinks", "views")
KINDS = ("source", "views", "sink", "compaction")
ORPHAN_GRACE_S = 20.0
LOOK_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cdc.cli.child")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name")
    parser.add_argument("-f", "--file", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    stopping = _stop_on_signals()
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
    for package in OURS:  # a client library's retries are told by whoever called it
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        config = load(chosen.file, os.environ)
        report = Reporter(run_dir(config.log.path), chosen.kind, chosen.name)
    except CdcError as error:
        print(f"error: {mask_url(str(error))}", file=sys.stderr)
        return Exit.FAILED
    return _work(config, chosen.kind, chosen.name, report, stopping)


def _work(config: Config, kind: str, name: str, report: Reporter, stopping: threading.Event) -> int:
    try:
        report(state="running")
        run_connector(config, kind, name, report, stopping)
    except CdcError as error:
        status = exit_of(error)
        report(error=str(error))
        report.close("failed" if status is Exit.FAILED else "unavailable")
        print(f"error: {mask_url(str(error))}", file=sys.stderr)
        return status
    except Exception as error:  # the boundary of the process: told, kept, and ended
        text = mask_url(f"{type(error).__name__}: {error}")
        report(error=text, traceback=mask_url(traceback.format_exc()))
        report.close("crashed")
        print(f"error: a defect in cdc: {text}", file=sys.stderr)
        if os.environ.get("CDC_DEBUG") == "1":
            print(mask_url(traceback.format_exc()), file=sys.stderr)
        return Exit.DEFECT
    report.close("stopped" if stopping.is_set() else "finished")
    return Exit.DONE


def run_connector(
    config: Config, kind: str, name: str, report: Reporter, stopping: threading.Event
) -> None:
    """Run one connector until `stopping` is set (or it has nothing more to do)."""
    stop = stopping.is_set
    if kind == "compaction":
        parts.compaction().run(config, stop)
        return
    with closing(open_log(config.log)) as log:
        leave = threading.Thread(target=_leave, args=(log, stopping, report), daemon=True)
        leave.start()
        if kind == "source":
            run_source(config, name, log, stop, report)
        elif kind == "views":
            parts.views().maintain(config, name, log, stop)
        else:
            parts.sinks().deliver(config, name, log, stop)


def _leave(log: Log, stopping: threading.Event, report: Reporter) -> None:
    """Told to stop, do not wait for a log that is away with the work in hand: the next process does
    that again, as after a crash."""
    stopping.wait()
    while not log.is_away():
        time.sleep(LOOK_EVERY_S)
    report.close("unavailable")
    os._exit(Exit.UNAVAILABLE)


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if not sys.stdin.isatty():
        threading.Thread(target=_watch_parent, args=(stopping,), daemon=True).start()
    return stopping


def _watch_parent(stopping: threading.Event) -> None:
    """The parent never writes: reading ends only when it has died."""
    while os.read(0, 4096):
        pass
    stopping.set()
    threading.Event().wait(ORPHAN_GRACE_S)
    os._exit(Exit.FAILED)


if __name__ == "__main__":
    raise SystemExit(main())
