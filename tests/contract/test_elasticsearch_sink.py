"""What the Elasticsearch sink promises beyond tests/contract/test_sink.py, on a real server."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.config import Config
from cdc.errors import Fenced, SinkError
from cdc.log.api import DeadLetter
from cdc.schema import NUMERIC_TEXT, Column
from cdc.source import Finding
from sinks.api import SinkInput, Swapped
from sinks.delivery import deliver
from sinks.elasticsearch.sink import ElasticsearchSink
from sinks.elasticsearch.stores import sink_of
from sinks.part import PART, feed_of, status_file
from sinks.progress import Progress
from tests.fix_elasticsearch import PASSWORD, ask
from tests.http_proxy import Fault, proxy_to
from tests.services.elasticsearch import ElasticsearchServer
from tests.sink_feed import (
    ITEMS,
    SOURCE,
    Shop,
    StoreCase,
    config_for,
    cut,
    item,
    no_letters,
    run_until,
    stored,
    table,
    until,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, elasticsearch_url: str) -> Config:
    return config_for(tmp_path, StoreCase("elasticsearch", elasticsearch_url), ITEMS)


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS)) as shop:
        yield shop


def with_options(config: Config, **options: Any) -> Config:
    sink = config.sinks["warehouse"]
    changed = replace(sink, options={**sink.options, **options})
    return replace(config, sinks={"warehouse": changed})


def with_url(config: Config, url: str) -> Config:
    return replace(config, sinks={"warehouse": replace(config.sinks["warehouse"], url=url)})


def url_of(config: Config) -> str:
    return config.sinks["warehouse"].url


@contextmanager
def opened(config: Config) -> Iterator[ElasticsearchSink]:
    with closing(sink_of(config, "warehouse")) as sink:
        sink.open([SOURCE])
        yield sink


@contextmanager
def delivering(config: Config, shop: Shop) -> Iterator[None]:
    """A sink that runs in a thread until the block ends."""
    stop = threading.Event()
    progress = Progress("warehouse", shop.log, status_file(config, "warehouse"), record_every_s=0)
    failed: list[BaseException] = []

    def run() -> None:
        with closing(sink_of(config, "warehouse")) as sink:
            try:
                deliver(sink, feed_of(config, "warehouse"), shop.log, stop.is_set, progress)
            except BaseException as error:
                failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not failed, failed


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    spin = until(condition, timeout_s)
    while not spin():
        threading.Event().wait(0.01)


def says(config: Config, **facts: Any) -> bool:
    file = status_file(config, "warehouse")
    said = PART.status(config, "warehouse") if file.exists() else {}
    return all(said.get(name) == value for name, value in facts.items())


def mapping(config: Config) -> Any:
    found: Any = ask(url_of(config), "/items/_mapping")
    (only,) = found.values()
    return only["mappings"]


def flat_settings(config: Config) -> dict[str, Any]:
    found: Any = ask(url_of(config), "/items/_settings?flat_settings=true")
    (only,) = found.values()
    settings: dict[str, Any] = only["settings"]
    return settings


def hits(config: Config, **query: Any) -> list[str]:
    ask(url_of(config), "/items/_refresh", method="POST")
    found: Any = ask(url_of(config), "/items/_search", {"query": query, "size": 100}, "POST")
    return sorted(hit["_id"] for hit in found["hits"]["hits"])


# Mapping

MAPPED = table(
    "public.items",
    Column("id", pa.int64(), "bigint", nullable=False),
    Column("title", pa.string(), "text"),
    Column("code", pa.string(), "character(4)"),
    Column("uid", pa.string(), "uuid"),
    Column("small", pa.int16(), "smallint"),
    Column("ratio", pa.float32(), "real"),
    Column("price", pa.decimal128(12, 2), "numeric(12,2)"),
    Column("wide", pa.decimal128(30, 10), "numeric(30,10)"),
    Column("any", NUMERIC_TEXT, "numeric"),
    Column("flag", pa.bool_(), "boolean"),
    Column("day", pa.date32(), "date"),
    Column("at", pa.timestamp("us", "UTC"), "timestamp with time zone"),
    Column("raw", pa.binary(), "bytea"),
    Column("doc", pa.string(), "jsonb"),
    Column("tags", pa.list_(pa.string()), "text[]"),
    Column("numbers", pa.list_(pa.int32()), "integer[]"),
)


def test_the_mapping_follows_the_types(config: Config) -> None:
    with closing(sink_of(config, "warehouse")) as sink:
        sink.open([SinkInput("shop.items", "shop.public.items", MAPPED)])
    found = mapping(config)
    assert found["dynamic"] == "false"
    kinds = {name: field["type"] for name, field in found["properties"].items() if "type" in field}
    assert kinds == {
        "id": "long", "title": "text", "code": "keyword", "uid": "keyword", "small": "short",
        "ratio": "float", "price": "double", "wide": "keyword", "any": "keyword",
        "flag": "boolean", "day": "date", "at": "date", "raw": "binary", "doc": "object",
        "tags": "text", "numbers": "integer",
    }  # fmt: skip
    assert found["properties"]["title"]["fields"]["keyword"]["type"] == "keyword"
    assert found["properties"]["wide"]["fields"]["number"]["type"] == "double"
    assert found["properties"]["doc"]["enabled"] is False


def test_documents_are_found_by_what_their_columns_hold(config: Config, shop: Shop) -> None:
    rows = [item(1, "The quick brown fox", 5), item(2, "A lazy dog", 50), item(3, None, None)]
    run_until(config, shop, shop.put("public.items", rows))
    assert hits(config, match={"name": "FOX"}) == ["[1]"]
    assert hits(config, term={"name.keyword": "A lazy dog"}) == ["[2]"]
    assert hits(config, range={"amount": {"gt": 5}}) == ["[2]"]
    assert hits(config, bool={"must_not": {"exists": {"field": "name"}}}) == ["[3]"]


def test_people_say_how_fields_are_mapped(config: Config, shop: Shop) -> None:
    own = with_options(
        config,
        mappings={
            "properties": {
                "name": {"fields": {"sorted": {"type": "keyword"}}},
                "amount": {"type": "keyword"},
                "later": {"type": "date"},
            }
        },
        settings={"index": {"number_of_shards": 2}, "refresh_interval": "7s"},
    )
    run_until(own, shop, shop.put("public.items", [item(1, "a", 5)]))
    fields = mapping(own)["properties"]
    assert set(fields["name"]["fields"]) == {"keyword", "sorted"}
    assert fields["amount"]["type"] == "keyword" and fields["later"]["type"] == "date"
    assert flat_settings(own)["index.number_of_shards"] == "2"
    assert flat_settings(own)["index.refresh_interval"] == "7s"
    assert stored(own) == [item(1, "a", 5)]


def test_changed_settings_ask_for_a_rebuild(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1, "1")]))
    changed = with_options(config, mappings={"properties": {"name": {"type": "integer"}}})
    with closing(sink_of(changed, "warehouse")) as sink:
        (finding,) = sink.check([SOURCE])
        assert finding.severity == "error" and "mapping of name" in finding.what
        assert finding.remedy == "cdc rebuild warehouse"
        with pytest.raises(SinkError, match=r"mapping of name.*\n.*cdc rebuild warehouse"):
            sink.open([SOURCE])
    with closing(sink_of(config, "warehouse")) as sink:
        assert [finding.severity for finding in sink.check([SOURCE])] == ["ok"]
    live = with_options(config, settings={"refresh_interval": "5s"})
    run_until(live, shop, shop.put("public.items", [item(2, "2")]))
    assert flat_settings(config)["index.refresh_interval"] == "5s"


def test_an_index_that_was_never_written_to_is_made_again(config: Config, shop: Shop) -> None:
    with opened(config) as sink:
        assert sink.empty
    changed = with_options(config, mappings={"properties": {"name": {"type": "keyword"}}})
    run_until(changed, shop, shop.put("public.items", [item(1)]))
    assert mapping(changed)["properties"]["name"] == {"type": "keyword"}
    assert len(numbered(changed)) == 1


def test_a_name_that_documents_cannot_have_is_refused(config: Config) -> None:
    odd = table("public.items", Column("_id", pa.int64(), "bigint"), key=("_id",))
    with closing(sink_of(config, "warehouse")) as sink:
        (finding,) = sink.check([SinkInput("shop.items", "shop.public.items", odd)])
    assert finding.severity == "error" and "'_id'" in finding.what


# Places that are somebody else's


def test_an_index_of_that_name_is_not_taken(config: Config) -> None:
    ask(url_of(config), "/items/_doc/1?refresh=true", {"a": 1}, "PUT")
    with closing(sink_of(config, "warehouse")) as sink:
        assert [finding.severity for finding in sink.check([SOURCE])] == ["error"]
        with pytest.raises(SinkError, match="has not made"):
            sink.open([SOURCE])
    assert ask(url_of(config), "/items/_count")["count"] == 1


def test_an_alias_of_that_name_is_not_taken(config: Config) -> None:
    ask(url_of(config), "/theirs", {"aliases": {"items": {}}}, "PUT")
    with closing(sink_of(config, "warehouse")) as sink, pytest.raises(SinkError, match="theirs"):
        sink.open([SOURCE])


def test_two_sinks_do_not_share_an_index(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    other = replace(config, sinks={"other": replace(config.sinks["warehouse"], name="other")})
    taken = "written by the sink 'warehouse'"
    with closing(sink_of(other, "other")) as sink, pytest.raises(SinkError, match=taken):
        sink.open([SOURCE])


# Documents that the index does not take


def test_a_refused_document_is_a_dead_letter_and_the_rest_goes_on(
    config: Config, shop: Shop
) -> None:
    strict = with_options(config, mappings={"properties": {"name": {"type": "integer"}}})
    rows = [item(1, "1"), item(2, "two"), item(3, "3")]
    run_until(strict, shop, shop.put("public.items", rows))
    assert stored(strict) == [item(1, "1"), item(3, "3")]
    ((_, letter),) = shop.log.reader().dead_letters()
    assert letter.connector == "warehouse" and letter.where == "shop.public.items/1"
    assert letter.key == b"[2]" and json.loads(letter.value or b"") == item(2, "two")
    assert "[name]" in letter.error
    assert PART.status(strict, "warehouse")["dead_letters"] == 1


def test_json_with_a_member_twice_is_a_dead_letter(tmp_path: Path, elasticsearch_url: str) -> None:
    raw = table(
        "public.items",
        Column("id", pa.int64(), "bigint", nullable=False),
        Column("raw", pa.string(), "json"),
    )
    config = config_for(tmp_path, StoreCase("elasticsearch", elasticsearch_url), raw)
    with closing(Shop(config, raw)) as shop:
        rows = [{"id": 1, "raw": '{"a": 1, "a": 2}'}, {"id": 2, "raw": '{"a": 1}'}]
        run_until(config, shop, shop.put("public.items", rows))
        assert stored(config, raw) == rows[1:]
        ((_, letter),) = shop.log.reader().dead_letters()
    assert "Duplicate field" in letter.error


# Versions


def test_an_older_write_changes_nothing(config: Config) -> None:
    with opened(config) as sink:
        sink.apply(cut([item(1, "new"), item(2, "new")], [3], 20), no_letters)
        sink.apply(cut([item(1, "old"), item(3, "old")], [2], 10), no_letters)
        sink.apply(cut([item(4)], [], 30), no_letters)
    assert stored(config) == [item(1, "new"), item(2, "new"), item(4)]


def test_a_replay_onto_a_filled_index_leaves_it_as_it_is(config: Config) -> None:
    history = [
        cut([item(1, "a"), item(2, "a")], [], 1),
        cut([item(2, "b"), item(3, "b")], [1], 2),
        cut([item(1, "c")], [3], 3),
    ]
    with opened(config) as sink:
        for one in history:
            sink.apply(one, no_letters)
    before = stored(config)
    with opened(config) as sink:
        for one in history:
            sink.apply(one, no_letters)
    assert stored(config) == before == [item(1, "c"), item(2, "b")]


def test_documents_that_something_else_wrote_are_not_taken_for_ours(config: Config) -> None:
    with opened(config) as sink:
        path = f"/items/_doc/%5B1%5D?version={2**60}&version_type=external"
        ask(url_of(config), path, {"id": 1}, "PUT")
        with pytest.raises(Fenced, match="something else"):
            sink.apply(cut([item(1)], [], 1), no_letters)


def test_other_partitions_ask_for_a_rebuild(config: Config) -> None:
    with opened(config) as sink:
        first = cut([item(1)], [], 1)
        sink.apply(first, no_letters)
        wider = replace(first.position, offsets={SOURCE.topic: (5, 5)})
        with pytest.raises(SinkError, match=r"1 partitions and has 2.*\n.*cdc rebuild"):
            sink.apply(replace(first, position=wider), no_letters)


def test_a_former_owner_fails_and_stops(config: Config) -> None:
    with opened(config) as old, opened(config) as new:
        new.apply(cut([item(1, "new")], [], 20), no_letters)
        with pytest.raises(Fenced, match="taken over"):
            old.apply(cut([item(1, "old")], [], 10), no_letters)
        with pytest.raises(Fenced, match="taken over"):
            old.open([SOURCE])
        new.apply(cut([item(2)], [], 21), no_letters)
    assert stored(config) == [item(1, "new"), item(2)]


LONG = table(
    "public.items",
    Column("id", pa.string(), "text", nullable=False),
    Column("n", pa.int64(), "bigint"),
)


def test_long_and_odd_keys(tmp_path: Path, elasticsearch_url: str) -> None:
    config = config_for(tmp_path, StoreCase("elasticsearch", elasticsearch_url), LONG)
    texts = ["", '"', "\\", "a/b?c#d", "Zürich", "😀", "\n", "ä" * 300, "ä" * 300 + "b", "x" * 9000]
    rows = [{"id": text, "n": i} for i, text in enumerate(texts)]
    with closing(Shop(config, LONG)) as shop:
        run_until(config, shop, shop.put("public.items", rows))
        run_until(config, shop, shop.delete("public.items", rows[7:8] + rows[3:4]))
        assert stored(config, LONG) == sorted(
            rows[:3] + rows[4:7] + rows[8:], key=lambda row: str(row["id"])
        )


# Servers that fail


def test_an_answer_that_was_lost_is_asked_for_again(config: Config, shop: Shop) -> None:
    """The server has written; the client does not know. Of every kind of request, once."""
    faults = [
        Fault("_bulk", after=True),
        Fault("cdc-sinks/_doc/items?op_type", after=True),
        Fault("cdc-sinks/_doc/items?if_seq_no", times=2, after=True),
        Fault("_aliases", after=True),
        Fault("items-000001", after=True),
    ]
    with proxy_to(url_of(config), *faults) as proxy:
        through = with_url(config, proxy.url)
        run_until(through, shop, shop.put("public.items", [item(1), item(2)]))
        run_until(through, shop, shop.delete("public.items", [item(1)]))
        assert proxy.exhausted
    assert stored(config) == [item(2)]


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_puts_off_is_asked_again(config: Config, shop: Shop, status: int) -> None:
    with proxy_to(url_of(config), Fault("_bulk", times=2, status=status)) as proxy:
        through = with_url(config, proxy.url)
        run_until(through, shop, shop.put("public.items", [item(1), item(2)]))
        assert proxy.exhausted and not status_retries(through)
    assert stored(config) == [item(1), item(2)]


def test_a_server_that_puts_off_for_long_is_left_alone_for_a_while(
    config: Config, shop: Shop
) -> None:
    with proxy_to(url_of(config), Fault("_bulk", times=8, status=503)) as proxy:
        through = with_url(config, proxy.url)
        run_until(through, shop, shop.put("public.items", [item(1)]))
        assert proxy.exhausted and status_retries(through) == 1
    assert stored(config) == [item(1)]


def status_retries(config: Config) -> int:
    found: int = PART.status(config, "warehouse")["retries"]
    return found


def test_a_request_too_large_for_what_stands_before_is_halved(config: Config, shop: Shop) -> None:
    with proxy_to(url_of(config), Fault("_bulk", times=3, status=413)) as proxy:
        through = with_url(config, proxy.url)
        rows = [item(number) for number in range(16)]
        run_until(through, shop, shop.put("public.items", rows))
        assert sum("_bulk" in line for line in proxy.passed) > 2
    assert len(stored(config)) == 16


def test_an_index_closed_for_writing_is_waited_for(config: Config, shop: Shop) -> None:
    """Not by `read_only_allow_delete`, the block of full disks: Elasticsearch takes it away itself
    when it finds room. Its answer, 429, comes from a proxy in other tests."""
    run_until(config, shop, shop.put("public.items", [item(1)]))
    for block in ("read_only", "write"):
        ask(url_of(config), "/items/_settings", {f"index.blocks.{block}": True}, "PUT")
        status_file(config, "warehouse").unlink(missing_ok=True)
        with delivering(config, shop):
            position = shop.put("public.items", [item(2, block)])
            wait(lambda: says(config, state="retrying"))
            ask(url_of(config), "/items/_settings", {f"index.blocks.{block}": None}, "PUT")
            wait(partial(says, config, position=str(position)))
        assert stored(config) == [item(1), item(2, block)]
    assert list(shop.log.reader().dead_letters()) == []


def test_an_index_that_somebody_deletes_is_made_and_loaded_again(
    config: Config, shop: Shop
) -> None:
    with delivering(config, shop):
        position = shop.put("public.items", [item(1), item(2)])
        wait(lambda: says(config, position=str(position)))
        ask(url_of(config), "/items-000001", method="DELETE")
        position = shop.put("public.items", [item(3)])
        wait(lambda: says(config, position=str(position)))
    assert stored(config) == [item(1), item(2), item(3)]
    assert mapping(config)["dynamic"] == "false"


@pytest.mark.slow
def test_a_server_that_is_restarted(
    tmp_path: Path, secured_elasticsearch: ElasticsearchServer
) -> None:
    url = secured_elasticsearch.url.replace("//", f"//admin:{PASSWORD}@")
    case = StoreCase("elasticsearch", url, prefix="restarted-")
    config = config_for(tmp_path, case, ITEMS)
    with closing(Shop(config, ITEMS)) as shop, delivering(config, shop):
        position = shop.put("public.items", [item(1)])
        wait(lambda: says(config, position=str(position)))
        secured_elasticsearch.stop()
        position = shop.put("public.items", [item(1, "while it was away"), item(2)])
        wait(lambda: says(config, state="retrying"))
        secured_elasticsearch.start()
        wait(lambda: says(config, position=str(position), state="running"), 120)
        assert stored(config) == [item(1, "while it was away"), item(2)]


# Loads


def test_a_large_load_gives_the_settings_back(config: Config) -> None:
    """Its chunks are written without refreshes; an interrupted one leaves nothing switched off."""
    whole = cut([item(1)], [], 1, first_load=True)
    chunk = replace(whole, position=replace(whole.position, chunk=1))

    def interval() -> Any:
        return flat_settings(config).get("index.refresh_interval")

    with opened(config) as sink:
        sink.apply(chunk, no_letters)
        assert interval() == "-1"
    with opened(config) as sink:
        assert interval() is None
        sink.apply(replace(chunk, position=replace(chunk.position, chunk=2)), no_letters)
        sink.apply(replace(whole, first_load=False), no_letters)
        assert interval() is None
    assert stored(config) == [item(1)]


# Rebuild and reload, seen by readers

OLD = [item(number, "old") for number in range(50)]
NEW = [item(number, "new") for number in range(60)]


@contextmanager
def reading(config: Config) -> Iterator[list[set[tuple[str, int]]]]:
    """What a reader of the alias sees while the block runs: (name, count) per name."""
    seen: list[set[tuple[str, int]]] = []
    stop = threading.Event()
    body = {"size": 0, "aggs": {"names": {"terms": {"field": "name.keyword"}}}}

    def poll() -> None:
        while not stop.is_set():
            found: Any = ask(url_of(config), "/items/_search", body, "POST")
            buckets = found["aggregations"]["names"]["buckets"]
            seen.append({(bucket["key"], bucket["doc_count"]) for bucket in buckets})

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(30)


def test_readers_see_the_old_index_or_the_new_one(config: Config) -> None:
    with opened(config) as live, reading_after_load(config, live) as seen:
        rebuilt = live.beside()
        assert rebuilt.open([SOURCE]) is None
        for start in range(0, 60, 10):
            rebuilt.apply(cut(NEW[start : start + 10], [], 10 + start), no_letters)
        assert live.swap(rebuilt, [SOURCE])
        wait(lambda: {("new", 60)} in seen)
        with pytest.raises(Swapped):
            live.apply(cut([item(0, "late")], [], 9), no_letters)
        position = live.open([SOURCE])
        assert position is not None and position.offsets == {SOURCE.topic: (61,)}
        live.apply(cut([item(99, "new")], [], 100), no_letters)
        rebuilt.close()
    assert {frozenset(one) for one in seen} <= {
        frozenset({("old", 50)}), frozenset({("new", 60)}), frozenset({("new", 61)}),
    }  # fmt: skip
    assert sorted(numbered(config)) == ["items-000001", "items-000002"]


@contextmanager
def reading_after_load(
    config: Config, live: ElasticsearchSink
) -> Iterator[list[set[tuple[str, int]]]]:
    live.apply(cut(OLD, [], 1, first_load=True), no_letters)
    ask(url_of(config), "/items/_refresh", method="POST")
    with reading(config) as seen:
        yield seen


def numbered(config: Config) -> list[str]:
    return [name for name in ask(url_of(config), "/_alias") if name.startswith("items-")]


def test_readers_do_not_see_a_reload(config: Config) -> None:
    with opened(config) as live, reading_after_load(config, live) as seen:
        for start in range(0, 60, 20):
            one = cut(NEW[start : start + 20], [], 100 + start, replace=True)
            chunk = 0 if start == 40 else start + 1
            live.apply(replace(one, position=replace(one.position, chunk=chunk)), no_letters)
        wait(lambda: {("new", 60)} in seen)
    assert {frozenset(one) for one in seen} == {
        frozenset({("old", 50)}), frozenset({("new", 60)}),
    }  # fmt: skip


def test_an_interrupted_reload_leaves_no_index(config: Config) -> None:
    with opened(config) as live:
        live.apply(cut(OLD, [], 1), no_letters)
        one = cut(NEW, [], 100, replace=True)
        live.apply(replace(one, position=replace(one.position, chunk=1)), no_letters)
        assert len(numbered(config)) == 2
    with opened(config):
        assert numbered(config) == ["items-000001"]
    assert len(stored(config)) == 50


def test_a_rebuild_that_lags_is_not_swapped(config: Config) -> None:
    with opened(config) as live:
        live.apply(cut(OLD, [], 50), no_letters)
        rebuilt = live.beside()
        rebuilt.open([SOURCE])
        rebuilt.apply(cut(NEW, [], 10), no_letters)
        assert not live.swap(rebuilt, [SOURCE])
        live.apply(cut([item(1, "x")], [], 51), no_letters)
        rebuilt.close()


def test_a_rebuild_is_resumed_with_the_same_settings_only(config: Config) -> None:
    other = with_options(config, mappings={"properties": {"name": {"type": "keyword"}}})
    with opened(config) as live:
        live.apply(cut(OLD, [], 1), no_letters)
        for settings, goes_on in [(config, False), (config, True), (other, False), (other, True)]:
            with closing(sink_of(settings, "warehouse")) as sink, closing(sink.beside()) as beside:
                assert (beside.open([SOURCE]) is not None) == goes_on
                assert beside.empty != goes_on
                beside.apply(cut(NEW, [], 10), no_letters)
                assert len(numbered(config)) == 2
        live.apply(cut([item(1, "x")], [], 2), no_letters)
        assert live.beside().discard() and numbered(config) == ["items-000001"]
        assert live.beside().discard() == []


def test_the_previous_index_stays_until_the_next_rebuild(config: Config) -> None:
    with opened(config) as live:
        live.apply(cut(OLD, [], 1), no_letters)
        for number in range(3):
            with closing(live.beside()) as rebuilt:
                rebuilt.open([SOURCE])
                rebuilt.apply(cut(NEW, [], 10 + number), no_letters)
                assert live.swap(rebuilt, [SOURCE])
            last = [f"items-{number + 1:06d}", f"items-{number + 2:06d}"]
            assert sorted(numbered(config)) == last
        live.open([SOURCE])
        live.apply(cut([item(1, "x")], [], 100), no_letters)
        assert len(live.remove()) == 2 and numbered(config) == ["items-000004"]


# argv: a pickled Config, a pickled SinkInput
SWAP_PROCESS = """
import pickle, sys
from pathlib import Path
from sinks.elasticsearch.stores import sink_of

