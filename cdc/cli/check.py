"""`cdc check`: the file against the real systems, one line per finding with its remedy."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.text import Text

from cdc.cli import parts
from cdc.cli.context import opened_source
from cdc.cli.output import MARKS, emit
from cdc.config import Config
from cdc.errors import CdcError, mask_url
from cdc.log.check import check_log
from cdc.schema import TableSchema
from cdc.source import Finding


def run(config: Config, arguments: argparse.Namespace) -> int:
    findings = find_all(config)
    if arguments.json:
        for finding in findings:
            emit(
                {
                    "severity": finding.severity,
                    "where": finding.where,
                    "what": mask_url(finding.what),
                    "remedy": mask_url(finding.remedy),
                }
            )
    else:
        _print(findings)
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def find_all(config: Config) -> list[Finding]:
    """The log, for the tables that the sources have; sources, then views over those tables, then
    sinks over the views' schemas."""
    findings: list[Finding] = []
    tables: dict[str, TableSchema] = {}
    for name in config.sources:
        findings += _check_source(config, name, tables)
    of_log = check_log(config, tables)
    complete = not any(finding.severity == "error" for finding in findings)
    schemas: dict[str, TableSchema] = dict(tables)
    if config.views:
        findings += parts.views().check(config, tables) if complete else [_not_checked("views")]
    if complete and not any(finding.severity == "error" for finding in findings):
        if config.views:
            schemas |= parts.views().schemas(config, tables)
        for name in config.sinks:
            findings += parts.sinks().check(config, name, schemas)
    elif config.sinks:
        findings.append(_not_checked("sinks"))
    return [*of_log, *findings]


def _check_source(config: Config, name: str, tables: dict[str, TableSchema]) -> list[Finding]:
    try:
        with opened_source(config, name) as source:
            findings = source.check()
            if not any(finding.severity == "error" for finding in findings):
                tables |= {f"{name}.{t}": schema for t, schema in source.tables().items()}
            return findings
    except CdcError as error:
        return [Finding("error", error.where or name, error.what, error.hint)]


def _not_checked(what: str) -> Finding:
    return Finding(
        "warning", what, "not checked, because of the errors above", "correct them first"
    )


def _print(findings: list[Finding]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        word, style = MARKS[finding.severity]
        line = Text.assemble((f"{word:<8}", style), f"{finding.where}: {mask_url(finding.what)}")
        console.print(line)
        if finding.remedy and finding.severity != "ok":
            console.print(Text(f"         -> {mask_url(finding.remedy)}"))
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    console.print(f"{len(findings)} findings: {errors} errors, {warnings} warnings")
