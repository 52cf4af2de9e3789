"""What Postgres's catalog says of a table that another one shall replace."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, LiteralString

import psycopg

from sinks.sql.session import Belongings

Connection = psycopg.Connection[tuple[Any, ...]]

_PRIMARY_KEY: LiteralString = (
    "SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_index i, "
    "unnest(i.indkey) WITH ORDINALITY k(attnum, n) JOIN pg_attribute a ON a.attnum = k.attnum "
    "WHERE i.indrelid = to_regclass(%(table)s) AND i.indisprimary AND a.attrelid = i.indrelid"
)
_BOUND: LiteralString = """
SELECT DISTINCT 'view ' || c.oid::regclass FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
JOIN pg_class c ON c.oid = r.ev_class
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(%(table)s)
  AND c.oid <> d.refobjid
UNION SELECT format('foreign key %%I of %%s', conname, conrelid::regclass) FROM pg_constraint
WHERE contype = 'f' AND confrelid = to_regclass(%(table)s)
UNION SELECT format('constraint %%I', conname) FROM pg_constraint
WHERE contype IN ('c', 'f', 'u', 'x') AND conrelid = to_regclass(%(table)s)
UNION SELECT format('trigger %%I', tgname) FROM pg_trigger
WHERE tgrelid = to_regclass(%(table)s) AND NOT tgisinternal
UNION SELECT format('policy %%I', polname) FROM pg_policy
WHERE polrelid = to_regclass(%(table)s)
UNION SELECT format('rule %%I', rulename) FROM pg_rewrite
WHERE ev_class = to_regclass(%(table)s) AND rulename <> '_RETURN'
UNION SELECT format('publication %%I', pubname) FROM pg_publication p
JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE r.prrelid = to_regclass(%(table)s)
UNION SELECT 'table ' || inhrelid::regclass FROM pg_inherits
WHERE inhparent = to_regclass(%(table)s)
ORDER BY 1
"""
_INDEXES: LiteralString = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid),
       array(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)),
       i.indexprs IS NULL AND i.indpred IS NULL
FROM pg_index i
WHERE i.indrelid = to_regclass(%(table)s)
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
"""
_GRANTS: LiteralString = """
SELECT format('GRANT %%s ON %%s TO %%s%%s', a.privilege_type, %(table)s::text,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.oid = to_regclass(%(table)s) AND a.grantee <> c.relowner
"""


def primary_key(connection: Connection, place: str) -> tuple[str, ...]:
    """See sinks.sql.session.Session. `place`: the table, quoted."""
    row = connection.execute(_PRIMARY_KEY, {"table": place}).fetchone()
    return tuple(row[0]) if row is not None and row[0] else ()


def bound_to(connection: Connection, place: str) -> list[str]:
    """Views, foreign keys, triggers, policies, rules, publications, inheriting tables."""
    return [name for (name,) in connection.execute(_BOUND, {"table": place})]


def belongings(connection: Connection, place: str, columns: Collection[str]) -> Belongings:
    """Grants on the table, and the plain indexes whose columns are still there."""
    indexes = connection.execute(_INDEXES, {"table": place}).fetchall()
    grants = [text for (text,) in connection.execute(_GRANTS, {"table": place})]
    carried = [i for i in indexes if i[3] and set(i[2]) <= set(columns)]
    take = tuple(f"DROP INDEX {name}" for name, *_ in carried)
    return Belongings(take, (*(definition for _, definition, *_ in carried), *grants))
