"""`cdc check` of a Kafka log, on real brokers: what does not fit is told, nothing is changed."""

from __future__ import annotations

import json
import shlex
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from cdc.config import Config
from cdc.config_load import load
from cdc.log.check import check_log
from cdc.log.kafka import KafkaLog
from cdc.source import Finding
from demo.server_process import free_port, wait_until
from tests.fix_kafka import allow
from tests.fix_log import SPEC, changes, frontier
from tests.services import forked
from tests.services.kafka import Broker, Security, config_tool, make_authority

REST = """
sources:
  shop: {type: postgres, url: "postgresql://localhost:1/shop", tables: [orders, "s.*"]}
views:
  best: {sql: SELECT id FROM shop.orders}
sinks:
  warehouse: {type: sql, url: "duckdb:///d.duckdb", from: best}
"""
FITTING = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": "86400000",
    "delete.retention.ms": "86400000",
    "message.timestamp.type": "LogAppendTime",
}


def configured(folder: Path, bootstrap: str, **log: object) -> Config:
    """A file with a Kafka log under a prefix of its own, unless `log` says otherwise."""
    settings = {
        "type": "kafka",
        "bootstrap_servers": bootstrap,
        "topic_prefix": f"c{uuid.uuid4().hex[:8]}.",
        **log,
    }
    file = folder / "connectors.yaml"
    file.write_text(f"log: {json.dumps(settings)}\n{REST}")
    return load(file, {})


@pytest.fixture
def config(kafka_bootstrap: str, tmp_path: Path) -> Config:
    return configured(tmp_path, kafka_bootstrap)


def make_topic(
    config: Config,
    name: str,
    partitions: int = 1,
    settings: Mapping[str, str] | None = None,
    fitting: Mapping[str, str] = FITTING,
) -> str:
    """A topic that somebody else made; its name with the prefix."""
    full = config.log.topic_prefix + name
    new = NewTopic(full, partitions, 1, config={**fitting, **(settings or {})})
    admin = AdminClient({"bootstrap.servers": config.log.bootstrap_servers})
    admin.create_topics([new])[full].result(30)
    return full


def settings_of(config: Config, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": config.log.bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result(30)
    return {name: entry.value for name, entry in found.items()}


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "ok"]


def only(findings: list[Finding]) -> Finding:
    (found,) = bad(findings)
    return found


def written(config: Config) -> None:
    """What a first run leaves: the table's topic, its frontier, cdc.schemas."""
    producer = KafkaLog(config.log).producer("shop")
    producer.create_topics([SPEC])
    producer.append([(SPEC.name, changes([1, 2]))], [frontier(1)])
    producer.close()


def test_before_the_first_run_all_is_well_and_nothing_is_made(config: Config) -> None:
    findings = check_log(config, ["shop.s.items"])
    assert bad(findings) == []
    assert findings[0].what.startswith("Kafka, 1 broker, cluster ")
    prefix = config.log.topic_prefix
    assert findings[1].what == (
        f"0 topics exist; 7 to be made: {prefix}cdc.schemas, {prefix}dead-letters, "
        f"{prefix}shop.s.items and 4 more"
    )
    admin = AdminClient({"bootstrap.servers": config.log.bootstrap_servers})
    assert not [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]


@pytest.mark.parametrize("form", ["avro", "json"])
def test_what_a_run_makes_fits(kafka_bootstrap: str, tmp_path: Path, form: str) -> None:
    config = configured(tmp_path, kafka_bootstrap, format=form)
    written(config)
    findings = check_log(config)
    assert bad(findings) == []
    assert findings[1].what.startswith("3 topics exist; 3 to be made: ")


