"""Random tables and change batches for the tests of Kafka's formats, and what Debezium's formats
make of each value, spelled out value by value in Python: the oracle of the vectorised codecs."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from cdc.changes import C, ChangeBatch, D, R, U
from cdc.formats.debezium_schema import Options
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column, TableSchema
from tests.arrow_values import array

UTC = pa.timestamp("us", "UTC")
EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001
YEARS_1_TO_9999_US = (-62_135_596_800_000_000, 253_402_300_799_999_999)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
digits = st.decimals(allow_nan=False, allow_infinity=False, places=None).map(
    lambda d: format(d, "f").replace("-0.0", "0.0") if d else format(abs(d), "f")
)
LIST_LENGTH_MAX = 3
_WIDE = decimal.Context(prec=80)


def infinite(inner: st.SearchStrategy[int], infinity: int) -> st.SearchStrategy[int]:
    return inner | st.sampled_from([infinity, -infinity])


def scaled(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    return st.integers(-most, most).map(lambda n: Decimal(n).scaleb(-scale, _WIDE))


def whole_millis(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low // 1000, high // 1000).map(lambda n: n * 1000)


any_time = st.integers(0, 86_400_000_000)
any_moment = infinite(
    st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(*YEARS_1_TO_9999_US), TIMESTAMP_INFINITY
)
zoned = infinite(st.integers(*YEARS_1_TO_9999_US), TIMESTAMP_INFINITY)
counts = st.integers(-1000, 1000)
intervals = st.sampled_from(
    [
        "00:00:00", "1 year", "-1 years", "1 mon", "2 mons", "3 days", "1 day", "04:05:06.789",
        "-04:05:06.000001", "1 year 2 mons 3 days 04:05:06.789", "-1 mons +2 days -00:00:01",
        "-1 days +00:00:00.5", "25:00:00", "-1 years -2 mons +3 days 100:00:59.999999",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A column's types, its values as Arrow stores them, and what the format makes of one."""

    type: pa.DataType
    sql_type: str
    values: st.SearchStrategy[Any]
    carried: Callable[[Any, Options], Any] = lambda value, options: value


def _big_endian(number: int) -> bytes:
    size = 1
    while not -(2 ** (8 * size - 1)) <= number < 2 ** (8 * size - 1):
        size += 1
    return number.to_bytes(size, "big", signed=True)


def unscaled(scale: int) -> Callable[[Any, Options], Any]:
    def carried(value: Any, options: Options) -> Any:
        if options.decimal == "precise":
            return _big_endian(int(Decimal(value).scaleb(scale, _WIDE)))
        return float(value) if options.decimal == "double" else f"{Decimal(value):.{scale}f}"

    return carried


def variable(text: str, options: Options) -> Any:
    if options.decimal == "double":
        return float(text)
    if options.decimal == "string":
        return text
    scale = len(text.partition(".")[2])
    return {"scale": scale, "value": _big_endian(int(text.replace(".", "")))}


def days(value: int, options: Options) -> int:
    return {DATE_INFINITY: 2146033979, -DATE_INFINITY: -2147472691}.get(value, value)


def time_of_day(precision: int) -> Callable[[Any, Options], Any]:
    def carried(value: int, options: Options) -> int:
        adaptive = precision <= 3 and options.time == "adaptive"
        return value // 1000 if adaptive or options.time == "connect" else value

    return carried


