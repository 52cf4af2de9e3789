"""What every store promises (sinks/api.py), over real stores and a real embedded log.

The changes are invented; the log, the delivery loop and the stores are the real ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc import captured
from cdc.changes import D, U
from cdc.config import Config
from cdc.errors import CdcError, Fenced, SinkError
from cdc.positions import Vector
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column
from sinks.chunks import Limits
from sinks.delivery import deliver, retry_delay_s
from sinks.part import PART, feed_of, status_file
from sinks.progress import Progress
from sinks.stores import sink_of
from tests.sink_feed import (
    ITEMS,
    SOURCE,
    SUMS,
    Shop,
    StoreCase,
    batch_of,
    config_for,
    cut,
    item,
    no_letters,
    run_until,
    stored,
    table,
    until,
)


@pytest.fixture
def config(tmp_path: Path, store: StoreCase) -> Config:
    return config_for(tmp_path, store, ITEMS)


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        yield shop


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
    """As after a crash between a write and its position, where a store has no transactions."""
    with closing(sink_of(config, "warehouse")) as sink:
        sink.open([SOURCE])
        for offset in range(0, 4, 2):
            twice = cut([item(1, f"n{offset}"), item(3)], [2], offset)
            sink.apply(twice, no_letters)
            sink.apply(twice, no_letters)
    assert stored(config) == [item(1, "n2"), item(3)]


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


TWICE = '{"a":1,  "a":2}'


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
    "raw_doc": ["{}", TWICE, "[]", "0", "true", '"x"', None],
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


def _without_twice(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Elasticsearch takes no object with a member twice: such a row is a dead letter there."""
    at = rows.schema.get_field_index("raw_doc")
    once = pc.if_else(pc.equal(rows.column(at), TWICE), '{"a":1,  "b":2}', rows.column(at))
    return rows.set_column(at, rows.schema.field(at), once)


def test_every_type_arrives_exactly(store: StoreCase, tmp_path: Path) -> None:
    rows = typed_rows()
    if store.kind == "elasticsearch":
        rows = _without_twice(rows)
    config = config_for(tmp_path, store, TYPED)
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


NULL_KEYS = table(
    "public.groups",
    Column("a", pa.string(), "text"),
    Column("b", pa.int32(), "integer"),
    Column("n", pa.int64(), "bigint"),
    key=("a", "b"),
)


ONE_ROW = table("public.total", Column("n", pa.int64(), "bigint"), key=())


def test_keys_with_nulls(store: StoreCase, tmp_path: Path) -> None:
    config = config_for(tmp_path, store, NULL_KEYS)
    with closing(Shop(config, NULL_KEYS)) as shop:
        keys = [("x", 1), ("x", None), (None, 1), (None, None), ("", 0)]
        rows = [{"a": a, "b": b, "n": i} for i, (a, b) in enumerate(keys)]
        run_until(config, shop, shop.put("public.groups", rows))
        shop.put("public.groups", [{"a": None, "b": None, "n": 10}, {"a": "x", "b": None, "n": 11}])
        run_until(config, shop, shop.delete("public.groups", [{"a": None, "b": 1}]))
    found = {(r["a"], r["b"]): r["n"] for r in stored(config, NULL_KEYS, "shop.groups")}
    assert found == {("x", 1): 0, ("x", None): 11, (None, None): 10, ("", 0): 4}


def test_no_key_is_one_row(store: StoreCase, tmp_path: Path) -> None:
    config = config_for(tmp_path, store, ONE_ROW)
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


def test_a_large_cut_goes_in_chunks_and_can_be_resumed(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1, "old")]))
    rows = batch_of([item(i, f"n{i}") for i in range(3000)])
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


def test_a_removed_sink_can_be_run_again(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    PART.remove(config, "warehouse")
    run_until(config, shop, shop.delete("public.items", [item(1)]))
    assert stored(config) == [item(2)]


def test_a_misspelt_table_is_an_error_once_the_tables_are_known(
    store: StoreCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "GRACE_S", 0.5)  # the source writes nothing more
    config = config_for(tmp_path, store, replace(ITEMS, name="public.itms"))
    with closing(Shop(config, ITEMS, SUMS)) as shop, closing(sink_of(config, "warehouse")) as sink:
        progress = Progress("warehouse", shop.log, status_file(config, "warehouse"))
        feed = feed_of(config, "warehouse")
        waiting = until(lambda: progress.facts["state"] == "waiting")
        deliver(sink, feed, shop.log, waiting, progress)
        shop.put("public.items", [item(1)])
        with pytest.raises(SinkError, match=r"'shop' does not capture 'shop\.itms'") as refused:
            deliver(sink, feed, shop.log, until(lambda: False), progress)
    assert refused.value.hint == "did you mean 'shop.public.items'?"


def test_positions_are_recorded_for_lag_and_compaction(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    assert shop.log.positions("warehouse") == {("shop.public.items", 0): 2}
    assert "warehouse" in shop.log.floors()


def test_retry_delays_grow_to_half_a_minute() -> None:
    assert [retry_delay_s(n) for n in (0, 1, 2, 100)] == [0.1, 0.2, 0.4, 30.0]


WORK = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("ud"), st.integers(0, 1000)),
    min_size=1,
    max_size=30,
)


@pytest.mark.slow
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(transactions=st.lists(WORK, min_size=1, max_size=8), pauses=st.sets(st.integers(0, 8)))
def test_random_workloads(
    store: StoreCase,
    transactions: list[Any],
    pauses: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any sequence of changes, delivered in any grouping, leaves the rows that it leaves."""
    folder = tmp_path_factory.mktemp("random")
    config = config_for(folder, replace(store, prefix=f"r{uuid4().hex[:12]}-"), ITEMS)
    if store.kind == "postgres":
        config = config_for(folder, store, ITEMS, table=f"r{uuid4().hex[:12]}")
    PART.remove(config, "warehouse")  # what the example before this one left in a shared store
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
            position = shop.commit(("public.items", ops, batch_of(rows)))
            if number in pauses:
                run_until(config, shop, position, Limits(rows=7))
        run_until(config, shop, position, Limits(rows=7))
    assert stored(config) == [model[key] for key in sorted(model)]
