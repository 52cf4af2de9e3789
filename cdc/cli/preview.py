"""`cdc preview 'SELECT …'`: a would-be view, its key, types, plan and first rows."""

from __future__ import annotations

import argparse

from cdc.cli import parts
from cdc.cli.context import known_tables
from cdc.cli.output import emit, print_aligned, print_rows
from cdc.cli.source_reads import can_select
from cdc.config import Config
from cdc.errors import Unsupported
from cdc.postgres.select import select_once

PREVIEW = "preview"


def run(config: Config, arguments: argparse.Namespace) -> int:
    tables = known_tables(config)
    views = parts.views()
    schema, plan = views.adhoc(config, tables, arguments.sql)
    rows: list[list[object]] = []
    try:
        source, sql = views.source_query(config, tables, PREVIEW, arguments.sql)
        if not can_select(config, source):
            raise Unsupported(f"'{source}' cannot run a SELECT of Postgres's SQL")
        limited = f"SELECT * FROM ({sql}) AS preview LIMIT {arguments.limit}"
        for batch in select_once(config.sources[source].url, limited, schema):
            rows += [list(row.values()) for row in batch.to_pylist()]
        note = ""
    except Unsupported as error:
        note = f"no rows are shown: {error.what}"
    if arguments.json:
        columns = [
            {"name": c.name, "type": c.sql_type, "nullable": c.nullable} for c in schema.columns
        ]
        names = [c.name for c in schema.columns]
        found = [dict(zip(names, row, strict=True)) for row in rows]
        emit({"key": list(schema.key), "columns": columns, "plan": plan, "rows": found})
        return 0
    print(f"key: {', '.join(schema.key) or '(one row)'}")
    print_aligned(
        ["COLUMN", "TYPE", "NULL"],
        [[c.name, c.sql_type, "yes" if c.nullable else "no"] for c in schema.columns],
    )
    print(f"\n{plan}\n")
    print_rows([c.name for c in schema.columns], rows)
    if note:
        print(note)
    return 0
