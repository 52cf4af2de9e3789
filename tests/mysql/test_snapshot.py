"""Snapshots of MySQL and MariaDB: at one position, every row once, whatever happens meanwhile.

The oracle of a position is the server's own binlog: which rows of `journal` the transactions up to
there inserted.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from cdc.errors import BadData, SourceError, SourceUnavailable
from cdc.mysql import ranges, read_views
from cdc.mysql.catalog import BinlogPoint, read_named, server, with_gtids
from cdc.mysql.connection import Connection, close, connect, query
from cdc.mysql.prepared import Packets, binary_rows
from cdc.mysql.read_views import Pinned, begin_view, pin
from cdc.mysql.result_rows import compile_result, decode_result
from cdc.mysql.select import snapshot_at_now
from cdc.mysql.snapshot import SnapshotPlan, SnapshotReader, launch_workers
from cdc.mysql.table_reader import ReadTable, TableAltered, read_rows, touch
from cdc.mysql.tables import MyTable, MyType
from cdc.mysql.types import FieldType, table_schema
from cdc.positions import GtidSet, MariaGtid, NativePosition
from cdc.schema import Column, TableSchema
from cdc.source import Piece
from demo.server_process import wait_until
from tests.fix_capture import DEADLINE_S
from tests.fix_mysql import MyDatabase, MyServer

JOURNAL = "CREATE TABLE journal (id bigint PRIMARY KEY, writer int NOT NULL)"
PINS = 4


@contextmanager
def writers(database: MyDatabase, count: int = 2) -> Iterator[None]:
    """Sessions that insert into `journal`, a row per transaction, as fast as they can."""
    stop = threading.Event()

    def write(number: int) -> None:
        with closing(database.connect()) as connection, connection.cursor() as cursor:
            if database.flavour == "mysql":
                cursor.execute("SET SESSION binlog_rows_query_log_events = ON")
            at = number
            while not stop.is_set():
                cursor.execute(f"INSERT INTO {database.name}.journal VALUES ({at}, {number})")
                at += count

    threads = [threading.Thread(target=write, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def logged(database: MyDatabase) -> list[tuple[str, set[int]]]:
    """Every transaction of the binlog: its GTID, and the rows of the journal that it inserted."""
    found: list[tuple[str, set[int]]] = []
    insert = re.compile(rf"INSERT INTO {database.name}\.journal VALUES \((\d+),")
    for file, *_ in database.query("SHOW BINARY LOGS"):
        for row in database.query(f"SHOW BINLOG EVENTS IN '{file}'"):
            kind, text = row[2], row[5]
            if kind == "Gtid":
                gtid = re.search(r"[0-9a-f-]{36}:\d+|\d+-\d+-\d+", text)
                assert gtid is not None
                found.append((gtid[0], set()))
            elif (match := insert.search(text)) and kind in ("Rows_query", "Annotate_rows"):
                found[-1][1].add(int(match[1]))
    return found


def inserted(transactions: Sequence[tuple[str, set[int]]], upto: NativePosition) -> set[int]:
    """The rows that the transactions up to the position inserted."""
    kind = GtidSet if isinstance(upto, GtidSet) else MariaGtid
    return set().union(*(ids for gtid, ids in transactions if upto.covers(kind.parse(gtid))))


def difference(view: set[int], expected: set[int]) -> tuple[set[int], set[int]]:
    """What a view has too much, and what it lacks."""
    return view - expected, expected - view


def journal(connection: Connection) -> set[int]:
    return {number for (number,) in query(connection, "SELECT id FROM journal")}


@contextmanager
def pinning(database: MyDatabase, url: str, sessions: int) -> Iterator[Any]:
    """A function that pins read views in that many sessions, and what each of them then sees."""
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(connect(url))) for _ in range(sessions + 1)]
        coordinator, *views = opened
        answers = server(coordinator)

        def begin(count: int) -> list[BinlogPoint | None]:
            return [begin_view(view, answers.mariadb) for view in views[:count]]

        def pinned() -> tuple[Pinned, list[set[int]]]:
            found = pin(coordinator, answers, begin, sessions)
            return found, [journal(view) for view in views[: found.sessions]]

        yield pinned


def limited(database: MyDatabase) -> str:
    """The URL of a user who must not lock."""
    right = "BINLOG MONITOR" if database.flavour == "mariadb" else "REPLICATION CLIENT"
    user = database.server.as_user(f"{right} ON *.*", f"SELECT ON {database.name}.*")
    return user.url(database.name)


@pytest.mark.service
@pytest.mark.parametrize("attempts", [0, 20], ids=["lock", "quiet"])
def test_read_views_are_exactly_at_their_position(
    my_database: MyDatabase, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(read_views, "ATTEMPTS", attempts)
    my_database.sql(JOURNAL)
    found: list[tuple[Pinned, list[set[int]]]] = []
    with writers(my_database), pinning(my_database, my_database.url, 3) as pinned:
        found += [pinned() for _ in range(PINS)]
    transactions = logged(my_database)
    methods = {at.method for at, _ in found}
    assert methods == {"lock"} if not attempts else methods <= {"lock", "quiet"}
    for at, views in found:
        expected = inserted(transactions, at.low)
        assert at.high is None
        assert [difference(view, expected) for view in views] == [(set(), set())] * 3


@pytest.mark.service
def test_without_writers_no_lock_is_taken(my_database: MyDatabase) -> None:
    my_database.sql(JOURNAL, "INSERT INTO journal VALUES (1, 1), (2, 1)")
    with pinning(my_database, limited(my_database), 2) as pinned:
        # Other tests may write into databases of their own.
        tries = (pinned() for _ in range(100))
        at, views = next(found for found in tries if found[0].method == "quiet")
    assert at.locked_s == 0
    assert views == [{1, 2}, {1, 2}]


@pytest.mark.service
def test_without_the_right_to_lock_nothing_is_promised_that_does_not_hold(
    my_database: MyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MariaDB: one session, exact. MySQL: between two positions, of which both hold."""
    monkeypatch.setattr(read_views, "ATTEMPTS", 0)
    my_database.sql(JOURNAL)
    found: list[tuple[Pinned, list[set[int]]]] = []
    with writers(my_database), pinning(my_database, limited(my_database), 3) as pinned:
        found += [pinned() for _ in range(PINS)]
    transactions = logged(my_database)
    for at, views in found:
        low = inserted(transactions, at.low)
        high = low if at.high is None else inserted(transactions, at.high)
        assert all(low <= view <= high for view in views)
        assert at.method == ("single" if my_database.flavour == "mariadb" else "catch up")
        assert len(views) == (1 if my_database.flavour == "mariadb" else 3)


