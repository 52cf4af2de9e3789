"""connectors.yaml: what is read, and every mistake with its place and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config import Config, Place
from cdc.config_load import load
from cdc.errors import ConfigError

GOOD = """\
log: {type: embedded, path: .cdc}
state: {memory_max: 1.5GiB, checkpoint_interval_s: 2}
sources:
  shop:
    type: postgres
    url: postgresql://cdc:${SHOP_PASSWORD}@localhost:${PORT:-5432}/shop
    tables: [orders, "public.c*"]
views:
  order_search:
    sql: |
      SELECT o.id
      FROM shop.orders o
    key: id
sinks:
  warehouse:
    type: sql
    url: duckdb:///warehouse.duckdb
    from: [order_search, shop.customers]
"""
ENVIRON = {"SHOP_PASSWORD": "s3cret"}


def loaded(directory: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file = directory / "connectors.yaml"
    file.write_text(text)
    return load(file, ENVIRON if environ is None else environ)


def mistakes(directory: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(directory, text, environ)
    return str(raised.value).replace(f"{directory}/", "")


def test_a_good_file_becomes_dataclasses(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD)
    shop, view = config.sources["shop"], config.views["order_search"]
    assert config.log.path == tmp_path / ".cdc"
    assert config.state.path == tmp_path / ".cdc" / "state"
    assert config.state.memory_max_bytes == 1.5 * 2**30
    assert shop.url == "postgresql://cdc:s3cret@localhost:5432/shop"
    assert shop.tables == ("public.orders", "public.c*")
    assert (shop.slot, shop.publication, shop.snapshot) == ("cdc_shop", "cdc_shop", "initial")
    assert view.key == ("id",)
    assert view.sql_place == Place(str(tmp_path / "connectors.yaml"), 11, 7)
    assert config.sinks["warehouse"].inputs == ("order_search", "shop.customers")


def test_an_empty_file_is_an_embedded_log_and_nothing_else(tmp_path: Path) -> None:
    config = loaded(tmp_path, "# nothing yet\n")
    assert (config.log.type, config.sources, config.sinks) == ("embedded", {}, {})


GOLDEN = {
    "unknown key": (
        ("    tables:", "    tabels:"),
        "connectors.yaml:5:5: source 'shop' has no `tables`\n  -> add `tables: ...`\n"
        "connectors.yaml:7:5: unknown key 'tabels' in source 'shop'\n  -> did you mean 'tables'?",
    ),
    "wrong type": (
        ("checkpoint_interval_s: 2", "checkpoint_interval_s: soon"),
        "connectors.yaml:2:52: checkpoint_interval_s must be a number of seconds, not 'soon'",
    ),
    "wrong size": (
        ("1.5GiB", "plenty"),
        "connectors.yaml:2:21: memory_max must be a size, not 'plenty'\n  -> write it as 500MiB",
    ),
    "wrong choice": (
        ("type: embedded", "type: embeded"),
        "connectors.yaml:1:13: type is 'embeded', not one of embedded, kafka\n"
        "  -> did you mean 'embedded'?",
    ),
    "duplicate key": (
        ("    type: sql", "    type: sql\n    type: sql"),
        "connectors.yaml:17:5: 'type' is given twice\n  -> it stands already on line 16",
    ),
    "reserved name": (
        ("  shop:", "  cdc:"),
        "connectors.yaml:4:3: 'cdc' is reserved and cannot be a source's name\n"
        "  -> choose another name\n"
        "connectors.yaml:18:26: there is no source 'shop'\n"
        "  -> did you mean 'cdc.customers'?",
    ),
    "name of the log's own topic": (
        ("  shop:", "  dead-letters:"),
        "connectors.yaml:4:3: 'dead-letters' is reserved and cannot be a source's name\n"
        "  -> choose another name\n"
        "connectors.yaml:5:5: 'cdc_dead-letters' cannot be a slot's name\n"
        "  -> Postgres allows lower-case letters, digits and _, at most 63\n"
        "connectors.yaml:18:26: there is no source 'shop'\n"
        "  -> did you mean 'dead-letters.customers'?",
    ),
    "shared name": (
        ("  order_search:", "  shop:"),
        "connectors.yaml:9:3: 'shop' is a source's name too\n"
        "  -> a view and a source may not share a name\n"
        "connectors.yaml:18:12: there is no view 'order_search'\n"
        "  -> there are: shop, shop.c*, shop.orders",
    ),
    "dangling table": (
        ("shop.customers", "shop.ordres"),
        "connectors.yaml:18:26: source 'shop' does not capture public.ordres\n"
        "  -> did you mean 'shop.orders'?",
    ),
    "mysql": (
        ("type: postgres", "type: mysqll"),
        "connectors.yaml:5:11: type is 'mysqll', not one of postgres, mysql, mariadb, topics\n"
        "  -> did you mean 'mysql'?",
    ),
    "mysql's options": (
        ("type: postgres", "type: postgres\n    zero_dates: stop"),
        "connectors.yaml:6:5: `zero_dates` belongs to a source of type mysql, and this one's is "
        "postgres\n  -> leave it out",
    ),
    "kafka's options": (
        ("type: embedded", "type: embedded, partitions: 4"),
        "connectors.yaml:1:23: `partitions` belongs to a log of type kafka\n  -> set `type: kafka`",
    ),
    "no YAML": (
        ("sources:", "sources: ["),
        "connectors.yaml:5:9: not YAML: expected ',' or ']', but got ':' while parsing a flow "
        "sequence",
    ),
}


MYSQL = """\
sources:
  crm:
    type: mysql
    url: mysql://cdc:p%40ss@localhost/crm
    tables: [people, "other.*"]
