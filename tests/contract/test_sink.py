"""What every SQL store promises (sinks/api.py), over real stores and a real embedded log.

The changes are invented; the log, the delivery loop and the stores are the real ones.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.changes import D, U
from cdc.config import Config
from cdc.errors import CdcError, ConfigError, Fenced, SinkError
from cdc.positions import Vector
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column, TableSchema
from sinks.chunks import Limits
from sinks.delivery import deliver, retry_delay_s
from sinks.part import PART, feed_of, status_file
from sinks.progress import Progress
from sinks.stores import sink_of
from tests.sink_feed import ITEMS, SUMS, Shop, config_of, table, until

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


def run_until(config: Config, shop: Shop, position: Vector, limits: Limits | None = None) -> None:
    """Deliver until the store has reached `position`."""
    file = status_file(config, "warehouse")
    progress = Progress("warehouse", shop.log, file, record_every_s=0)

    def reached() -> bool:
        said = PART.status(config, "warehouse") if file.exists() else {}
        return bool(said.get("chunk") == 0 and Vector.parse(said["position"]).covers(position))

    file.unlink(missing_ok=True)
    with closing(sink_of(config, "warehouse")) as sink:
        deliver(sink, feed_of(config, "warehouse"), shop.log, until(reached), progress, limits)


def stored(config: Config, schema: TableSchema = ITEMS, name: str = "shop.items") -> list[Any]:
    """The store's rows in key order, as Python values."""
    batches = list(PART.rows(config, "warehouse", name, schema))
    rows = pa.Table.from_batches(batches, schema=schema.arrow).to_pylist()
    return sorted(rows, key=lambda row: [str(row[k]) for k in schema.key])


def item(number: int, name: str | None = "x", amount: int | None = 0) -> dict[str, Any]:
    return {"id": number, "name": name, "amount": amount}


def test_last_change_of_a_key_wins(config: Config, shop: Shop) -> None:
    shop.put("public.items", [item(1, "a"), item(2, "b"), item(1, "c")])
    shop.delete("public.items", [item(2)])
    run_until(config, shop, shop.put("public.items", [item(3, "d"), item(1, "e")]))
    assert stored(config) == [item(1, "e"), item(3, "d")]


def test_updates_and_deletes_after_the_first_load(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(i, f"n{i}") for i in range(100)]))
    shop.put("public.items", [item(i, "new", None) for i in range(0, 100, 2)])
    run_until(config, shop, shop.delete("public.items", [item(i) for i in range(1, 50, 2)]))
    evens = [item(i, "new", None) for i in range(0, 100, 2)]
    odds = [item(i, f"n{i}") for i in range(51, 100, 2)]
    assert stored(config) == sorted(evens + odds, key=lambda row: str(row["id"]))


def test_a_delete_of_an_unknown_key_is_nothing(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.delete("public.items", [item(1)]))
    assert stored(config) == []


def test_a_cut_applied_twice_is_applied_once(config: Config, shop: Shop) -> None:
    """The store's position set back: the same changes come again."""
    first = shop.put("public.items", [item(1, "a"), item(2, "b")])
    run_until(config, shop, first)
    with closing(sink_of(config, "warehouse")) as sink:
        before = sink.position()
    second = shop.commit(
        ("public.items", [U, D], _batch([item(1, "c"), item(2)])),
    )
    run_until(config, shop, second)
    assert before is not None
    _set_position(config, before.to_json())
    run_until(config, shop, second)
    assert stored(config) == [item(1, "c")]


def _batch(rows: Sequence[dict[str, Any]], schema: TableSchema = ITEMS) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=schema.arrow)


def _set_position(config: Config, text: str) -> None:
    with closing(sink_of(config, "warehouse")) as sink, sink._store.session() as session:
        session.update("UPDATE _cdc_sink SET position = ? WHERE sink = 'warehouse'", text)


ODD_TEXTS = [
    "",
    "'",
    '"',
    "\\",
    "a\nb\tc\r",
    "\\N",
    "NULL",
    "null",
    "Zürich",
    "😀",
    "{}",
    "a,b",
    " x ",
]


def test_texts_arrive_exactly(config: Config, shop: Shop) -> None:
    rows = [item(i, text) for i, text in enumerate(ODD_TEXTS)] + [item(99, None, None)]
    run_until(config, shop, shop.put("public.items", rows))
    assert stored(config) == sorted(rows, key=lambda row: str(row["id"]))


def test_a_large_value(config: Config, shop: Shop) -> None:
    rows = [item(1, "ä" * 2_500_000), item(2, "small")]
    run_until(config, shop, shop.put("public.items", rows))
    assert stored(config) == rows


def column(name: str, kind: pa.DataType, sql_type: str) -> Column:
    return Column(name, kind, sql_type)


