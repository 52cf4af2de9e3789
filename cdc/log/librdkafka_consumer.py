"""librdkafka's consumer, of whole batches: what confluent-kafka's gives message by message.

rd_kafka_consume_batch_queue fills an array of pointers to messages, whose keys and values still lie
where the fetch's answer was unpacked. So

1.  the structs are gathered from where they stand, as one array;
2.  messages of one partition that follow each other are one run;
3.  keys and values are read as an Arrow array of values and what stands between them, and copied;
4.  the messages are given back.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_void_p
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, cimpl

from cdc import ragged
from cdc.log.kafka_records import Fetched
from cdc.log.librdkafka import (
    CONSUMER,
    MESSAGE,
    destroy,
    function,
    last_error,
    made,
    milliseconds,
    queue_destroy,
    topic_destroy,
    topic_name,
    topic_new,
)
from cdc.ragged import Int64s

RECORDS_AT_ONCE = 16_384
_HOLDING_THE_GIL = ctypes.PyDLL(cimpl.__file__)
"""For calls that take less time than letting other threads run meanwhile."""
_FEW = 8
"""Up to here messages are copied one by one."""

_NONE = Fetched(np.zeros(0, np.int64), np.zeros(0, np.int64), *(2 * [pa.array([], pa.binary())]))

_poll_set_consumer = function("rd_kafka_poll_set_consumer", c_int, c_void_p)
_queue_get_consumer = function("rd_kafka_queue_get_consumer", c_void_p, c_void_p)
_consumer_close = function("rd_kafka_consumer_close", c_int, c_void_p)
_list_new = function("rd_kafka_topic_partition_list_new", c_void_p, c_int)
_list_add = function("rd_kafka_topic_partition_list_add", c_void_p, c_void_p, c_char_p, c_int32)
_list_set_offset = function(
    "rd_kafka_topic_partition_list_set_offset", c_int, c_void_p, c_char_p, c_int32, c_int64
)
_list_destroy = function("rd_kafka_topic_partition_list_destroy", None, c_void_p)
_assign = function("rd_kafka_assign", c_int, c_void_p, c_void_p)
_consume = function("rd_kafka_consume_batch_queue", c_ssize_t, c_void_p, c_int, c_void_p, c_size_t)
_metadata = function(
    "rd_kafka_metadata", c_int, c_void_p, c_int, c_void_p, ctypes.POINTER(c_void_p), c_int
)
_metadata_destroy = function("rd_kafka_metadata_destroy", None, c_void_p)
_timestamp = function(
    "rd_kafka_message_timestamp", c_int64, c_void_p, c_void_p, library=_HOLDING_THE_GIL
)
_message_destroy = function("rd_kafka_message_destroy", None, c_void_p, library=_HOLDING_THE_GIL)


@dataclass(frozen=True, eq=False)
class Arrived:
    """Records of one partition that follow each other, or an error and no records. `next_offset`
    is where the consumer stands behind them; with an error, where it occurred."""

    topic: str
    partition: int
    next_offset: int
    records: Fetched
    error: KafkaError | None = None


class Consumer:
    """For one thread; it is assigned, and never subscribes. What goes wrong is a KafkaException."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """librdkafka's settings. It logs nothing: what is wrong is an error of some call."""
        self._client = made(CONSUMER, settings, 0)
        _poll_set_consumer(self._client)
        self._queue: int = _queue_get_consumer(self._client)
        self._found = np.empty(RECORDS_AT_ONCE, np.uint64)
        self.assignments = 0
        """How often it was sent somewhere."""
        self._end = weakref.finalize(self, _ended, self._client, self._queue)
        self._end.atexit = False

    def assign(self, places: Sequence[tuple[str, int, int]]) -> None:
        """Read these partitions and no others: (topic, partition, offset)."""
        client = self._open()
        self.assignments += 1
        wanted = _list_new(len(places))
        try:
            for topic, number, offset in places:
                _list_add(wanted, topic.encode(), number)
                _list_set_offset(wanted, topic.encode(), number, offset)
            _check(_assign(client, wanted))
        finally:
            _list_destroy(wanted)

    def unassign(self) -> None:
        _check(_assign(self._open(), None))

    def meet(self, topic: str, timeout_s: float) -> None:
        """Ask for the topic's description: one that is not known is looked for once a second."""
        client = self._open()
        handle = topic_new(client, topic.encode(), None)
        if not handle:
            raise KafkaException(KafkaError(last_error(), topic))
        answer = c_void_p()
        try:
            _check(_metadata(client, 0, handle, ctypes.byref(answer), milliseconds(timeout_s)))
            _metadata_destroy(answer)
        finally:
            topic_destroy(handle)

    def take(
        self, timeout_s: float, *, stamped: bool, at_most: int = RECORDS_AT_ONCE
    ) -> list[Arrived]:
        """What has arrived, in order, waiting for the first only. Not `stamped`: records' times
        are wanted only where some value is null."""
        self._open()
        address = self._found.ctypes.data
        count = _consume(self._queue, 0, address, min(at_most, RECORDS_AT_ONCE))
        if count == 0:
            count = _consume(self._queue, milliseconds(timeout_s), address, 1)
        if count < 0:
            raise KafkaException(KafkaError(last_error()))
        if count == 0:
            return []
        pointers = self._found[:count].tolist()
        try:
            return list(_arrived(_structs(self._found[:count]), pointers, stamped))
        finally:
            deque(map(_message_destroy, pointers), maxlen=0)

    def close(self) -> None:
        """Happens by itself when nobody holds the consumer any more."""
        self._end()

    def _open(self) -> int:
        if not self._end.alive:
            raise KafkaException(KafkaError(KafkaError._STATE, "the consumer is closed"))
        return self._client