sinks:
  warehouse: {type: sql, url: "duckdb:///w.duckdb", from: [crm.people, crm.other.things]}
"""


@pytest.mark.parametrize("kind", ["mysql", "mariadb"])
def test_a_mysql_source(tmp_path: Path, kind: str) -> None:
    crm = loaded(tmp_path, MYSQL.replace("type: mysql", f"type: {kind}")).sources["crm"]
    assert (crm.type, crm.slot, crm.publication, crm.snapshot) == ("mysql", "", "", "initial")
    assert crm.tables == ("crm.people", "other.*")
    assert (crm.full_name("people"), crm.short_name("crm.people")) == ("crm.people", "people")
    assert crm.mysql is not None
    assert 2**31 <= crm.mysql.server_id < 2**32
    assert (crm.mysql.zero_dates, crm.mysql.minimal_row_image) == ("null", False)
    again = loaded(tmp_path, MYSQL.replace("localhost", "elsewhere")).sources["crm"].mysql
    assert again is not None and again.server_id == crm.mysql.server_id


@pytest.mark.parametrize(
    ("written", "meant"), [("null", "null"), ("'null'", "null"), ("stop", "stop")]
)
def test_zero_dates_may_be_written_as_yaml_has_it(tmp_path: Path, written: str, meant: str) -> None:
    lines = f"    zero_dates: {written}\n    server_id: 7\n    minimal_row_image: true\nsinks:"
    crm = loaded(tmp_path, MYSQL.replace("sinks:", lines)).sources["crm"].mysql
    assert crm is not None
    assert (crm.zero_dates, crm.server_id, crm.minimal_row_image) == (meant, 7, True)


MYSQL_MISTAKES = {
    "scheme": (
        ("mysql://", "mysql+pymysql://"),
        "4:10: url is no mysql or mariadb URL\n"
        "  -> write it as mysql://user:password@host:3306/database",
    ),
    "no user": (
        ("cdc:p%40ss@", ""),
        "4:10: no URL of a MySQL user\n  -> write it as mysql://user:password@host:3306/database",
    ),
    "parameter": (
        ("/crm\n", "/crm?ssl_mod=required\n"),
        "4:10: the URL's parameter 'ssl-mod' is unknown\n"
        "  -> known are ssl-mode, ssl-ca, ssl-cert, ssl-key, socket",
    ),
    "no database": (
        ("/crm\n", "\n"),
        "5:14: 'people' names no database, and neither does the url\n"
        "  -> write database.people, or end the url with /database",
    ),
    "slot": (
        ("    tables:", "    slot: s\n    tables:"),
        "5:5: `slot` belongs to a source of type postgres, and this one's is mysql\n"
        "  -> leave it out: MySQL keeps its binlog by time, see binlog_expire_logs_seconds",
    ),
    "zero dates": (
        ("    tables:", "    zero_dates: epock\n    tables:"),
        "5:17: zero_dates is 'epock', not one of null, epoch, stop\n  -> did you mean 'epoch'?",
    ),
    "server id": (
        ("    tables:", "    server_id: 4294967296\n    tables:"),
        "5:16: server_id must lie between 1 and 4294967295, not '4294967296'",
    ),
    "dangling table": (
        ("crm.people,", "crm.peeple,"),
        "7:60: source 'crm' does not capture crm.peeple\n  -> did you mean 'crm.people'?",
    ),
    "two of one server_id": (
        (
            "sinks:",
            "    server_id: 5\n  b: {type: mysql, url: 'mysql://a@localhost:3306/x', "
            "tables: [t], server_id: 5}\nsinks:",
        ),
        "7:79: source 'crm' has server_id 5 on the same server\n"
        "  -> give each source a `server_id` of its own",
    ),
}


@pytest.mark.parametrize("name", MYSQL_MISTAKES)
def test_a_mistake_in_a_mysql_source(tmp_path: Path, name: str) -> None:
    (old, new), expected = MYSQL_MISTAKES[name]
    assert old in MYSQL
    found = mistakes(tmp_path, MYSQL.replace(old, new, 1))
    assert found == f"connectors.yaml:{expected}"
    assert "p%40ss" not in found and "p@ss" not in found


@pytest.mark.parametrize("name", GOLDEN)
def test_a_mistake_is_reported_with_its_place_and_the_way_out(tmp_path: Path, name: str) -> None:
    (old, new), expected = GOLDEN[name]
    assert old in GOOD
    assert mistakes(tmp_path, GOOD.replace(old, new, 1)) == expected


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD, {}) == (
        "connectors.yaml:6:10: the environment has no variable SHOP_PASSWORD\n"
        "  -> export SHOP_PASSWORD=..., or write ${SHOP_PASSWORD:-default}"
    )


def test_a_value_from_the_environment_never_appears(tmp_path: Path) -> None:
    text = mistakes(tmp_path, GOOD, {"SHOP_PASSWORD": "p@ss/w:rd", "PORT": "none"})
    assert "percent-encode" in text
    assert "p@ss" not in text and "w:rd" not in text


def test_two_dollars_stand_for_one(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD.replace("SELECT o.id", "SELECT '$${x}', o.id"))
    assert "'${x}'" in config.views["order_search"].sql


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "nowhere.yaml", {})


SINK = """\
sources:
  shop: {type: postgres, url: "postgresql://localhost/shop", tables: [orders, public.Notes]}
