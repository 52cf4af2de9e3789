"""Names in the text of statements: cdc/mysql/sql_tokens.py."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from cdc.mysql.ddl import read_statement
from cdc.mysql.sql_tokens import names


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("INSERT INTO x VALUES (1, 'no', f (-.5e3)) -- no\n, `a``b`", "INSERT INTO x VALUES f a`b"),
        ("/*!50100 a */ /* no */ e.2024_x, 1a, @v, 12", "a e 2024_x 1a @v"),
        (r"'it''s \' no', " + r'"q\"""r"', 'q""r'),
        ("'open", "open"),
    ],
)
def test_what_may_be_a_name(sql: str, expected: str) -> None:
    assert list(names(sql, escapes=True)) == expected.split()


def test_backslashes_that_are_no_escapes() -> None:
    assert list(names("SELECT 'C:\\', f('x')", escapes=False)) == ["SELECT", "f"]


@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("part", ["a", "\\n", "''", '"'])
@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO x VALUES ('{}')", "UPDATE x SET a = '{}'", 'DELETE FROM x WHERE "{}"'],
)
def test_large_constants_take_no_memory(statement: str, part: str, escapes: bool) -> None:
    mark = '"' if '"' in statement else "'"
    sql = statement.format("".join(part * (16 * 2**20 // len(part))).replace("'", mark))
    tracemalloc.start()
    began_s = time.process_time()
    read_statement(sql, "d", escapes=escapes)
    assert "x" in names(sql, escapes=escapes)
    spent_s = time.process_time() - began_s
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert spent_s < 2
