"""Kafka in connectors.yaml: the log, sources of topics, and every mistake in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config import Config, TopicsConfig
from cdc.config_kafka import captures, table_of
from cdc.config_load import load
from cdc.errors import ConfigError

SHOP = """\
sources:
  shop: {type: postgres, url: "postgresql://localhost/shop", tables: [orders]}
"""


def loaded(directory: Path, text: str) -> Config:
    file = directory / "connectors.yaml"
    file.write_text(text)
    return load(file, {"SECRET": "s3cret-value"})


def mistakes(directory: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(directory, text)
    assert "s3cret" not in str(raised.value)
    return str(raised.value).replace(f"{directory}/connectors.yaml:", "")


def with_log(*lines: str, rest: str = "") -> str:
    start = ("log:", "  type: kafka", "  bootstrap_servers: k1:9092,k2:9092")
    return "\n".join([*start, *(f"  {line}" for line in lines), rest])


def with_topics(*lines: str, log: str = "log: {type: embedded}", sinks: str = "") -> str:
    start = (log, "sources:", "  inv:", "    type: topics")
    return "\n".join([*start, *(f"    {line}" for line in lines), sinks])


def topics_of(config: Config) -> TopicsConfig:
    found = config.sources["inv"].topics
    assert found is not None
    return found


def test_a_kafka_log_has_debeziums_defaults(tmp_path: Path) -> None:
    log = loaded(tmp_path, with_log()).log
    assert (log.type, log.bootstrap_servers) == ("kafka", "k1:9092,k2:9092")
    assert (log.format, log.schemas, log.schema_registry) == ("avro", False, "")
    assert (log.decimal_handling_mode, log.time_precision_mode) == ("precise", "adaptive")
    assert (log.partitions, log.replication_factor, log.oversized) == (1, 0, "stop")
    assert not log.transaction_metadata


def test_all_that_can_be_said_of_a_kafka_log(tmp_path: Path) -> None:
    lines = (
        *(
            "partitions: 4",
            "replication_factor: 3",
            "topic_prefix: prod.",
            "oversized: dead_letter",
        ),
        "config: {security.protocol: SASL_SSL, sasl.password: '${SECRET}', linger.ms: 5}",
        *("schema_registry: https://u:${SECRET}@registry:8081/apis/ccompat/v7",),
        "schema_registry_config: {basic.auth.user.info: 'u:${SECRET}'}",
        *("decimal_handling_mode: string", "time_precision_mode: connect"),
        "transaction_metadata: true",
    )
    config = loaded(tmp_path, with_log(*lines, rest=SHOP))
    log = config.log
    assert (log.partitions, log.replication_factor, log.topic_prefix) == (4, 3, "prod.")
    assert log.oversized == "dead_letter"
    assert log.config == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "s3cret-value",
        "linger.ms": "5",
    }
    assert log.schema_registry == "https://u:s3cret-value@registry:8081/apis/ccompat/v7"
    assert log.registry_config == {"basic.auth.user.info": "u:s3cret-value"}
    assert (log.decimal_handling_mode, log.time_precision_mode) == ("string", "connect")
    assert log.transaction_metadata
    assert "s3cret" not in repr(config)


def test_json_with_schemas(tmp_path: Path) -> None:
    log = loaded(tmp_path, with_log("format: json", "schemas: true")).log
    assert (log.format, log.schemas) == ("json", True)


LOG_MISTAKES = {
    "no brokers": ("log: {type: kafka}", "1:6: `log` has no `bootstrap_servers`\n"
                   "  -> add `bootstrap_servers: ...`"),
    "format": (with_log("format: protobuf"),
               "4:11: format is 'protobuf', not one of avro, json"),
    "format's spelling": (
        with_log("format: arvo"),
        "4:11: format is 'arvo', not one of avro, json\n  -> did you mean 'avro'?",
    ),
    "unknown key": (
        with_log("schema_registri: http://r"),
        "4:3: unknown key 'schema_registri' in `log`\n  -> did you mean 'schema_registry'?",
    ),
    "schemas with avro": (
        with_log("schemas: true"),
        "4:3: `schemas` belongs to format json, and this one is avro\n"
        "  -> Avro's records name their schema by its id: leave it out, or set `format: json`",
    ),
    "no flag": (
        with_log("format: json", "schemas: maybe"),
        "5:12: schemas must be true or false, not 'maybe'",
    ),
    "registry with json": (
        with_log("format: json", "schema_registry: http://r:8081"),
        "5:3: `schema_registry` belongs to format avro, and this one is json\n"
        "  -> a registry is for Avro's schemas: leave it out, or set `format: avro`",
    ),
    "registry's url": (
        with_log("schema_registry: 'registry:${SECRET}'"),
        "4:20: schema_registry is no http or https URL\n"
        "  -> write it as https://host:8081; for user and password see "
        "`schema_registry_config`, or percent-encode @ : / ? # in them",
    ),
    "registry's password": (
        with_log("schema_registry: 'https://u:p/${SECRET}@r:8081'"),
        "4:20: schema_registry is no http or https URL\n"
        "  -> write it as https://host:8081; for user and password see "
        "`schema_registry_config`, or percent-encode @ : / ? # in them",
    ),
    "registry's settings alone": (
        with_log("schema_registry_config: {basic.auth.user.info: 'u:${SECRET}'}"),
        "4:3: `schema_registry_config` is given without a registry\n  -> add `schema_registry`",
    ),
    "registry's url twice": (
        with_log("schema_registry: http://r", "schema_registry_config: {url: http://r}"),
        "5:28: `url` is not for `schema_registry_config`\n  -> see `schema_registry`",
    ),
    "modes": (
        with_log("decimal_handling_mode: exact", "time_precision_mode: adaptive_microseconds"),
        "4:26: decimal_handling_mode is 'exact', not one of precise, string, double\n"
        "5:24: time_precision_mode is 'adaptive_microseconds', not one of adaptive, "
        "adaptive_time_microseconds, connect\n  -> did you mean 'adaptive_time_microseconds'?",
    ),
    "oversized": (
        with_log("oversized: dead-letter"),
        "4:14: oversized is 'dead-letter', not one of stop, dead_letter\n"
        "  -> did you mean 'dead_letter'?",
    ),
    "replicas": (
        with_log("replication_factor: 0"),
        "4:23: replication_factor must lie between 1 and 32767, not '0'",
    ),
    "prefix": (
        with_log("topic_prefix: 'prod/eu.'"),
        "4:17: topic_prefix has '/', which no topic's name may have\n"
        "  -> use letters, digits, . _ and -",
    ),
    "long prefix": (
        with_log(f"topic_prefix: {'p' * 240}"),
        "4:17: topic_prefix has 240 characters, and a whole name at most 249\n"
        "  -> shorten it: names of tables follow",
    ),
    "long name": (
        with_log(f"topic_prefix: {'p' * 233}", rest=SHOP),
        f"6:71: the topic's name '{'p' * 40}…' has 251 characters, and Kafka allows 249\n"
        "  -> shorten `log.topic_prefix` or the name",
    ),
    "a table that no topic can be named after": (
        with_log(rest=SHOP.replace("[orders]", "['order items', 'x.a$b', 'q.*']")),
        "5:71: 'shop.public.order items' cannot be a topic's name: it has ' '\n"
        "  -> Kafka allows letters, digits, . _ and - only: leave the table out\n"
        "5:86: 'shop.x.a$b' cannot be a topic's name: it has '$'\n"
        "  -> Kafka allows letters, digits, . _ and - only: leave the table out",
    ),
    "what is ours in config": (
        with_log("config: {bootstrap.servers: k, enable.idempotence: false, group.id: g}"),
        "4:12: `bootstrap.servers` is not for `config`: cdc-views sets it\n"
        "  -> see `bootstrap_servers`\n"
        "4:34: `enable.idempotence` is not for `config`: cdc-views sets it\n"
        "  -> leave it out: what the log promises stands on it\n"
        "4:61: `group.id` is not for `config`: cdc-views sets it\n  -> see `topic_prefix`",
    ),
    "config as text": (
        with_log("config: security.protocol=${SECRET}"),
        "4:11: `config` must be a mapping, not text",
    ),
    "an embedded log": (
        "log: {format: json, schema_registry: 'x${SECRET}', oversized: stop}",
        "1:7: `format` belongs to a log of type kafka\n  -> set `type: kafka`\n"
        "1:21: `schema_registry` belongs to a log of type kafka\n  -> set `type: kafka`\n"
        "1:52: `oversized` belongs to a log of type kafka\n  -> set `type: kafka`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOG_MISTAKES)
def test_a_mistake_in_a_kafka_log(tmp_path: Path, name: str) -> None:
    text, expected = LOG_MISTAKES[name]
    assert mistakes(tmp_path, text) == expected


def test_a_source_of_topics_beside_an_embedded_log(tmp_path: Path) -> None:
    lines = (
        *("bootstrap_servers: k:9092", "format: json", "tables: [dbz.public.orders, 'dbz.s.*']"),
        "config: {sasl.password: '${SECRET}'}",
        "columns: {dbz.public.orders: {id: bigint, amount: 'numeric(12,2)'}, dbz.s.t: {a: int}}",
        "keys: {dbz.public.orders: id, dbz.s.t: [a]}",
        "decimal_handling_mode: double",
    )
    config = loaded(tmp_path, with_topics(*lines))
    source, topics = config.sources["inv"], topics_of(config)
    assert (source.type, source.url, source.slot, source.publication) == ("topics", "", "", "")
    assert source.tables == ("dbz.public.orders", "dbz.s.*")
    assert topics == TopicsConfig(
        bootstrap_servers="k:9092",
        config={"sasl.password": "s3cret-value"},
        format="json",
        schema_registry="",
        registry_config={},
        decimal_handling_mode="double",
        columns={
            "dbz.public.orders": {"id": "bigint", "amount": "numeric(12,2)"},
            "dbz.s.t": {"a": "int"},
        },
        keys={"dbz.public.orders": ("id",), "dbz.s.t": ("a",)},
    )
    assert "s3cret" not in repr(config)


KAFKA = (
    "log: {type: kafka, bootstrap_servers: k:9092, schema_registry: 'http://r', "
    "config: {sasl.password: '${SECRET}'}, schema_registry_config: {basic.auth.user.info: 'u:p'}}"
)


def test_a_source_of_topics_takes_the_logs_brokers_and_registry(tmp_path: Path) -> None:
    topics = topics_of(loaded(tmp_path, with_topics("tables: [a.b.c]", log=KAFKA)))
    assert (topics.bootstrap_servers, topics.format) == ("k:9092", "avro")
    assert topics.config == {"sasl.password": "s3cret-value"}
    assert topics.schema_registry == "http://r"
    assert topics.registry_config == {"basic.auth.user.info": "u:p"}
    two = with_topics("tables: [a.b.c]", log=KAFKA) + "  two: {type: topics, tables: [a.b.c]}\n"
    assert set(loaded(tmp_path, two).sources) == {"inv", "two"}


def test_passwords_go_only_where_they_were_written_for(tmp_path: Path) -> None:
    lines = ("tables: [a.b.c]", "bootstrap_servers: other:9092", "schema_registry: http://other")
    topics = topics_of(loaded(tmp_path, with_topics(*lines, log=KAFKA)))
    assert (topics.bootstrap_servers, topics.config) == ("other:9092", {})
    assert (topics.schema_registry, topics.registry_config) == ("http://other", {})
    json = topics_of(loaded(tmp_path, with_topics("tables: [a.b.c]", "format: json", log=KAFKA)))
    assert (json.schema_registry, json.registry_config) == ("", {})


TOPICS = ("bootstrap_servers: k", "tables: [dbz.public.orders, 'dbz.s.*']")
TOPICS_MISTAKES = {
    "no brokers": (
        with_topics("tables: [a.b.c]"),
        "4:5: source 'inv' has no `bootstrap_servers`\n  -> add `bootstrap_servers: ...`",
    ),
    "a database's keys": (
        with_topics(*TOPICS, "url: 'postgresql://u:${SECRET}@h/d'", "slot: s", "snapshot: never"),
        "7:5: `url` belongs to a source of type postgres or mysql, and this one's is topics\n"
        "  -> leave it out\n"
        "8:5: `slot` belongs to a source of type postgres, and this one's is topics\n"
        "  -> leave it out\n"
        "9:5: `snapshot` belongs to a source of type postgres or mysql, and this one's is topics\n"
        "  -> leave it out",
    ),
    "topics' keys of a database": (
        SHOP.replace("orders]", "orders], bootstrap_servers: k, keys: {a: b}"),
        "2:80: `bootstrap_servers` belongs to a source of type topics, and this one's is "
        "postgres\n  -> leave it out\n"
        "2:102: `keys` belongs to a source of type topics, and this one's is postgres\n"
        "  -> leave it out",
    ),
    "unknown key": (
        with_topics(*TOPICS, "topics: [a]"),
        "7:5: unknown key 'topics' in source 'inv'\n"
        "  -> known keys: bootstrap_servers, columns, config, decimal_handling_mode, format, "
        "keys, max_log_transaction, schema_registry, schema_registry_config, tables, "
        "time_precision_mode, type",
    ),
    "no topic's name": (
        with_topics("bootstrap_servers: k", "tables: [public orders]"),
        "6:14: 'public orders' cannot be a topic's name: it has ' '\n"
        "  -> topics have letters, digits, . _ and -",
    ),
    "one table twice": (
        with_topics("bootstrap_servers: k", "tables: [a.public.t, b.public.t]"),
        "6:26: 'b.public.t' and 'a.public.t' would both be the table public.t\n"
        "  -> give each a source of its own",
    ),
    "its own topics": (
        with_topics("tables: [inv.public.t]", log=KAFKA),
        "5:14: source 'inv' would read what it writes itself: 'inv.public.t'\n"
        "  -> name the topics more closely, or give the source another name",
    ),
    "its own topics among many": (
        with_topics("tables: ['dbz.*', '*.public.*']", log=KAFKA),
        "5:23: source 'inv' would read what it writes itself: '*.public.*'\n"
        "  -> name the topics more closely, or give the source another name",
    ),
    "columns of another topic": (
        with_topics(*TOPICS, "format: json", "columns: {dbz.public.order: {id: bigint}}"),
        "8:15: `columns`: no topic 'dbz.public.order' is read\n"
        "  -> did you mean 'dbz.public.orders'?",
    ),
    "columns without types": (
        with_topics(*TOPICS, "format: json", "columns: {dbz.public.orders: [id]}"),
        "8:34: `columns` of dbz.public.orders must be a mapping, not a list",
    ),
    "a column without a type": (
        with_topics(*TOPICS, "columns: {dbz.public.orders: {id: bigint(3), n: 'numeric(12,2)'}}"),
        "7:39: 'bigint(3)' is not a type\n  -> write it as Postgres does: bigint, numeric(12,2), "
        "text, timestamp with time zone, integer[]",
    ),
    "a key of nothing": (
        with_topics(*TOPICS, "keys: {dbz.public.orders: [id, '']}"),
        "7:36: an entry of dbz.public.orders must not be empty",
    ),
    "a sink's table": (
        with_topics(
            *TOPICS[:1],
            "tables: [dbz.public.orders]",
            sinks="sinks:\n  s: {type: sql, url: 'duckdb:///d', from: inv.ordrs}",
        ),
        "8:44: source 'inv' does not capture public.ordrs\n  -> did you mean 'inv.orders'?",
    ),
}


@pytest.mark.parametrize("name", TOPICS_MISTAKES)
def test_a_mistake_in_a_source_of_topics(tmp_path: Path, name: str) -> None:
    text, expected = TOPICS_MISTAKES[name]
    assert mistakes(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("topic", "table"),
    [
        ("inv.public.orders", "public.orders"),
        ("a.b.sales.orders", "sales.orders"),
        ("sales.orders", "sales.orders"),
        ("orders", "public.orders"),
    ],
)
def test_a_topics_table_is_the_end_of_its_name(topic: str, table: str) -> None:
    assert table_of(topic) == table


@pytest.mark.parametrize(
    ("pattern", "table", "may"),
    [
        *(("inv.*", "public.orders", True), ("*", "public.orders", True)),
        *(("inv.s.*", "s.orders", True), ("inv.s.*", "t.orders", True)),
        *(("inv.*.orders", "t.orders", True), ("inv.*.orders", "t.items", False)),
        *(("order*", "public.orders", True), ("order?", "public.items", False)),
        *(("*.public.o?", "public.o1", True), ("*.public.o?", "public.o12", False)),
        *(("inv.s.o?", "s.o1", True), ("inv.s.o?", "t.o1", False)),
        *(("inv.p*ic.orders", "public.orders", True), ("inv.p*ic.orders", "s.orders", False)),
    ],
)
def test_a_pattern_of_topics_may_hold_a_table(
    tmp_path: Path, pattern: str, table: str, may: bool
) -> None:
    text = with_topics("bootstrap_servers: k", f"tables: ['{pattern}']")
    assert captures(loaded(tmp_path, text).sources["inv"], table) == may


def test_the_files_own_kafka_variant(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """What stands commented in connectors.yaml works in place of the embedded log."""
    text = (pytestconfig.rootpath / "connectors.yaml").read_text()
    kafka = ("  # type:", "  # bootstrap_servers:", "  # schema_registry:")
    lines = [
        line.replace("# ", "", 1) if line.startswith(kafka) else line
        for line in text.splitlines()
        if not line.startswith(("  type: embedded", "  path: .cdc"))
    ]
    config = loaded(tmp_path, "\n".join(lines))
    assert config.log.bootstrap_servers == "localhost:9092"
    assert config.log.schema_registry == "http://localhost:8081"


BEFORE = {
    0: "",
    2: "log:\n  type: kafka\n  bootstrap_servers: k\n",
    4: "sources:\n  inv:\n    type: topics\n    bootstrap_servers: k\n    tables: ['*']\n",
}
"""What a block of the guide goes on from, by its indentation."""


def test_the_examples_of_the_guide(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "kafka.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    names = ("KAFKA_PASSWORD", "KEY_PASSWORD", "REGISTRY_USER", "REGISTRY_PASSWORD")
    for block in blocks:
        file = tmp_path / "connectors.yaml"
        file.write_text(BEFORE[len(block) - len(block.lstrip())] + block)
        load(file, dict.fromkeys(names, "x"))
