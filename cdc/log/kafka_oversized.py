"""Records that the broker would not take: found before they are sent, so that nothing of their
append is.

A record is sent when its key and value fit into the smaller of the client's `message.max.bytes`
and the topic's `max.message.bytes`, uncompressed, with what the protocol adds. Compression could
make a larger one fit; whether it does would depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.formats.records import Records
from cdc.log.api import DeadLetter
from cdc.ragged import Int64s

RECORD_OVERHEAD_BYTES = 128
"""A batch's header (61 bytes) and a record's lengths, offsets and attributes, rounded up."""
SHOWN_KEY_BYTES = 200


@dataclass(frozen=True, eq=False)
class Sorted:
    """Records that fit, and the index of those that do not."""

    fitting: Records
    oversized: Int64s


def sort_out(records: Records, max_bytes: int) -> Sorted:
    """Which records fit into `max_bytes`. A delete that does not leaves its tombstone."""
    sizes = _lengths(records.keys) + _lengths(records.values) + RECORD_OVERHEAD_BYTES
    large = sizes > max_bytes
    if not ragged.some(large):
        return Sorted(records, np.zeros(0, np.int64))
    kept = pa.array(np.flatnonzero(~large))
    fitting = Records(records.keys.take(kept), records.values.take(kept), records.change[~large])
    return Sorted(fitting, np.flatnonzero(large))


def error_of(records: Records, at: int, topic: str, max_bytes: int) -> BadData:
    """What to say of one that does not fit."""
    key, value = records.keys[at].as_py(), records.values[at].as_py() or b""
    return BadData(
        f"a record of {len(key) + len(value):,} bytes is larger than the {max_bytes:,} that may "
        "be sent",
        where=f"{topic}, key {_shown(key)}",
        hint="raise max.message.bytes of the topic and message.max.bytes in log.config, or set "
        "log.oversized to dead_letter",
    )


def letter_of(records: Records, at: int, topic: str, connector: str, max_bytes: int) -> DeadLetter:
    """The same as a dead letter: its key, and as much of its value as a record may hold."""
    error = error_of(records, at, topic, max_bytes)
    key, value = records.keys[at].as_py(), records.values[at].as_py() or b""
    # Base64 makes 4 bytes of 3; the letter itself must fit.
    room = max(0, (max_bytes // 2 - len(key)) * 3 // 4)
    return DeadLetter(connector, error.where, error.what, key, value[:room])


def _lengths(array: pa.Array) -> Int64s:
    _, places = ragged.contents(array)
    return np.diff(places)


def _shown(key: bytes) -> str:
    text = key.decode("utf-8", "backslashreplace")
    return text if len(text) <= SHOWN_KEY_BYTES else f"{text[:SHOWN_KEY_BYTES]}…"
