"""Positions and frontiers: they compare, print and parse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ConfigError, mask_url
from cdc.frontiers import Frontier
from cdc.positions import (
    BinlogPosition,
    GtidSet,
    Lsn,
    MariaGtid,
    NativePosition,
    TopicOffsets,
    Vector,
    parse_native,
)

lsns = st.integers(0, 2**64 - 1).map(Lsn)
ends = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3)
offsets = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True), ends, min_size=1, max_size=3
).map(TopicOffsets.of)
numbers = st.integers(1, 2**63 - 2)
few = st.integers(1, 40)
uuids = st.uuids().map(str)
servers = uuids | uuids.map(lambda uuid: f"{uuid}:blue")
gtid_sets = st.dictionaries(
    servers, st.lists(st.tuples(few, few).map(lambda pair: (min(pair), max(pair)))), max_size=3
).map(GtidSet.of)
maria_gtids = st.dictionaries(
    st.integers(0, 2**32 - 1), st.tuples(st.integers(0, 2**32 - 1), numbers), max_size=3
).map(MariaGtid.of)
binlog_positions = st.builds(
    BinlogPosition, st.from_regex(r"[a-z][a-z.-]{0,9}\.[0-9]{6}", fullmatch=True), numbers
)
natives = lsns | offsets | gtid_sets | maria_gtids | binlog_positions
vectors = st.dictionaries(st.sampled_from(["crm", "shop", "web"]), natives).map(Vector.of)


@given(lsns)
def test_an_lsn_reads_back(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn


@given(offsets)
def test_offsets_of_topics_read_back(found: TopicOffsets) -> None:
    assert TopicOffsets.parse(str(found)) == found


def test_offsets_cover_those_that_are_nowhere_further() -> None:
    here = TopicOffsets.parse("a:5.0+b:7")
    assert here.covers(here)
    assert here.covers(TopicOffsets.parse("a:5"))
    assert here.covers(TopicOffsets.parse("a:5.0.0+c:0"))
    assert not here.covers(TopicOffsets.parse("a:5.1+b:7"))
    assert not here.covers(TopicOffsets.parse("c:1"))
    assert not here.covers(Lsn(0)) and not Lsn(2**63).covers(here)
    assert TopicOffsets.parse("a:9.2+b:1+c:4").minus(here) == 4 + 2 + 4


@pytest.mark.parametrize("text", ["a:", "a:1+", ":1", "a:-1", "a:1,b:2", "a b:1", "a:1:2"])
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="offsets of topics"):
        TopicOffsets.parse(text)


@given(natives)
def test_a_printed_position_says_of_which_kind_it_is(position: NativePosition) -> None:
    assert parse_native(str(position)) == position


UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
OTHER = "4e11fa47-71ca-11e1-9e33-c80aa9429562"


def members(gtids: GtidSet) -> set[tuple[str, int]]:
    return {(s, n) for s, found in gtids.servers for a, b in found for n in range(a, b + 1)}


@given(st.lists(st.tuples(st.sampled_from([UUID, OTHER]), few)), gtid_sets)
def test_gtid_sets_are_sets(gtids: list[tuple[str, int]], other: GtidSet) -> None:
    one = GtidSet.of({s: [(n, n) for t, n in gtids if t == s] for s in (UUID, OTHER)})
    assert members(one) == set(gtids)
    assert members(one.union(other)) == members(one) | members(other)
    assert one.minus(other) == len(members(one) - members(other))
    assert one.covers(other) == (members(one) >= members(other))
    assert other.covers(one) == (members(other) >= members(one))


def test_gtid_sets_as_mysql_prints_them() -> None:
    printed = f"{UUID.upper()}:1-3:11,\n{OTHER}:7:blue:1-2:4"
    assert str(GtidSet.parse(printed)) == f"{UUID}:1-3:11-11+{OTHER}:7-7+{OTHER}:blue:1-2:4-4"
    assert GtidSet.parse("") == GtidSet()
    assert GtidSet.parse(f"{UUID}:1-3:4-5") == GtidSet.parse(f"{UUID}:1-5")


@pytest.mark.parametrize("text", [UUID, f"{UUID}:0-3", f"{UUID}:3-1", "x:1-3", f"{UUID}:1-3:!"])
def test_what_is_no_gtid_set_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a GTID set"):
        GtidSet.parse(text)


def test_mariadb_counts_each_domain_alone() -> None:
    here = MariaGtid.parse("0-1-100,1-1-5")
    assert here.covers(MariaGtid.parse("0-2-100"))
    assert not here.covers(MariaGtid.parse("0-1-101,1-1-1"))
    assert not here.covers(MariaGtid.parse("2-1-1"))
    assert here.minus(MariaGtid.parse("0-1-90")) == 15
    assert here.covers(MariaGtid()) and not here.covers(GtidSet())
    with pytest.raises(ConfigError, match="MariaDB"):
        MariaGtid.parse("0-1")


def test_binlog_positions_compare_by_the_number_of_the_file() -> None:
    here = BinlogPosition.parse("binlog.1000000/4")
    assert here.covers(BinlogPosition("binlog.999999", 2**40))
    assert not here.covers(BinlogPosition("binlog.1000000", 5))
    assert not here.covers(BinlogPosition("other.000001", 4))
    with pytest.raises(ConfigError, match="binlog"):
        BinlogPosition.parse("binlog/4")


@given(vectors)
def test_a_vector_reads_back(vector: Vector) -> None:
    assert Vector.parse(str(vector)) == vector


@given(vectors, vectors)
def test_an_advanced_vector_covers_what_advanced_it(vector: Vector, newer: Vector) -> None:
    assert vector.advanced(newer).covers(newer)


def test_a_vector_covers_only_sources_that_it_has() -> None:
    shop = Vector.parse("shop@0/10")
    assert shop.covers(Vector.parse("shop@0/F"))
    assert not shop.covers(Vector.parse("shop@0/11"))
    assert not shop.covers(Vector.parse("shop@0/1,crm@0/1"))
    assert shop.covers(Vector())


@pytest.mark.parametrize("text", ["", "16B3748", "0/", "0/G", "0/123456789", "0/1 OR 1"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an LSN"):
        Lsn.parse(text)


def test_what_is_no_position_is_refused() -> None:
    with pytest.raises(ConfigError, match="shop@0/16B3748"):
        Vector.parse("0/16B3748")


def test_a_frontier_reads_back() -> None:
    frontier = Frontier(
        "shop",
        Vector.parse("shop@0/16B3748"),
        txn_seq=41,
        commit_us=1_700_000_000_000_000,
        end_offsets={"shop.public.orders": (10, 0)},
        identity="7/1",
        incomplete=("public.customers",),
        schema_versions={"shop.public.orders": 2},
        whole=False,
        resume={"appended": 5},
        fingerprint="ab",
        epoch=3,
        appended_us=9,
    )
    assert Frontier.from_json(frontier.to_json()) == frontier


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://cdc:s3cret@db:5432/shop", "postgresql://cdc:***@db:5432/shop"),
        ("failed: redis://:s3cret@r/0 refused", "failed: redis://:***@r/0 refused"),
        ("mysql://cdc:s3@cr@et@db/shop", "mysql://cdc:***@db/shop"),
        ("redis://:a@r/0 or http://u:b@s/0", "redis://:***@r/0 or http://u:***@s/0"),
        ("http://u:a@r,http://u:b@s/x@y", "http://u:***@r,http://u:***@s/x@y"),
        ("host=db password=s3cret user=x", "host=db password=*** user=x"),
        ("postgresql://db/shop?password=s3cret&a=b", "postgresql://db/shop?password=***&a=b"),
        ("duckdb:///warehouse.duckdb", "duckdb:///warehouse.duckdb"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert mask_url(text) == masked