MISFITS = {
    "cleanup.policy": (
        {"cleanup.policy": "delete"},
        "cleanup.policy is delete, not compact",
        "cleanup.policy=compact",
    ),
    "both policies": (
        {"cleanup.policy": "compact,delete"},
        "cleanup.policy is compact,delete, not compact",
        "cleanup.policy=compact",
    ),
    "min.compaction.lag.ms": (
        {"min.compaction.lag.ms": "86399999"},
        "min.compaction.lag.ms is 86399999, less than 86400000",
        "min.compaction.lag.ms=86400000",
    ),
    "max.compaction.lag.ms": (
        {"min.compaction.lag.ms": "5", "max.compaction.lag.ms": "10"},
        "min.compaction.lag.ms is 5, less than 86400000; max.compaction.lag.ms is 10, less than "
        "the lag of 86400000",
        "min.compaction.lag.ms=86400000,max.compaction.lag.ms=9223372036854775807",
    ),
    "delete.retention.ms": (
        {"delete.retention.ms": "0"},
        "delete.retention.ms is 0, less than 86400000",
        "delete.retention.ms=86400000",
    ),
    "message.timestamp.type": (
        {"message.timestamp.type": "CreateTime"},
        "message.timestamp.type is CreateTime, not LogAppendTime",
        "message.timestamp.type=LogAppendTime",
    ),
    "all at once": (
        {"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"},
        "cleanup.policy is delete, not compact; message.timestamp.type is CreateTime, not "
        "LogAppendTime",
        "cleanup.policy=compact,message.timestamp.type=LogAppendTime",
    ),
}


@pytest.mark.parametrize("topic", ["shop.public.orders", "view.best", "shop.frontier"])
@pytest.mark.parametrize("name", MISFITS)
def test_a_topic_whose_settings_do_not_fit(config: Config, name: str, topic: str) -> None:
    """The command in the remedy mends it; the check itself changes nothing."""
    settings, what, changes_ = MISFITS[name]
    full = make_topic(config, topic, settings=settings)
    before = settings_of(config, full)
    found = only(check_log(config))
    assert (found.severity, found.where, found.what) == ("error", f"topic {full}", what)
    assert found.remedy == (
        f"kafka-configs.sh --bootstrap-server {config.log.bootstrap_servers} --alter "
        f"--entity-type topics --entity-name {full} --add-config {changes_}"
    )
    assert settings_of(config, full) == before
    altered(config, full, found.remedy)
    assert bad(check_log(config)) == []


def test_the_remedy_is_a_command_of_kafkas_own_tool(config: Config) -> None:
    settings = {"cleanup.policy": "compact,delete", "max.compaction.lag.ms": "10"}
    full = make_topic(config, "view.best", fitting={}, settings=settings)
    script, *arguments = shlex.split(only(check_log(config)).remedy)
    assert script == "kafka-configs.sh"
    subprocess.run([*config_tool(), *arguments], check=True, capture_output=True)
    assert bad(check_log(config)) == []
    assert FITTING.items() <= settings_of(config, full).items()


