"""What the Redis sink alone promises: kinds of value, places that move, blocks, faults of a server.

The servers are real; what stands in them is read with redis-py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
import redis

from cdc.config import Config
from cdc.errors import Fenced, SinkError, StoreUnavailable
from cdc.log.api import DeadLetter
from cdc.positions import Lsn, Vector
from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from demo.embedded_redis import EmbeddedRedis
from sinks.api import InputChanges, SinkCut, SinkInput, SinkPosition, Swapped
from sinks.part import PART
from sinks.redis.layout import Settings
from sinks.redis.sink import RedisSink
from tests.sink_feed import (
    ITEMS,
    Shop,
    StoreCase,
    batch_of,
    config_for,
    item,
    run_until,
    stored,
    table,
    until,
)

ROOT = Path(__file__).parents[2]

PLAYERS = table(
    "public.players",
    Column("id", pa.int64(), "bigint", nullable=False),
    Column("country", pa.string(), "text"),
    Column("name", pa.string(), "text"),
    Column("points", pa.decimal128(10, 2), "numeric(10,2)"),
)
INPUT = SinkInput("shop.players", "shop.public.players", PLAYERS)
JSON = {"value": "json", "key": "player:{id}"}
HASH = {"value": "hash", "key": "player:{id}"}
STRING = {"value": "string", "key": "name:{id}", "column": "name"}
BOARD = {"value": "sorted_set", "name": "top:{country}", "score": "points", "member": "{id}"}
NAMED = {"value": "json", "key": "player:{name}:{id}"}


def player(
    number: int, country: str | None, name: str | None, points: str | None
) -> dict[str, Any]:
    return {"id": number, "country": country, "name": name, "points": points}


ANNA = player(1, "DE", "Anna", "10.50")
BORIS = player(2, "DE", "Boris: 50%", "7.00")
CHLOE = player(3, "FR", None, None)

ANNA_READ = {**ANNA, "points": Decimal("10.50")}
BORIS_READ = {**BORIS, "points": Decimal("7.00")}


class Cache:
    """A sink over PLAYERS or another input, driven cut by cut."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, str] = JSON,
        source: SinkInput = INPUT,
        name: str = "c",
    ) -> None:
        self.url, self.source = url, source
        self.sink = RedisSink(name, url, Settings.of(options))
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.letters: list[DeadLetter] = []
        self.at = 0

    def __enter__(self) -> Cache:
        self.sink.open([self.source])
        return self

    def __exit__(self, *error: object) -> None:
        self.sink.close()
        self.client.close()

    def cut(
        self, upserts: Sequence[Mapping[str, Any]], deletes: Sequence[Mapping[str, Any]] = ()
    ) -> SinkCut:
        self.at += 1
        schema = self.source.schema
        changes = InputChanges(
            self.source,
            rows_of(schema, upserts),
            rows_of(schema, deletes).select(list(schema.key)),
            np.full(len(upserts), self.at, np.int64),
            np.full(len(deletes), self.at, np.int64),
        )
        return SinkCut((changes,), position(self.source, self.at))

    def apply(
        self, upserts: Sequence[Mapping[str, Any]], deletes: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.sink.apply(self.cut(upserts, deletes), self.letters.extend)

    def rows(self) -> list[dict[str, Any]]:
        found = [row for batch in self.sink.rows(self.source.name) for row in batch.to_pylist()]
        return sorted(found, key=lambda row: str(row["id"]))

    def keys(self) -> set[str]:
        """Everybody's keys but the bookkeeping."""
        return {key for key in self.client.scan_iter() if not key.startswith("cdc:")}


def rows_of(schema: TableSchema, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    arrays = []
    for column in schema.columns:
        values = pa.array([row.get(column.name) for row in rows])
        values = values if len(rows) else pa.array([], pa.null())
        if column.type == NUMERIC_TEXT:
            arrays.append(NUMERIC_TEXT.wrap_array(values.cast(pa.string())))
        else:
            arrays.append(values.cast(column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema.arrow)


def position(source: SinkInput, at: int) -> SinkPosition:
    return SinkPosition(Vector.of({"shop": Lsn(at)}), {source.topic: (at,)}, {source.topic: "g"})


def test_a_hash_has_a_field_per_value(redis_flavour: str) -> None:
    with Cache(redis_flavour, HASH) as cache:
        cache.apply([ANNA, BORIS, CHLOE])
        assert cache.client.hgetall("player:1") == {
            "id": "1", "country": "DE", "name": "Anna", "points": "10.50",
        }  # fmt: skip
        assert cache.client.hgetall("player:3") == {"id": "3", "country": "FR"}
        cache.apply([{**ANNA, "country": None}], [BORIS])
        assert cache.client.hgetall("player:1") == {"id": "1", "name": "Anna", "points": "10.50"}
        assert cache.keys() == {"player:1", "player:3"}
        assert [row["id"] for row in cache.rows()] == [1, 3]


def test_a_string_is_one_columns_text(redis_flavour: str) -> None:
    with Cache(redis_flavour, STRING) as cache:
        cache.apply([ANNA, BORIS, CHLOE])
        assert cache.client.mget("name:1", "name:2", "name:3") == ["Anna", "Boris: 50%", None]
        names = [
            {"id": 1, "name": "Anna"},
            {"id": 2, "name": "Boris: 50%"},
            {"id": 3, "name": None},
        ]
        assert cache.rows() == names
        cache.apply([{**ANNA, "name": None}, {**CHLOE, "name": "Chloé"}], [BORIS])
        assert cache.rows() == [{"id": 1, "name": None}, {"id": 3, "name": "Chloé"}]
        cache.apply([], [ANNA, CHLOE])
        assert cache.rows() == [] and cache.keys() == set()


def test_players_move_between_leaderboards(redis_flavour: str) -> None:
    with Cache(redis_flavour, BOARD) as cache:
        cache.apply([ANNA, BORIS, CHLOE])
        board: Callable[[str], Any] = lambda name: cache.client.zrange(name, 0, -1, withscores=True)  # noqa: E731
        assert board("top:DE") == [("2", 7.0), ("1", 10.5)]
        assert cache.keys() == {"top:DE"}
        cache.apply([{**ANNA, "country": "FR", "points": "11.25"}, {**CHLOE, "points": "1.10"}])
        assert board("top:DE") == [("2", 7.0)]
        assert board("top:FR") == [("3", 1.1), ("1", 11.25)]
        cache.apply([{**BORIS, "country": None}], [ANNA])
        assert board("top:%null") == [("2", 7.0)]
        assert cache.keys() == {"top:%null", "top:FR"}
        found = [(row["id"], row["country"], str(row["points"])) for row in cache.rows()]
        assert found == [(2, None, "7.00"), (3, "FR", "1.10")]
        cache.apply([], [BORIS, CHLOE])
        assert cache.keys() == set() and not cache.client.exists("cdc:places:c", "cdc:nulls:c")


def test_keys_move_with_the_columns_in_them(redis_url: str) -> None:
    with Cache(redis_url, NAMED) as cache:
        cache.apply([ANNA, BORIS])
        assert cache.keys() == {"player:Anna:1", "player:Boris%3A 50%25:2"}
        cache.apply([{**ANNA, "name": None}])
        assert cache.keys() == {"player:%null:1", "player:Boris%3A 50%25:2"}
        cache.apply([{**ANNA, "name": "Anna"}], [BORIS])
        assert cache.keys() == {"player:Anna:1"}
        assert [row["name"] for row in cache.rows()] == ["Anna"]


def test_many_moves_at_once(redis_url: str) -> None:
    """More than a block, on several boards, so that all commands are the bulk ones."""
    players = [player(i, f"c{i % 7}", f"n{i}", f"{i}.25") for i in range(25_000)]
    with Cache(redis_url, BOARD) as cache:
        cache.apply(players)
        moved = [
            {**p, "country": "new", "points": None if p["id"] % 5 == 0 else "1"} for p in players
        ]
        cache.apply(moved[:12_000], players[24_000:])
        assert cache.client.zcard("top:new") == 9600
        found = {row["id"]: row["country"] for row in cache.rows()}
        assert found == {p["id"]: p["country"] for p in [*moved[:12_000], *players[12_000:24_000]]}


def test_an_older_owner_changes_nothing(redis_flavour: str) -> None:
    with Cache(redis_flavour) as old, Cache(redis_flavour) as new:
        with pytest.raises(Fenced, match="taken over"):
            old.apply([ANNA])
        assert new.keys() == set()
        with pytest.raises(Fenced, match="taken over"):
            old.sink.open([INPUT])
        new.apply([BORIS])
        assert new.keys() == {"player:2"}


def test_an_owner_that_comes_between_reading_and_writing(redis_flavour: str) -> None:
    """Everything is queued when somebody else opens the sink: EXEC does nothing."""
    schema = table(
        "public.s", Column("id", pa.int64(), "bigint"), Column("v", pa.float64(), "real")
    )
    source = SinkInput("shop.s", "shop.public.s", schema)
    options = {"value": "sorted_set", "name": "s", "score": "v", "member": "{id}"}
    with (
        Cache(redis_flavour, options, source) as old,
        closing(RedisSink("c", redis_flavour, Settings.of(options))) as new,
    ):
        cut = old.cut([{"id": 1, "v": 1.0}, {"id": 2, "v": float("nan")}])

        def open_elsewhere(letters: Sequence[DeadLetter]) -> None:
            new.open([source])

        with pytest.raises(Fenced, match="taken over"):
            old.sink.apply(cut, open_elsewhere)
        assert old.keys() == set() and new.position() is None


def test_a_server_that_has_gone_back_in_time(redis_url: str) -> None:
    """As after a failover that lost the last cuts: the sink goes on where the server stands."""
    with Cache(redis_url) as cache:
        cache.apply([ANNA])
        before = cache.client.hget("cdc:sink:c", "position")
        cache.apply([BORIS])
        cache.client.hset("cdc:sink:c", "position", str(before))
        cache.client.delete("player:2")
        with pytest.raises(StoreUnavailable, match="back in time"):
            cache.apply([CHLOE])
        assert cache.sink.open([INPUT]) == position(INPUT, 1)
        cache.apply([BORIS, CHLOE])
        assert cache.keys() == {"player:1", "player:2", "player:3"}


READER = """
import sys, redis
client = redis.Redis.from_url(sys.argv[1])
keys = [f"item:{i}" for i in range(500)]
print("ready", flush=True)
torn = 0
while not client.exists("stop"):
    found = {value[-40:] for value in client.mget(keys)}
    torn += len(found) != 1
    client.incr("polls")
print(torn)
"""


def test_a_cut_is_seen_whole(redis_url: str) -> None:
    """A process polls all keys of a cut in one command: they are always of one cut."""
    source = SinkInput("shop.items", "shop.public.items", ITEMS)
    options = {"value": "json", "key": "item:{id}"}
    with Cache(redis_url, options, source) as cache:
        cache.apply([item(i, f"v{0:030d}") for i in range(500)])
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, redis_url], stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        for number in count(1):
            cache.apply([item(i, f"v{number:030d}") for i in range(500)])
            if number >= 50 and int(cache.client.get("polls") or 0) >= 50:
                break
        cache.client.set("stop", 1)
        torn = int(reader.communicate(timeout=30)[0])
    assert torn == 0


def test_what_others_keep_is_untouched(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        theirs = {"player:abc": "x", "player:007": "y", "players": "z", "player:": ""}
        client.mset(theirs)
        with Cache(redis_url) as cache:
            cache.apply([ANNA])
            rebuild(cache)
            assert cache.keys() == {"player:1", *theirs}
            assert [row["id"] for row in cache.rows()] == [1]
        assert client.mget(list(theirs)) == list(theirs.values())


def test_keys_of_somebody_else_are_not_taken(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("player:5", "a")
        cache = Cache(redis_url)
        with pytest.raises(SinkError, match="key 'player:5' is there already"):
            cache.sink.open([INPUT])
        (found,) = [one for one in cache.sink.check([INPUT]) if one.severity == "error"]
        assert "player:5" in found.what
        client.delete("player:5")
        with cache:
            cache.apply([ANNA])


def rebuild(cache: Cache, options: Mapping[str, str] | None = None) -> None:
    """All rows of the cache written beside it, and swapped."""
    rows = [row for batch in cache.sink.rows(cache.source.name) for row in batch.to_pylist()]
    sink = cache.sink
    if options is not None:
        sink = RedisSink("c", cache.url, Settings.of(options))
    beside = sink.beside()
    beside.open([cache.source])
    beside.apply(replace(cache.cut(rows), first_load=True), cache.letters.extend)
    assert sink.swap(beside, [cache.source])
    beside.close()


def test_a_rebuild_takes_the_place_and_the_sink_goes_on(redis_flavour: str) -> None:
    with Cache(redis_flavour, BOARD) as cache:
        cache.apply([ANNA, BORIS, CHLOE])
        cache.client.zadd("top:DE", {"99": 1.0})  # damage
        cache.client.zadd("top:XX", {"98": 1.0})
        cache.client.hset("cdc:places:c", "[1]", "top:XX\0wrong")
        beside = cache.sink.beside()
        beside.open([INPUT])
        beside.apply(cache.cut([ANNA, BORIS, CHLOE]), cache.letters.extend)
        assert cache.keys() == {"top:DE", "top:XX"}
        assert cache.sink.swap(beside, [INPUT])
        assert cache.keys() == {"top:DE"}
        assert cache.client.zrange("top:DE", 0, -1) == ["2", "1"]
        with pytest.raises(Swapped):
            cache.apply([CHLOE])
        assert cache.sink.open([INPUT]) == position(INPUT, 2)
        cache.apply([{**ANNA, "country": "FR"}])
        assert cache.client.zrange("top:FR", 0, -1) == ["1"]
        assert not list(cache.client.scan_iter("cdc:re*"))


def test_a_rebuild_that_lags_is_not_swapped(redis_url: str) -> None:
    with Cache(redis_url) as cache:
        beside = cache.sink.beside()
        beside.open([INPUT])
        beside.apply(cache.cut([ANNA]), cache.letters.extend)
        cache.apply([BORIS])
        assert not cache.sink.swap(beside, [INPUT])
        cache.apply([CHLOE])
        assert cache.keys() == {"player:2", "player:3"}
        beside.discard()
        assert not list(cache.client.scan_iter("cdc:re*"))


def test_changed_settings_wait_for_a_rebuild(redis_url: str) -> None:
    with Cache(redis_url) as cache:
        cache.apply([ANNA, BORIS])
        with closing(RedisSink("c", redis_url, Settings.of(HASH))) as changed:
            with pytest.raises(SinkError, match="value: json → hash") as caught:
                changed.open([INPUT])
            assert caught.value.hint == "cdc rebuild c"
            assert [f.remedy for f in changed.check([INPUT])] == ["cdc rebuild c"]
        cache.apply([CHLOE])  # not fenced by what was refused
        rebuild(cache, {**HASH, "key": "p:{id}"})
        assert cache.keys() == {"p:1", "p:2", "p:3"}
        assert cache.client.hget("p:1", "name") == "Anna"
        with pytest.raises(SinkError, match="cdc rebuild c"):
            cache.sink.open([INPUT])


def test_two_sinks_that_may_name_one_key(redis_url: str) -> None:
    with Cache(redis_url):
        other = RedisSink("other", redis_url, Settings.of({**HASH, "key": "player:{id}"}))
        with closing(other):
            errors = [f for f in other.check([INPUT]) if f.severity == "error"]
        assert "of sink c may name the same key" in errors[0].what
        with closing(RedisSink("d", redis_url, Settings.of({**HASH, "key": "p:{id}:x"}))) as third:
            assert [f.severity for f in third.check([INPUT])] == ["ok"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "json", "key": "player"}, "lacks id"),
        ({"value": "json", "key": "player:{nr}"}, "names column nr"),
        ({**STRING, "column": "title"}, "title, which is no column"),
        ({**BOARD, "score": "name"}, "sort by numbers"),
        ({**BOARD, "member": "{name}"}, "lacks id"),
    ],
)
def test_settings_that_do_not_fit_the_input(options: Mapping[str, str], message: str) -> None:
    sink = RedisSink("c", "redis://127.0.0.1:1/0", Settings.of(options))
    (finding,) = sink.check([INPUT])
    assert finding.severity == "error" and message in finding.what


def test_what_redis_refuses_goes_to_dead_letters(own_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("proto-max-bulk-len", 2**20)
    for options in (JSON, HASH):
        with Cache(own_redis.url, options, name=options["value"]) as cache:
            cache.apply([ANNA, BORIS])
            cache.apply([{**ANNA, "name": "x" * (2**20 + 1)}, CHLOE])
            assert cache.keys() == {"player:2", "player:3"}
            (letter,) = cache.letters
            assert letter.key == b"[1]" and "1,048,576 bytes" in letter.error
            cache.apply([ANNA])
            assert cache.keys() == {"player:1", "player:2", "player:3"}
            cache.apply([], [ANNA, BORIS, CHLOE])


def test_a_score_that_is_no_number(redis_url: str) -> None:
    schema = table(
        "public.s", Column("id", pa.int64(), "bigint"), Column("v", pa.float64(), "real")
    )
    source = SinkInput("shop.s", "shop.public.s", schema)
    options = {"value": "sorted_set", "name": "s", "score": "v", "member": "{id}"}
    with Cache(redis_url, options, source) as cache:
        cache.apply([{"id": i, "v": v} for i, v in enumerate([1.5, float("-inf"), 1e300])])
        cache.apply([{"id": 0, "v": float("nan")}, {"id": 3, "v": 0.1}])
        assert [row["v"] for row in cache.rows()] == [float("-inf"), 1e300, 0.1]
        assert [letter.key for letter in cache.letters] == [b"[0]"]


def test_scores_that_no_double_holds(redis_url: str) -> None:
    schema = table(
        "public.s", Column("id", pa.int64(), "bigint"), Column("v", NUMERIC_TEXT, "numeric")
    )
    source = SinkInput("shop.s", "shop.public.s", schema)
    options = {"value": "sorted_set", "name": "s", "score": "v", "member": "{id}"}
    texts = [
        "1" * 400,
        "0." + "0" * 400 + "1",
        "NaN",
        "Infinity",
        "-Infinity",
        "0.00",
        "-12.5",
        None,
    ]
    with Cache(redis_url, options, source) as cache:
        cache.apply([{"id": i, "v": v} for i, v in enumerate(texts)])
        assert [letter.key for letter in cache.letters] == [b"[0]", b"[1]", b"[2]"]
        found = {row["id"]: row["v"] for row in cache.rows()}
        assert found == {3: "Infinity", 4: "-Infinity", 5: "0", 6: "-12.5", 7: None}


def test_a_key_of_another_type_is_replaced_by_loading_anew(redis_url: str) -> None:
    """ZADD fails when it is its turn, after the rest was done: the position is taken back."""
    with Cache(redis_url, BOARD) as cache:
        cache.apply([ANNA])
        cache.client.set("top:FR", "mine")
        with pytest.raises(SinkError, match="wrong kind"):
            cache.apply([{**CHLOE, "points": "1"}])
        assert cache.sink.open([INPUT]) is None and not cache.sink.empty
        again = replace(cache.cut([ANNA, {**CHLOE, "points": "1"}]), replace=True)
        cache.sink.apply(again, cache.letters.extend)
        assert cache.client.zrange("top:FR", 0, -1) == ["3"]


@contextmanager
def setting(client: Any, name: str, value: object) -> Iterator[None]:
    before = client.config_get(name)[name]
    client.config_set(name, value)
    yield
    client.config_set(name, before)


def test_what_may_pass_is_tried_again(own_redis: EmbeddedRedis) -> None:
    with Cache(own_redis.url) as cache, redis.Redis.from_url(own_redis.url) as client:
        with setting(client, "maxmemory", "1mb"), pytest.raises(StoreUnavailable) as caught:
            cache.apply([ANNA])
        assert "maxmemory" in caught.value.hint and cache.keys() == set()
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match="read only"):
            cache.apply([ANNA])
        client.replicaof("NO", "ONE")
        cache.sink.open([INPUT])
        cache.apply([ANNA])
        own_redis.stop()
        with pytest.raises(StoreUnavailable):
            cache.apply([BORIS])
        own_redis.start()
        cache.apply([BORIS])
        assert cache.keys() == {"player:1", "player:2"}


def test_a_wrong_password_is_said_without_saying_it(own_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "right")
    port = own_redis.port
    for url in (own_redis.url, f"redis://:s3cret@127.0.0.1:{port}/0"):
        with closing(RedisSink("c", url, Settings.of(JSON))) as sink:
            with pytest.raises(SinkError) as caught:
                sink.open([INPUT])
            assert not isinstance(caught.value, StoreUnavailable)
            assert "s3cret" not in str(caught.value) and "password" in str(caught.value)
    with closing(RedisSink("c", f"redis://:right@127.0.0.1:{port}/0", Settings.of(JSON))) as sink:
        sink.open([INPUT])


RIGHTS = "+@read +@write +@transaction +@connection +info +config|get ~player:* ~cdc:*"


def test_the_rights_that_are_documented_are_enough(own_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command("ACL", "SETUSER", "cdc", "on", ">pw", *RIGHTS.split())
        url = own_redis.url.replace("redis://", "redis://cdc:pw@")
        with Cache(url, HASH) as cache:
            assert [f.severity for f in cache.sink.check([INPUT])] == ["ok"]
            cache.apply([ANNA, BORIS])
            rebuild(cache)
            assert cache.rows() == [ANNA_READ, BORIS_READ] and cache.sink.remove()
        client.execute_command("ACL", "SETUSER", "cdc", "-@write")
        with closing(RedisSink("c", url, Settings.of(HASH))) as sink:
            with pytest.raises(SinkError, match="permission") as caught:
                sink.open([INPUT])
            assert "docs/redis.md" in caught.value.hint


def test_evicting_servers_are_reported(own_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with closing(RedisSink("c", own_redis.url, Settings.of(JSON))) as sink:
            assert [f.severity for f in sink.check([INPUT])] == ["warning", "ok"]
            client.config_set("maxmemory", "1gb")
            assert [f.severity for f in sink.check([INPUT])] == ["error"]


def test_questions(redis_url: str) -> None:
    with Cache(redis_url, BOARD) as cache:
        cache.apply([ANNA, BORIS, {**CHLOE, "points": "3"}])
        cache.client.set("a b", "1")
        ask: Callable[[str], Any] = lambda text: list(cache.sink.query(text).rows)  # noqa: E731
        assert ask("top:DE") == [["2", "7"], ["1", "10.5"]]
        assert ask("top:DE 0 0") == [["2", "7"]]
        assert ask("top:DE 0 0 rev") == [["1", "10.5"]]
        assert ask("ZREVRANGE top:DE 0 0 WITHSCORES") == [["1", "10.5"]]
        assert ask("zscore top:DE 1") == [["10.5"]]
        assert ask("top:*") == [["top:DE", {"2": "7", "1": "10.5"}], ["top:FR", {"3": "3"}]]
        assert ask("a b") == [["a b", "1"]] and ask("none") == []
        for forbidden in ("DEL top:DE", "FLUSHALL x y z", "set a 1"):
            with pytest.raises(SinkError, match="no key, pattern, range or reading command"):
                ask(forbidden)
        assert cache.client.exists("top:DE")


class CuttingProxy:
    """Forwards to a server; once `armed`, it lets an EXEC be executed and swallows the answer."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.armed, self._executing = threading.Event(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                if self.armed.is_set() and b"EXEC" in data:
                    self.armed.clear()
                    self._executing.set()
                server.sendall(data)
        except OSError:
            return

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                if self._executing.is_set() and b"*" in data:  # EXEC's answer is an array
                    self._executing.clear()
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        self._listener.close()


def test_cut_off_after_the_server_has_written(redis_url: str) -> None:
    with closing(CuttingProxy(redis_url)) as proxy, Cache(proxy.url) as cache:
        cache.apply([ANNA])
        proxy.armed.set()
        with pytest.raises(StoreUnavailable):
            cache.apply([BORIS])
        assert cache.keys() == {"player:1", "player:2"}
        assert cache.sink.open([INPUT]) == position(INPUT, 2)
        cache.apply([CHLOE], [ANNA])
        assert cache.keys() == {"player:2", "player:3"}


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Config:
    fixture = getattr(request, "param", "redis_url")
    found = request.getfixturevalue(fixture)
    url = found if isinstance(found, str) else found.url
    return config_for(tmp_path, StoreCase("redis", url), ITEMS)


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS)) as shop:
        yield shop


PROCESS = """
import sys
from pathlib import Path
from cdc.log.open import open_log
from sinks.part import PART
from tests.sink_feed import ITEMS, StoreCase, config_for

config = config_for(Path(sys.argv[1]), StoreCase("redis", sys.argv[2]), ITEMS)
PART.deliver(config, "warehouse", open_log(config.log), lambda: False)
"""


def killed(config: Config, fault: str) -> None:
    """The sink in a process of its own, until it has killed itself at `fault`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(config.file.parent), config.sinks["warehouse"].url],
        cwd=ROOT,
        env={**os.environ, "CDC_FAULT": fault},
    )
    assert process.wait(60) == -signal.SIGKILL


@pytest.mark.crash
@pytest.mark.parametrize(
    "fault", ["redis.after_block:1", "redis.after_block:3", "sink.after_write"]
)
def test_killed_within_a_large_cut(config: Config, shop: Shop, fault: str) -> None:
    run_until(config, shop, shop.put("public.items", [item(i, "old") for i in range(30_000)]))
    before = PART.position(config, "warehouse")
    rows = [item(i, "new") for i in range(5_000, 40_000)]
    shop.delete("public.items", [item(i) for i in range(3)])
    position = shop.put("public.items", rows)
    killed(config, fault)
    assert PART.position(config, "warehouse") == before
    run_until(config, shop, position)
    wanted = [item(i, "old") for i in range(3, 5_000)] + rows
    assert stored(config) == sorted(wanted, key=lambda row: str(row["id"]))


@pytest.mark.crash
def test_killed_within_the_first_load(config: Config, shop: Shop) -> None:
    """What it wrote is removed, not taken for somebody else's; a row deleted since is not there."""
    shop.put("public.items", [item(i, "old") for i in range(25_000)])
    killed(config, "redis.after_block:2")
    position = shop.delete("public.items", [item(i) for i in range(100)])
    run_until(config, shop, position)
    assert [row["id"] for row in stored(config)] == sorted(range(100, 25_000), key=str)


SWAP_POINTS = ["redis.swap_begun", "redis.swap_marked", "redis.swap_renaming:2"]
SWAP_POINTS += ["redis.swap_renamed", "redis.swap_removed"]


@pytest.mark.crash
@pytest.mark.parametrize("fault", SWAP_POINTS)
def test_killed_within_an_exchange(config: Config, shop: Shop, fault: str) -> None:
    """A reload's end, which is a rebuild's too, is completed by the next `open`."""
    run_until(config, shop, shop.put("public.items", [item(i, "old") for i in range(5_000)]))
    shop.close()
    shop.log.remove("shop")
    with closing(Shop(config, ITEMS)) as again:
        position = again.put("public.items", [item(i, "new") for i in range(2_000, 6_000)])
        killed(config, fault)
        run_until(config, again, position)
    assert stored(config) == sorted(
        (item(i, "new") for i in range(2_000, 6_000)), key=lambda row: str(row["id"])
    )
    with redis.Redis.from_url(config.sinks["warehouse"].url) as client:
        left = {key.decode() for key in client.scan_iter("cdc:*")}
    assert left == {"cdc:sinks", "cdc:sink:warehouse"}


@pytest.mark.crash
@pytest.mark.parametrize("config", ["own_redis", "forgetful_redis"], indirect=True)
def test_the_server_killed_and_restarted(
    config: Config, shop: Shop, request: pytest.FixtureRequest
) -> None:
    """With an append-only file it goes on; without, everything is lost and loaded again."""
    node = request.node
    server: EmbeddedRedis = request.getfixturevalue(node.callspec.params["config"])
    stopping = threading.Event()
    failed: list[BaseException] = []

    def deliver() -> None:
        try:
            PART.deliver(config, "warehouse", shop.log, stopping.is_set)
        except BaseException as error:
            failed.append(error)

    run_until(config, shop, shop.put("public.items", [item(i, "old") for i in range(1000)]))
    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        for number in range(3):
            position = shop.put("public.items", [item(number, f"v{number}"), item(1000 + number)])
            server.restart("kill")
            spin = until(lambda at=position: _reached(config, at))  # type: ignore[misc]
            while not spin():
                threading.Event().wait(0.02)
    finally:
        stopping.set()
        thread.join(30)
    assert not failed
    wanted = {i: item(i, "old") for i in range(1000)}
    wanted |= {n: item(n, f"v{n}") for n in range(3)} | {1000 + n: item(1000 + n) for n in range(3)}
    assert stored(config) == sorted(wanted.values(), key=lambda row: str(row["id"]))


def _reached(config: Config, position: Vector) -> bool:
    try:
        at = PART.position(config, "warehouse")
    except SinkError:
        return False
    return at is not None and at.vector.covers(position)


def test_rows_of_a_batch() -> None:
    """The test's own helper: types as in the schema."""
    assert rows_of(ITEMS, [item(1)]).equals(batch_of([item(1)]))
