"""What `cdc check` makes of topics and brokers that no single test broker can show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cdc.config import LogConfig
from cdc.log.kafka_fit import ClusterFacts, TopicFacts, check_cluster, check_topic, create_topic
from cdc.log.kafka_secrets import registry_host, without_secrets
from cdc.source import Finding

COMPACTED = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": "86400000",
    "delete.retention.ms": "86400000",
    "message.timestamp.type": "LogAppendTime",
}


def log(**config: str) -> LogConfig:
    settings = {name.replace("_", "."): value for name, value in config.items()}
    return LogConfig("kafka", Path(".cdc"), bootstrap_servers="k:9092", config=settings)


def topic(
    settings: Mapping[str, str], copies: int = 3, in_sync: int = 3, operations: str = ""
) -> TopicFacts:
    allowed = frozenset(operations.split()) if operations else None
    return TopicFacts("shop.t", "table", "id", 1, copies, in_sync, settings, allowed)


def of_topic(facts: TopicFacts) -> list[Finding]:
    return list(check_topic(facts, log(), COMPACTED))


def of_cluster(brokers: int, settings: Mapping[str, str], *internal: str) -> list[Finding]:
    facts = ClusterFacts("c", brokers, settings, frozenset(internal))
    return check_cluster(facts, log(), makes_topics=True)[1:]


def test_a_topic_that_fits() -> None:
    settings = {**COMPACTED, "min.insync.replicas": "2"}
    assert of_topic(topic(settings, operations="READ WRITE DESCRIBE_CONFIGS ALTER")) == []


def test_too_few_copies_in_sync_just_now() -> None:
    (found,) = of_topic(topic({**COMPACTED, "min.insync.replicas": "2"}, in_sync=1))
    assert (found.severity, found.remedy) == ("error", "start the brokers that are down")
    assert found.what.startswith("it has 1 copy in sync, min.insync.replicas is 2")


def test_brokers_that_may_lose_what_they_acknowledged() -> None:
    unclean = {**COMPACTED, "unclean.leader.election.enable": "true"}
    (found,) = of_topic(topic(unclean))
    assert found.severity == "warning"
    assert found.remedy.endswith("--add-config unclean.leader.election.enable=false")
    assert of_topic(topic(unclean, copies=1, in_sync=1)) == []


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("__transaction_state", "transaction.state.log"), ("__consumer_offsets", "offsets.topic")],
)
def test_kafkas_own_topics_need_more_brokers_than_there_are(name: str, prefix: str) -> None:
    settings = {f"{prefix}.replication.factor": "3"}
    (found,) = of_cluster(1, settings)
    assert found.severity == "error"
    assert found.what == (
        f"{name} cannot be made: {prefix}.replication.factor is 3, more than 1 broker can hold"
    )
    assert of_cluster(1, settings, name) == of_cluster(3, settings) == []


def test_new_topics_with_fewer_copies_than_must_be_in_sync() -> None:
    (found,) = of_cluster(3, {"default.replication.factor": "1", "min.insync.replicas": "2"})
    assert found.severity == "error"
    assert found.what.startswith("topics are made with 1 copy (the brokers' default)")
    assert found.remedy == "set log.replication_factor to 2 or more"


def test_a_cleaner_that_is_switched_off() -> None:
    (found,) = of_cluster(1, {"log.cleaner.enable": "false"})
    assert (found.severity, found.what.split(":")[0]) == ("warning", "log.cleaner.enable is false")


def test_a_topic_made_by_hand_on_a_broker_with_passwords() -> None:
    secured = LogConfig(
        "kafka",
        Path(".cdc"),
        bootstrap_servers="k:9092",
        replication_factor=3,
        config={"security.protocol": "SASL_SSL", "sasl.password": "s3cret"},
    )
    assert create_topic(secured, "shop.t", 4, {"cleanup.policy": "compact"}) == (
        "kafka-topics.sh --bootstrap-server k:9092 --command-config client.properties --create "
        "--topic shop.t --partitions 4 --replication-factor 3 --config cleanup.policy=compact"
    )


def test_secrets_leave_messages() -> None:
    config = log(sasl_password="s3cret", sasl_username="cdc", ssl_key_pem="---KEY---")
    text = "cdc/s3cret at https://u:other@r and ---KEY---"
    assert without_secrets(text, config) == "cdc/*** at https://u:***@r and ***"
    oauth = "Unrecognized sasl.oauthbearer.config beginning at: scope=s3cret"
    assert without_secrets(oauth, log()).endswith("beginning at: ***")
    assert registry_host("https://u:p@r:8081/x") == "https://r:8081/x"
