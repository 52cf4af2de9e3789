"""Where two Avro schemas differ, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdc.log.schema_difference import described, differences


def record(*fields: tuple[Any, ...], name: str = "shop.Value") -> dict[str, Any]:
    """Fields: (name, type) or (name, type, default)."""
    written = [
        {"name": f[0], "type": f[1], **({"default": f[2]} if len(f) > 2 else {})} for f in fields
    ]
    return {"type": "record", "name": name, "fields": written}


def found(old: Any, new: Any) -> list[str]:
    return differences(json.dumps(old), json.dumps(new))


ID = ("id", "long")
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (record(ID), record(ID), []),
        (
            record(ID),
            record(ID, ("note", ["null", "string"], None)),
            ["Value.note: added (null or string, default null)"],
        ),
        (
            record(ID, ("note", "string")),
            record(ID),
            ["Value.note: removed (was string, no default)"],
        ),
        (record(ID), record(("id", "string")), ["Value.id: long -> string"]),
        (
            record(("n", "long")),
            record(("n", ["null", "long"])),
            ["Value.n: long -> null or long"],
        ),
        (
            record(("n", ["null", "int"])),
            record(("n", ["null", "long"])),
            ["Value.n: null or int -> null or long"],
        ),
        (
            record(("n", "int", 1)),
            record(("n", "int")),
            ["Value.n: default 1 -> no default"],
        ),
        (
            record(("n", DECIMAL)),
            record(("n", {**DECIMAL, "scale": 3})),
            ["Value.n: bytes as decimal(12, 2) -> bytes as decimal(12, 3)"],
        ),
        (
            record(("n", ["null", DECIMAL])),
            record(("n", ["null", {**DECIMAL, "precision": 14}])),
            ["Value.n: bytes as decimal(12, 2) -> bytes as decimal(14, 2)"],
        ),
        (
            record(("a", {"type": "array", "items": "int"})),
            record(("a", {"type": "array", "items": "string"})),
            ["Value.a[]: int -> string"],
        ),
        (
            record(("m", {"type": "map", "values": "int"})),
            record(("m", {"type": "map", "values": ["null", "int"]})),
            ["Value.m{}: int -> null or int"],
        ),
        (
            record(("e", {"type": "enum", "name": "E", "symbols": ["A", "B"]})),
            record(("e", {"type": "enum", "name": "E", "symbols": ["B", "C"]})),
            ["Value.e: without the symbols A", "Value.e: with the symbols C added"],
        ),
        (
            record(("f", {"type": "fixed", "name": "F", "size": 4})),
            record(("f", {"type": "fixed", "name": "F", "size": 8})),
            ["Value.f: fixed F(4) -> fixed F(8)"],
        ),
        (
            record(ID, name="shop.Value"),
            record(ID, name="shop.Row"),
            ["the schema: the record Value -> Row"],
        ),
        ("long", record(ID), ["the schema: long -> record Value"]),
    ],
)
def test_what_readers_resolve_by(old: Any, new: Any, lines: list[str]) -> None:
    assert found(old, new) == lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (record(ID), {**record(ID), "cdc.version": 2, "doc": "orders"}),
        (record(ID, ("n", "int")), record(("n", "int"), ID)),
        (record(("n", "int")), record(("n", {"type": "int"}))),
        (
            record(ID),
            {**record(ID, name="Value"), "namespace": "shop"},
        ),
    ],
)  # fmt: skip
def test_annotations_and_spelling_are_no_difference(old: Any, new: Any) -> None:
    assert found(old, new) == []


def test_an_envelope_names_a_columns_change_once() -> None:
    """`after` uses by name the row that `before` defines."""

    def envelope(*columns: tuple[Any, ...]) -> dict[str, Any]:
        row = record(*columns, name="Value")
        fields = (
            ("before", ["null", row], None),
            ("after", ["null", "Value"], None),
            ("op", "string"),
        )
        return {**record(*fields, name="Envelope"), "namespace": "shop.public.orders"}  # fmt: skip

    lines = found(envelope(ID, ("a", "int")), envelope(ID, ("b", "int")))
    assert lines == [
        "Value.a: removed (was int, no default)",
        "Value.b: added (int, no default)",
    ]


def test_a_record_that_contains_itself() -> None:
    tree = record(("value", "long"), ("left", ["null", "shop.Value"]))
    other = record(("value", "string"), ("left", ["null", "shop.Value"]))
    assert found(tree, other) == ["Value.value: long -> string"]


def test_connect_names_tell_what_a_number_means() -> None:
    micros = {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}
    assert described(["null", micros]) == "null or long as io.debezium.time.MicroTimestamp"
