"""UUIDs of 16 bytes as text, in the form 8-4-4-4-12 (RFC 9562, section 4)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.ragged import Bools, Bytes

_HEX_PAIRS = np.array([list(f"{code:02x}".encode()) for code in range(256)], np.uint8)
_DIGITS = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])


def printed(raw: Bytes, valid: Bools | None) -> pa.Array:
    """The UUIDs in `raw`, a row of 16 bytes each; null where not `valid`."""
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    text[:, _DIGITS] = _HEX_PAIRS[raw].reshape(-1, 32)
    if valid is None:
        return ragged.strings_of(text.ravel(), np.full(len(raw), 36), None)
    return ragged.strings_of(text[valid].ravel(), valid * np.int64(36), valid)
