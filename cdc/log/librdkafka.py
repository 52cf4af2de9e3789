"""librdkafka's producer, of whole batches: what confluent-kafka's takes record by record.

confluent-kafka makes a Python call, and objects, of every record. librdkafka itself takes an array
of structs that point to keys and values (rd_kafka_produce_batch), and reports deliveries as events
of many records. So this module declares the part of its C API (rdkafka.h) that a transactional
producer needs, over the very library that confluent-kafka brings and has loaded.

    Batch       records as that array; its pointers go into Arrow's memory, which it holds
    Producer    settings, transactions, batches, delivery reports; errors are confluent-kafka's

The consumer, cdc.log.librdkafka_consumer, shares what stands in front of them.

librdkafka copies keys before the call returns. The values of an idempotent producer, which are ten
times as long, it reads where they are until it has reported their record (no RD_KAFKA_MSG_F_COPY),
so the producer holds a batch's memory until then. It calls nothing of ours back: reports wait in
its queue until they are asked for.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from ctypes import c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, cimpl

from cdc import ragged
from cdc.ragged import Int64s

_LIBRARY = ctypes.CDLL(cimpl.__file__)
"""Looking a name up in it also looks into the libraries that it was linked with."""
PRODUCER, CONSUMER = 0, 1
_TAKEN = 0
_COPY = 0x2
_PURGE_QUEUED_AND_SENT = 0x1 | 0x2
_DELIVERY_REPORT = 0x1
_ERROR_BYTES = 1024
_PLUGINS = "plugin.library.paths"


def function(
    name: str, result: Any, *arguments: Any, library: ctypes.CDLL = _LIBRARY
) -> Callable[..., Any]:
    """A function of librdkafka's C API: the types of its result and its arguments."""
    try:
        found = library[name]
    except AttributeError as error:
        raise ImportError(
            f"confluent-kafka is built so that librdkafka's {name} cannot be reached; install "
            "its wheel, or build it against a shared librdkafka"
        ) from error
    found.restype, found.argtypes = result, arguments
    return found


