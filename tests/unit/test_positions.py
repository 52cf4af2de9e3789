"""Positions and frontiers: they compare, print and parse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ConfigError, mask_url
from cdc.frontiers import Frontier
from cdc.positions import Lsn, TopicOffsets, Vector

lsns = st.integers(0, 2**64 - 1).map(Lsn)
ends = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3)
offsets = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True), ends, min_size=1, max_size=3
).map(TopicOffsets.of)
vectors = st.dictionaries(st.sampled_from(["crm", "shop", "web"]), lsns | offsets).map(Vector.of)


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
        ("host=db password=s3cret user=x", "host=db password=*** user=x"),
        ("postgresql://db/shop?password=s3cret&a=b", "postgresql://db/shop?password=***&a=b"),
        ("duckdb:///warehouse.duckdb", "duckdb:///warehouse.duckdb"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert mask_url(text) == masked
