"""Schema versions from statements and descriptions: cdc/mysql/evolution.py, retyping.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from cdc.errors import BadData, SchemaChanged, SnapshotNeeded, SourceError
from cdc.mysql.binlog import Tables, decode
from cdc.mysql.captured import CapturedTables
from cdc.mysql.events import Kind
from cdc.mysql.evolution import Evolution, as_table, continued
from cdc.mysql.grouping import sort
from cdc.mysql.reached import reached
from cdc.mysql.retyping import carries
from cdc.mysql.rows import compile_table
from cdc.mysql.statements import has_escapes, is_strict, updated_databases
from cdc.mysql.table_maps import TableMap, resolve, table_map
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import FieldType, table_schema
from cdc.positions import GtidSet
from cdc.schema import TableSchema
from tests.unit.mysql_captured import MYSQL
from tests.unit.mysql_captured import events as captured_events

UTF8, LATIN1, BINARY = 255, 8, 63
INT, BIGINT = MyType(FieldType.LONG), MyType(FieldType.LONGLONG)
UNSIGNED = replace(INT, unsigned=True)


def varchar(n: int, collation: int = UTF8) -> MyType:
    width = {UTF8: 4, LATIN1: 1, BINARY: 1}[collation]
    return MyType(FieldType.VARCHAR, n * width, collation=collation)


def char(n: int, collation: int = UTF8) -> MyType:
    return replace(varchar(n, collation), code=FieldType.STRING)


def text(width: int, collation: int = UTF8) -> MyType:
    return MyType(FieldType.BLOB, width, collation=collation)


def decimal(precision: int, scale: int) -> MyType:
    return MyType(FieldType.NEWDECIMAL, precision << 8 | scale)


def enum(*labels: str) -> MyType:
    return MyType(FieldType.ENUM, 1, collation=UTF8, labels=labels)


def a_set(*labels: str) -> MyType:
    return replace(enum(*labels), code=FieldType.SET)


def table(key: str = "id", **columns: MyType) -> MyTable:
    made = tuple(MyColumn(name, kind, name != key) for name, kind in columns.items())
    return MyTable("d.t", made, (key,) if key else ())


FIRST = table(id=BIGINT, a=INT, s=varchar(20))


def evolution(first: MyTable = FIRST, *, fold: bool = False) -> Evolution:
    return Evolution("shop", {"d.t": table_schema(first, "null")}, "null", fold)


def numbers(schema: TableSchema) -> list[tuple[str, int]]:
    return [(c.name, c.attnum) for c in schema.columns]


def test_the_same_description_is_the_same_version() -> None:
    made = evolution()
    known = made.schemas["d.t"]
    assert made.described(FIRST) is known
    made.statement("ALTER TABLE t ADD INDEX (a)", "d")
    assert made.is_touched("d.t")
    assert made.described(FIRST) is known and not made.is_touched("d.t")


def test_a_description_and_back() -> None:
    assert as_table(evolution().schemas["d.t"]) == FIRST


def test_several_statements_between_two_descriptions() -> None:
    made = evolution()
    made.statement("ALTER TABLE t ADD b INT NOT NULL DEFAULT 7, RENAME COLUMN a TO b2", "d")
    made.statement("ALTER TABLE t RENAME COLUMN b2 TO a2, CHANGE b c INT NOT NULL FIRST", "d")
    made.statement("ALTER TABLE t DROP s", "d")
    found = made.described(table(c=INT, id=BIGINT, a2=INT))
    assert numbers(found) == [("c", 4), ("id", 1), ("a2", 2)]
    assert found.column("c").missing == "7" and found.version == 2


def test_names_swapped() -> None:
    made = evolution(table(id=BIGINT, a=INT, b=INT))
    made.statement("ALTER TABLE t RENAME COLUMN a TO b, RENAME COLUMN b TO a", "d")
    found = made.described(table(id=BIGINT, b=INT, a=INT))
    assert numbers(found) == [("id", 1), ("b", 2), ("a", 3)]


def test_an_added_column_of_each_kind() -> None:
    made = evolution()
    made.statement(
        "ALTER TABLE t ADD (x DECIMAL(9,2) DEFAULT 1.5, y VARCHAR(9) NOT NULL, z JSON, "
        "e ENUM('p','q') DEFAULT 'q', d DATE DEFAULT '2020-01-02')",
        "d",
    )
    more = (
        *FIRST.columns,
        MyColumn("x", decimal(9, 2), True),
        MyColumn("y", varchar(9), False),
        MyColumn("z", text(4), True),
        MyColumn("e", enum("p", "q"), True),
        MyColumn("d", MyType(FieldType.DATE), True),
    )
    found = made.described(replace(FIRST, columns=more))
    assert [c.missing for c in found.columns[3:]] == ["1.5", "", None, "q", "2020-01-02"]
    assert found.column("z").sql_type == "json"


@pytest.mark.parametrize(
    ("clause", "kind"),
    [
        ("ADD x DATETIME DEFAULT CURRENT_TIMESTAMP", MyType(FieldType.DATETIME2)),
        ("ADD x TIME DEFAULT '10:00'", MyType(FieldType.TIME2)),
        ("ADD x BINARY(4) DEFAULT 'a'", char(4, BINARY)),
        ("ADD x INT DEFAULT 'abc'", INT),
        ("ADD x DECIMAL(4,1) DEFAULT 1.25", decimal(4, 1)),
        ("ADD x DATE DEFAULT '0000-00-00'", MyType(FieldType.DATE)),
        ("ADD x INT AS (a + 1)", INT),
        ("ADD x VARCHAR(2) DEFAULT 'ab  '", varchar(2)),
    ],
)
def test_added_with_a_value_that_is_not_known(clause: str, kind: MyType) -> None:
    made = evolution()
    made.statement(f"ALTER TABLE t {clause}", "d")
    with pytest.raises(SnapshotNeeded, match="x was added"):
        made.described(replace(FIRST, columns=(*FIRST.columns, MyColumn("x", kind, True))))


def test_what_no_statement_explains() -> None:
    with pytest.raises(SnapshotNeeded, match="no statement added the column b"):
        evolution().described(table(id=BIGINT, a=INT, s=varchar(20), b=INT))
    with pytest.raises(SnapshotNeeded, match="no statement dropped the column s"):
        evolution().described(table(id=BIGINT, a=INT))


def test_retyped() -> None:
    made = evolution()
    made.statement("ALTER TABLE t MODIFY a BIGINT", "d")
    found = made.described(table(id=BIGINT, a=BIGINT, s=varchar(20)))
    assert found.column("a").type == pa.int64() and found.column("a").attnum == 2
    made.statement("ALTER TABLE t MODIFY a INT", "d")
    with pytest.raises(SnapshotNeeded, match="a is integer, it was bigint"):
        made.described(FIRST)


def test_not_null_without_strict_mode_changes_values() -> None:
    strict, lax = evolution(), evolution()
    strict.statement("ALTER TABLE t MODIFY a INT NOT NULL", "d")
    lax.statement("ALTER TABLE t MODIFY a INT NOT NULL", "d", strict=False)
    now = replace(FIRST, columns=tuple(replace(c, nullable=False) for c in FIRST.columns))
    assert not strict.described(now).column("a").nullable
    with pytest.raises(SnapshotNeeded, match="a is integer NOT NULL, it was integer"):
        lax.described(now)


@pytest.mark.parametrize(
    "now", [table(id=BIGINT, a=INT, s=varchar(20)), table("a", id=INT, a=INT, s=varchar(20))]
)
def test_another_key_or_type_of_key_stops(now: MyTable) -> None:
    made = evolution(table(id=INT, a=INT, s=varchar(20)))
    made.statement("ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (a)", "d")
    with pytest.raises(SchemaChanged, match="its key is"):
        made.described(now)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t DROP PRIMARY KEY",
        "ALTER TABLE t DROP INDEX k",
        "ALTER TABLE t MODIFY id BIGINT NULL",
        "DROP INDEX k ON t",
        "CREATE OR REPLACE TABLE t (id BIGINT NOT NULL, a INT, s VARCHAR(20))",
    ],
)
def test_a_key_that_may_be_gone_is_looked_up(statement: str) -> None:
    made = evolution()
    made.statement(statement, "d")
    keyless = TableMap("d.t", FIRST.columns, (), typed=True, named=True)
    with pytest.raises(SnapshotNeeded, match="its key id bigint may have been dropped"):
        made.described(resolve(keyless, as_table(made.schemas["d.t"])))


def test_a_unique_index_of_which_table_maps_say_nothing_is_the_key_until_a_statement_comes() -> (
    None
):
    made = evolution()
    keyless = TableMap("d.t", FIRST.columns, (), typed=True, named=True)
    found = made.described(resolve(keyless, as_table(made.schemas["d.t"])))
    assert found is made.schemas["d.t"] and found.key == ("id",)


@pytest.mark.parametrize("clause", ["DROP INDEX other", "DROP PRIMARY KEY, ADD PRIMARY KEY (id)"])
def test_a_key_that_the_rows_still_say_is_kept(clause: str) -> None:
    made = evolution()
    made.statement(f"ALTER TABLE t {clause}", "d")
    assert made.described(FIRST) is made.schemas["d.t"]


def test_emptied_dropped_made_anew() -> None:
    made = evolution()
    assert made.statement("TRUNCATE t", "d") == ("d.t",)
    assert made.statement("CREATE TABLE IF NOT EXISTS t (id INT)", "d") == ()
    assert not made.is_touched("d.t")
    assert made.statement("DROP TABLE u, t", "d") == ("d.t",)
    assert made.statement("CREATE TABLE t (id BIGINT PRIMARY KEY, a VARCHAR(3))", "d") == ()
    found = made.described(table(id=BIGINT, a=varchar(3)))
    assert numbers(found) == [("id", 1), ("a", 4)]
    assert made.statement("CREATE OR REPLACE TABLE t (id BIGINT)", "d") == ("d.t",)
    assert made.statement("DROP DATABASE d", "x") == ("d.t",)


def test_renamed_tables() -> None:
    with pytest.raises(SnapshotNeeded, match="another table was renamed to it"):
        evolution().statement("RENAME TABLE t TO _t_del, _t_gho TO t", "d")
    with pytest.raises(SchemaChanged, match=r"now called d\.u"):
        evolution().statement("ALTER TABLE t RENAME u", "d")
    assert evolution().statement("RENAME TABLE v TO u", "d") == ()


def test_rows_changed_by_statements() -> None:
    with pytest.raises(SourceError, match="logged as a statement"):
        evolution().statement("UPDATE t SET a = 1", "d")
    assert evolution().statement("UPDATE other SET a = 1", "d") == ()
    assert evolution().statement("UPDATE other SET a = 1", "x", updated=("x",)) == ()
    for updated in (("x", "d"), None):
        with pytest.raises(SourceError, match="logged as a statement"):
            evolution().statement("UPDATE other SET a = 1", "x", updated=updated)
    made = evolution()
    made.statement("CREATE TABLE other (a int)", "d", updated=("d",))
    made.statement("CREATE TABLE filled SELECT 1 AS a", "d")
    assert made.made == {"d.other": True, "d.filled": False}


def test_names_compare_without_case_where_the_server_does() -> None:
    assert evolution().statement("TRUNCATE T", "D") == ()
    assert evolution(fold=True).statement("TRUNCATE T", "D") == ("d.t",)


def test_tables_made_under_names_that_are_not_captured() -> None:
    made = evolution(fold=True)
    made.statement("CREATE TABLE New (id INT)", "D")
    made.statement("RENAME TABLE x TO Y", "d")
    assert made.made == {"d.new": True, "d.y": False}


def test_rewritten() -> None:
    with pytest.raises(SnapshotNeeded, match="a partition was dropped"):
        evolution().statement("ALTER TABLE t DROP PARTITION p", "d")


def test_continued_after_reading_again() -> None:
    known = evolution().schemas["d.t"]
    assert continued(known, table_schema(FIRST, "null")) is known
    found = continued(known, table_schema(table(s=varchar(9), id=BIGINT, a=varchar(3)), "null"))
    assert numbers(found) == [("s", 3), ("id", 1), ("a", 2)] and found.version == 2
    again = continued(found, table_schema(table(id=BIGINT, a=INT), "null"))
    assert numbers(again) == [("id", 1), ("a", 4)]


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (INT, BIGINT, True),
        (BIGINT, INT, False),
        (INT, UNSIGNED, False),
        (decimal(9, 2), decimal(11, 4), True),
        (decimal(9, 2), decimal(9, 4), False),
        (MyType(FieldType.FLOAT, 4), MyType(FieldType.DOUBLE, 8), True),
        (varchar(10), varchar(20), True),
        (varchar(20), varchar(10), False),
        (varchar(10), char(10), False),
        (char(10), varchar(10), True),
        (varchar(10, LATIN1), varchar(10), True),
        (varchar(10), varchar(10, LATIN1), False),
        (varchar(10), text(2), True),
        (varchar(100), text(1), False),
        (varchar(3, BINARY), varchar(3), False),
        (char(3, BINARY), char(5, BINARY), False),
        (varchar(3, BINARY), varchar(5, BINARY), True),
        (enum("a", "b"), enum("b", "c", "a"), True),
        (enum("a", "b"), enum("a"), False),
        (a_set("a", "b"), a_set("c", "a", "d", "b"), True),
        (a_set("a", "b"), a_set("b", "a"), False),
        (a_set("a", "b"), a_set("a"), False),
        (MyType(FieldType.DATETIME2, 0), MyType(FieldType.DATETIME2, 6), True),
        (MyType(FieldType.DATETIME2, 6), MyType(FieldType.DATETIME2, 3), False),
        (MyType(FieldType.DATETIME), MyType(FieldType.DATETIME2), True),
        (MyType(FieldType.TIMESTAMP2), MyType(FieldType.DATETIME2), False),
        (MyType(FieldType.BIT, 1 << 8), MyType(FieldType.BIT, 2 << 8), False),
    ],
)
def test_which_conversions_keep_values(then: MyType, now: MyType, expected: bool) -> None:
    assert carries(then, now) is expected


def test_a_column_added_if_it_does_not_exist_stays_what_it_is() -> None:
    made = evolution()
    made.statement("ALTER TABLE d.t ADD COLUMN IF NOT EXISTS a int DEFAULT 7", "d")
    assert made.described(FIRST) is made.schemas["d.t"]
    assert numbers(made.schemas["d.t"]) == [("id", 1), ("a", 2), ("s", 3)]


def test_notes_are_of_tables_that_are_not_described_yet() -> None:
    wider = table(id=BIGINT, a=INT, s=varchar(20), b=INT)
    schemas = {"d.t": table_schema(FIRST, "null")}
    schemas["d.u"] = replace(schemas["d.t"], name="d.u")
    made = Evolution("shop", dict(schemas), "null")
    made.statement("ALTER TABLE d.t ADD b int", "d")
    made.statement("ALTER TABLE d.u CHANGE a c int, ADD b int DEFAULT 3", "d")
    then = made.described(wider)
    again = Evolution("shop", dict(made.schemas), "null")
    again.resume(json.loads(json.dumps(made.notes())))
    assert again.described(wider) is then
    altered = replace(table(id=BIGINT, c=INT, s=varchar(20), b=INT), name="d.u")
    assert numbers(again.described(altered)) == [("id", 1), ("c", 2), ("s", 3), ("b", 4)]
    assert again.described(altered) == made.described(altered) and not made.notes()


def test_one_decoder_while_a_table_stays_what_it_is() -> None:
    """Also under another number: rows of one table are then decoded in their order."""
    maps = [e for e in captured_events(MYSQL) if e[4] == Kind.TABLE_MAP]
    body = maps[0][:19] + bytes([7]) + maps[0][20:]
    found = resolve(table_map(maps[0], mariadb=False), None)
    schemas = {found.name: table_schema(found, "null")}
    captured = CapturedTables(Evolution("shop", schemas, "null"), mariadb=False)
    first = captured.on_table_map(maps[0])
    assert first is not None and captured.on_table_map(body) is first


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"", ()),
        (b"\x0c\x02d\0e\xc3\xa4\0\x0d123", ("d", "eä")),
        (b"\x06\x03std\x05\x03UTC\x0b\x01u\x02hh\x0c\x01d\0", ("d",)),
        (b"\0....\x01........\x04......\x0c\xfe", None),
    ],
)
def test_databases_that_a_statement_changes(
    status: bytes, expected: tuple[str, ...] | None
) -> None:
    event = bytes(30) + len(status).to_bytes(2, "little") + status + b"d\0UPDATE t SET a = 1"
    assert updated_databases(event) == expected


@pytest.mark.parametrize(
    ("mode", "strict", "escapes"),
    [
        (1 << 20, False, False),  # NO_BACKSLASH_ESCAPES
        (1 << 21, True, True),  # STRICT_TRANS_TABLES
        (1 << 22, True, True),  # STRICT_ALL_TABLES
        (1 << 23, False, True),  # NO_ZERO_IN_DATE
    ],
)
def test_the_mode_of_a_statement(mode: int, strict: bool, escapes: bool) -> None:
    status = b"\0\0\0\0\0\1" + mode.to_bytes(8, "little") + b"\x06\x03std"
    event = bytes(30) + len(status).to_bytes(2, "little") + status + b"d\0TRUNCATE t"
    assert (is_strict(event), has_escapes(event)) == (strict, escapes)


@pytest.mark.parametrize("kind", [Kind.DELETE_ROWS, Kind.UPDATE_ROWS])
def test_an_old_row_without_its_key_is_refused(kind: Kind) -> None:
    """A minimal image has the key that the server takes: b, which is 5."""
    gtid = _event(Kind.GTID, bytes(60))
    begin = _event(Kind.QUERY, bytes(13) + b"\0BEGIN")
    number = bytes([7, 0, 0, 0, 0, 0, 1, 0])
    named = _event(Kind.TABLE_MAP, number + b"\1d\0\1t\0\3\3\3\3\0\4")
    old = b"\0" + (5).to_bytes(4, "little")
    body = b"\2" + old if kind == Kind.DELETE_ROWS else b"\2\1" + old + old
    changed = _event(kind, number + b"\2\0\3" + body)
    found = sort([gtid, begin, named, changed, _event(Kind.XID, bytes(8))])
    same, other = (_decoding(table(key, a=INT, b=INT, v=INT)) for key in ("b", "a"))
    ((_, changes),) = decode(found, same, None, reached(GtidSet())).changes
    assert changes.rows.column("b").to_pylist() == [5]
    with pytest.raises(SourceError, match="without a, a column of its key"):
        decode(found, other, None, reached(GtidSet()))


def _decoding(known: MyTable) -> Tables:
    """Every table map is of this table; what is left out stays away."""
    decoder = compile_table(known, table_schema(known, "null"), "null")
    return Tables(lambda _: decoder, lambda _, changes, *left_out: changes)


def _event(kind: Kind, body: bytes) -> bytes:
    head = bytes(4) + bytes([kind]) + b"\1\0\0\0" + (19 + len(body)).to_bytes(4, "little")
    return head + bytes(6) + body


def test_numbers_of_tables_are_forgotten_between_transactions() -> None:
    """The server numbers a table anew whenever it opens it: they grow without end."""
    start = next(n for n, e in enumerate(captured_events(MYSQL)) if e[4] == Kind.GTID)
    stop = next(n for n, e in enumerate(captured_events(MYSQL)) if e[4] == Kind.XID)
    found = sort(captured_events(MYSQL)[start : stop + 1])
    captured = CapturedTables(Evolution("shop", {}, "null"), mariadb=False)
    tables = Tables(captured.on_table_map, captured.completion)
    tables.by_id.update({number.to_bytes(6, "little"): None for number in range(5000)})
    decode(found, tables, None, reached(GtidSet()))
    assert len(tables.by_id) == 1


def test_the_columns_of_tables_that_are_not_captured_need_not_be_understood() -> None:
    event = next(e for e in captured_events(MYSQL) if e[4] == Kind.TABLE_MAP)
    unreadable = event[:-20]
    found = resolve(table_map(event, mariadb=False), None)
    captured = CapturedTables(Evolution("shop", {}, "null"), mariadb=False)
    assert captured.on_table_map(unreadable) is None
    captured.begin({found.name: table_schema(found, "null")})
    with pytest.raises(BadData, match="cannot be read"):
        captured.on_table_map(unreadable)