views:
  order_search: {sql: SELECT 1, key: [id, line]}
sinks:
  x:
    from: shop.orders
"""


def with_sink(*lines: str) -> str:
    return SINK + "".join(f"    {line}\n" for line in lines)


def test_an_elasticsearch_sink(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-")
    lines = (
        "type: elasticsearch",
        "url: https://${HOST}:9200/es",
        "api_key: ${KEY}",
        "ca_certs: ca.pem",
        'settings: {number_of_replicas: "${REPLICAS:-0}", index: {refresh_interval: 1s}}',
        "mappings: {properties: {amount: {type: scaled_float, scaling_factor: 100}},"
        " dynamic: false, _meta: {since: 2026-01-01, none: null, list: [1, 2.5, x]}}",
    )
    config = loaded(tmp_path, with_sink(*lines), {"HOST": "es", "KEY": "s3cret"})
    sink = config.sinks["x"]
    assert (sink.url, sink.inputs) == ("https://es:9200/es", ("shop.orders",))
    assert sink.options == {
        "index": "orders",
        "api_key": "s3cret",
        "ca_certs": tmp_path / "ca.pem",
        "settings": {"number_of_replicas": "0", "index": {"refresh_interval": "1s"}},
        "mappings": {
            "properties": {"amount": {"type": "scaled_float", "scaling_factor": 100}},
            "dynamic": False,
            "_meta": {"since": "2026-01-01", "none": None, "list": [1, 2.5, "x"]},
        },
    }
    assert (sink.place_of("mappings").line, sink.place_of("index")) == (13, sink.place)
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (('key: "order:{id}"',), {"value": "json", "key": "order:{id}"}),
        (("value: hash", "key: o:{id}"), {"value": "hash", "key": "o:{id}"}),
        (
            ("value: string", "key: '{{x}}{id}'", "column: note"),
            {"value": "string", "key": "{{x}}{id}", "column": "note"},
        ),
        (
            ("value: sorted_set", "name: top", "score: amount", 'member: "{id}"'),
            {"value": "sorted_set", "name": "top", "score": "amount", "member": "{id}"},
        ),
    ],
)
def test_a_redis_sink(tmp_path: Path, lines: tuple[str, ...], options: dict[str, str]) -> None:
    for url in ("redis://u:p@h:6379/0", "rediss://h", "unix:///run/redis.sock?db=2"):
        config = loaded(tmp_path, with_sink("type: redis", f"url: {url}", *lines))
        assert config.sinks["x"].options == options
        assert config.sinks["x"].url == url


ES, REDIS = ("type: elasticsearch", "url: http://h:9200"), ("type: redis", "url: redis://h")
SINK_MISTAKES = {
    "no such type": (
        ("type: elastic", "url: http://h"),
        "8:11: type is 'elastic', not one of sql, elasticsearch, redis\n"
        "  -> did you mean 'elasticsearch'?",
    ),
    "unknown key": (
        (*ES, "indx: orders"),
        "10:5: unknown key 'indx' in sink 'x'\n  -> did you mean 'index'?",
    ),
    "another kind's key": (
        (*ES, 'key: "{id}"'),
        "10:5: `key` belongs to a sink of type redis, and this one's is elasticsearch\n"
        "  -> known keys: api_key, ca_certs, from, index, mappings, settings, type, url",
    ),
    "scheme": (
        ("type: elasticsearch", "url: es://h:9200"),
        "9:10: url is no http or https URL\n  -> write it as https://user:password@host:9200",
    ),
    "index": (
        (*ES, "index: Orders"),
        "10:12: 'Orders' cannot be an index's name\n"
        "  -> write an `index:` of lower-case letters, digits, - and _ that begins with a letter "
        "or digit, at most 235 bytes",
    ),
    "fields one deeper": (
        (*ES, "mappings: {amount: {type: keyword}}"),
        "10:16: unknown key 'amount' in `mappings`\n"
        "  -> fields stand one deeper, under `properties`",
    ),
    "mappings' spelling": (
        (*ES, "mappings: {propertys: {}}"),
        "10:16: unknown key 'propertys' in `mappings`\n  -> did you mean 'properties'?",
    ),
    "mappings' kind": (
        (*ES, "mappings: keyword"),
        "10:15: `mappings` must be a mapping, not text",
    ),
    "a field's type alone": (
        (*ES, "mappings: {properties: {a: keyword}}"),
        "10:32: field 'a' must be a mapping\n  -> write it as {type: keyword}",
    ),
    "twice in mappings": (
        (*ES, "mappings: {properties: {a: {type: keyword}, a: {type: long}}}"),
        "10:49: 'a' is given twice\n  -> it stands already on line 10",
    ),
    "two identities": (
        ("type: elasticsearch", "url: https://u:p@h:9200", "api_key: k"),
        "10:14: `api_key` and a user in the url are given\n  -> leave one of them out",
    ),
    "no certificate": (
        ("type: elasticsearch", "url: https://h:9200", "ca_certs: ca.pem"),
        "10:15: there is no file 'ca.pem'",
    ),
    "no https": (
        (*ES, "ca_certs: ca.pem"),
        "10:15: `ca_certs` is for a url that begins with https://",
    ),
    "valkey": (
        ("type: redis", "url: valkeys://h", 'key: "{id}"'),
        "9:10: url is no redis or rediss or unix URL\n"
        "  -> write rediss:// in its place: the protocol is the same",
    ),
    "database": (
        ("type: redis", "url: redis://h/shop", 'key: "{id}"'),
        "9:10: the url's path is no database number\n  -> write it as redis://host:6379/0",
    ),
    "no key": (
        (*REDIS, "value: hash"),
        "7:5: sink 'x' of value hash has no `key`\n"
        '  -> add `key: "order:{id}"`, with every column of the input\'s key in braces',
    ),
    "no column": (
        (*REDIS, "value: string", 'key: "{id}"'),
        "7:5: sink 'x' of value string has no `column`\n"
        "  -> add `column: NAME`, the column whose text is the value",
    ),
    "no score": (
        (*REDIS, "value: sorted_set", "name: top", 'member: "{id}"'),
        "7:5: sink 'x' of value sorted_set has no `score`\n"
        "  -> add `score: COLUMN`, a number to sort by",
    ),
    "another value's option": (
        (*REDIS, 'key: "{id}"', "column: note"),
        "11:5: `column` belongs to value: string, and this sink's is json\n"
        "  -> value: json takes `key`",
    ),
    "a set's key": (
        (*REDIS, "value: sorted_set", "name: t", "score: n", 'member: "{id}"', "key: x"),
        "14:5: `key` belongs to value: json | hash | string, and this sink's is sorted_set\n"
        "  -> value: sorted_set takes `name`, `score`, `member`",
    ),
    "value": (
        (*REDIS, "value: zset", 'key: "{id}"'),
        "10:12: value is 'zset', not one of json, hash, string, sorted_set",
    ),
    "braces of YAML": (
        (*REDIS, "key: {id}"),
        "10:10: key is YAML's mapping in braces, not text\n  -> put it in double quotes",
    ),
    "broken braces": (
        (*REDIS, 'key: "order:{id"'),
        "10:10: the braces of 'order:{id' do not match\n"
        '  -> a column in braces, such as "order:{id}"; {{ and }} for the characters themselves',
    ),
    "no column in braces": (
        (*REDIS, 'key: "order:{id:>8}"'),
        "10:10: 'order:{id:>8}' has braces without a plain column name\n"
        '  -> a column in braces, such as "order:{id}"; {{ and }} for the characters themselves',
    ),
    "score in braces": (
        (*REDIS, "value: sorted_set", "name: t", "score: '{n}'", 'member: "{id}"'),
        "12:12: score is one column's name\n  -> write it without braces: n",
    ),
}


@pytest.mark.parametrize("name", SINK_MISTAKES)
def test_a_mistake_in_a_sink(tmp_path: Path, name: str) -> None:
    lines, expected = SINK_MISTAKES[name]
    assert mistakes(tmp_path, with_sink(*lines)) == f"connectors.yaml:{expected}"


@pytest.mark.parametrize("lines", [ES, (*REDIS, 'key: "{id}"')])
def test_several_inputs_are_several_sinks(tmp_path: Path, lines: tuple[str, ...]) -> None:
    text = with_sink(*lines).replace("from: shop.orders", "from: [shop.orders, order_search]")
    assert mistakes(tmp_path, text) == (
        f"connectors.yaml:7:25: a sink of type {lines[0].removeprefix('type: ')} has one input, "
        "not 2\n  -> give each input a sink of its own"
    )


def test_an_index_named_after_a_table_that_is_no_index_name(tmp_path: Path) -> None:
    text = with_sink(*ES).replace("shop.orders", "shop.Notes")
    assert mistakes(tmp_path, text).startswith(
        "connectors.yaml:7:11: 'Notes' cannot be an index's name\n  -> write an `index:` of lower"
    )


def test_a_declared_key_that_the_redis_key_lacks(tmp_path: Path) -> None:
    text = with_sink(*REDIS, 'key: "order:{id}"').replace("shop.orders", "order_search")
    assert mistakes(tmp_path, text) == (
        "connectors.yaml:10:10: key lacks line of the key of view 'order_search'\n"
        "  -> write {line} into it: every row needs a place of its own"
    )
    text = with_sink(*REDIS, "value: sorted_set", "name: t{id}", "score: n", "member: m")
    text = text.replace("shop.orders", "order_search")
    assert "13:13: name and member lack line" in mistakes(tmp_path, text)
    loaded(tmp_path, text.replace("member: m", "member: '{line}'"))
    assert "has no `key`" in mistakes(
        tmp_path, with_sink(*REDIS).replace("shop.o", "order_search #")
    )


def test_two_sinks_that_write_to_one_place(tmp_path: Path) -> None:
    other = "  y: {type: elasticsearch, url: http://h:9200, from: order_search, index: orders}\n"
    assert mistakes(tmp_path, with_sink(*ES) + other) == (
        "connectors.yaml:10:75: sink 'x' writes to index 'orders' of this server\n"
        "  -> give one of them another `index`"
    )


def test_a_secret_of_a_sink_never_appears(tmp_path: Path) -> None:
    lines = ("type: elasticsearch", "url: es://u:${KEY}@h", "api_key: ${KEY}", "index: A B")
    text = mistakes(tmp_path, with_sink(*lines), {"KEY": "s3cret"})
    assert text.count("\n") >= 4 and "s3cret" not in text