def altered(config: Config, topic: str, command: str) -> None:
    """Do what the command of kafka-configs.sh says."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    resource.incremental_configs = [
        entry_to_set(*change.split("=")) for change in command.rpartition(" ")[2].split(",")
    ]
    admin = AdminClient({"bootstrap.servers": config.log.bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(30)


def entry_to_set(name: str, value: str) -> ConfigEntry:
    return ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)


def test_longer_than_asked_for_fits(config: Config) -> None:
    longer = {"min.compaction.lag.ms": "90000000", "delete.retention.ms": "90000000"}
    make_topic(config, "shop.s.items", settings=longer)
    assert bad(check_log(config)) == []


def test_another_number_of_partitions_is_told_and_kept(config: Config) -> None:
    full = make_topic(config, "view.best", 3)
    told = [finding for finding in check_log(config) if finding.where == f"topic {full}"]
    assert [finding.severity for finding in told] == ["ok"]
    assert told[0].what.startswith("it keeps its 3 partitions (the file says 1)")


@pytest.mark.parametrize("topic", ["shop.frontier", "view.best.frontier", "cdc.schemas"])
def test_an_order_needs_one_partition(config: Config, topic: str) -> None:
    full = make_topic(config, topic, 2)
    found = only(check_log(config))
    assert (found.severity, found.where) == ("error", f"topic {full}")
    assert found.what.startswith("it has 2 partitions")
    assert f"--delete --topic {full}" in found.remedy


def test_dead_letters_have_no_keys_to_compact_by(config: Config) -> None:
    full = make_topic(config, "dead-letters", fitting={"cleanup.policy": "compact"})
    found = only(check_log(config))
    assert (found.where, found.what) == (
        f"topic {full}",
        "cleanup.policy is compact, not delete",
    )


def test_more_copies_in_sync_than_there_are(config: Config) -> None:
    full = make_topic(config, "view.best", settings={"min.insync.replicas": "2"})
    found = only(check_log(config))
    assert (found.severity, found.where) == ("error", f"topic {full}")
    assert found.what.startswith("min.insync.replicas is 2, and it has 1 copy")
    assert "--add-config min.insync.replicas=1, or add copies" in found.remedy


def test_more_copies_than_brokers(kafka_bootstrap: str, tmp_path: Path) -> None:
    config = configured(tmp_path, kafka_bootstrap, replication_factor=3)
    full = make_topic(config, "view.best")
    findings = check_log(config)
    kept = next(finding for finding in findings if finding.where == f"topic {full}")
    assert (kept.severity, kept.what) == ("ok", "it keeps its 1 copy (the file says 3)")
    found = only(findings)
    assert "cannot be reached" in found.what or "Unable to replicate" in found.what
    assert found.where.endswith("and 2 more")
    assert found.remedy.startswith("set log.replication_factor to at most")


def test_a_transaction_longer_than_the_broker_allows(kafka_bootstrap: str, tmp_path: Path) -> None:
    settings = {"transaction.timeout.ms": "900001"}
    found = only(check_log(configured(tmp_path, kafka_bootstrap, config=settings)))
    assert found.what == "transaction.timeout.ms is 900001, and the brokers allow 900000"


def test_an_empty_topic_made_for_us_is_welcome_and_others_records_are_not(config: Config) -> None:
    written(config)
    table = make_topic(config, "shop.s.items")
    view = make_topic(config, "view.best")
    assert bad(check_log(config)) == []
    producer = Producer({"bootstrap.servers": config.log.bootstrap_servers})
    for topic in (table, view):
        producer.produce(topic, b"{}", b"k")
    assert producer.flush(30) == 0
    findings = bad(check_log(config))
    assert [finding.where for finding in findings] == [f"topic {table}", f"topic {view}"]
    assert {finding.what for finding in findings} == {
        "it has records that are not ours: it stands in no cdc.schemas"
    }
    assert f"--delete --topic {table}" in findings[0].remedy


def test_a_topic_made_anew_is_not_ours_any_more(config: Config) -> None:
    written(config)
    name = f"{config.log.topic_prefix}{SPEC.name}"
    admin = AdminClient({"bootstrap.servers": config.log.bootstrap_servers})
    admin.delete_topics([name])[name].result(30)
    wait_until(
        lambda: name not in admin.list_topics(timeout=10).topics, timeout_s=30, what="its end"
    )
    make_topic(config, SPEC.name)
    producer = Producer({"bootstrap.servers": config.log.bootstrap_servers})
    producer.produce(name, b"{}", b"k")
    assert producer.flush(30) == 0
    assert f"topic {name}" in [finding.where for finding in bad(check_log(config))]


def test_another_form_than_the_topics(config: Config) -> None:
    written(config)
    name = f"{config.log.topic_prefix}{SPEC.name}"
    other = replace(config.log, format="json", schemas=True, decimal_handling_mode="string")
    found = only(check_log(replace(config, log=other)))
    assert (found.severity, found.where, found.what) == (
        "error",
        f"topic {name}",
        "is written with format avro, the file says json; schemas false, the file says true; "
        "decimal_handling_mode precise, the file says string",
    )
    assert found.remedy == "set it back under `log`, or `cdc remove shop` and start again"


def test_schemas_that_have_their_ids_elsewhere(config: Config, schema_registry: str) -> None:
    """A topic written without a registry, and a file that has one by now; and the other way."""
    written(config)
    name = f"{config.log.topic_prefix}{SPEC.name}"
    later = replace(config, log=replace(config.log, schema_registry=schema_registry))
    found = only(check_log(later))
    assert (found.severity, found.where) == ("error", f"topic {name}")
    assert f"and in {schema_registry}: " in found.what
    assert "set log.schema_registry to what it was" in found.remedy


def test_a_registry_that_answers(config: Config, schema_registry: str) -> None:
    log = replace(config.log, schema_registry=schema_registry)
    with_registry = replace(config, log=log)
    findings = check_log(with_registry)
    assert bad(findings) == []
    assert f"the schema registry at {schema_registry} answers" in [f.what for f in findings]
    written(with_registry)
    assert bad(check_log(with_registry)) == []
    found = only(check_log(config))
    assert "and in cdc.schemas: " in found.what


def test_a_registry_that_does_not_answer(config: Config) -> None:
    written(config)
    url = f"http://u:s3cret@127.0.0.1:{free_port()}"
    log = replace(config.log, schema_registry=url, registry_config={"retries.wait.ms": "1"})
    found = only(check_log(replace(config, log=log)))
    assert "registry does not answer" in found.what
    assert "s3cret" not in str(found)


@pytest.mark.slow
def test_brokers_that_do_not_answer(tmp_path: Path) -> None:
    config = configured(tmp_path, f"127.0.0.1:{free_port()}")
    found = only(check_log(config))
    assert (found.severity, found.where) == ("error", "log")
    assert found.remedy.startswith("start the brokers or correct log.bootstrap_servers")


def test_a_setting_that_librdkafka_does_not_know(kafka_bootstrap: str, tmp_path: Path) -> None:
    settings = {"security.protcol": "SSL", "sasl.password": "s3cret"}
    found = only(check_log(configured(tmp_path, kafka_bootstrap, config=settings)))
    assert (found.where, found.severity) == ("log.config", "error")
    assert 'No such configuration property: "security.protcol"' in found.what
    assert "s3cret" not in str(found)


def test_the_command_line_tells_it_and_says_no(config: Config, tmp_path: Path) -> None:
    full = make_topic(config, "shop.frontier", settings={"cleanup.policy": "delete"})
    command = ["-m", "cdc", "-f", str(tmp_path / "connectors.yaml"), "check"]
    done = forked.run(command)
    assert done.returncode == 1
    assert f"error   topic {full}: cleanup.policy is delete, not compact\n" in done.stdout
    assert f"--entity-name {full} --add-config cleanup.policy=compact\n" in done.stdout
    lines = forked.run([*command, "--json"])
    found = [json.loads(line) for line in lines.stdout.splitlines()]
    assert found[0]["what"].startswith("Kafka, 1 broker")
    assert f"topic {full}" in [line["where"] for line in found if line["severity"] == "error"]


def test_no_command_shows_a_secret(kafka_bootstrap: str, tmp_path: Path) -> None:
    """The broker asks for no password: librdkafka has these settings, and does not use them."""
    secrets = {"sasl.password": "s3cret-1", "ssl.key.password": "s3cret-2"}
    config = configured(
        tmp_path,
        kafka_bootstrap,
        config=secrets,
        schema_registry=f"http://u:s3cret-3@127.0.0.1:{free_port()}",
        schema_registry_config={"ssl.key.password": "s3cret-4"},
    )
    assert "s3cret" not in repr(config)
    command = ["-m", "cdc", "-f", str(tmp_path / "connectors.yaml")]
    for arguments in (["check"], ["status"], ["status", "--json"], ["log", "shop.orders"]):
        done = forked.run([*command, *arguments])
        assert "s3cret" not in done.stdout + done.stderr
        assert "defect" not in done.stderr


def test_settings_that_librdkafka_does_not_take_are_a_mistake_of_the_file(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    secrets = {"sasl.password": "s3cret", "security.protcol": "SSL"}
    configured(tmp_path, kafka_bootstrap, config=secrets)
    command = ["-m", "cdc", "-f", str(tmp_path / "connectors.yaml"), "status"]
    done = forked.run(command)
    assert done.returncode == 2
    assert 'log.config: No such configuration property: "security.protcol"' in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_what_librdkafka_quotes_of_a_secret(kafka_bootstrap: str, tmp_path: Path) -> None:
    login = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "enable.sasl.oauthbearer.unsecure.jwt": "true",
        "sasl.oauthbearer.config": "principal=cdc s3cret x=y",
    }
    found = only(check_log(configured(tmp_path, kafka_bootstrap, config=login)))
    assert found.what.endswith("beginning at: ***")


def client(security: Security, user: str, **other: str) -> dict[str, str]:
    """librdkafka's settings for a user of the broker with passwords."""
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": security.passwords[user],
        "ssl.ca.location": str(security.authority),
        **other,
    }


