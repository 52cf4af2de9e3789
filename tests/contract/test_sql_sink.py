"""What only SQL stores promise: tables, transactions over several inputs, ownership."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.changes import U
from cdc.config import Config
from cdc.errors import ConfigError, SinkError
from cdc.positions import Vector
from cdc.schema import Column
from sinks.chunks import Limits
from sinks.delivery import deliver
from sinks.part import PART, feed_of, status_file
from sinks.progress import Progress
from sinks.sql.stores import sink_of
from tests.sink_feed import (
    ITEMS,
    SUMS,
    Shop,
    batch_of,
    config_of,
    item,
    run_until,
    stored,
    table,
    until,
)

STORES = [
    "duckdb",
    pytest.param("sqlite", marks=pytest.mark.slow),
    pytest.param("postgres", marks=pytest.mark.service),
]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    """An empty store's URL."""
    if request.param == "postgres":
        return str(request.getfixturevalue("pg_database"))
    return f"{request.param}:///store.{request.param}"


@pytest.fixture
def config(tmp_path: Path, url: str) -> Config:
    return config_of(tmp_path, url, ["shop.items"])


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        yield shop


def _with_inputs(config: Config, inputs: Sequence[str], **options: Any) -> Config:
    sink = replace(config.sinks["warehouse"], inputs=tuple(inputs), options=options)
    return replace(config, sinks={"warehouse": sink})


@pytest.mark.slow
def test_inputs_of_one_cut_become_visible_together(config: Config, shop: Shop) -> None:
    """A reader in a process of its own never sees the items of a transaction without its sum."""
    both = _with_inputs(config, ["shop.items", "shop.sums"])
    run_until(both, shop, _transaction(shop, 0))
    reader = _polling_reader(both, target=sum(5 * txn for txn in range(40)))
    remaining = iter(range(1, 40))

    def one_more_commit() -> bool:
        for txn in remaining:
            _transaction(shop, txn)
            return False
        return reader.poll() is not None

    progress = Progress("warehouse", shop.log, status_file(config, "warehouse"))
    with closing(sink_of(both, "warehouse")) as sink:
        deliver(sink, feed_of(both, "warehouse"), shop.log, until(one_more_commit), progress)
    output, _ = reader.communicate()
    assert reader.returncode == 0, output


def _transaction(shop: Shop, txn: int) -> Vector:
    """Five items, and the sum over all items so far."""
    rows = [item(txn * 5 + i, "x", txn) for i in range(5)]
    total = sum(5 * t for t in range(txn + 1))
    return shop.commit(
        ("public.items", [U] * 5, batch_of(rows)),
        ("public.sums", [U], batch_of([{"id": 1, "total": total}], SUMS)),
    )


def _polling_reader(config: Config, target: int) -> subprocess.Popen[str]:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.sink_feed import config_of\n"
        "from sinks.part import PART\n"
        "config = config_of(Path(sys.argv[1]), sys.argv[2], ['shop.items', 'shop.sums'])\n"
        "ask = 'SELECT (SELECT sum(amount) FROM items), (SELECT total FROM sums)'\n"
        "while True:\n"
        "    (items, total), = PART.query(config, 'warehouse', ask).rows\n"
        "    assert items == total, (items, total)\n"
        f"    if total == {target}: break\n"
    )
    arguments = [str(config.file.parent), config.sinks["warehouse"].url]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=Path(__file__).parents[2],
    )


def test_keys_with_nulls_get_a_key_column(config: Config) -> None:
    groups = table(
        "public.groups",
        Column("a", pa.string(), "text"),
        Column("n", pa.int64(), "bigint"),
        key=("a",),
    )
    config = _with_inputs(config, ["shop.groups"])
    with closing(Shop(config, groups)) as shop:
        run_until(
            config, shop, shop.put("public.groups", [{"a": "x", "n": 1}, {"a": None, "n": 2}])
        )
    keys_stored = PART.query(config, "warehouse", 'SELECT _key FROM "groups" ORDER BY n').rows
    assert [row[0] for row in keys_stored] == ['["x"]', "[null]"]


def test_a_reload_in_chunks_replaces_the_rows(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(i, "old") for i in range(500)]))
    with closing(sink_of(config, "warehouse")) as sink, sink._store.session() as session:
        session.update("UPDATE _cdc_sink SET position = NULL")
        session.update("INSERT INTO \"items\" VALUES (-1, 'stray', 0)")
    position = shop.delete("public.items", [item(i) for i in range(0, 500, 2)])
    run_until(config, shop, position, Limits(rows=100))
    odd = [item(i, "old") for i in range(1, 500, 2)]
    assert stored(config) == sorted(odd, key=lambda row: str(row["id"]))


def test_a_dropped_table_is_loaded_again(config: Config, shop: Shop) -> None:
    position = shop.put("public.items", [item(1), item(2)])
    run_until(config, shop, position)
    with closing(sink_of(config, "warehouse")) as sink, sink._store.session() as session:
        session.execute('DROP TABLE "items"')
    run_until(config, shop, position)
    assert stored(config) == [item(1), item(2)]