def _ended(client: int, queue: int) -> None:
    """What belongs to a client goes before it."""
    _consumer_close(client)
    queue_destroy(queue)
    destroy(client)


def _check(code: int) -> None:
    if code:
        raise KafkaException(KafkaError(code))


def _structs(pointers: npt.NDArray[np.uint64]) -> npt.NDArray[np.void]:
    """The rd_kafka_message_t that stand at these addresses."""
    low = int(pointers.min())
    memory = pa.foreign_buffer(low, int(pointers.max()) - low + MESSAGE.itemsize)
    everywhere = np.ndarray((memory.size - MESSAGE.itemsize + 1,), MESSAGE, memory, 0, (1,))
    return everywhere[(pointers - np.uint64(low)).astype(np.int64)]


def _arrived(
    structs: npt.NDArray[np.void], pointers: Sequence[int], stamped: bool
) -> Iterator[Arrived]:
    errors = structs["err"]
    other = (structs["topic"][1:] != structs["topic"][:-1]) | (
        structs["partition"][1:] != structs["partition"][:-1]
    )
    failed = errors != 0
    cuts = np.flatnonzero(other | failed[1:] | failed[:-1]) + 1
    for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(structs)], strict=True):
        part = structs[start:stop]
        handle = int(part["topic"][0])
        topic = topic_name(handle).decode() if handle else ""
        number, last = int(part["partition"][0]), int(part["offset"][-1])
        if failed[start]:
            yield Arrived(topic, number, last, _NONE, _error(part[0]))
        else:
            records = _fetched(part, pointers[start:stop], stamped)
            yield Arrived(topic, number, last + 1, records)


def _error(struct: np.void) -> KafkaError:
    """The value of a message that is an error is its text."""
    text = ctypes.string_at(int(struct["value"])) if struct["value"] else b""
    return KafkaError(int(struct["err"]), text.decode("utf-8", "replace") or None)


def _fetched(structs: npt.NDArray[np.void], pointers: Sequence[int], stamped: bool) -> Fetched:
    fields = ("key", "key_bytes", "value", "value_bytes")
    key, key_bytes, value, value_bytes = (structs[name].astype(np.int64) for name in fields)
    keys, values = _copied(key, key_bytes), _copied(value, value_bytes)
    stamps_us = np.zeros(len(structs), np.int64)
    if stamped or values.null_count:
        stamps_ms = map(_timestamp, pointers, repeat(None))
        stamps_us = np.fromiter(stamps_ms, np.int64, len(pointers)) * 1000
    return Fetched(structs["offset"].copy(), stamps_us, keys, values)


def _copied(at: Int64s, size: Int64s) -> pa.Array:
    """The items at these addresses, of which 0 is a null. They are every second item of an Arrow
    array over the memory from the lowest to the highest; the others, between them, are never looked
    at, and may end before they begin."""
    here = at != 0
    if len(at) <= _FEW or not ragged.some(here):
        return _one_by_one(at, size)
    valid = None if ragged.every(here) else here
    at = at if valid is None else np.where(valid, at, at[valid][0])
    low, high = int(at.min()), int((at + size).max())
    places = np.empty(2 * len(at) + 1, np.int64)
    np.subtract(at, low, out=places[0:-1:2])
    np.add(places[0:-1:2], size, out=places[1::2])
    # By the ends of all Arrow guesses how much it will copy.
    places[-1] = places[0] + 2 * int(size.sum())
    memory = pa.foreign_buffer(low, max(high - low, int(places[-1])))
    _, _, data = ragged.every_second(places, memory).buffers()
    offsets = pa.py_buffer(ragged.offsets_of(size))
    return pa.Array.from_buffers(pa.binary(), len(at), [ragged.bitmap(valid), offsets, data])


def _one_by_one(at: Int64s, size: Int64s) -> pa.Array:
    places = zip(at.tolist(), size.tolist(), strict=True)
    items = [ctypes.string_at(place, length) if place else None for place, length in places]
    return pa.array(items, pa.binary())