TYPED = table(
    "public.typed",
    Column("id", pa.int64(), "bigint", nullable=False),
    column("small", pa.int16(), "smallint"),
    column("medium", pa.int32(), "integer"),
    column("flag", pa.bool_(), "boolean"),
    column("single", pa.float32(), "real"),
    column("double", pa.float64(), "double precision"),
    column("price", pa.decimal128(12, 2), "numeric(12,2)"),
    column("wide", pa.decimal128(38, 10), "numeric(38,10)"),
    column("fraction", pa.decimal128(5, 5), "numeric(5,5)"),
    column("any", NUMERIC_TEXT, "numeric"),
    column("label", pa.string(), "character varying(20)"),
    column("mood", pa.string(), "mood"),
    column("doc", pa.string(), "jsonb"),
    column("raw_doc", pa.string(), "json"),
    column("uid", pa.string(), "uuid"),
    column("span", pa.string(), "interval"),
    column("address", pa.string(), "inet"),
    column("bytes", pa.binary(), "bytea"),
    column("day", pa.date32(), "date"),
    column("clock", pa.time64("us"), "time without time zone"),
    column("at", pa.timestamp("us"), "timestamp without time zone"),
    column("at_tz", pa.timestamp("us", "UTC"), "timestamp with time zone"),
    column("tags", pa.list_(pa.string()), "text[]"),
    column("numbers", pa.list_(pa.int32()), "integer[]"),
    column("days", pa.list_(pa.date32()), "date[]"),
    column("times", pa.list_(pa.timestamp("us", "UTC")), "timestamp with time zone[]"),
    column("amounts", pa.list_(pa.decimal128(10, 2)), "numeric(10,2)[]"),
)
_DAYS: list[int | None] = [
    0,
    -719_528 - 400,
    DATE_INFINITY,
    -DATE_INFINITY,
    20_000,
    2_932_896 + 366,
    None,
]
_TIMES: list[int | None] = [0, -62_200_000_000_000_001, TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]
_TIMES += [1_700_000_000_123_456, 253_402_300_800_000_000, None]
_VALUES: dict[str, list[Any]] = {
    "small": [0, -32768, 32767, 1, 2, 3, None],
    "medium": [0, -(2**31), 2**31 - 1, 1, 2, 3, None],
    "flag": [True, False, True, False, True, False, None],
    "single": [0.0, -0.0, 1.5, 3.4028234663852886e38, 1e-45, float("inf"), None],
    "double": [0.0, -0.0, 0.1, 1.7976931348623157e308, 5e-324, float("-inf"), None],
    "price": ["0.00", "-0.01", "9999999999.99", "-9999999999.99", "1.10", "123.45", None],
    "wide": ["0.0000000000", "-0.0000000001", f"{'9' * 28}.{'9' * 10}", "1.5", "-2", "3", None],
    "fraction": ["0.00000", "-0.00001", "0.99999", "0.10000", "0.12345", "-0.5", None],
    "any": ["0", "-0.010", "NaN", "Infinity", "1" * 60, "1.000000000000000000000000001", None],
    "label": ["", "a", "é", "x y", "'", "\\", None],
    "mood": ["ok", "sad", "", "so so", "x", "y", None],
    "doc": ["{}", "null", "[1, 2]", '{"a": "\\"b"}', "1.50", '"ü"', None],
    "raw_doc": ["{}", '{"a":1,  "a":2}', "[]", "0", "true", '"x"', None],
    "uid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]
    + ["00000000-0000-0000-0000-000000000000"] * 5
    + [None],
    "span": ["00:00:00", "1 mon -1 days", "-01:02:03.000004", "1 year", "1 day", "3 mons", None],
    "address": ["192.168.0.1", "10.0.0.0/8", "::1", "fe80::1/64", "1.2.3.4", "5.6.7.8", None],
    "bytes": [b"", b"\0", b"\\", b"\xff\xfe", b"abc", b"'", None],
    "clock": [0, 86_399_999_999, 1, 43_200_000_000, 86_400_000_000, 5, None],
    "tags": [[], ["a", None, ""], ['"', "\\", "{", ","], ["NULL", "null"], ["ü"], ["\n"], None],
    "numbers": [[], [1, None, -(2**31)], [0], [1], [2], [3], None],
    "amounts": [[], ["1.10", None], ["0.01"], ["-5.00"], ["2.00"], ["3.00"], None],
}


