"""One seed of the SQL fuzz: random views, random transactions, and Postgres as the judge.

By hand, over many seeds (each failure prints its seed and SQL, and the rest goes on):

    python -m tests.views.sql_fuzz URL FIRST COUNT [HASH_BITS]
"""

from __future__ import annotations

import random
import sys
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from cdc.changes import D
from cdc.errors import ViewError
from cdc.positions import Vector
from cdc.schema import NUMERIC_TEXT
from tests.views.fuzz_tables import (
    TABLES,
    Change,
    Rows,
    batch,
    create_tables,
    random_step,
    sql_name,
)
from tests.views.sql_generator import Generator, View
from views.checkpoint import Checkpoints, Stand, snapshot
from views.operators.graph import Graph
from views.operators.output import change_batch
from views.plan import ViewPlan
from views.sql.planner import plan_view
from views.sql.resolve import Catalog

Connection = psycopg.Connection[Any]
Step = dict[str, list[Change]]
Row = tuple[Any, ...]


def connected(url: str) -> Connection:
    """A connection to a database whose schemas `shop` and `crm` are made anew, with the tables."""
    connection = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")
    connection.execute("DROP SCHEMA IF EXISTS shop, crm CASCADE")
    connection.execute(create_tables())
    connection.autocommit = False
    return connection


@dataclass
class Group:
    """The maintained side: the graph, and per view what a reader of its topic has."""

    plans: dict[str, ViewPlan]
    folder: Path
    hash_bits: int
    topics: dict[str, dict[Row, Row]] = field(init=False)
    graph: Graph = field(init=False)
    _since: list[Step] = field(default_factory=list)
    _published: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topics = {name: {} for name in self.plans}
        self.graph = Graph(self.plans, TABLES, self.hash_bits)
        self.checkpoint()

    def step(self, changes: Step) -> None:
        self._since.append(changes)
        slots = self.graph.run(self._staged([changes]))
        for name, output in self.graph.outputs.items():
            found = output.step(slots)
            if not output.is_blocked:
                self._published[name] = len(self._since)
            if found is not None:
                self._apply(name, change_batch(output.plan.output, found, 0, 0))
        self.graph.commit()

    def merge(self) -> None:
        while self.graph.merge(0.0005):
            pass

    def checkpoint(self) -> None:
        schemas = {name: a.layout.schema for name, a in self.graph.arrangements.items()}
        taken = snapshot(self.graph, Stand(Vector(), {}, {}, {}))
        Checkpoints(self.folder).write(taken, schemas)
        self._since, self._published = [], dict.fromkeys(self.plans, 0)

    def recover(self) -> None:
        """As views.recovery does: the checkpoint, then silent steps to what was published."""
        self.graph = Graph(self.plans, TABLES, self.hash_bits)
        assert Checkpoints(self.folder).load(self.graph) is not None
        at = 0
        for cut in sorted({*self._published.values(), len(self._since)} - {0}):
            slots = self.graph.run(self._staged(self._since[at:cut]))
            for name, output in self.graph.outputs.items():
                output.step(slots, hold=True)
                if self._published[name] == cut:
                    output.forget_unpublished()
            self.graph.commit()
            at = cut

    def _staged(self, steps: Sequence[Step]) -> dict[str, Any]:
        return {
            topic: table.stage(
                [batch(TABLES[topic], step[topic]) for step in steps if topic in step]
            )
            for topic, table in self.graph.inputs.items()
        }

    def _apply(self, name: str, records: Any) -> None:
        """A reader's state after one cut; nothing published may be superfluous."""
        schema, topic, seen = records.schema, self.topics[name], set()
        places = [[c.name for c in schema.columns].index(k) for k in schema.key]
        for op, row in zip(records.op.tolist(), tuples_of(records.rows), strict=True):
            key = tuple(_value(row[i]) for i in places)
            assert key not in seen, f"{name}: two records for {key} in one cut"
            seen.add(key)
            if op == D:
                assert key in topic, f"{name}: tombstone of an unknown key {key}"
                del topic[key]
            else:
                assert key not in topic or repr(topic[key]) != repr(row), f"{name}: {row} again"
                topic[key] = row

    def rows(self, name: str) -> list[Row]:
        return list(self.topics[name].values())


def tuples_of(rows: pa.RecordBatch) -> list[Row]:
    columns = [
        [None if v is None else Decimal(v) for v in c.storage.to_pylist()]
        if c.type == NUMERIC_TEXT
        else c.to_pylist()
        for c in rows.columns
    ]
    return list(zip(*columns, strict=True)) if columns else [()] * rows.num_rows


