"""The names on a broker that a configuration stands for: topics and what they are for, groups."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cdc.config import Config
from cdc.config_kafka import captures, known_tables
from cdc.log.kafka_client import LETTERS, SCHEMAS

Role = Literal["table", "view", "frontier", "transactions", "schemas", "letters"]


@dataclass(frozen=True)
class Names:
    """The topics of a configuration, without the prefix. `tables` are `source.schema.table`."""

    config: Config
    tables: tuple[str, ...] = ()

    def role(self, topic: str) -> Role | None:
        """What we use a topic of this name for; None: nothing."""
        if topic in (SCHEMAS, LETTERS):
            return "schemas" if topic == SCHEMAS else "letters"
        head, _, rest = topic.partition(".")
        if head == "view":
            name, _, tail = rest.partition(".")
            role: Role = "frontier" if tail else "view"
            return role if name in self.config.views and tail in ("", "frontier") else None
        source = self.config.sources.get(head)
        if source is None:
            return None
        if rest == "frontier":
            return "frontier"
        if rest == "transaction":
            return "transactions" if self.config.log.transaction_metadata else None
        return "table" if rest.count(".") == 1 and captures(source, rest) else None

    def certain(self) -> list[str]:
        """Those that `cdc run` makes when they are missing: of tables that are named in full, or
        known to exist."""
        found = [SCHEMAS, LETTERS, *self.tables]
        for source in self.config.sources.values():
            tables = [t for t in known_tables(source) if not re.search(r"[*?\[]", t)]
            found += [f"{source.name}.{table}" for table in tables]
            found.append(f"{source.name}.frontier")
            if self.config.log.transaction_metadata:
                found.append(f"{source.name}.transaction")
        for view in self.config.views:
            found += [f"view.{view}", f"view.{view}.frontier"]
        return list(dict.fromkeys(found))

    def groups(self) -> list[str]:
        return sorted(
            {*self.config.sinks, *(f"view.{v.group}" for v in self.config.views.values())}
        )
