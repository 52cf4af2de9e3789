"""Kafka's partitioner: Apache Kafka's own vectors, and many keys equal to one by one."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.formats import murmur2

# org.apache.kafka.common.utils.UtilsTest.testMurmur2
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
    b"": 275646681,
}


@pytest.mark.parametrize("repeated", [1, 20])
def test_kafkas_own_vectors(repeated: int) -> None:
    keys = pa.array(list(VECTORS) * repeated, pa.binary())
    expected = np.array(list(VECTORS.values()) * repeated, np.int32)
    assert murmur2.hashes(keys).astype(np.int32).tolist() == expected.tolist()
    positive = expected.astype(np.int64) & 0x7FFFFFFF
    assert murmur2.partitions(keys, 7).tolist() == (positive % 7).tolist()


@given(st.lists(st.binary(max_size=40), min_size=5, max_size=30))
def test_many_keys_are_as_one_by_one(keys: list[bytes]) -> None:
    together = murmur2.hashes(pa.array([b"", *keys], pa.binary()).slice(1))
    alone = [int(murmur2.hashes(pa.array([key], pa.binary()))[0]) for key in keys]
    assert together.tolist() == alone


def test_as_librdkafka_partitions(librdkafka: ctypes.CDLL) -> None:
    generator = np.random.default_rng(7)
    keys = [generator.bytes(int(size)) for size in generator.integers(0, 40, 2000)]
    # Its topic and opaque arguments are not looked at when there is a key.
    partitioner = librdkafka.rd_kafka_msg_partitioner_murmur2
    partitioner.restype = ctypes.c_int32
    none = ctypes.c_void_p()
    for count in (1, 3, 7, 1000):
        found = murmur2.partitions(pa.array(keys, pa.binary()), count)
        wanted = [
            partitioner(none, key, ctypes.c_size_t(len(key)), count, none, none) for key in keys
        ]
        assert found.tolist() == wanted


@pytest.fixture(scope="module")
def librdkafka() -> ctypes.CDLL:
    """The library that confluent-kafka brings along."""
    package = Path(confluent_kafka.__file__).parent
    (found,) = (package.parent / "confluent_kafka.libs").glob("librdkafka-*.so*")
    return ctypes.CDLL(str(found))


def test_no_keys() -> None:
    assert murmur2.partitions(pa.array([], pa.binary()), 3).tolist() == []