def test_a_table_that_does_not_fit_is_an_error_with_its_remedy(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    narrower = table("public.items", *ITEMS.columns[:2], version=2)
    found = PART.check(config, "warehouse", {"shop.items": narrower})
    assert [f.severity for f in found] == ["error"]
    assert "column 'amount' is not in the input" in found[0].what
    assert "cdc rebuild warehouse" in found[0].remedy


def test_rows_that_the_sink_did_not_write_are_left_alone(config: Config, shop: Shop) -> None:
    with closing(sink_of(config, "warehouse")) as sink, sink._store.session() as session:
        session.execute('CREATE TABLE "items" (id INTEGER PRIMARY KEY, name TEXT)')
        session.update("INSERT INTO \"items\" VALUES (7, 'of somebody')")
    position = shop.put("public.items", [item(1)])
    (finding,) = PART.check(config, "warehouse", {"shop.items": ITEMS})
    assert finding.severity == "error" and "DROP TABLE" in finding.remedy
    with pytest.raises(SinkError, match="did not write"):
        run_until(config, shop, position)
    assert PART.query(config, "warehouse", 'SELECT name FROM "items"').rows == [("of somebody",)]


def test_a_table_has_one_sink(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    other = replace(config, sinks={"other": replace(config.sinks["warehouse"], name="other")})
    (finding,) = PART.check(other, "other", {"shop.items": ITEMS})
    assert "is written by sink 'warehouse'" in finding.what


@pytest.mark.parametrize("length", [54, 55, 62, 63])
def test_a_long_name_and_its_shadow_are_two_tables(config: Config, shop: Shop, length: int) -> None:
    named = _with_inputs(config, ["shop.items"], table="t" * length)
    run_until(named, shop, shop.put("public.items", [item(1)]))
    with closing(sink_of(named, "warehouse")) as sink, sink._store.session() as session:
        session.update("UPDATE _cdc_sink SET position = NULL")
    run_until(named, shop, shop.put("public.items", [item(2)]))
    assert stored(named) == [item(1), item(2)]


def test_names_that_the_store_would_take_for_others(config: Config, url: str) -> None:
    twins = table("public.items", *ITEMS.columns, Column("NAME", pa.string(), "text"))
    long = _with_inputs(config, ["shop.items"], table="t" * 20_000)
    (finding,) = PART.check(long, "warehouse", {"shop.items": ITEMS})
    assert finding.severity == "error" and "longer than" in finding.what
    (finding,) = PART.check(config, "warehouse", {"shop.items": twins})
    assert finding.severity == ("ok" if url.startswith("postgres") else "error")


def test_table_and_schema_options(config: Config, shop: Shop, url: str) -> None:
    options = {"table": "{source}_{name}"}
    if not url.startswith("sqlite"):
        options["schema"] = "Mart"
    named = _with_inputs(config, ["shop.items"], **options)
    run_until(named, shop, shop.put("public.items", [item(1, "a")]))
    assert stored(named) == [item(1, "a")]
    place = "shop_items" if url.startswith("sqlite") else '"Mart".shop_items'
    assert PART.query(named, "warehouse", f"SELECT name FROM {place}").rows == [("a",)]


def test_two_inputs_of_one_name_need_a_template(config: Config) -> None:
    schemas = {"shop.items": ITEMS, "shop.sales.items": ITEMS}
    both = _with_inputs(config, list(schemas))
    (finding,) = PART.check(both, "warehouse", schemas)
    assert finding.severity == "error" and "{source}" in finding.remedy


def test_remove_forgets_the_position_and_keeps_the_rows(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    assert PART.remove(config, "warehouse") == ["position of sink warehouse in _cdc_sink"]
    assert PART.position(config, "warehouse") is None
    assert stored(config) == [item(1)]
    assert PART.remove(config, "warehouse") == []


def test_queries_cannot_write(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    for text in ("DELETE FROM items", "COMMIT; DELETE FROM items"):
        with pytest.raises(SinkError):
            PART.query(config, "warehouse", text)
    assert stored(config) == [item(1)]


def test_queries_of_a_duckdb_file_write_no_other_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, "duckdb:///store.duckdb", ["shop.items"])
    with closing(Shop(config, ITEMS)) as shop:
        run_until(config, shop, shop.put("public.items", [item(1)]))
    for text in (f"COPY items TO '{tmp_path}/out.csv'", f"ATTACH '{tmp_path}/other.duckdb'"):
        with pytest.raises(SinkError):
            PART.query(config, "warehouse", text)
    assert {file.name for file in tmp_path.iterdir()} == {"log", "state", "store.duckdb"}


def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memory"):
        sink_of(config_of(tmp_path, "duckdb://", ["shop.items"]), "warehouse")
