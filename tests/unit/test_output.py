"""What `cdc query` prints: documents with values inside values, and values that JSON lacks."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pytest

from cdc.cli.output import cell, print_rows
from sinks.documents import parsed

DOCUMENT = {
    "customer": {"name": "Ünal [bold]", "tags": ["a", None], "since": dt.date(2026, 1, 2)},
    "lines": [{"sku": "x", "price": Decimal("1.10")}, {"sku": "y", "price": Decimal("0")}],
}


def test_documents_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("1", DOCUMENT, b"\x00"), ("2", None, (1.5, float("nan"), float("-inf")))]
    print_rows(("_id", "order", "x"), rows)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {
        "_id": "1",
        "order": {
            "customer": {"name": "Ünal [bold]", "tags": ["a", None], "since": "2026-01-02"},
            "lines": [{"sku": "x", "price": "1.10"}, {"sku": "y", "price": "0"}],
        },
        "x": "AA==",
    }
    assert "Ünal" in first
    assert second == '{"_id": "2", "order": null, "x": [1.5, "nan", "-inf"]}'


def test_numbers_of_a_document_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"a": 653.75, "b": [12.50, 1e400, 7], "c": 0.1234567890123456789, "d": "1"}'
    print_rows(("value",), [(parsed(text),)])
    assert json.loads(capsys.readouterr().out)["value"] == {
        "a": 653.75,
        "b": [12.5, "1E+400", 7],
        "c": "0.1234567890123456789",
        "d": "1",
    }


def test_a_document_in_a_table_is_json_on_lines_of_its_own() -> None:
    assert cell(("a", None)).plain == '["a", null]'
    assert cell({"n": Decimal("1.10")}).plain == '{"n": "1.10"}'
    shown = cell(DOCUMENT).plain
    assert shown.splitlines()[:3] == ["{", '  "customer": {', '    "name": "Ünal [bold]",']
    assert json.loads(shown)["lines"][0] == {"sku": "x", "price": "1.10"}
    assert cell(None).plain == "NULL"