def moment(precision: int) -> Callable[[Any, Options], Any]:
    def carried(value: int, options: Options) -> int:
        if precision <= 3 or options.time == "connect":
            millis = {
                TIMESTAMP_INFINITY: 9223372036825200000,
                -TIMESTAMP_INFINITY: -9223372036832400000,
            }
            return millis.get(value, value // 1000)
        return {-TIMESTAMP_INFINITY: -(2**63)}.get(value, value)

    return carried


def zoned_text(value: int, options: Options) -> str:
    if abs(value) == TIMESTAMP_INFINITY:
        return "infinity" if value > 0 else "-infinity"
    return (EPOCH + dt.timedelta(microseconds=value)).isoformat(timespec="microseconds") + "Z"


def unsigned(value: int, options: Options) -> Any:
    if options.decimal == "precise":
        return _big_endian(value)
    return float(value) if options.decimal == "double" else str(value)


def single(value: float, options: Options) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


ISO_INTERVALS = {
    "00:00:00": "P0Y0M0DT0H0M0S",
    "1 year 2 mons 3 days 04:05:06.789": "P1Y2M3DT4H5M6.789S",
    "-1 mons +2 days -00:00:01": "P0Y-1M2DT0H0M-1S",
    "-04:05:06.000001": "P0Y0M0DT-4H-5M-6.000001S",
}

MILLIS = whole_millis(*YEARS_1_TO_9999_US)
KINDS: dict[str, Kind] = {
    "smallint": Kind(pa.int16(), "smallint", st.integers(-(2**15), 2**15 - 1)),
    "integer": Kind(pa.int32(), "integer", st.integers(-(2**31), 2**31 - 1)),
    "bigint": Kind(pa.int64(), "bigint", counts | st.integers(-(2**63), 2**63 - 1)),
    "uint64": Kind(pa.uint64(), "bigint unsigned", st.integers(0, 2**64 - 1), unsigned),
    "real": Kind(pa.float32(), "real", st.floats(width=32), single),
    "double": Kind(pa.float64(), "double precision", st.floats()),
    "boolean": Kind(pa.bool_(), "boolean", st.booleans()),
    "decimal": Kind(pa.decimal128(12, 2), "numeric(12,2)", scaled(12, 2), unscaled(2)),
    "decimal small": Kind(pa.decimal128(5, 5), "numeric(2,5)", scaled(2, 5), unscaled(5)),
    "decimal long": Kind(pa.decimal128(38, 0), "numeric(38,0)", scaled(38, 0), unscaled(0)),
    "decimal wide": Kind(pa.decimal128(38, 20), "numeric(38,20)", scaled(38, 20), unscaled(20)),
    "numeric": Kind(NUMERIC_TEXT, "numeric", digits, variable),
    "numeric wide": Kind(
        NUMERIC_TEXT, "numeric(50,5)", scaled(50, 5).map(lambda d: f"{d:.5f}"), unscaled(5)
    ),
    "text": Kind(pa.string(), "text", texts),
    "jsonb": Kind(pa.string(), "jsonb", st.sampled_from(["null", '{"a": [1, "ü"]}', "[]", '"x"'])),
    "uuid": Kind(pa.string(), "uuid", st.uuids().map(str)),
    "interval": Kind(
        pa.string(), "interval", intervals, lambda text, _: ISO_INTERVALS.get(text, ...)
    ),
    "bytea": Kind(pa.binary(), "bytea", st.binary(max_size=20)),
    "date": Kind(
        pa.date32(), "date", infinite(st.integers(-2_440_550, 2_145_042_905), DATE_INFINITY), days
    ),
    "time": Kind(pa.time64("us"), "time without time zone", any_time, time_of_day(6)),
    "time(3)": Kind(
        pa.time64("us"), "time(3) without time zone", whole_millis(0, 86_400_000_000),
        time_of_day(3),
    ),
    "timestamp": Kind(pa.timestamp("us"), "timestamp without time zone", any_moment, moment(6)),
    "timestamp(0)": Kind(
        pa.timestamp("us"), "timestamp(0) without time zone", infinite(MILLIS, TIMESTAMP_INFINITY),
        moment(3),
    ),
    "timestamptz": Kind(UTC, "timestamp with time zone", zoned, zoned_text),
}  # fmt: skip


def _listed(kind: Kind) -> Kind:
    def carried(value: Any, options: Options) -> Any:
        return [None if item is None else kind.carried(item, options) for item in value]

    items = st.lists(st.none() | kind.values, max_size=LIST_LENGTH_MAX)
    return Kind(pa.list_(kind.type), f"{kind.sql_type}[]", items, carried)


KINDS |= {f"{name}[]": _listed(kind) for name, kind in KINDS.items() if name != "interval"}
ONLY_MICROS = {"time", "timestamp", "time[]", "timestamp[]"}
KEYS = ("bigint", "integer", "text", "uuid", "bytea", "boolean", "decimal", "date", "timestamptz")


@dataclass(frozen=True, eq=False)
class Case:
    """A change batch, and its rows as Python values: per change a dict by column, or None."""

    changes: ChangeBatch
    kinds: dict[str, Kind]
    options: Options
    rows: list[dict[str, Any]]
    before: list[dict[str, Any] | None]

    def carried(self, row: dict[str, Any] | None) -> dict[str, Any] | None:
        """A row as the format has it; `...` where the oracle does not say."""
        if row is None:
            return None
        return {
            name: None if value is None else self.kinds[name].carried(value, self.options)
            for name, value in row.items()
        }


NAMES = {
    "avro": ("a", "b", "c", "Wert", "_x9", "d"),
    "none": ("a", 'q"x', "ü -", "back\\slash", "1st", "op"),
}
OPERATIONS = (C, U, D, R)


@st.composite
def cases(draw: st.DrawFn, names: str = "none") -> Case:
    """A batch of a random table: any types, nulls, extremes, operations, options."""
    options = Options(
        draw(st.sampled_from(["precise", "string", "double"])),
        draw(st.sampled_from(["adaptive", "adaptive_time_microseconds", "connect"])),
        names="avro" if names == "avro" else "none",
    )
    usable = sorted(KINDS.keys() - (ONLY_MICROS if options.time == "connect" else set()))
    if options.decimal == "double":
        usable = [n for n in usable if not n.startswith(("numeric", "decimal", "uint64"))]
    chosen = draw(st.lists(st.sampled_from(usable), min_size=1, max_size=4))
    key = draw(st.lists(st.sampled_from(KEYS), max_size=2))
    if options.decimal == "double":
        key = [name for name in key if name != "decimal"]
    kinds = {name: KINDS[kind] for name, kind in zip(NAMES[names], [*key, *chosen], strict=False)}
    keys = tuple(kinds)[: len(key)]
    columns = tuple(Column(n, k.type, k.sql_type, n not in keys) for n, k in kinds.items())
    table = TableSchema("public.t", columns, keys, draw(st.integers(1, 3)))
    count = draw(st.integers(1, 6))
    op = draw(st.lists(st.sampled_from(OPERATIONS), min_size=count, max_size=count))

    def row() -> dict[str, Any]:
        return {
            name: draw(k.values if name in keys else st.none() | k.values)
            for name, k in kinds.items()
        }

    rows = [row() for _ in range(count)]
    old = [row() if draw(st.booleans()) else None for _ in range(count)]
    deleted = [letter == D for letter in op]
    kept = [
        {n: v if n in keys or not gone else None for n, v in r.items()}
        for r, gone in zip(rows, deleted, strict=True)
    ]
    arrays = [array([r[n] for r in kept], k.type) for n, k in kinds.items()]
    before = [array([r and r[n] for r in old], k.type) for n, k in kinds.items()]
    with_before = any(r is not None for r in old)
    changes = ChangeBatch(
        table,
        np.array(op, np.uint8),
        np.array(draw(st.lists(st.integers(0, 2**62), min_size=count, max_size=count)), np.int64),
        np.array(draw(st.lists(st.integers(0, 10**6), min_size=count, max_size=count)), np.int64),
        np.array(draw(st.lists(st.integers(0, 2**52), min_size=count, max_size=count)), np.int64),
        pa.RecordBatch.from_arrays(arrays, schema=table.arrow),
        pa.RecordBatch.from_arrays(before, schema=table.arrow) if with_before else None,
        np.array([r is not None for r in old]) if with_before else None,
    )
    return Case(changes, kinds, options, kept, old)


def same(found: Any, wanted: Any) -> bool:
    """Equality in which NaN equals NaN and `...` equals anything."""
    if wanted is ...:
        return True
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and found.keys() == wanted.keys()
            and all(same(found[name], wanted[name]) for name in wanted)
        )
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, float) and math.isnan(wanted):
        return math.isnan(found)
    return bool(found == wanted) and type(found) is type(wanted)


