"""The command `cdc`: words to arguments, arguments to one module per command, errors to a status.

Exit status: 0 done; 1 it did not hold (a check failed, data differ, a connector stopped); 2 wrong
usage or configuration. A traceback is shown only with CDC_DEBUG=1.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cdc.cli import (
    check,
    compact,
    explain,
    log,
    preview,
    query,
    rebuild,
    remove,
    run,
    status,
    verify,
    wait,
)
from cdc.cli.output import print_error
from cdc.config import Config
from cdc.config_load import load
from cdc.errors import CdcError, ConfigError, mask_url

Command = Callable[[Config, argparse.Namespace], int]

LATER = {
    "snapshot": "takes a table's snapshot again, live",
}
DONE, DID_NOT_HOLD, WRONG_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    try:
        chosen = parser().parse_args(arguments)
        if chosen.command in LATER:
            hint = f"`cdc {chosen.command}` ({LATER[chosen.command]}) comes in a later version"
            raise ConfigError(f"'{chosen.command}' is not supported yet in this version", hint=hint)
        command: Command = chosen.run
        return command(load(chosen.file, os.environ), chosen)
    except ConfigError as error:
        return _told(error, WRONG_USAGE)
    except CdcError as error:
        return _told(error, DID_NOT_HOLD)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): Python must not flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if os.environ.get("CDC_DEBUG") == "1":
            raise
        what = f"a defect in cdc: {type(error).__name__}: {error}"
        return _told(CdcError(mask_url(what), hint="CDC_DEBUG=1 shows where"), DID_NOT_HOLD)


def _told(error: CdcError, status: int) -> int:
    print_error(error)
    if os.environ.get("CDC_DEBUG") == "1":
        print(mask_url(traceback.format_exc()), file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="cdc", description="From a database's log to SQL views in the stores that you query."
    )
    top.add_argument("--version", action="version", version=f"cdc-views {_version()}")
    top.add_argument(
        "-f",
        "--file",
        type=Path,
        default=Path("connectors.yaml"),
        help="the configuration (default: ./connectors.yaml)",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, command: Command, text: str, *, json: bool = True
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=command)
        if json:
            made.add_argument("--json", action="store_true", help="JSON instead of text")
        return made

    add("check", check.run, "Validate the file against the real systems.")
    _add_run(
        add("run", run.run, "Run all connectors, or those named, in the foreground.", json=False)
    )
    add("status", status.run, "Where each connector, view and sink stands.")
    _add_wait(add("wait", wait.run, "Return when a sink contains a position."))
    _add_query(add("query", query.run, "Ask the downstream store in its own language."))
    _add_log(add("log", log.run, "Print a topic's events as JSON lines."))
    verify_command = add("verify", verify.run, "Compare a sink with the source.")
    verify_command.add_argument("sink", metavar="SINK")
    verify_command.add_argument("--timeout", type=float, default=60.0, metavar="S")
    _add_rebuild(
        add("rebuild", rebuild.run, "Replay a sink from offset zero beside the live one; swap it.")
    )
    add("explain", explain.run, "Show a view's plan.").add_argument("view", metavar="VIEW")
    _add_preview(add("preview", preview.run, "Check a SELECT as a view; show its first rows."))
    compact_command = add("compact", compact.run, "Compact the embedded log now.")
    compact_command.add_argument("topics", nargs="*", metavar="TOPIC")
    _add_remove(add("remove", remove.run, "Remove a connector and what it created."))
    for name, text in LATER.items():
        later = commands.add_parser(name, help=f"{text} (a later version)")
        later.add_argument("rest", nargs="*")
    return top


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("names", nargs="*", metavar="NAME", help="connectors; default: all")
    command.add_argument(
        "--until-caught-up",
        action="store_true",
        help="end with 0 when all that the sources had committed at the start is in every sink",
    )


def _add_wait(command: argparse.ArgumentParser) -> None:
    command.add_argument("sink", metavar="SINK")
    command.add_argument("--position", metavar="P", help="default: the sources' positions now")
    command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="default: 60")


def _add_query(command: argparse.ArgumentParser) -> None:
    command.add_argument("sink", metavar="SINK")
    command.add_argument("query", metavar="QUERY")


def _add_rebuild(command: argparse.ArgumentParser) -> None:
    command.add_argument("sink", metavar="SINK")
    command.add_argument(
        "--view", action="store_true", help="compute the sink's views anew from their tables first"
    )


def _add_log(command: argparse.ArgumentParser) -> None:
    command.add_argument("topic", metavar="TOPIC")
    command.add_argument("--from", dest="start", type=_count, default=0, metavar="N")
    command.add_argument("--follow", action="store_true", help="go on with what is appended")
    command.add_argument("--limit", type=_count, metavar="N", help="end after N events")


def _add_preview(command: argparse.ArgumentParser) -> None:
    command.add_argument("sql", metavar="SELECT")
    command.add_argument("--limit", type=_count, default=10, metavar="N", help="default: 10")


def _add_remove(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME")
    command.add_argument("--yes", action="store_true", help="do not ask")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")
    return int(text)


def _version() -> str:
    try:
        return version("cdc-views")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    raise SystemExit(main())
