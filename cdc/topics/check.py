"""What `cdc check` says of a source of topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cdc.errors import CdcError
from cdc.schema import TableSchema
from cdc.source import Finding
from cdc.topics.brokers import TopicsBroker


def check_topics(
    broker: TopicsBroker, tables: Callable[[], Mapping[str, TableSchema]], cuts: str
) -> list[Finding]:
    """One finding for the brokers, one for each topic, and one for each that forgets records."""
    try:
        cluster = broker.cluster()
        topics = broker.topics()
        found = tables()
        settings = broker.settings(list(topics))
    except CdcError as error:
        return [Finding("error", error.where or broker.name, error.what, error.hint)]
    answers = f"the brokers of cluster {cluster} answer; {cuts}"
    findings = [Finding("ok", broker.name, answers)]
    for topic, table in topics.items():
        try:
            findings.append(Finding("ok", topic, _described(found[table])))
        except CdcError as error:
            findings.append(Finding("error", error.where or topic, error.what, error.hint))
        policy = settings[topic]["cleanup.policy"]
        if "delete" in policy.split(","):
            findings.append(
                Finding(
                    "warning",
                    topic,
                    f"cleanup.policy={policy}: the broker forgets records by age, so that "
                    "a source that begins anew sees only the rows that changed since",
                    f"kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=compact",
                )
            )
    return findings


def _described(table: TableSchema) -> str:
    count = len(table.columns)
    return f"table {table.name}, {count} columns, key {', '.join(table.key)}"
