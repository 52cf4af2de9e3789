"""`cdc check` of a Postgres source: everything that capture needs, one finding each."""

from __future__ import annotations

from collections.abc import Iterator

from cdc.config import SourceConfig
from cdc.errors import CdcError, SourceError
from cdc.postgres import catalog, publication, slot
from cdc.postgres.connection import Connection, connect, connect_replication, source_errors
from cdc.postgres.types import binary_decodable
from cdc.source import Finding


def check_source(config: SourceConfig) -> list[Finding]:
    """All findings; never raises for what the server says."""
    findings: list[Finding] = []
    try:
        connection = connect(config.url)
        with connection, source_errors(config.url):
            for finding in _findings(config, connection):
                findings.append(finding)
    except CdcError as error:
        where = error.where or config.name
        findings.append(Finding("error", f"{config.name}: {where}", error.what, error.hint))
    return findings


def _findings(config: SourceConfig, connection: Connection) -> Iterator[Finding]:
    server = catalog.server(connection)
    version = f"{server.version // 10000}.{server.version % 10000}"
    yield Finding("ok", config.name, f"Postgres {version}, database {server.database}")
    if server.in_recovery:
        yield Finding("error", config.name, "the server is a standby", "capture the primary")
    yield from _settings(config, connection)
    yield from _tables(config, connection)
    yield from _publication(config, connection)
    yield from _slot(config, connection, server)


def _settings(config: SourceConfig, connection: Connection) -> Iterator[Finding]:
    row = connection.execute(
        "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int, "
        "(SELECT count(*) FROM pg_replication_slots WHERE slot_name <> %s)::int, "
        "current_setting('max_wal_senders')::int, "
        "(SELECT count(*) FROM pg_stat_replication)::int, "
        "(SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), "
        "current_setting('server_encoding'), "
        "has_database_privilege(current_database(), 'CREATE')",
        (config.slot,),
    ).fetchone()
    assert row is not None
    level, slots, used_slots, senders, used_senders, may_replicate, encoding, may_create = row
    if level != "logical":
        yield Finding(
            "error",
            config.name,
            f"wal_level is {level}",
            "ALTER SYSTEM SET wal_level = logical, and restart the server",
        )
    if used_slots >= slots:
        yield Finding(
            "error",
            config.name,
            f"all {slots} replication slots are used",
            "raise max_replication_slots, or drop slots that nobody reads",
        )
    if used_senders >= senders:
        yield Finding(
            "error", config.name, f"all {senders} walsenders are used", "raise max_wal_senders"
        )
    if not may_replicate:
        yield Finding(
            "error",
            config.name,
            "the user may not replicate",
            "ALTER ROLE … REPLICATION (as a superuser)",
        )
    else:
        yield from _replication(config)
    if not may_create and publication.published(connection, config.publication) is None:
        yield Finding(
            "error",
            config.name,
            "the user may not create the publication",
            f"GRANT CREATE ON DATABASE to it, or create publication {config.publication} for it",
        )
    if encoding == "SQL_ASCII":
        yield Finding(
            "warning",
            config.name,
            "the database's encoding is SQL_ASCII: its text is not checked",
            "text that is not UTF-8 will stop the capture; correct it, or convert the database",
        )


def _replication(config: SourceConfig) -> Iterator[Finding]:
    try:
        connect_replication(config.url).finish()
    except SourceError as error:
        yield Finding("error", config.name, error.what, error.hint)


def _tables(config: SourceConfig, connection: Connection) -> Iterator[Finding]:
    tables = catalog.read_tables(connection, config.tables)
    for table in tables.values():
        where = f"{config.name}.{table.name}"
        problem = catalog.table_problem(table)
        if problem is not None:
            yield Finding("error", where, *problem)
            continue
        readable = connection.execute(
            "SELECT has_table_privilege(%s::oid, 'SELECT')", (table.oid,)
        ).fetchone()
        if readable is None or not readable[0]:
            grant = f"GRANT SELECT ON {table.quoted} to the user of the url"
            yield Finding("error", where, "the user may not read it", grant)
        yield Finding("ok", where, f"key ({', '.join(table.key)}), about {table.rows} rows")
        as_text = [c.name for c in table.columns if not binary_decodable(c.kind)]
        if as_text:
            yield Finding(
                "warning",
                where,
                f"carried as text: {', '.join(as_text)}",
                "values are exact; the whole stream is text then, which is slower",
            )


def _publication(config: SourceConfig, connection: Connection) -> Iterator[Finding]:
    there = publication.published(connection, config.publication)
    tables = catalog.read_tables(connection, config.tables)
    wrong = publication.problem(there, config.publication, tables, False, config.name)
    if wrong is not None:
        yield Finding("error", wrong.where, wrong.what, wrong.hint)
    if there is not None and there.tables >= {table.oid for table in tables.values()}:
        return
    for table in tables.values():
        owns = connection.execute(
            "SELECT pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = %s",
            (table.oid,),
        ).fetchone()
        if owns is None or not owns[0]:
            yield Finding(
                "error",
                f"{config.name}.{table.name}",
                "the user may not publish it: only its owner may",
                f"as its owner: CREATE PUBLICATION {config.publication} FOR TABLE …, of all the "
                "source's tables; or make the user a member of the owner's role",
            )


def _slot(
    config: SourceConfig, connection: Connection, server: catalog.Server
) -> Iterator[Finding]:
    found = slot.read_slot(connection, config.slot)
    where = f"slot {config.slot}"
    if found is None:
        yield Finding("ok", where, "will be made at the first start")
        return
    assert found is not None
    at = found.confirmed
    wrong = None
    if at is not None:
        wrong = slot.verdict(found, config.slot, server.database, at, config.name)
    if wrong is not None:
        yield Finding("error", where, wrong.what, wrong.hint)
    else:
        yield Finding("ok", where, f"at {at}, {found.wal_status or 'reserved'}")
