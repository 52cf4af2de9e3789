"""Which tables of the store are a sink's own: it replaces the rows of no others.

A sink that was pointed at a table full of somebody's rows, perhaps at the very table that it is
captured from, must not begin by replacing them. So the sink's row in `_cdc_sink` lists the tables
that it made or found empty. `cdc remove` leaves that list, so that the same sink can be run again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from cdc.errors import SinkError
from sinks.sql.session import Session
from sinks.sql.targets import Target

Owned = Mapping[str, frozenset[str]]
"""By sink, the tables that it may replace."""


def owned_tables(session: Session, bookkeeping: str) -> Owned:
    """What `bookkeeping` (quoted) says of every sink."""
    rows = session.execute(f"SELECT sink, tables FROM {bookkeeping}")
    return {sink: frozenset(json.loads(tables or "[]")) for sink, tables in rows}


def require_own(session: Session, sink: str, owned: Owned, target: Target, place: str) -> None:
    """Raise SinkError if the existing table at `place` (quoted) is not the sink's to replace."""
    for other, tables in owned.items():
        if other != sink and target.table in tables:
            raise SinkError(
                f"table {target.table} is written by sink '{other}'",
                where=f"sink {sink}",
                hint="give one of them another `table:` or `schema:`",
            )
    if target.table in owned.get(sink, ()):
        return
    ((rows,),) = session.execute(f"SELECT count(*) FROM {place}")
    if rows:
        raise SinkError(
            f"table {target.table} has {rows} rows that this sink did not write",
            where=f"sink {sink}",
            hint="give the sink another `table:` or `schema:`; or, if the rows may go, "
            f"DROP TABLE {place}",
        )


def set_own(session: Session, sink: str, bookkeeping: str, tables: Collection[str]) -> None:
    """Note that just these tables are the sink's."""
    listed = json.dumps(sorted(tables))
    session.update(f"UPDATE {bookkeeping} SET tables = ? WHERE sink = ?", listed, sink)