class Message(ctypes.Structure):
    """rd_kafka_message_t."""

    _fields_ = (
        ("err", c_int),
        ("topic", c_void_p),
        ("partition", c_int32),
        ("value", c_void_p),
        ("value_bytes", c_size_t),
        ("key", c_void_p),
        ("key_bytes", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


MESSAGE: Any = np.dtype(Message)

_conf_new = function("rd_kafka_conf_new", c_void_p)
_conf_destroy = function("rd_kafka_conf_destroy", None, c_void_p)
_conf_set = function("rd_kafka_conf_set", c_int, c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)
_conf_set_events = function("rd_kafka_conf_set_events", None, c_void_p, c_int)
_conf_set_log_cb = function("rd_kafka_conf_set_log_cb", None, c_void_p, c_void_p)
_new = function("rd_kafka_new", c_void_p, c_int, c_void_p, c_char_p, c_size_t)
destroy = function("rd_kafka_destroy", None, c_void_p)
_outq_len = function("rd_kafka_outq_len", c_int, c_void_p)
_purge = function("rd_kafka_purge", c_int, c_void_p, c_int)
_fatal_error = function("rd_kafka_fatal_error", c_int, c_void_p, c_char_p, c_size_t)

topic_new = function("rd_kafka_topic_new", c_void_p, c_void_p, c_char_p, c_void_p)
topic_name = function("rd_kafka_topic_name", c_char_p, c_void_p)
topic_destroy = function("rd_kafka_topic_destroy", None, c_void_p)
_produce_batch = function(
    "rd_kafka_produce_batch", c_int, c_void_p, c_int32, c_int, c_void_p, c_int
)
last_error = function("rd_kafka_last_error", c_int)

_queue_get_main = function("rd_kafka_queue_get_main", c_void_p, c_void_p)
_queue_poll = function("rd_kafka_queue_poll", c_void_p, c_void_p, c_int)
queue_destroy = function("rd_kafka_queue_destroy", None, c_void_p)
_event_error = function("rd_kafka_event_error", c_int, c_void_p)
_event_message_count = function("rd_kafka_event_message_count", c_size_t, c_void_p)
_event_message_array = function(
    "rd_kafka_event_message_array", c_size_t, c_void_p, c_void_p, c_size_t
)
_event_destroy = function("rd_kafka_event_destroy", None, c_void_p)

_init_transactions = function("rd_kafka_init_transactions", c_void_p, c_void_p, c_int)
_begin_transaction = function("rd_kafka_begin_transaction", c_void_p, c_void_p)
_commit_transaction = function("rd_kafka_commit_transaction", c_void_p, c_void_p, c_int)
_abort_transaction = function("rd_kafka_abort_transaction", c_void_p, c_void_p, c_int)
_error_code = function("rd_kafka_error_code", c_int, c_void_p)
_error_string = function("rd_kafka_error_string", c_char_p, c_void_p)
_error_is_fatal = function("rd_kafka_error_is_fatal", c_int, c_void_p)
_error_is_retriable = function("rd_kafka_error_is_retriable", c_int, c_void_p)
_error_requires_abort = function("rd_kafka_error_txn_requires_abort", c_int, c_void_p)
_error_destroy = function("rd_kafka_error_destroy", None, c_void_p)


@dataclass(frozen=True, eq=False)
class Batch:
    """Records in order, as an array of rd_kafka_message_t; `memory` is what that points into."""

    messages: npt.NDArray[np.void]
    memory: tuple[pa.Array, pa.Array]

    @classmethod
    def of(cls, keys: pa.Array, values: pa.Array) -> Batch:
        """The records of binary arrays; a null is no key, or no value."""
        messages = np.zeros(len(keys), MESSAGE)
        messages["key"], messages["key_bytes"] = _places(keys)
        messages["value"], messages["value_bytes"] = _places(values)
        return cls(messages, (keys, values))

    def __len__(self) -> int:
        return len(self.messages)

    def take(self, index: Int64s) -> Batch:
        return Batch(self.messages[index], self.memory)

    def slice(self, start: int, stop: int) -> Batch:
        return Batch(self.messages[start:stop], self.memory)


def _places(array: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Address and length of every item; address 0 is a null."""
    if not len(array):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    _, places = ragged.contents(array)
    data = array.buffers()[2]
    # An empty item is not a null: without any bytes its address is that of the offsets.
    base = (data if data is not None and data.address else array.buffers()[1]).address
    addresses = (places[:-1] + base).astype(np.uint64)
    if array.null_count:
        addresses[~np.asarray(array.is_valid())] = 0
    return addresses, np.diff(places).astype(np.uint64)


@dataclass(frozen=True)
class Report:
    """`count` records of one partition were written, the last of them at `last_offset`; or they
    were not, for `error`."""

    topic: str
    partition: int
    count: int
    last_offset: int
    error: KafkaError | None


@dataclass(frozen=True)
class _Held:
    """What librdkafka still reads values from: per topic and partition, the memory of each batch
    and how many of its records have no report yet, in the order in which they are written. Records
    that fail stay counted: what is behind them is held for longer, until none is on its way."""

    batches: dict[tuple[str, int], deque[tuple[object, int]]] = field(default_factory=dict)

    def add(self, topic: str, partition: int, memory: object, count: int) -> None:
        self.batches.setdefault((topic, partition), deque()).append((memory, count))

    def taken(self, topic: str, partition: int, count: int) -> None:
        """Of the last batch only so many were taken."""
        mine = self.batches[topic, partition]
        memory, _ = mine.pop()
        if count:
            mine.append((memory, count))

    def written(self, report: Report) -> None:
        mine, done = self.batches[report.topic, report.partition], report.count
        while done:
            memory, count = mine.popleft()
            if count > done:
                mine.appendleft((memory, count - done))
            done -= min(count, done)

    def drop_all(self) -> None:
        self.batches.clear()


class Producer:
    """For one thread. What goes wrong is a KafkaException, as with confluent-kafka's."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """librdkafka's settings. It logs nothing: what is wrong is an error of some call."""
        needed = {"delivery.report.only.error": False}
        self._client = made(PRODUCER, {**settings, **needed}, _DELIVERY_REPORT)
        self._queue: int = _queue_get_main(self._client)
        self._topics: dict[str, int] = {}
        self._held = _Held()
        # Without idempotence records may be written, and reported, out of order.
        self._flags = 0 if settings.get("enable.idempotence") is True else _COPY
        self._end = weakref.finalize(
            self, _ended, self._client, self._queue, self._topics, self._held
        )
        self._end.atexit = False

    def __len__(self) -> int:
        """How many records are on their way, or have a report that nobody has taken yet."""
        return int(_outq_len(self._open()))

    def produce(self, topic: str, partition: int, batch: Batch) -> int:
        """Hand over the first records of a batch, and return how many: the others found no room."""
        client = self._open()
        found = self._topics.get(topic)
        if found is None:
            found = topic_new(client, topic.encode(), None)
            if not found:
                raise KafkaException(KafkaError(last_error(), topic))
            self._topics[topic] = found
        if not len(self):
            self._held.drop_all()
        messages = np.ascontiguousarray(batch.messages)
        self._held.add(topic, partition, batch.memory, len(messages))
        taken = _produce_batch(found, partition, self._flags, messages.ctypes.data, len(messages))
        if taken == len(messages):
            return taken
        errors = messages["err"]
        first = int(np.flatnonzero(errors != _TAKEN)[0])
        left = errors[first:]
        self._held.taken(topic, partition, taken)
        if not ragged.every(left == KafkaError._QUEUE_FULL):
            raise KafkaException(self._cause(int(left[left != KafkaError._QUEUE_FULL][0])))
        return first

    def poll(self, timeout_s: float) -> Report | None:
        """The next delivery report, if there is one within that time."""
        self._open()
        event = _queue_poll(self._queue, milliseconds(timeout_s))
        if not event:
            return None
        try:
            report = _report(event)
        finally:
            _event_destroy(event)
        if report is not None and report.error is None:
            self._held.written(report)
        return report

    def purge(self) -> None:
        """Give up every record that has not been acknowledged; their reports say so."""
        _purge(self._open(), _PURGE_QUEUED_AND_SENT)

    def init_transactions(self, timeout_s: float) -> None:
        _check(_init_transactions(self._open(), milliseconds(timeout_s)))

    def begin_transaction(self) -> None:
        _check(_begin_transaction(self._open()))

    def commit_transaction(self, timeout_s: float) -> None:
        """Reports must have been taken, or this waits for them in vain."""
        _check(_commit_transaction(self._open(), milliseconds(timeout_s)))

    def abort_transaction(self, timeout_s: float) -> None:
        """As for commit_transaction."""
        _check(_abort_transaction(self._open(), milliseconds(timeout_s)))

    def close(self) -> None:
        """Forget what has not been sent, and leave an open transaction to the next producer of its
        name. Happens by itself when nobody holds the producer any more."""
        self._end()

    def _open(self) -> int:
        if not self._end.alive:
            raise KafkaException(KafkaError(KafkaError._STATE, "the producer is closed"))
        return self._client

    def _cause(self, code: int) -> KafkaError:
        """Why records were not taken; once an error was fatal, that error."""
        if code != KafkaError._FATAL:
            return KafkaError(code)
        text = ctypes.create_string_buffer(_ERROR_BYTES)
        return KafkaError(_fatal_error(self._client, text, _ERROR_BYTES), _text(text), fatal=True)


def made(kind: int, settings: Mapping[str, Any], events: int) -> int:
    """An rd_kafka_t, which has then taken over its rd_kafka_conf_t."""
    conf = _conf_new()
    text = ctypes.create_string_buffer(_ERROR_BYTES)
    # A plugin may have settings of its own.
    for name in sorted(settings, key=lambda name: name != _PLUGINS):
        value = settings[name]
        written = str(value).lower() if isinstance(value, bool) else str(value)
        if _conf_set(conf, name.encode(), written.encode(), text, _ERROR_BYTES) != 0:
            _conf_destroy(conf)
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, _text(text)))
    _conf_set_events(conf, events)
    _conf_set_log_cb(conf, None)
    client = _new(kind, conf, text, _ERROR_BYTES)
    if not client:
        _conf_destroy(conf)
        raise KafkaException(KafkaError(last_error(), _text(text)))
    return int(client)


def _ended(client: int, queue: int, topics: dict[str, int], held: _Held) -> None:
    """What belongs to a client goes before it; what it may read from, behind it."""
    for topic in topics.values():
        topic_destroy(topic)
    queue_destroy(queue)
    destroy(client)


def _report(event: int) -> Report | None:
    """An event has the records of one request, which went to one partition."""
    count = _event_message_count(event)
    pointers = (c_void_p * count)()
    if not count or _event_message_array(event, pointers, count) != count:
        return None
    last = Message.from_address(pointers[count - 1] or 0)
    code = _event_error(event) or last.err
    error = KafkaError(code) if code else None
    return Report(topic_name(last.topic).decode(), last.partition, count, last.offset, error)


def _check(error: int | None) -> None:
    """Raise what an rd_kafka_error_t says."""
    if not error:
        return
    try:
        cause = KafkaError(
            _error_code(error),
            _error_string(error).decode("utf-8", "replace"),
            fatal=bool(_error_is_fatal(error)),
            retriable=bool(_error_is_retriable(error)),
            txn_requires_abort=bool(_error_requires_abort(error)),
        )
    finally:
        _error_destroy(error)
    raise KafkaException(cause)


def _text(buffer: ctypes.Array[ctypes.c_char]) -> str:
    return buffer.value.decode("utf-8", "replace")


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