config, source = pickle.loads(Path(sys.argv[1]).read_bytes())
sink = sink_of(config, "warehouse")
beside = sink.beside()
assert beside.open([source]) is not None
assert sink.swap(beside, [source])
"""


@pytest.mark.crash
@pytest.mark.parametrize("point", ["sink.mid_swap", "sink.after_swap"])
def test_a_swap_that_is_killed_is_completed(config: Config, tmp_path: Path, point: str) -> None:
    with opened(config) as live, reading_after_load(config, live) as seen:
        with closing(live.beside()) as rebuilt:
            rebuilt.open([SOURCE])
            rebuilt.apply(cut(NEW, [], 10), no_letters)
        file = tmp_path / "swap.pickle"
        file.write_bytes(pickle.dumps((config, SOURCE)))
        done = subprocess.run(
            [sys.executable, "-c", SWAP_PROCESS, str(file)],
            cwd=ROOT,
            env={**os.environ, "CDC_FAULT": point},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        with pytest.raises(Swapped):
            live.apply(cut([item(1, "old")], [], 5), no_letters)
        assert live.open([SOURCE]) is not None
        live.apply(cut([item(60, "new")], [], 11), no_letters)
        wait(lambda: {("new", 60)} in seen or {("new", 61)} in seen)
        live.beside().discard()
    assert all(one in ({("old", 50)}, {("new", 60)}, {("new", 61)}) for one in seen)
    assert len(stored(config)) == 61


# Queries


def test_queries(config: Config, shop: Shop) -> None:
    rows = [item(1, "red fox", 5), item(2, "red dog", 7), item(3, "blue dog", 9)]
    run_until(config, shop, shop.put("public.items", rows))
    ask(url_of(config), "/items/_refresh", method="POST")
    found = PART.query(config, "warehouse", "name:red AND amount:>5")
    assert found.columns == ("_id", "_score", "id", "name", "amount")
    assert [(row[0], *row[2:]) for row in found.rows] == [("[2]", 2, "red dog", 7)]
    body: dict[str, Any] = {"query": {"match": {"name": "dog"}}, "sort": ["id"], "_source": ["id"]}
    found = PART.query(config, "warehouse", json.dumps(body))
    assert [list(row) for row in found.rows] == [["[2]", None, 2], ["[3]", None, 3]]
    body = {
        "size": 0,
        "aggs": {
            "amount": {
                "range": {"field": "amount", "ranges": [{"to": 6}, {"from": 6}]},
                "aggs": {"total": {"sum": {"field": "amount"}}},
            }
        },
    }
    found = PART.query(config, "warehouse", json.dumps(body))
    assert found.columns == ("amount", "doc_count", "total")
    assert [tuple(map(str, row)) for row in found.rows] == [
        ("*-6.0", "1", "5.0"), ("6.0-*", "2", "16.0"),
    ]  # fmt: skip
    with pytest.raises(SinkError, match="refuses the query"):
        PART.query(config, "warehouse", '{"query": {"nonsense": {}}}')


def test_secrets_stay_secret(config: Config) -> None:
    secret = with_url(config, "http://elastic:hunter2@127.0.0.1:1")
    with closing(sink_of(secret, "warehouse")) as sink:
        (finding,) = sink.check([SOURCE])
    assert finding.severity == "error"
    assert "hunter2" not in f"{finding.what}{finding.remedy}{finding.where}"


@pytest.mark.service
@pytest.mark.slow
def test_users_and_their_rights(secured_elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    def config(user: str, password: str) -> Config:
        url = secured_elasticsearch.url.replace("//", f"//{user}:{password}@")
        return config_for(tmp_path, StoreCase("elasticsearch", url), ITEMS)

    def finding(config: Config) -> Finding:
        with closing(sink_of(config, "warehouse")) as sink:
            (found,) = sink.check([SOURCE])
            if found.severity == "error":
                with pytest.raises(SinkError) as refused:
                    sink.open([SOURCE])
                assert PASSWORD not in str(refused.value)
        return found

    assert finding(config("admin", PASSWORD)).severity == "ok"
    with opened(config("admin", PASSWORD)) as sink:
        sink.apply(cut([item(1)], [], 1), no_letters)
    assert stored(config("admin", PASSWORD)) == [item(1)]
    lacking = finding(config("reader", PASSWORD))
    assert "write on items" in lacking.what and "monitor" in lacking.what
    denied = finding(config("reader", "wrong"))
    assert denied.severity == "error" and "unable to authenticate" in denied.what


# Every version


def test_the_oldest_version(elasticsearch_version: str, tmp_path: Path) -> None:
    """What differs between servers: the routes and answers that each step of the sink uses."""
    config = config_for(tmp_path, StoreCase("elasticsearch", elasticsearch_version), ITEMS)
    with opened(config) as live:
        assert [finding.severity for finding in live.check([SOURCE])] == ["ok"]
        live.apply(cut(OLD, [3], 20, first_load=True), no_letters)
        live.apply(cut([item(1, "older")], [2], 10), no_letters)
        letters: list[DeadLetter] = []
        with closing(live.beside()) as rebuilt:
            rebuilt.open([SOURCE])
            rebuilt.apply(cut(NEW, [], 30), no_letters)
            assert live.swap(rebuilt, [SOURCE])
        live.open([SOURCE])
        one = cut([*NEW, item(100, "x" * 40_000)], [], 40, replace=True)
        live.apply(one, letters.extend)
        assert letters == []
    assert stored(config) == sorted([*NEW, item(100, "x" * 40_000)], key=lambda r: str(r["id"]))
    assert sorted(numbered(config)) == ["items-000002", "items-000003"]