def typed_rows() -> pa.RecordBatch:
    """Boundary values of every type that travels; the last row is NULL but for its key."""
    count = len(_DAYS)
    arrays = []
    for wanted in TYPED.columns:
        if wanted.name == "id":
            arrays.append(pa.array(range(count), pa.int64()))
        elif wanted.name in {"day", "at", "at_tz"}:
            whole = pa.int32() if wanted.name == "day" else pa.int64()
            values = _DAYS if wanted.name == "day" else _TIMES
            arrays.append(pa.array(values, whole).view(wanted.type))
        elif wanted.name in {"days", "times"}:
            whole, values = (pa.int32(), _DAYS) if wanted.name == "days" else (pa.int64(), _TIMES)
            flat = pa.array([v for v in values for _ in range(2)], whole)
            offsets = pa.array(range(0, 2 * count + 1, 2), pa.int32())
            arrays.append(pa.ListArray.from_arrays(offsets, flat.view(wanted.type.value_type)))
        else:
            arrays.append(_typed(_VALUES[wanted.name], wanted.type))
    return pa.RecordBatch.from_arrays(arrays, schema=TYPED.arrow)


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == NUMERIC_TEXT:
        return kind.wrap_array(pa.array(values, pa.string()))
    if pa.types.is_decimal(kind):
        return pa.array([None if v is None else Decimal(v) for v in values], kind)
    if pa.types.is_time(kind):
        return pa.array(values, pa.int64()).view(kind)
    if pa.types.is_list(kind) and pa.types.is_decimal(kind.value_type):
        lists = [v and [None if e is None else Decimal(e) for e in v] for v in values]
        return pa.array(lists, kind)
    return pa.array(values, kind)


def test_every_type_arrives_exactly(config: Config, tmp_path: Path) -> None:
    rows = typed_rows()
    config = _with_inputs(config, ["shop.typed"])
    with closing(Shop(config, TYPED)) as shop:
        run_until(config, shop, shop.load("public.typed", rows))
        _assert_equal(config, rows)
        run_until(config, shop, shop.commit(("public.typed", [U] * rows.num_rows, rows)))
        _assert_equal(config, rows)


def _assert_equal(config: Config, rows: pa.RecordBatch) -> None:
    found = pa.Table.from_batches(
        PART.rows(config, "warehouse", "shop.typed", TYPED), schema=TYPED.arrow
    ).sort_by("id")
    for name in TYPED.arrow.names:
        want, have = rows.column(name), found.column(name).combine_chunks()
        if isinstance(want.type, pa.ExtensionType):
            want, have = want.storage, have.storage
        assert have.equals(want), f"{name}: {have} is not {want}"


def _with_inputs(config: Config, inputs: Sequence[str], **options: Any) -> Config:
    sink = replace(config.sinks["warehouse"], inputs=tuple(inputs), options=options)
    return replace(config, sinks={"warehouse": sink})


NULL_KEYS = table(
    "public.groups",
    Column("a", pa.string(), "text"),
    Column("b", pa.int32(), "integer"),
    Column("n", pa.int64(), "bigint"),
    key=("a", "b"),
)
ONE_ROW = table("public.total", Column("n", pa.int64(), "bigint"), key=())


def test_keys_with_nulls_get_a_key_column(config: Config) -> None:
    config = _with_inputs(config, ["shop.groups"])
    with closing(Shop(config, NULL_KEYS)) as shop:
        keys = [("x", 1), ("x", None), (None, 1), (None, None), ("", 0)]
        rows = [{"a": a, "b": b, "n": i} for i, (a, b) in enumerate(keys)]
        run_until(config, shop, shop.put("public.groups", rows))
        shop.put("public.groups", [{"a": None, "b": None, "n": 10}, {"a": "x", "b": None, "n": 11}])
        run_until(config, shop, shop.delete("public.groups", [{"a": None, "b": 1}]))
    found = {(r["a"], r["b"]): r["n"] for r in stored(config, NULL_KEYS, "shop.groups")}
    assert found == {("x", 1): 0, ("x", None): 11, (None, None): 10, ("", 0): 4}
    keys_stored = PART.query(config, "warehouse", 'SELECT _key FROM "groups" ORDER BY n').rows
    assert [row[0] for row in keys_stored] == ['["x",1]', '["",0]', "[null,null]", '["x",null]']


def test_no_key_is_one_row(config: Config) -> None:
    config = _with_inputs(config, ["shop.total"])
    with closing(Shop(config, ONE_ROW)) as shop:
        shop.put("public.total", [{"n": 1}])
        run_until(config, shop, shop.put("public.total", [{"n": 2}]))
        assert stored(config, ONE_ROW, "shop.total") == [{"n": 2}]
        run_until(config, shop, shop.put("public.total", [{"n": 3}]))
        assert stored(config, ONE_ROW, "shop.total") == [{"n": 3}]
        run_until(config, shop, shop.delete("public.total", [{"n": None}]))
        assert stored(config, ONE_ROW, "shop.total") == []