def assert_read_back(found: ChangeBatch, case: Case) -> None:
    """The changes that were read are those that were written."""
    wanted = case.changes
    assert found.schema == wanted.schema
    for name in ("op", "txn_seq", "ordinal", "commit_us"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist(), name
    assert_equal_columns(found.rows, wanted.rows)
    key = set(wanted.schema.key)
    for i, old in enumerate(case.before):
        # A delete's old row that holds nothing but the key says nothing new.
        says = old is not None and (
            wanted.op[i] != D or any(v is not None for n, v in old.items() if n not in key)
        )
        assert bool(found.has_before is not None and found.has_before[i]) == says, i
        if says:
            assert found.before is not None and wanted.before is not None
            assert_equal_columns(found.before.slice(i, 1), wanted.before.slice(i, 1))


def assert_equal_columns(found: pa.RecordBatch, wanted: pa.RecordBatch) -> None:
    # Arrow's full validation does not know Postgres's 24:00:00.
    found.validate(full=not any("time" in str(field.type) for field in found.schema))
    for name, one, other in zip(wanted.schema.names, found.columns, wanted.columns, strict=True):
        assert one.type == other.type
        assert same(plain(one), plain(other)), (name, one, other)


def plain(column: pa.Array) -> list[Any]:
    """Python values without going through datetime, which has fewer years."""
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        return column.storage.to_pylist()
    if pa.types.is_date(kind):
        return column.view(pa.int32()).to_pylist()
    if pa.types.is_temporal(kind):
        return column.view(pa.int64()).to_pylist()
    if pa.types.is_list(kind):
        return [None if not v.is_valid else plain(v.values) for v in column]
    return column.to_pylist()
