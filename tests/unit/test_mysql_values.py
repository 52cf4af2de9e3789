"""Values of MySQL's types, as they are laid out in row images."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.decode_mysql import decimal
from cdc import ragged
from cdc.errors import BadData
from cdc.mysql.charsets import CHARSETS, charset_of
from cdc.mysql.tables import MyType
from cdc.mysql.types import FieldType, ZeroDates, arrow_type
from cdc.mysql.values import compile_column, width
from cdc.mysql.values_decimal import size_bytes


def decode(
    kind: MyType, values: Sequence[bytes | None], zero_dates: ZeroDates = "null"
) -> pa.Array:
    buffer, starts, ends = ragged.join([value or b"" for value in values])
    valid = np.array([value is not None for value in values])
    slices = ragged.Slices(buffer, starts, ends - starts, None if valid.all() else valid)
    found = compile_column("shop.t.c", kind, zero_dates).decode(slices)
    assert found.type == arrow_type(kind)
    found.validate(full=True)
    return found


def listed(kind: MyType, *values: bytes | None, zero_dates: ZeroDates = "null") -> list[object]:
    found: list[object] = decode(kind, list(values), zero_dates).to_pylist()
    return found


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(
    ("code", "size"),
    [
        (FieldType.TINY, 1),
        (FieldType.SHORT, 2),
        (FieldType.INT24, 3),
        (FieldType.LONG, 4),
        (FieldType.LONGLONG, 8),
    ],
)
def test_integers_to_their_ends(code: int, size: int, unsigned: bool) -> None:
    bits = 8 * size
    ends = (0, 1, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), -1, 0, 2 ** (bits - 1) - 1)
    stored = [end.to_bytes(size, "little", signed=not unsigned) for end in ends]
    assert listed(MyType(code, unsigned=unsigned), *stored, None) == [*ends, None]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_decimals_of_every_size(data: st.DataObject) -> None:
    precision = data.draw(st.integers(1, 65))
    scale = data.draw(st.integers(0, min(precision, 30)))
    ends = st.sampled_from([0, 1, -1, 10**precision - 1, 1 - 10**precision])
    any_number = st.integers(1 - 10**precision, 10**precision - 1)
    numbers = data.draw(st.lists(st.none() | ends | any_number, min_size=1, max_size=20))
    kind = MyType(FieldType.NEWDECIMAL, precision << 8 | scale)
    stored = [None if n is None else decimal(n, precision, scale) for n in numbers]
    assert {len(value) for value in stored if value is not None} <= {size_bytes(precision, scale)}
    found = decode(kind, stored).to_pylist()
    texts = [f"{value:f}" if isinstance(value, Decimal) else value for value in found]
    assert texts == [None if n is None else printed(n, scale) for n in numbers]


def printed(number: int, scale: int) -> str:
    digits = str(abs(number)).rjust(scale + 1, "0")
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else f"{sign}{digits}"


def test_bytes_that_are_no_decimal_are_refused() -> None:
    kind = MyType(FieldType.NEWDECIMAL, 12 << 8 | 2)
    with pytest.raises(BadData, match="no decimal"):
        decode(kind, [b"\x80" + b"\xff" * 4 + b"\0"])
    assert listed(kind, b"\x80\0\0\0\0\0", None) == [Decimal("0.00"), None]


def test_floats_and_years() -> None:
    singles, doubles = [0.1, -3e38, 0.0], [0.1, 1e308, -5e-324]
    stored = [struct.pack("<f", value) for value in singles]
    assert listed(MyType(FieldType.FLOAT), *stored) == np.array(singles, np.float32).tolist()
    stored = [struct.pack("<d", value) for value in doubles]
    assert listed(MyType(FieldType.DOUBLE), *stored) == doubles
    assert listed(MyType(FieldType.YEAR), b"\0", b"\1", b"\xff", None) == [0, 1901, 2155, None]


def test_bits() -> None:
    assert listed(MyType(FieldType.BIT, 1), b"\1", b"\0", None) == [True, False, None]
    nine = MyType(FieldType.BIT, 1 << 8 | 1)
    assert width(nine).fixed == 2
    assert listed(nine, b"\1\xff", b"\0\0") == [b"\1\xff", b"\0\0"]


@pytest.mark.parametrize("digits", range(7))
def test_times_are_durations(digits: int) -> None:
    kind = MyType(FieldType.TIME2, digits)
    unit = 10 ** (6 - 2 * ((digits + 1) // 2))
    cases = [(0, 0), (1, 0), (3661, 0), (838 * 3600 + 59 * 60 + 59, 0)]
    cases += [(0, 500_000), (3661, 990_000)] if digits else []
    stored, wanted = [], []
    for seconds, micros in cases:
        for sign in (1, -1):
            whole = seconds // 3600 << 12 | seconds // 60 % 60 << 6 | seconds % 60
            size = (digits + 1) // 2
            number = sign * (whole << 8 * size | micros // unit)
            stored.append((number + (1 << 23 + 8 * size)).to_bytes(3 + size, "big"))
            clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            fraction = f".{micros:06}".rstrip("0").rstrip(".")
            negative = sign < 0 and (seconds or micros)
            wanted.append(f"{'-' if negative else ''}{clock}{fraction}")
    assert listed(kind, *stored, None) == [*wanted, None]


def packed(year: int, month: int, day: int, clock: int = 0) -> bytes:
    return (1 << 39 | (year * 13 + month) << 22 | day << 17 | clock).to_bytes(5, "big")


def test_datetimes_with_fractions() -> None:
    at = 23 << 12 | 59 << 6 | 58
    stored = packed(2024, 2, 29, at)
    for digits, fraction, micros in (
        (0, b"", 0),
        (1, b"\x5a", 900_000),
        (2, b"\x63", 990_000),
        (3, (9990).to_bytes(2, "big"), 999_000),
        (6, (999_999).to_bytes(3, "big"), 999_999),
    ):
        found = listed(MyType(FieldType.DATETIME2, digits), stored + fraction, None)
        assert found == [datetime(2024, 2, 29, 23, 59, 58, micros), None]  # noqa: DTZ001
    first, last = packed(1, 1, 1), packed(9999, 12, 31, at)
    found = listed(MyType(FieldType.DATETIME2), first, last)
    assert found == [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 58)]  # noqa: DTZ001


@pytest.mark.parametrize(
    "stored",
    [packed(2024, 1, 1, 24 << 12), packed(2024, 1, 1, 60), packed(10_000, 1, 1), b"\0" * 5],
    ids=["hour 24", "second 60", "year 10000", "no sign bit"],
)
def test_bytes_that_are_no_datetime_are_refused(stored: bytes) -> None:
    with pytest.raises(BadData, match="no date or time"):
        decode(MyType(FieldType.DATETIME2), [packed(2024, 1, 1), stored])


def test_invalid_dates() -> None:
    kind = MyType(FieldType.DATE)
    dates = ((0, 0, 0), (2023, 2, 29), (2024, 2, 29), (0, 1, 1))
    stored = [(d | m << 5 | y << 9).to_bytes(3, "little") for y, m, d in dates]
    year_0 = -719_528
    found = decode(kind, [*stored, None]).cast(pa.int32()).to_pylist()
    assert found == [None, None, 19_782, year_0, None]
    found = decode(kind, stored, "epoch").cast(pa.int32()).to_pylist()
    assert found == [0, 0, 19_782, year_0]
    with pytest.raises(BadData, match="00 00 00"):
        decode(kind, stored, "stop")
    with pytest.raises(BadData, match="no date"):
        decode(kind, [(1 | 13 << 5 | 2024 << 9).to_bytes(3, "little")])


def test_timestamps_are_utc_and_unsigned() -> None:
    kind = MyType(FieldType.TIMESTAMP2, 3)
    stored = [struct.pack(">IH", seconds, 1250) for seconds in (1, 2**31, 2**32 - 1)]
    wanted = [
        datetime.fromtimestamp(seconds, UTC).replace(microsecond=125_000)
        for seconds in (1, 2**31, 2**32 - 1)
    ]
    assert listed(kind, *stored, bytes(6)) == [*wanted, None]
    zero = listed(kind, bytes(6), zero_dates="epoch")
    assert zero == [datetime(1970, 1, 1, tzinfo=UTC)]


def test_the_older_forms_of_dates_and_times() -> None:
    moment = (20240229235958).to_bytes(8, "little")
    assert listed(MyType(FieldType.DATETIME), moment, bytes(8), None) == [
        datetime(2024, 2, 29, 23, 59, 58),  # noqa: DTZ001
        None,
        None,
    ]
    times = [(t & 0xFFFFFF).to_bytes(3, "little") for t in (0, 8385959, -10203)]
    assert listed(MyType(FieldType.TIME), *times) == ["00:00:00", "838:59:59", "-01:02:03"]
    seconds = struct.pack("<I", 86_400)
    assert listed(MyType(FieldType.TIMESTAMP), seconds) == [datetime(1970, 1, 2, tzinfo=UTC)]
    assert listed(MyType(FieldType.NEWDATE), (1 | 1 << 5 | 2024 << 9).to_bytes(3, "little")) == [
        date(2024, 1, 1)
    ]


def test_mariadbs_older_fractions() -> None:
    """As MariaDB 10.11 wrote them with mysql56_temporal_format=OFF: 2020-01-02 03:04:05.678 and
    -12:00:01.250."""
    moment = datetime(2020, 1, 2, 3, 4, 5, 678_000)  # noqa: DTZ001
    stored = bytes.fromhex("0042090a66c32e")
    assert listed(MyType(FieldType.DATETIME, 3), stored, bytes(7), None) == [moment, None, None]
    stored = bytes.fromhex("5e0d5da502a6")
    assert listed(MyType(FieldType.TIMESTAMP, 3), stored) == [moment.replace(tzinfo=UTC)]
    assert listed(MyType(FieldType.TIME, 3), bytes.fromhex("00b174729e")) == ["-12:00:01.25"]


@pytest.mark.parametrize(
    ("collation", "text"),
    [
        (255, "Zürich 漢字 😀"), (33, "Zürich 漢字"), (11, "plain"), (8, "Zürich €\x81"),
        (35, "Ġ漢"), (54, "😀a"), (62, "😀a"), (60, "😀a"), (51, "Жук"), (13, "表示ソ"),
        (28, "汉字"), (19, "한글"), (16, "שלום"), (18, "ไทย"), (2304, "é"), (1069, "é"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("code", [FieldType.STRING, FieldType.VARCHAR, FieldType.BLOB])
def test_text_of_any_character_set(collation: int, text: str, code: int) -> None:
    codec = charset_of(collation).codec
    encoded = b"".join(
        character.encode("latin1" if character == "\x81" else codec) for character in text
    )
    kind = MyType(code, 2 if code == FieldType.BLOB else 200, collation=collation)
    values = [encoded, b"", None, encoded[:0], encoded] * 4
    assert listed(kind, *values) == [text, "", None, "", text] * 4


def test_bytes_without_a_character_read_as_the_servers_say() -> None:
    assert listed(MyType(FieldType.VARCHAR, 9, collation=51), b"a\x98") == ["a?"]
    assert listed(MyType(FieldType.VARCHAR, 9, collation=10), b"a{}") == ["aäå"]
    assert listed(MyType(FieldType.VARCHAR, 9, collation=13), b"\x81\x5f") == ["\\"]


def test_every_single_byte_character_set_has_256_characters() -> None:
    for charset in CHARSETS.values():
        if charset.width == 1 and charset.name != "binary":
            collation = next(n for n in range(1, 300) if known(n) == charset.name)
            every = bytes(range(256))
            (found,) = listed(MyType(FieldType.VARCHAR, 255, collation=collation), every)
            assert isinstance(found, str) and len(found) == 256


def known(collation: int) -> str:
    try:
        return charset_of(collation).name
    except Exception:
        return ""


def test_text_that_is_not_of_its_character_set_is_refused() -> None:
    for collation, wrong in (
        (255, b"a\xff"),
        (33, b"\xed\xa0\x80"),
        (35, b"\xd8\x00"),
        (28, b"\xff"),
    ):
        with pytest.raises(BadData, match="not "):
            decode(MyType(FieldType.VARCHAR, 20, collation=collation), [b"", wrong])


def test_binary_is_padded_to_its_length() -> None:
    kind = MyType(FieldType.STRING, 4, collation=63)
    assert listed(kind, b"a", b"", None, b"abcd") == [b"a\0\0\0", bytes(4), None, b"abcd"]
    with pytest.raises(BadData, match="more than 4"):
        decode(kind, [b"abcde"])
    assert listed(MyType(FieldType.VARCHAR, 9, collation=63), b"a\0", None) == [b"a\0", None]


def test_lengths_of_strings_take_one_byte_or_two() -> None:
    for code in (FieldType.STRING, FieldType.VARCHAR):
        assert width(MyType(code, 255, collation=63)).prefix == 1
        assert width(MyType(code, 256, collation=63)).prefix == 2
    assert width(MyType(FieldType.VARCHAR_COMPRESSED, 254, collation=63)).prefix == 1
    assert width(MyType(FieldType.VARCHAR_COMPRESSED, 255, collation=63)).prefix == 2


def test_enums_and_sets() -> None:
    enum = MyType(FieldType.ENUM, 2, labels=("a", "ü"))
    assert listed(enum, b"\0\0", b"\2\0", None) == ["", "ü", None]
    with pytest.raises(BadData, match="value 3 of an enum with 2 labels"):
        decode(enum, [b"\3\0"])
    labels = tuple(f"m{n}" for n in range(64))
    whole = MyType(FieldType.SET, 8, labels=labels)
    stored = [(1 << 63 | 1).to_bytes(8, "little"), bytes(8), None, b"\xff" * 8]
    assert listed(whole, *stored) == ["m0,m63", "", None, ",".join(labels)]
    with pytest.raises(BadData, match="value 8 of a set with 3 labels"):
        decode(MyType(FieldType.SET, 1, labels=labels[:3]), [b"\x08"])


def test_geometry_is_wkb_or_ewkb() -> None:
    kind = MyType(FieldType.GEOMETRY, 4)
    wkb = struct.pack("<BI2d", 1, 1, 2.0, 3.0)
    ewkb = struct.pack("<BII2d", 1, 0x20000001, 4326, 2.0, 3.0)
    stored = [bytes(4) + wkb, struct.pack("<I", 4326) + wkb, None, b""]
    assert listed(kind, *stored) == [wkb, ewkb, None, b""]
    with pytest.raises(BadData, match="shorter"):
        decode(kind, [b"\0\0\0\0\1"])


def test_json_is_the_servers_text() -> None:
    assert listed(MyType(FieldType.JSON, 4), b"\x05\x07\x00", None) == ["7", None]
    kind = MyType(FieldType.BLOB, 4, collation=46, json=True)
    assert listed(kind, b'{"a":1}') == ['{"a":1}']


def test_mariadbs_uuid_and_addresses() -> None:
    binary = MyType(FieldType.STRING, 16, collation=63)
    uuid = MyType(FieldType.STRING, 16, collation=63, native="uuid")
    assert listed(uuid, bytes(range(14)), None) == ["00010203-0405-0607-0809-0a0b0c0d0000", None]
    inet6 = MyType(FieldType.STRING, 16, collation=63, native="inet6")
    assert listed(inet6, bytes(15) + b"\1", b"") == ["::1", "::"]
    addresses = ["2001:db8:0:1:1:1:1:1", "0:1:2:3:4:5:6:7", "1:0:2:0:3:4:5:0", "1:0:0:2:0:0:0:3"]
    printed = ["2001:db8::1:1:1:1:1", "::1:2:3:4:5:6:7", "1::2:0:3:4:5:0", "1:0:0:2::3"]
    packed = [socket.inet_pton(socket.AF_INET6, address) for address in addresses]
    assert listed(inet6, *packed) == printed
    inet4 = MyType(FieldType.STRING, 4, collation=63, native="inet4")
    assert listed(inet4, b"\x0a", b"\1\2\3\4") == ["10.0.0.0", "1.2.3.4"]
    assert listed(binary, b"") == [bytes(16)]
