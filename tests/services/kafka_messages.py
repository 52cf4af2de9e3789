"""What any consumer of committed records sees, through confluent-kafka's own."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

TIMEOUT_S = 30.0


def messages(bootstrap: str, topic: str, partition: int = 0) -> list[Message]:
    """All messages of a partition; `topic` is the broker's name for it."""
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": "look",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        found: list[Message] = []
        while True:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None, "the broker does not answer"
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
            else:
                assert error.retriable(), error
    finally:
        consumer.close()
