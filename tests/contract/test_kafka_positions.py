"""Consumers' positions as Kafka's own tools see them: group offsets, and their lag."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from cdc.config import LogConfig
from cdc.log.kafka import KafkaLog
from cdc.log.kafka_client import REQUEST_TIMEOUT_S
from cdc.log.kafka_client import Broker as Client
from tests.contract.test_kafka_log import abort_records
from tests.fix_log import SPEC, TOPIC, changes, frontier, kafka_config
from tests.services.kafka import Broker

pytestmark = [pytest.mark.service, pytest.mark.xdist_group("kafka")]


def lag(config: LogConfig, group: str) -> int:
    """As kafka-consumer-groups.sh computes it: the partition's end less the group's offset."""
    admin = AdminClient({"bootstrap.servers": config.bootstrap_servers})
    name, topic = config.topic_prefix + group, config.topic_prefix + TOPIC
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)])
    (found,) = asked[name].result().topic_partitions
    assert (found.topic, found.partition) == (topic, 0)
    ends = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()})
    (end,) = (future.result().offset for future in ends.values())
    return int(end - found.offset)


def test_who_has_caught_up_has_no_lag(kafka_bootstrap: str, tmp_path: Path) -> None:
    config = kafka_config(kafka_bootstrap, tmp_path)
    with closing(KafkaLog(config)) as log, closing(log.producer("shop")) as producer:
        producer.create_topics([SPEC])
        (first,) = producer.append([(TOPIC, changes([1, 2]))], [frontier(1)])[TOPIC]
        log.record_positions("duck", {(TOPIC, 0): first})
        log.record_positions("mirror", {(TOPIC, 0): 1})
        assert log.consumers() == ["duck", "mirror"]
        assert (lag(config, "duck"), lag(config, "mirror")) == (0, 2)

        abort_records(config, [100, 101, 102])
        deadline_s = time.monotonic() + 30.0
        log.record_positions("duck", {(TOPIC, 0): first})
        while log.positions("duck")[TOPIC, 0] < first + 4:
            # The broker ends an aborted transaction after it has said that it is aborted.
            assert time.monotonic() < deadline_s
            log.record_positions("duck", {(TOPIC, 0): first})
        assert lag(config, "duck") == 0

        producer.append([(TOPIC, changes([3]))], [frontier(2)])
        log.record_positions("duck", {(TOPIC, 0): first})
        log.record_positions("duck", {(TOPIC, 0): first})
        assert log.positions("duck") == {(TOPIC, 0): first}
        assert lag(config, "duck") > 0


def test_a_topic_that_was_removed(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Its readers learn it by reading; recording where they stood does not stop them."""
    config = kafka_config(kafka_bootstrap, tmp_path)
    with closing(KafkaLog(config)) as log, closing(log.producer("shop")) as producer:
        producer.create_topics([SPEC])
        log.remove("shop")
        log.record_positions("duck", {(TOPIC, 0): 3})
        assert log.positions("duck").get((TOPIC, 0), 3) == 3


def test_brokers_that_are_away(own_kafka: Broker, tmp_path: Path) -> None:
    """What is recorded meanwhile waits for them, the newest of it; who ends does not."""
    config = kafka_config(own_kafka.bootstrap, tmp_path)
    with closing(KafkaLog(config)) as log, closing(log.producer("shop")) as producer:
        producer.create_topics([SPEC])
        producer.append([(TOPIC, changes([1, 2, 3]))], [frontier(1)])
        log.record_positions("duck", {(TOPIC, 0): 1})
        assert log.positions("duck") == {(TOPIC, 0): 1}
        committer = Client(config).committer(config.topic_prefix + "topics")
        committer.commit(
            offsets=[TopicPartition(config.topic_prefix + TOPIC, 0, 0)], asynchronous=False
        )
        own_kafka.shut_down()
        assert log.is_away()
        began_s = time.monotonic()
        committer.commit(offsets=[TopicPartition(config.topic_prefix + TOPIC, 0, 1)])
        committer.close()
        assert time.monotonic() - began_s < REQUEST_TIMEOUT_S / 2
        with closing(KafkaLog(config)) as leaving:
            leaving.record_positions("mirror", {(TOPIC, 0): 1})
            began_s = time.monotonic()
        assert time.monotonic() - began_s < REQUEST_TIMEOUT_S / 2
        for at in range(3):
            log.record_positions("duck", {(TOPIC, 0): at})
        own_kafka.start()
        assert log.positions("duck") == {(TOPIC, 0): 2}