def test_a_user_with_all_rights(secure_kafka: Broker, security: Security, tmp_path: Path) -> None:
    config = configured(tmp_path, secure_kafka.bootstrap, config=client(security, "cdc"))
    assert bad(check_log(config)) == []
    written(config)
    assert bad(check_log(config)) == []


def test_a_user_without_rights(secure_kafka: Broker, security: Security, tmp_path: Path) -> None:
    config = configured(tmp_path, secure_kafka.bootstrap, config=client(security, "guest"))
    prefix = config.log.topic_prefix
    findings = check_log(config)
    assert [(finding.where, finding.what) for finding in bad(findings)] == [
        (
            f"topic {prefix}cdc.schemas, {prefix}dead-letters, {prefix}shop.public.orders and 3 "
            "more",
            "this user may not make it",
        ),
        (
            f"group {prefix}view.main, {prefix}warehouse",
            "this user may not commit its offsets, which is how others see our lag",
        ),
    ]
    assert bad(findings)[0].remedy.startswith(
        f"kafka-acls.sh --bootstrap-server {secure_kafka.bootstrap} --command-config "
        f"client.properties --add --allow-principal User:NAME --operation Create --topic {prefix}"
    )
    assert "not checked" in findings[1].what


def test_a_user_that_may_not_write(
    secure_kafka: Broker, security: Security, tmp_path: Path
) -> None:
    everything = configured(tmp_path, secure_kafka.bootstrap, config=client(security, "cdc"))
    written(everything)
    log = replace(everything.log, config=client(security, "guest"))
    prefix = log.topic_prefix
    own = (f"{prefix}cdc.schemas", f"{prefix}shop.frontier", f"{prefix}{SPEC.name}")
    allow(secure_kafka.internal, "guest", tuple((ResourceType.TOPIC, name) for name in own[:2]))
    allow(secure_kafka.internal, "guest", ((ResourceType.TOPIC, own[2]),), AclOperation.READ)
    findings = check_log(replace(everything, log=log))
    lacking = next(finding for finding in findings if finding.where == f"topic {own[2]}")
    assert lacking.what == "this user lacks Write, DescribeConfigs on it"
    assert f"--operation Write --operation DescribeConfigs --topic {own[2]}" in lacking.remedy


