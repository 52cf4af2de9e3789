"""Every type of MySQL and MariaDB with values at its ends, for test_types.py."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mysql import captured as read
from tests.mysql.captured import Meaning
from tests.services.mysql import FLAVOURS, Flavour


@dataclass(frozen=True)
class Typed:
    """A column, values as SQL has them (NULL comes by itself), what they mean, who has it."""

    definition: str
    values: tuple[str, ...]
    means: Meaning
    flavours: tuple[Flavour, ...] = FLAVOURS
    table: str = ""


def whole(bits: int, *, unsigned: bool = False) -> tuple[str, ...]:
    top = 2 ** (bits - (0 if unsigned else 1)) - 1
    least = 0 if unsigned else -top - 1
    return tuple(map(str, (least, least + 1, -1 if not unsigned else 1, 0, 1, 77, top - 1, top)))


DATES = ("'2024-02-29'", "'1000-01-01'", "'9999-12-31'", "'1970-01-01'", "'1969-12-31'",
         "'0001-01-01'", "'0000-00-00'", "'2024-00-10'", "'2024-05-00'")  # fmt: skip
TEXTS = ("''", "'a'", "'a  '", "'Grüße'", "'a\\\\b\\'c'", "'line\\nbreak'", "REPEAT('ü', 20)")
WIDE = (*TEXTS, "'Ж日本'", "'\\t'")
BYTES = ("''", "'abc'", "x'00'", "x'ff00ff0000'", "x'2000'", "x'20'", "x'deadbeef'")
MYSQL: tuple[Flavour, ...] = ("mysql",)
MARIADB: tuple[Flavour, ...] = ("mariadb",)


def times(digits: int) -> tuple[str, ...]:
    part = "" if not digits else "." + "123456"[:digits]
    low = "" if not digits else "." + "000001"[6 - digits :]
    return (
        *("'00:00:00'", "'838:59:59'", "'-838:59:59'", f"'12:34:56{part}'"),
        *(f"'-00:00:00{low}'", f"'-00:00:01{low}'", f"'-1:02:03{part}'", f"'100:00:00{part}'"),
    )


def moments(digits: int, first: str, last: str) -> tuple[str, ...]:
    part = "" if not digits else "." + "987654"[:digits]
    low = "" if not digits else "." + "000001"[6 - digits :]
    return (
        *(f"'{first}'", f"'{last}{part}'", f"'2024-02-29 23:59:59{part}'"),
        *(f"'1999-12-31 00:00:00{low}'", "'0000-00-00 00:00:00'"),
    )


TABLES: dict[str, Typed] = {
    **{
        f"{name}{'_unsigned' if unsigned else ''}": Typed(
            f"{name}{' unsigned' if unsigned else ''}",
            whole(bits, unsigned=unsigned),
            read.decimal if bits == 64 and unsigned else read.integer,
        )
        for name, bits in (
            *(("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)),
        )
        for unsigned in (False, True)
    },
    "zerofill": Typed("int(9) zerofill", ("0", "42", "4294967295"), read.integer),
    "bool": Typed("bool", ("true", "false", "127"), read.integer),
    "decimal_10_2": Typed(
        "decimal(10,2)",
        ("0", "-0.01", "0.01", "99999999.99", "-99999999.99", "12.30"),
        read.decimal,
    ),
    "decimal_9_9": Typed("decimal(9,9)", ("0", "0.123456789", "-0.999999999"), read.decimal),
    "decimal_38_10": Typed(
        "decimal(38,10)", ("0", f"{'9' * 28}.{'9' * 10}", f"-{'9' * 28}.{'9' * 10}"), read.decimal
    ),
    "decimal_65_30": Typed(
        "decimal(65,30)",
        ("0", f"{'9' * 35}.{'9' * 30}", f"-{'9' * 35}.{'9' * 30}", f"0.{'0' * 29}1", "-1.5"),
        read.text,
    ),
    "decimal_65_0": Typed("decimal(65,0)", ("0", "9" * 65, "-" + "9" * 65, "1"), read.text),
    "decimal_unsigned": Typed("decimal(12,3) unsigned", ("0", "999999999.999"), read.decimal),
    "float": Typed(
        "float", ("0", "0.1", "-3.402823466E+38", "1.17549435E-38", "1.5", "16777217"), read.single
    ),
    "double": Typed(
        "double",
        ("0", "-0e0", "0.1", "1.7976931348623157E+308", "-2.2250738585072014E-308", "1e15", "1e-7"),
        read.floating,
    ),
    "bit_1": Typed("bit(1)", ("b'0'", "b'1'"), read.flag),
    **{
        f"bit_{n}": Typed(f"bit({n})", ("0", "1", str(2**n - 1), str(2 ** (n - 1))), read.blob)
        for n in (2, 7, 8, 9, 16, 33, 63, 64)
    },
    "year": Typed("year", ("1901", "2155", "2024", "'0000'"), read.integer),
    "date": Typed("date", DATES, read.date),
    **{f"time_{n}": Typed(f"time({n})", times(n), read.duration) for n in (0, 1, 3, 4, 6)},
    **{
        f"datetime_{n}": Typed(
            f"datetime({n})",
            (*moments(n, "1000-01-01 00:00:00", "9999-12-31 23:59:59"), "'2024-00-01 01:02:03'"),
            read.moment,
        )
        for n in (0, 1, 2, 3, 5, 6)
    },
    **{
        f"timestamp_{n}": Typed(
            f"timestamp({n}) null",
            moments(n, "1970-01-01 00:00:01", "2038-01-19 03:14:07"),
            read.instant,
        )
        for n in (0, 1, 3, 4, 6)
    },
    "char": Typed("char(30)", TEXTS, read.text),
    "varchar": Typed("varchar(30)", (*WIDE, "'😀'"), read.text),
    "varchar_long": Typed(
        "varchar(300)", (*WIDE, "REPEAT('x', 300)", "REPEAT('é', 299)"), read.text
    ),
    "latin1": Typed(
        "varchar(30)", (*TEXTS, "'€'", "x'818d8f909d'"), read.text, table="CHARSET latin1"
    ),
    "utf8mb3": Typed("varchar(30)", WIDE, read.text, table="CHARSET utf8mb3"),
    "ucs2": Typed("varchar(30)", WIDE, read.text, table="CHARSET ucs2"),
    "utf16": Typed("char(30)", (*WIDE, "'😀'"), read.text, table="CHARSET utf16"),
    "cp1251": Typed("varchar(30)", ("''", "'Жук'", "'abc'"), read.text, table="CHARSET cp1251"),
    "sjis": Typed("varchar(30)", ("''", "'日本'", "'abc'"), read.text, table="CHARSET sjis"),
    "gbk": Typed("text", ("''", "'日本'", "'abc'"), read.text, table="CHARSET gbk"),
    **{
        name: Typed(name, (*WIDE, "'😀'", "REPEAT('é', 100)"), read.text)
        for name in ("tinytext", "text", "mediumtext", "longtext")
    },
    "large_text": Typed("longtext", ("REPEAT('0123456789', 30000)", "''"), read.text),
    "binary": Typed("binary(8)", BYTES, read.blob),
    "varbinary": Typed("varbinary(300)", (*BYTES, "REPEAT(x'00', 300)"), read.blob),
    **{
        name: Typed(name, BYTES, read.blob)
        for name in ("tinyblob", "blob", "mediumblob", "longblob")
    },
    "enum": Typed("enum('a','B','c,d','')", ("'a'", "'B'", "'c,d'", "''", "'wrong'"), read.text),
    "enum_wide": Typed(
        f"enum({','.join(repr(f'v{i}') for i in range(300))})",
        ("'v0'", "'v255'", "'v299'"),
        read.text,
    ),
    "enum_latin1": Typed("enum('ä','b')", ("'ä'", "'b'"), read.text, table="CHARSET latin1"),
    "set": Typed("set('a','b','c')", ("''", "'a'", "'a,c'", "'a,b,c'", "'wrong,b'"), read.text),
    "set_wide": Typed(
        f"set({','.join(repr(f'v{i}') for i in range(64))})",
        ("'v0'", "'v63'", "'v7,v8,v63'", "18446744073709551615"),
        read.text,
    ),
    "json": Typed(
        "json",
        (
            *("'null'", "'true'", "'1'", "'\"x\"'", "'[]'", "'{}'", "'1.5e10'", "'-0.1'"),
            *("'{\"b\": 1, \"a\": [1, 2, {\"c\": null}]}'", "'\"Grüße 😀 \\\\\"q\\\\\"\"'"),
            *("'18446744073709551615'", "'-9223372036854775808'", "'[[[[]]]]'"),
        ),
        read.text,
    ),
    "json_of_sql": Typed(
        "json",
        (
            "JSON_ARRAY(1.50, CAST('12:30:00.5' AS TIME(6)))",
            "JSON_OBJECT('d', DATE'2024-02-29')",
            *("CAST(TIMESTAMP'2024-02-29 12:00:00' AS JSON)", "JSON_ARRAY(x'00ff', b'101', 1e100)"),
            *(f"JSON_OBJECT('b', CAST(REPEAT('x', {n}) AS BINARY))" for n in (57, 58, 114, 200)),
        ),
        read.text,
        MYSQL,
    ),
    "point": Typed(
        "point", ("ST_GeomFromText('POINT(1 2)')", "ST_GeomFromText('POINT(1.5 -2)', 4326)"),
        read.wkb,
    ),
    "geometry": Typed(
        "geometry",
        (
            *("ST_GeomFromText('LINESTRING(0 0, 1 1)')", "ST_GeomFromText('POINT(0 0)')"),
            *("ST_GeomFromText('POLYGON((0 0, 1 0, 1 1, 0 0))')",),
            *("ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1), POINT(2 2))')",),
        ),
        read.wkb,
    ),
    "uuid": Typed(
        "uuid", ("'123e4567-e89b-12d3-a456-426614174000'", "'00000000-0000-0000-0000-000000000000'",
                 "'ffffffff-ffff-4fff-bfff-ffffffffffff'"), read.text, MARIADB,
    ),
    "inet6": Typed(
        "inet6",
        (
            *("'::1'", "'2001:db8::ff00:42:8329'", "'::'", "'::1.2.3.4'", "'::ffff:1.2.3.4'"),
            # A single group of zeros is left out too, unlike in inet_ntop.
            *("'2001:db8:0:1:1:1:1:1'", "'0:1:2:3:4:5:6:7'", "'1:0:2:0:3:4:5:0'"),
        ),
        read.text,
        MARIADB,
    ),
    "inet4": Typed("inet4", ("'127.0.0.1'", "'255.255.255.255'"), read.text, MARIADB),
}  # fmt: skip
