"""Golden pairs of the planner: SQL in, plan or refusal out, in files that a person can read.

A file holds cases separated by lines of `====`; a case is a comment line with its title, the SQL,
a line of `----`, and what the planner makes of it. After a wanted change rewrite them with
`python -m tests.planner.golden` and read the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cdc.config import Place
from cdc.errors import ViewError
from cdc.schema import Column, TableSchema
from views.sql.explain_node import plan_lines
from views.sql.planner import plan_view
from views.sql.resolve import Catalog
from views.sql.types import named

FIXTURES = Path(__file__).parent / "fixtures"


def table(name: str, key: str, /, **columns: str) -> TableSchema:
    """A table whose columns are nullable except its key's (`key`: names, space-separated)."""
    keys = tuple(key.split())
    made = []
    for at, (column, sql_type) in enumerate(columns.items(), 1):
        known = named(sql_type)
        arrow = known.arrow if known is not None else pa.string()
        made.append(Column(column, arrow, sql_type, column not in keys, at))
    return TableSchema(name, tuple(made), keys)


_ZONED = "timestamp with time zone"
TABLES = {
    "shop.public.customers": table(
        "public.customers", "id", id="integer", name="text", country="character varying(20)"
    ),
    "shop.public.orders": table(
        "public.orders",
        "id",
        id="bigint",
        customer_id="integer",
        amount="numeric(12,2)",
        status="text",
        state="mood",
        details="jsonb",
        created_at=_ZONED,
    ),
    "shop.public.order_items": table(
        "public.order_items",
        "order_id no",
        order_id="bigint",
        no="integer",
        product_id="integer",
        quantity="integer",
        price="numeric(10,2)",
    ),
    "shop.public.events": table("public.events", "id", id="bigint", at=_ZONED, size="numeric"),
    "crm.public.people": table("public.people", "id", id="integer", email="text"),
    "crm.public.events": table("public.events", "id", id="uuid", kind="text"),
}
VIEWS = {"paid": table("paid", "id", id="bigint", customer_id="integer", amount="numeric(12,2)")}
CATALOG = Catalog(TABLES, VIEWS, {"far": "view far belongs to the group other"})


@dataclass(frozen=True)
class Case:
    file: str
    title: str
    sql: str
    expected: str

    def planned(self) -> str:
        """The plan's text and key, or the error as a user sees it."""
        try:
            plan = plan_view("v", self.sql, CATALOG, sql_place=Place("connectors.yaml", 10, 7))
        except ViewError as error:
            return f"{type(error).__name__}: {error}"
        shown = ", ".join(plan.output.key)
        return "\n".join([*plan_lines(plan.root), f"key ({shown})", *plan.warnings])


def cases() -> list[Case]:
    """All cases of all files."""
    out = []
    for path in sorted(FIXTURES.glob("*.sql")):
        for block in path.read_text().split("\n====\n"):
            head, _, expected = block.strip("\n").partition("\n----\n")
            title, _, sql = head.partition("\n")
            out.append(Case(path.name, title.removeprefix("-- "), sql, expected))
    return out


def rewrite() -> None:
    """Write what the planner makes of every case into the files."""
    for path in sorted(FIXTURES.glob("*.sql")):
        mine = [c for c in cases() if c.file == path.name]
        blocks = [f"-- {c.title}\n{c.sql}\n----\n{c.planned()}" for c in mine]
        path.write_text("\n====\n".join(blocks) + "\n")


if __name__ == "__main__":
    rewrite()
