"""What a first user gets wrong, or has in an odd form, through the command itself."""

from __future__ import annotations

import psycopg
from psycopg import sql

from tests.fix_user import User

LONG = "l" * 63
DUCK = "\n  s: {type: sql, url: 'duckdb:///w.duckdb', from: [shop.c]}\n"
ODD = ("Upper", "select", "we[ir]d*?", "semi;colon", LONG)


def test_odd_names_from_source_to_sinks(user: User) -> None:
    for name in ODD:
        user.sql(
            f'CREATE TABLE "{name}" ("Id" int PRIMARY KEY, "sp ace" text, "qu""ote" int, '
            f'"select" text, "per%cent?" text, "日本" text, "{"c" * 63}" int)',
            f"INSERT INTO \"{name}\" VALUES (1, 'a', 2, 'b', 'c', 'd', 3), "
            "(2, '', 0, '', '', '', 0)",
        )
    user.sql(
        'CREATE SCHEMA "Other Schema"',
        'CREATE TABLE "Other Schema"."Upper" (id int PRIMARY KEY)',
        'INSERT INTO "Other Schema"."Upper" VALUES (1)',
    )
    inputs = "".join(f'\n    - "shop.{name}"' for name in ODD)
    user.write_config(
        tables=("public.*", "Other Schema.*"),
        sinks=f"""
  duck:
    type: sql
    url: duckdb:///w.duckdb
    table: "{{schema}}_{{name}}"
    from:{inputs}
    - shop.Other Schema.Upper
  pg:
    type: sql
    url: {user.url}
    schema: Mart
    from:{inputs}
""",
    )
    user.catch_up()
    user.sql(*(f'UPDATE "{name}" SET "Id" = 10 - "Id", "select" = NULL' for name in ODD))
    user.sql(*(f'DELETE FROM "{name}" WHERE "Id" = 8' for name in ODD))
    user.catch_up()
    user.verify("duck")
    user.verify("pg")


def test_a_sink_pointed_at_its_own_source_touches_nothing(user: User) -> None:
    user.sql("CREATE TABLE c (id int PRIMARY KEY)", "INSERT INTO c VALUES (1), (2)")
    user.write_config(sinks=f"\n  back: {{type: sql, url: '{user.url}', from: [shop.c]}}\n")
    assert "did not write" in user.cdc("check", expect=1).out


def test_rights_that_are_missing_are_named_with_their_remedy(user: User) -> None:
    user.sql("CREATE TABLE c (id int PRIMARY KEY)")
    name = user.url.rsplit("/", 1)[1]
    role = f"{name}_poor"
    with psycopg.connect(user.url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pa55w0rd'").format(sql.Identifier(role))
        )
        try:
            address = user.url.split("@", 1)[1]
            url = f"postgresql://{role}:pa55w0rd@{address}"
            user.write_config(sinks=DUCK, url=url)
            said = user.cdc("check", expect=1).said
            for remedy in ("REPLICATION", "GRANT CREATE", "GRANT SELECT ON", "only its owner"):
                assert remedy in said, said
            user.write_config(sinks=DUCK, url=url.replace("pa55w0rd", "wr0ng"))
            said = user.cdc("check", expect=1).said
            assert "authentication" in said and "wr0ng" not in said
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_a_query_only_reads(user: User) -> None:
    user.sql("CREATE TABLE c (id int PRIMARY KEY)", "INSERT INTO c VALUES (1)")
    user.write_config(
        sinks=f"\n  pg: {{type: sql, url: '{user.url}', schema: mart, from: [shop.c]}}\n"
    )
    user.catch_up()
    for query in ("DELETE FROM mart.c", "COMMIT; DELETE FROM mart.c"):
        user.cdc("query", "pg", query, expect=1)
    assert user.query("SELECT count(*) AS n FROM mart.c", "pg") == [{"n": 1}]
