"""What the command line prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cdc.errors import CdcError, ConfigProblems, mask_url

LINE_MAX = 60
"""A longer document in a table's cell is broken into lines and indented."""
MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "bold red")}


def print_error(error: CdcError) -> None:
    """`error: where: what`, then the hint, on stderr."""
    for one in error.errors if isinstance(error, ConfigProblems) else (error,):
        print(f"error: {mask_url(str(one))}", file=sys.stderr)


def say(line: str) -> None:
    """A line of progress, on stderr."""
    print(mask_url(line), file=sys.stderr, flush=True)


def emit(value: object) -> None:
    """One JSON line on stdout."""
    print(to_json(value), flush=True)


def to_json(value: object, indent: int | None = None) -> str:
    try:
        return json.dumps(value, default=plain, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=plain, ensure_ascii=False, indent=indent)


def _finite(value: object) -> object:
    """The value with NaN and the infinities, which JSON lacks, as texts."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_finite(item) for item in value]
    return value


def plain(value: object) -> object:
    """A value that JSON lacks, as text that loses nothing."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID() | dt.timedelta():
            return str(value)
        case Mapping():
            return dict(value)
        case set() | frozenset() | tuple():
            return list(value)
    return str(value)


def print_rows(
    columns: Sequence[str], rows: Iterable[Sequence[object]], as_json: bool = False
) -> None:
    """A table on a terminal, JSON lines otherwise."""
    if as_json or not sys.stdout.isatty():
        for row in rows:
            emit(dict(zip(columns, row, strict=True)))
        return
    table = Table(*(escape(column) for column in columns), header_style="bold")
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    Console().print(table)


def cell(value: object) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, str | int | float | bool):
        return Text(str(value))
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        line = to_json(value)
        return Text(line if len(line) <= LINE_MAX else to_json(value, indent=2))
    return Text(str(plain(value)))


def print_aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Plain columns for people, whether or not stdout is a terminal."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


def human_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