@pytest.mark.service
def test_a_place_whose_gtids_the_server_cannot_say_is_no_position(mariadb: MyServer) -> None:
    """BINLOG_GTID_POS is NULL behind an event above max_allowed_packet: not the beginning."""
    database = mariadb.new_database()
    with closing(connect(database.url)) as connection:
        database.sql(
            "CREATE TABLE t (id int PRIMARY KEY, body longblob)",
            "INSERT INTO t VALUES (1, repeat('x', 16777215))",
        )
        point = begin_view(connection, mariadb=True)
        assert point is not None
        at_its_end = with_gtids(connection, point)
        database.sql("INSERT INTO t VALUES (2, '')")
        assert at_its_end is None or at_its_end.gtids
        assert with_gtids(connection, point) is None
        with pytest.raises(SourceError, match="which GTIDs"):
            read_views.exact_position(connection, server(connection), point)
        mariadb.sql("FLUSH BINARY LOGS")
    database.drop()


@pytest.mark.service
def test_the_lock_is_let_go_when_the_views_cannot_begin(
    my_database: MyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_views, "ATTEMPTS", 0)
    my_database.sql(JOURNAL)

    def begin(_: int) -> list[BinlogPoint | None]:
        raise SourceUnavailable("a worker ended")

    with closing(connect(my_database.url)) as connection:
        with pytest.raises(SourceUnavailable):
            pin(connection, server(connection), begin, 2)
        my_database.sql("INSERT INTO journal VALUES (1, 1)")


def plan(database: MyDatabase, *names: str) -> SnapshotPlan:
    with closing(connect(database.url)) as connection:
        found = server(connection)
    return SnapshotPlan(
        database.url,
        found,
        [f"{database.name}.{name}" for name in names],
        lambda table: table_schema(table, "null"),
        "null",
    )


@contextmanager
def reader(what: SnapshotPlan, workers: int = 2) -> Iterator[SnapshotReader]:
    with closing(connect(what.url)) as connection:
        opened = SnapshotReader(what, lambda **_: None, launch_workers(workers), connection)
        try:
            yield opened
        finally:
            opened.close()


