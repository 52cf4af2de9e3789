"""JSON that a store answers with, as values that are printed as the same JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any


def parsed(text: str | bytes) -> Any:
    """Numbers are floats where these have the very digits that were written, else decimals.
    Raises ValueError for what is no JSON."""
    return json.loads(text, parse_float=_number)


def _number(text: str) -> float | Decimal:
    number, exact = float(text), Decimal(text)
    return number if Decimal(repr(number)) == exact else exact
