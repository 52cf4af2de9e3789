"""What a new version of a table means for the views that were planned with an older one.

A view notices nothing while the columns that it reads are there, under their names and with their
types: columns are found by their number (attnum), others are passed over. One whose column was
dropped or renamed has no meaning any more, and stands at its last good cut. Where a column has
another type, or is another column under the old name, the group has to be planned again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.schema import Column, TableSchema
from views.plan import ViewPlan, scans


@dataclass
class TableChange:
    """`refused`: per view, why it cannot go on. `replan`: the plans are not what they were."""

    refused: dict[str, str] = field(default_factory=dict)
    replan: bool = False


def table_change(
    plans: Mapping[str, ViewPlan], topic: str, then: TableSchema, now: TableSchema
) -> TableChange:
    """The table of `topic` was `then` when the views were planned, and is `now`."""
    found = TableChange()
    for name, plan in plans.items():
        for scan in scans(plan.root):
            for column in scan.source_columns if scan.input == topic else ():
                why = _lost(then.column(column), now, topic)
                if why:
                    found.refused.setdefault(name, why)
                elif why is None:
                    found.replan = True
    return found


def _lost(then: Column, now: TableSchema, topic: str) -> str | None:
    """Why a column cannot be read as it was; "": it can; None: only as another one."""
    named = next((c for c in now.columns if c.name == then.name), None)
    if named is not None:
        same = named.attnum == then.attnum and named.type == then.type
        return "" if same else None
    numbered = next((c for c in now.columns if then.attnum and c.attnum == then.attnum), None)
    what = "was dropped" if numbered is None else f"is called {numbered.name} now"
    return f"column {then.name} of {topic} {what}: change the view, and start again"
