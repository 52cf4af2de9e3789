"""Numbers: NUMERIC arithmetic, casts from and to text, and exact sums per group.

Every figure is millions of rows per second of processor time, over columns of 500,000 random rows:
decimals are numeric(12,2) and NUMERIC without a scale the same values as text. Sums put a million
rows into 100,000 new groups, keeping sum, count and avg, and read sum and avg of every group.

    .venv/bin/python -m bench.numeric
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.measure import Figure, report
from cdc.hashing import hash_columns
from cdc.schema import NUMERIC_TEXT
from views.operators.accumulators import Count, Portion, neutral, read_avg, read_sum, sum_of
from views.operators.grouping import Groups, group_rows
from views.plan import Call, ColumnRef
from views.sql.aggregates import result_type
from views.sql.types import named
from views.values import functions

RUNS = 3
ROWS = 500_000
GROUPED_ROWS, GROUPS = 1_000_000, 100_000

Columns = dict[str, pa.Array]


def columns_of(count: int, seed: int = 1) -> Columns:
    """One column of each type."""
    rng = np.random.default_rng(seed)
    cents = pa.array(rng.integers(1, 10**9, count))
    price = pc.multiply(cents.cast(pa.decimal128(19, 0)), pa.scalar(Decimal("0.01")))
    amounts = price.cast(pa.decimal128(12, 2))
    floats = pa.array(rng.normal(100, 1e3, count))
    return {
        "bigint": pa.array(rng.integers(1, 10**6, count)),
        "numeric(12,2)": amounts,
        "numeric": NUMERIC_TEXT.wrap_array(amounts.cast(pa.string())),
        "double precision": floats,
        "text": floats.cast(pa.string()),
        "bytea": pa.array(np.frombuffer(rng.bytes(16 * count), "S16")).cast(pa.binary()),
    }


def rates(run: Callable[[], object], rows: int) -> tuple[float, ...]:
    """Millions of rows a second, RUNS times."""
    out = []
    for _ in range(RUNS):
        began_s = time.process_time()
        run()
        out.append(rows / (time.process_time() - began_s) / 1e6)
    return tuple(out)


def arithmetic(columns: Columns, op: str, left: str, right: str, target: str) -> Figure:
    a, b = columns[left], columns[right]
    types = (ColumnRef("a", "numeric", a.type, True), ColumnRef("b", "numeric", b.type, True))
    kernel = functions.FUNCTIONS[op, ("numeric", "numeric")].kernel(
        Call(op, types, "numeric", NUMERIC_TEXT)
    )
    return Figure(
        f"{left} {op} {right}", "M rows/s", rates(lambda: kernel([a, b], ROWS), ROWS), target
    )


def cast(columns: Columns, source: str, result: str, target: str) -> Figure:
    type = named(result)
    assert type is not None
    given = columns[source]
    argument = ColumnRef("a", source, given.type, True)
    kernel = functions.cast_rule(source, result).kernel(
        Call("cast", (argument,), result, type.arrow)
    )
    runs = rates(lambda: kernel([given], ROWS), ROWS)
    return Figure(f"{source} to {result}", "M rows/s", runs, target)


def sums(columns: Columns, name: str, groups: Groups, target: str) -> Figure:
    """The first load: every group is new."""
    values = columns[name]
    portion = Portion(values, np.ones(len(values), np.int64), groups, None, len(groups))
    argument = ColumnRef("a", name, values.type, True)

    def run() -> None:
        count, total = Count(), sum_of(values.type)
        (counts,) = count.add(neutral(count.types, len(groups)), portion)
        states = total.add(neutral(total.types, len(groups)), portion)
        for function, read in (("sum", read_sum), ("avg", read_avg)):
            read(values.type, states, counts.to_numpy(), result_type(function, argument).arrow)

    runs = rates(run, len(values))
    return Figure(f"sum, count, avg of {name} per group", "M rows/s", runs, target)


def main() -> None:
    columns = columns_of(ROWS)
    report(
        [
            arithmetic(columns, "+", "numeric", "numeric", ">= 2"),
            arithmetic(columns, "*", "numeric", "numeric(12,2)", ">= 2"),
            arithmetic(columns, "/", "numeric(12,2)", "numeric(12,2)", ">= 1"),
            arithmetic(columns, "/", "numeric", "numeric", ">= 1"),
            cast(columns, "double precision", "text", ">= 3"),
            cast(columns, "text", "double precision", ">= 3"),
            cast(columns, "text", "numeric", ">= 1"),
            cast(columns, "double precision", "numeric", ">= 1"),
            cast(columns, "numeric", "numeric(12,2)", ">= 2"),
            cast(columns, "numeric", "double precision", ">= 3"),
            cast(columns, "bytea", "text", ">= 3"),
        ]
    )
    wide = columns_of(GROUPED_ROWS)
    keys = [pa.array(np.random.default_rng(2).integers(0, GROUPS, GROUPED_ROWS))]
    groups = group_rows(hash_columns(keys), keys)
    report(
        [
            sums(wide, "bigint", groups, ">= 1"),
            sums(wide, "numeric(12,2)", groups, ">= 1"),
            sums(wide, "double precision", groups, ">= 0.3"),
            sums(wide, "numeric", groups, ">= 0.3"),
        ]
    )


if __name__ == "__main__":
    main()