def rows_of(pieces: Sequence[Piece], name: str) -> pa.Table:
    batches = [b.rows for piece in pieces for n, b in piece.changes if n == name]
    return pa.Table.from_batches(batches)


@pytest.mark.service
def test_a_snapshot_by_several_workers_while_others_write(
    my_database: MyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1)
    my_database.sql(
        JOURNAL,
        "CREATE TABLE big (id int PRIMARY KEY, note varchar(40), amount decimal(9,2))",
        "CREATE TABLE vacant (id int PRIMARY KEY)",
    )
    rows = [(n, f"note {n}" if n % 7 else None, n / 4) for n in range(6000)]
    my_database.insert("INSERT INTO big VALUES (%s, %s, %s)", rows)
    my_database.sql("ANALYZE TABLE big")
    with writers(my_database), reader(plan(my_database, "journal", "big", "vacant")) as snapshot:
        at = snapshot.pin()
        pieces = list(snapshot.pieces(50_000))
    expected = inserted(logged(my_database), at.low)
    journal_rows = rows_of(pieces, f"{my_database.name}.journal")
    assert set(journal_rows["id"].to_pylist()) == expected
    assert journal_rows.num_rows == len(expected)
    big = rows_of(pieces, f"{my_database.name}.big").sort_by("id")
    assert [tuple(r.values()) for r in big.to_pylist()] == my_database.query(
        "SELECT * FROM big ORDER BY id"
    )
    assert all(not p.whole and p.position == at.low and len(p.incomplete) == 3 for p in pieces)
    ordinals = np.concatenate([b.ordinal for p in pieces for _, b in p.changes])
    assert ordinals.tolist() == list(range(len(ordinals)))
    assert len([p for p in pieces if p.changes]) > 2


@pytest.mark.service
@pytest.mark.parametrize(
    "change",
    ["TRUNCATE TABLE t", "ALTER TABLE t ADD COLUMN extra int", "ALTER TABLE t ENGINE = InnoDB"],
)
def test_a_table_altered_as_the_snapshot_begins(my_database: MyDatabase, change: str) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    what = plan(my_database, "t")
    altered: list[str] = []

    def schema_of(table: MyTable) -> TableSchema:
        if not altered:
            altered.append(change)
            my_database.sql(change, "INSERT INTO t (id) VALUES (3)")
        return table_schema(table, "null")

    once = SnapshotPlan(what.url, what.server, what.names, schema_of, "null")
    with reader(once) as snapshot:
        snapshot.pin()
        pieces = list(snapshot.pieces(1_000_000))
    found = rows_of(pieces, f"{my_database.name}.t").to_pylist()
    assert [tuple(r.values()) for r in found] == my_database.query("SELECT * FROM t")