def _value(value: Any) -> Any:
    """A value as both sides have it: numbers by value, NaN equal to itself."""
    if isinstance(value, float):
        return f"{value + 0.0:.12g}"
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Decimal):
        return "NaN" if value.is_nan() else value.normalize() + 0
    return value


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows as both sides have them, numbers by value."""
    return sorted((tuple(_value(v) for v in row) for row in rows), key=repr)


class Wrong(AssertionError):
    """A view differs from its SELECT."""


def run_seed(
    connection: Connection, seed: int, hash_bits: int, folder: Path, seen: Counter[str]
) -> None:
    """Raises Wrong, or whatever the engine raises. Leaves the database as it was."""
    rng = random.Random(seed)
    connection.execute("SELECT 1")  # begins the transaction that is rolled back at the end
    try:
        views, plans = random_views(connection, rng, seen)
        if not plans:
            return
        group = Group(plans, folder, hash_bits)
        live: Rows = {topic: {} for topic in TABLES}
        for number in range(rng.randrange(2, 9)):
            before = {topic: dict(rows) for topic, rows in live.items()}
            changes = random_step(rng, live)
            group.step(changes)
            apply_to(connection, before, live)
            for name in plans:
                _check(connection, group, name, views[name], number, seen)
            if rng.random() < 0.4:
                group.merge()
            if rng.random() < 0.2:
                group.checkpoint()
            if rng.random() < 0.25:
                group.recover()
    except Exception as error:
        listing = "\n".join(f"{n}: {v.sql}" for n, v in locals().get("views", {}).items())
        error.add_note(f"seed {seed}, hash_bits {hash_bits}\n{listing}")
        raise
    finally:
        connection.rollback()


def random_views(
    connection: Connection, rng: random.Random, seen: Counter[str]
) -> tuple[dict[str, View], dict[str, ViewPlan]]:
    generator = Generator(rng)
    plans: dict[str, ViewPlan] = {}
    for number in range(rng.randrange(1, 6)):
        view, name = generator.view(), f"v{number}"
        catalog = Catalog(TABLES, {n: p.output for n, p in plans.items()})
        key = view.key if view.declared else None
        try:
            plan = plan_view(name, view.sql, catalog, key=key)
        except ViewError as error:
            seen["refused: " + error.what.splitlines()[0].partition(": ")[2][:60]] += 1
            if "-v" in sys.argv:
                print(error, flush=True)
            continue
        except Exception as error:
            error.add_note(view.sql)
            raise
        columns = ", ".join(view.columns)
        try:
            with connection.transaction():
                connection.execute(f"CREATE VIEW {name}({columns}) AS {view.sql}".encode())
        except psycopg.Error as error:
            seen["only Postgres refuses: " + str(error).splitlines()[0][:80]] += 1
            if "-v" in sys.argv:
                print(error, view.sql, flush=True)
            continue
        seen["views"] += 1
        generator.views[name], plans[name] = view, plan
    return generator.views, plans


def apply_to(connection: Connection, before: Rows, after: Rows) -> None:
    with connection.cursor() as cursor:
        for topic, schema in TABLES.items():
            old, new, table = before[topic], after[topic], sql_name(topic)
            gone = [key for key, row in old.items() if new.get(key) is not row]
            came = [row for key, row in new.items() if old.get(key) is not row]
            where = " AND ".join(f"{k} = %s" for k in schema.key)
            if gone:
                cursor.executemany(f"DELETE FROM {table} WHERE {where}".encode(), gone)
            marks = ", ".join(f"%s::{c.sql_type}" for c in schema.columns)
            if came:
                cursor.executemany(
                    f"INSERT INTO {table} VALUES ({marks})".encode(),
                    [tuple(row[c.name] for c in schema.columns) for row in came],
                )


def _check(
    connection: Connection, group: Group, name: str, view: View, step: int, seen: Counter[str]
) -> None:
    blocked = group.graph.outputs[name].blocked
    try:
        with connection.transaction():
            found = connection.execute(f"SELECT * FROM {name}".encode()).fetchall()
    except psycopg.Error as error:
        seen["Postgres fails" + (", blocked" if blocked else ", not blocked")] += 1
        if not blocked:
            raise Wrong(f"{name}: Postgres fails ({error}), the view does not") from error
        return
    if blocked:
        raise Wrong(f"{name} is blocked, Postgres is not: {blocked}")
    compare(name, view, group.rows(name), found, f"after step {step}")


def compare(name: str, view: View, mine: Sequence[Row], found: Sequence[Row], when: str) -> None:
    """Raises Wrong when the rows differ."""
    wanted, mine = sorted_rows(found), sorted_rows(mine)
    if wanted != mine:
        missing = [row for row in wanted if row not in mine]
        extra = [row for row in mine if row not in wanted]
        raise Wrong(f"{name} {when}: {missing=} {extra=}\n{view.sql}")


def run_seeds(run: Callable[[Connection, int, Path, Counter[str]], None]) -> None:
    """`run` with every seed that the command line asks for, URL FIRST COUNT, and the counts."""
    url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    seen: Counter[str] = Counter()
    connection = connected(url)
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(connection, seed, Path(folder), seen)
            except Exception:  # the next seed may find another bug
                seen["FAILED"] += 1
                traceback.print_exc(limit=-4, file=sys.stdout)
                sys.stdout.flush()
    for what, times in seen.most_common():
        print(f"{times:8} {what}")


def main() -> None:
    bits = int(sys.argv[4]) if sys.argv[4:] else 64
    run_seeds(lambda connection, seed, home, seen: run_seed(connection, seed, bits, home, seen))


if __name__ == "__main__":
    main()