def test_a_second_process_fences_the_first(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    feed = feed_of(config, "warehouse")
    stop = threading.Event()
    caught: list[BaseException] = []

    def first() -> None:
        progress = Progress("warehouse", shop.log, config.state.path / "first.json")
        with closing(sink_of(config, "warehouse")) as sink:
            try:
                deliver(sink, feed, shop.log, stop.is_set, progress)
            except CdcError as error:
                caught.append(error)

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    started = config.state.path / "first.json"
    spin = until(lambda: started.exists() and b"position" in started.read_bytes())
    number = 2
    while not spin():
        shop.put("public.items", [item(number)])
        number += 1
    run_until(config, shop, shop.put("public.items", [item(0)]))
    spin = until(lambda: not thread.is_alive())
    while not spin():
        shop.put("public.items", [item(1, "late")])
    thread.join()
    stop.set()
    assert isinstance(caught[0], Fenced), caught[0]
    assert "taken over" in str(caught[0])


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
        ("public.items", [U] * 5, _batch(rows)),
        ("public.sums", [U], _batch([{"id": 1, "total": total}], SUMS)),
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


def test_a_large_cut_goes_in_chunks_and_can_be_resumed(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1, "old")]))
    rows = _batch([item(i, f"n{i}") for i in range(3000)])
    position = Vector()
    for start in range(0, 3000, 100):
        part = rows.slice(start, 100)
        position = shop.commit(("public.items", [U] * 100, part))
    run_until(config, shop, position, Limits(rows=250))
    assert stored(config) == sorted(rows.to_pylist(), key=lambda row: str(row["id"]))
    with closing(sink_of(config, "warehouse")) as sink:
        reached = sink.position()
    assert reached is not None and reached.chunk == 0 and reached.vector == position


def test_a_topic_made_anew_replaces_the_rows(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    shop.close()
    shop.log.remove("shop")
    with closing(Shop(config, ITEMS)) as again:
        run_until(config, again, again.put("public.items", [item(2, "new"), item(3)]))
    assert stored(config) == [item(2, "new"), item(3)]


def test_a_reload_in_chunks_replaces_the_rows(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(i, "old") for i in range(500)]))
    _set_position(config, "null")
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


WIDER = table(
    "public.items",
    *ITEMS.columns,
    Column("note", pa.string(), "text", missing="it's new"),
    version=2,
)


def test_an_added_column_is_added(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    shop.producer.set_schema("shop.public.items", WIDER)
    shop.schemas["public.items"] = WIDER
    position = shop.put("public.items", [{**item(2), "note": None}, {**item(3), "note": "n"}])
    run_until(config, shop, position)
    assert stored(config, WIDER) == [
        {**item(1), "note": "it's new"},
        {**item(2), "note": None},
        {**item(3), "note": "n"},
    ]


def test_a_table_that_does_not_fit_is_an_error_with_its_remedy(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    narrower = table("public.items", *ITEMS.columns[:2], version=2)
    found = PART.check(config, "warehouse", {"shop.items": narrower})
    assert [f.severity for f in found] == ["error"]
    assert "column 'amount' is not in the input" in found[0].what
    assert "DROP TABLE items" in found[0].remedy


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


def test_a_removed_sink_can_be_run_again(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    PART.remove(config, "warehouse")
    run_until(config, shop, shop.delete("public.items", [item(1)]))
    assert stored(config) == [item(2)]


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


def test_positions_are_recorded_for_lag_and_compaction(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    assert shop.log.positions("warehouse") == {("shop.public.items", 0): 2}
    assert "warehouse" in shop.log.floors()


def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memory"):
        sink_of(config_of(tmp_path, "duckdb://", ["shop.items"]), "warehouse")


def test_retry_delays_grow_to_half_a_minute() -> None:
    assert [retry_delay_s(n) for n in (0, 1, 2, 100)] == [0.1, 0.2, 0.4, 30.0]


WORK = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("ud"), st.integers(0, 1000)),
    min_size=1,
    max_size=30,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(transactions=st.lists(WORK, min_size=1, max_size=8), pauses=st.sets(st.integers(0, 8)))
def test_random_workloads(
    kind: str, transactions: list[Any], pauses: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any sequence of changes, delivered in any grouping, leaves the rows that it leaves."""
    folder = tmp_path_factory.mktemp("random")
    config = config_of(folder, f"{kind}:///store", ["shop.items"])
    model: dict[int, dict[str, Any]] = {}
    with closing(Shop(config, ITEMS)) as shop:
        position = Vector()
        for number, work in enumerate(transactions):
            rows = [item(key, f"v{value}", value) for key, _, value in work]
            ops = [U if op == "u" else D for _, op, _ in work]
            for row, op in zip(rows, ops, strict=True):
                model.pop(row["id"], None)
                if op == U:
                    model[row["id"]] = row
            position = shop.commit(("public.items", ops, _batch(rows)))
            if number in pauses:
                run_until(config, shop, position, Limits(rows=7))
        run_until(config, shop, position, Limits(rows=7))
    assert stored(config) == [model[key] for key in sorted(model)]