@pytest.mark.service
def test_reading_a_table_altered_since_the_read_view_says_so(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with closing(connect(my_database.url)) as connection:
        name = f"{my_database.name}.t"
        table = read_named(connection, [name])[name]
        begin_view(connection, server(connection).mariadb)
        my_database.sql("TRUNCATE TABLE t")
        with pytest.raises(TableAltered, match="altered or truncated"):
            touch(connection, [table])


@pytest.mark.service
def test_no_table_is_altered_while_its_snapshot_is_read(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with reader(plan(my_database, "t"), 1) as snapshot:
        snapshot.pin()
        with pytest.raises(Exception, match=r"[Ll]ock wait timeout"):
            my_database.sql("SET SESSION lock_wait_timeout = 1", "ALTER TABLE t ADD COLUMN x int")
        assert sum(p.num_rows for p in snapshot.pieces(1_000_000)) == 1
    my_database.sql("ALTER TABLE t ADD COLUMN x int")


@pytest.mark.service
def test_an_alter_table_that_waits_for_the_snapshot_does_not_stop_it(
    my_database: MyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands before every session that does not have the table yet: also before the one that
    looks for the ranges, which the workers wait for."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1)
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    my_database.insert("INSERT INTO t VALUES (%s)", [(n,) for n in range(6000)])
    my_database.sql("ANALYZE TABLE t")
    with reader(plan(my_database, "t")) as snapshot:
        query(snapshot.connection, "SET SESSION lock_wait_timeout = 2")
        snapshot.pin()
        alter = threading.Thread(
            target=my_database.sql, args=("ALTER TABLE t ADD COLUMN x int",), daemon=True
        )
        alter.start()
        wait_until(lambda: waiting(my_database), timeout_s=DEADLINE_S, what="ALTER TABLE to wait")
        assert sum(p.num_rows for p in snapshot.pieces(1_000_000)) == 6000
        assert waiting(my_database)
        snapshot.close()
        alter.join(DEADLINE_S)
        assert not alter.is_alive()


def waiting(database: MyDatabase) -> bool:
    """Whether somebody waits for one of the database's tables."""
    return bool(
        database.query(
            "SELECT 1 FROM information_schema.processlist "
            "WHERE db = %s AND state = 'Waiting for table metadata lock'",
            (database.name,),
        )
    )


@pytest.mark.service
def test_a_worker_that_is_killed_ends_the_snapshot(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with reader(plan(my_database, "t")) as snapshot:
        snapshot.pin()
        os.killpg(snapshot.workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(SourceUnavailable, match="worker ended"):
            list(snapshot.pieces(1_000_000))


@pytest.mark.service
def test_a_session_that_is_killed_ends_the_snapshot(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    user = my_database.server.as_user("ALL ON *.*")
    what = plan(my_database, "t")
    mine = SnapshotPlan(
        user.url(my_database.name), what.server, what.names, what.schema_of, what.zero_dates
    )
    with reader(mine, 1) as snapshot:
        snapshot.pin()
        for (number,) in my_database.query(
            "SELECT id FROM information_schema.processlist WHERE user = %s", (user.user,)
        ):
            my_database.sql(f"KILL {number}")
        with pytest.raises(SourceUnavailable):
            list(snapshot.pieces(1_000_000))


@pytest.mark.service
def test_a_missing_table_is_not_waited_for(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with reader(plan(my_database, "t", "gone"), 1) as snapshot, pytest.raises(SourceError):
        snapshot.pin()


KEYS: dict[str, tuple[str, Any]] = {
    "small ints": ("k smallint, PRIMARY KEY (k)", lambda r: (r.randint(-32768, 32767),)),
    "scattered": (
        "k bigint, PRIMARY KEY (k)",
        lambda r: (r.choice((-1, 1)) * 2 ** r.randint(0, 62) + r.randint(0, 9999),),
    ),
    "unsigned": (
        "k bigint unsigned, PRIMARY KEY (k)",
        lambda r: (2**64 - 1 - r.randint(0, 10**5),),
    ),
    "composite": (
        "k int, l varchar(9) COLLATE utf8mb4_general_ci, m decimal(7,2), PRIMARY KEY (l, k, m)",
        lambda r: (r.randint(0, 5), r.choice("aBÄß☃zZ 9"), r.randint(-99, 99) / 4),
    ),
    "few first": (
        "k int, l int, PRIMARY KEY (k, l)",
        lambda r: (r.randint(0, 2), r.randint(0, 10**6)),
    ),
    "text": (
        "k varchar(30) CHARACTER SET latin1 COLLATE latin1_german2_ci, PRIMARY KEY (k)",
        lambda r: ("".join(r.choice("aäAo'\\ z") for _ in range(r.randint(0, 12))),),
    ),
    # The servers convert a byte that is no character to a question mark.
    "no characters": (
        "k varchar(9) CHARACTER SET greek COLLATE greek_bin, PRIMARY KEY (k)",
        lambda r: (bytes(r.choice(b"?A\xae\xd2\xff") for _ in range(r.randint(0, 9))),),
    ),
    "wide characters": (
        "k varchar(9) CHARACTER SET utf16le, l varchar(9) CHARACTER SET gbk, PRIMARY KEY (k, l)",
        lambda r: ("".join(r.choice("aÄ☃𝄞") for _ in range(r.randint(0, 9))), r.choice("a中")),
    ),
    "bytes": ("k varbinary(9), PRIMARY KEY (k)", lambda r: (r.randbytes(r.randint(0, 9)),)),
    "fixed bytes": ("k binary(4), PRIMARY KEY (k)", lambda r: (r.randbytes(r.randint(0, 4)),)),
    "moments": (
        "k datetime(3), PRIMARY KEY (k)",
        lambda r: (
            r.choice(
                [
                    "0000-00-00 00:00:00",
                    f"{r.randint(1, 9999):04}-01-0{r.randint(0, 9)} 01:02:03.{r.randint(0, 999)}",
                ]
            ),
        ),
    ),
    "bits": (
        "k bit(64), l bit(3), PRIMARY KEY (k, l)",
        lambda r: (r.getrandbits(64) >> r.choice((0, 60)), r.getrandbits(3)),
    ),
    "floating": (
        "k float, l double, PRIMARY KEY (k, l)",
        lambda r: (
            r.choice((0, -0.1, 0.2, 3e38, 1e-40)),
            r.uniform(-1, 1) * 10.0 ** r.randint(-300, 300),
        ),
    ),
    "float first": (
        "k float, PRIMARY KEY (k)",
        lambda r: (r.uniform(-1, 1) * 10.0 ** r.randint(-40, 37),),
    ),
    "durations": (
        "k time(3), PRIMARY KEY (k)",
        lambda r: (
            f"{r.choice(('-', ''))}{r.randint(0, 838)}:00:0{r.randint(0, 9)}.{r.randint(0, 999)}",
        ),
    ),
    "years": (
        "k year, l int, PRIMARY KEY (k, l)",
        lambda r: (r.choice(("0000", *range(1901, 2156))), r.randint(0, 99)),
    ),
    "no primary key": (
        "k int NOT NULL, l int NOT NULL, UNIQUE KEY u (l, k)",
        lambda r: (r.randint(0, 99), r.randint(0, 10**6)),
    ),
    "enums": (
        "k enum('b','a','c'), l int, PRIMARY KEY (k, l)",
        lambda r: (r.choice("abc"), r.randint(0, 10**6)),
    ),
}


def spread(generator: random.Random, exponent: int) -> float:
    return generator.uniform(-1, 1) * 10.0 ** generator.randint(-exponent, exponent)


@pytest.mark.service
@pytest.mark.parametrize("name", KEYS)
def test_ranges_have_every_row_exactly_once(
    my_database: MyDatabase, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    small_ranges(monkeypatch)
    assert count_of_ranges(my_database, *KEYS[name]) > 2 or name == "enums"


@pytest.mark.service
def test_ranges_of_a_key_of_mariadbs_own_types(
    mariadb: MyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ranges(monkeypatch)
    database = mariadb.new_database()

    def made(r: random.Random) -> tuple[str, str]:
        number = r.choice((7, r.getrandbits(128)))
        address = ipaddress.IPv6Address(r.getrandbits(128) >> r.choice((0, 90, 127)))
        return str(UUID(int=number)), str(address)

    definition = "u uuid, a inet6, PRIMARY KEY (u, a)"
    assert count_of_ranges(database, definition, made) > 2
    database.drop()


def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1)
    monkeypatch.setattr(ranges, "LEAST_ROWS", 100)


def count_of_ranges(database: MyDatabase, definition: str, made: Any) -> int:
    """How many ranges a table with such rows has, which together have every row once."""
    seed = random.randrange(2**32)
    generator = random.Random(seed)
    rows = [made(generator) for _ in range(1500)]
    database.sql(f"CREATE TABLE t ({definition})")
    marks = ", ".join(["%s"] * len(rows[0]))
    with closing(database.connect()) as writing, writing.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        cursor.executemany(f"INSERT IGNORE INTO t VALUES ({marks})", rows)
    database.sql("ANALYZE TABLE t")
    with closing(connect(database.url)) as connection:
        table = read_named(connection, [f"{database.name}.t"])[f"{database.name}.t"]
        keys = ", ".join(f"HEX({c})" for c in table.key)
        parts = list(ranges.cut(connection, table))
        found = [
            row
            for part in parts
            for row in query(
                connection,
                f"SELECT {keys} FROM {ranges.forced(table)} WHERE {part.condition or 'true'}",
            )
        ]
        everything = query(connection, f"SELECT {keys} FROM t")
    assert sorted(found) == sorted(everything), f"seed {seed}"
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    return len(parts)


@pytest.mark.service
def test_an_empty_table_is_one_range(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with closing(connect(my_database.url)) as connection:
        (table,) = read_named(connection, [f"{my_database.name}.t"]).values()
        assert [p.condition for p in ranges.cut(connection, table)] == [""]


@pytest.mark.service
def test_rows_of_more_than_a_packet(my_database: MyDatabase) -> None:
    limit = 2**24 - 1
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY, body longblob)")
    sizes = [0, limit - 30, limit, 100, 2 * limit, 7]
    my_database.sql(
        *(f"INSERT INTO t VALUES ({n}, repeat('x', {size}))" for n, size in enumerate(sizes)),
        init_command="SET SESSION sql_mode = ''",
    )
    with closing(connect(my_database.url)) as connection:
        (table,) = read_named(connection, [f"{my_database.name}.t"]).values()
        read = ReadTable(table, table_schema(table, "null"), "null")
        found = [
            (number, None if body is None else len(body), set(body or b""))
            for batch in read_rows(connection, read)
            for number, body in zip(*(c.to_pylist() for c in batch.columns), strict=True)
        ]
        stored = my_database.query("SELECT id, length(body) FROM t ORDER BY id")
        assert [(number, size) for number, size, _ in found] == stored
        assert all(letters <= set(b"x") for _, _, letters in found)
        assert query(connection, "SELECT 1") == [(1,)]


@pytest.mark.service
def test_nulls_of_many_columns(my_database: MyDatabase) -> None:
    count, generator = 130, random.Random(7)
    columns = ", ".join(f"c{n} {'varchar(9)' if n % 3 else 'int'}" for n in range(count))
    my_database.sql(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    rows = [
        [n, *(None if generator.random() < 0.4 else 5 for _ in range(count))] for n in range(50)
    ]
    marks = ", ".join(["%s"] * (count + 1))
    my_database.insert(f"INSERT INTO t VALUES ({marks})", rows)
    with closing(connect(my_database.url)) as connection:
        (table,) = read_named(connection, [f"{my_database.name}.t"]).values()
        read = ReadTable(table, table_schema(table, "null"), "null")
        found = [tuple(r.values()) for b in read_rows(connection, read) for r in b.to_pylist()]
    assert found == my_database.query("SELECT * FROM t ORDER BY id")


@pytest.mark.service
def test_a_statement_that_fails_leaves_the_connection_usable(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    connection = connect(my_database.url)
    with pytest.raises(Exception, match="more than 1 row"):
        list(binary_rows(connection, "SELECT id, (SELECT id FROM t) FROM t"))
    assert query(connection, "SELECT 1") == [(1,)]
    given_up = binary_rows(connection, "SELECT id FROM t")
    next(given_up)
    given_up.close()
    assert not connection.open
    close(connection)


@pytest.mark.service
def test_tables_at_an_exact_position(my_database: MyDatabase) -> None:
    my_database.sql(JOURNAL)
    name = f"{my_database.name}.journal"
    with closing(connect(my_database.url)) as connection:
        schema = table_schema(read_named(connection, [name])[name], "null")
    with writers(my_database), snapshot_at_now(my_database.url, "null") as read:
        found = [number for b in read.table(schema) for number in b["id"].to_pylist()]
    assert sorted(found) == sorted(inserted(logged(my_database), read.position))


def packets(*rows: bytes) -> Packets:
    body = b"".join(rows)
    ends = np.cumsum([len(row) for row in rows])
    starts = ends - [len(row) for row in rows]
    return Packets(np.frombuffer(body + bytes(64), np.uint8), starts, ends)


@pytest.mark.parametrize(
    "row",
    [
        b"\0\0\1\0\0\0",
        b"\0\0\1\0\0\0\x05ab",
        b"\0\0\1\0\0\0\xfe" + b"\xff" * 8,
        b"\0\0\1\0\0\0\1ab",
    ],
    ids=["short", "beyond", "huge", "rest"],
)
def test_a_malformed_row_is_no_row(row: bytes) -> None:
    columns = (Column("id", pa.int32(), "integer"), Column("note", pa.string(), "text"))
    kinds = [MyType(FieldType.LONG), MyType(FieldType.VARCHAR, 9, collation=45)]
    decoder = compile_result(TableSchema("a.t", columns, ("id",)), kinds, "null")
    good = b"\0\0\1\0\0\0\2ab"
    assert decode_result(decoder, packets(good)).to_pylist() == [{"id": 1, "note": "ab"}]
    with pytest.raises(BadData, match="does not fit"):
        decode_result(decoder, packets(good, row))


@pytest.mark.service
def test_a_table_that_is_altered_while_it_is_compared(my_database: MyDatabase) -> None:
    my_database.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with closing(connect(my_database.url)) as connection:
        (table,) = read_named(connection, [f"{my_database.name}.t"]).values()
    schema = table_schema(table, "null")
    with snapshot_at_now(my_database.url, "null") as read:
        my_database.sql("TRUNCATE t")
        with pytest.raises(SourceUnavailable, match="run the command again"):
            list(read.table(schema))
