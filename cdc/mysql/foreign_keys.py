"""Foreign keys whose actions the binlog does not have.

InnoDB carries out ON DELETE and ON UPDATE with CASCADE or SET NULL inside the engine: the rows of
the referencing table change, and the binlog holds the change of the referenced table alone (MySQL
reference manual, "FOREIGN KEY Constraints"; replicas repeat the action themselves). Whoever reads
rows from the binlog never hears of it. MySQL 9.6 can do it above the engine, with
`innodb_native_foreign_keys=OFF`, and logs it then.

SHOW CREATE TABLE is the one place that tells a user who may only read: MariaDB's
information_schema.REFERENTIAL_CONSTRAINTS is empty without more rights.
"""

from __future__ import annotations

import re

from cdc.mysql.connection import Connection, query
from cdc.mysql.tables import MyTable

_QUOTED = re.compile(r"`(?:[^`]|``)*`|'(?:[^'\\]|''|\\.)*'")
_ACTION = re.compile(r"\bON (?:DELETE|UPDATE) (?:CASCADE|SET NULL)\b", re.IGNORECASE)
_LOGGED_SETTING = "innodb_native_foreign_keys"


def unlogged_actions(connection: Connection, table: MyTable) -> list[str]:
    """The actions of the table's foreign keys that change its rows without a word in the binlog:
    `ON DELETE CASCADE`, … Needs SELECT on the table."""
    found = foreign_key_actions(str(query(connection, f"SHOW CREATE TABLE {table.quoted}")[0][1]))
    if not found:
        return []
    rows = query(connection, "SHOW GLOBAL VARIABLES LIKE %s", (_LOGGED_SETTING,))
    return [] if rows and str(rows[0][1]).upper() in ("OFF", "0") else found


def foreign_key_actions(definition: str) -> list[str]:
    """What the text of CREATE TABLE says of CASCADE and SET NULL, once each.

    >>> foreign_key_actions("CONSTRAINT `on delete cascade` … ON DELETE CASCADE ON UPDATE SET NULL")
    ['ON DELETE CASCADE', 'ON UPDATE SET NULL']
    """
    plain = _QUOTED.sub("``", definition)
    return sorted({match.upper() for match in _ACTION.findall(plain)})