WRONG_LOGINS = {
    "password": ({"sasl.password": "gu3ssed"}, "Authentication failed", "sasl.password"),
    "no TLS": ({"security.protocol": "SASL_PLAINTEXT"}, "", "security.protocol"),
    "mechanism": ({"sasl.mechanism": "SCRAM-SHA-256"}, "mechanism", "sasl.mechanism"),
}


@pytest.mark.parametrize("name", WRONG_LOGINS)
def test_a_login_that_does_not_work(
    secure_kafka: Broker, security: Security, tmp_path: Path, name: str
) -> None:
    settings, says, remedy = WRONG_LOGINS[name]
    login = client(security, "cdc", **settings)
    found = only(check_log(configured(tmp_path, secure_kafka.bootstrap, config=login)))
    assert found.where == "log"
    assert says in found.what
    assert remedy in found.remedy
    assert not any(login["sasl.password"] in part for part in (found.what, found.remedy))


def test_a_certificate_of_another_authority(
    secure_kafka: Broker, security: Security, tmp_path: Path
) -> None:
    other = make_authority(tmp_path, "other")
    login = client(security, "cdc", **{"ssl.ca.location": str(other)})
    found = only(check_log(configured(tmp_path, secure_kafka.bootstrap, config=login)))
    assert "certificate verify failed" in found.what
    assert "ssl.ca.location" in found.remedy
