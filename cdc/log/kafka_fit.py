"""Whether the topics and brokers that are there fit what the log promises; facts in, findings out.

What a topic must have, and why:

    cleanup.policy           compact: `delete` forgets rows, and with the frontier's records the
                             place to go on from (SEMANTICS 4). delete for dead letters, which have
                             no keys, and for BEGIN and END of a transaction, which share theirs
    min.compaction.lag.ms    at least `log.min_compaction_lag_s`: for so long a cut stays exact
    delete.retention.ms      at least `log.tombstone_retention_s`: for so long a reader that was
                             away still sees deletes (SEMANTICS 15)
    max.compaction.lag.ms    not below min.compaction.lag.ms
    message.timestamp.type   LogAppendTime: compaction measures its lag on records' timestamps, and
                             with CreateTime those are the clock of whoever wrote them
    min.insync.replicas      at most the copies that there are: we write with acks=all
    partitions               one for frontiers and `cdc.schemas`, whose offsets are an order; others
                             as many as they have: a key must stay in its partition

Nothing is changed here: each finding has the command that changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdc.config import LogConfig
from cdc.log.kafka_names import Role
from cdc.source import Finding

OPERATIONS = {"READ": "Read", "WRITE": "Write", "DESCRIBE_CONFIGS": "DescribeConfigs"}
"""What we do with a topic, as kafka-acls.sh spells it."""
FOR_EVER_MS = 2**63 - 1
TRANSACTION_TIMEOUT_MS = 60_000
"""librdkafka's default for transaction.timeout.ms."""
NAMES_SHOWN = 3
_SINGLE = ("frontier", "schemas")


@dataclass(frozen=True)
class TopicFacts:
    """A topic as the broker describes it. `name` has the prefix; `copies` and `in_sync` are those
    of its poorest partition; `operations` are what we may do (None: the broker does not say)."""

    name: str
    role: Role
    topic_id: str
    partitions: int
    copies: int
    in_sync: int
    settings: Mapping[str, str]
    operations: frozenset[str] | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """The brokers. `settings` are one broker's own; empty when we may not read them. `internal`
    are the names of Kafka's own topics that exist."""

    cluster_id: str
    brokers: int
    settings: Mapping[str, str] = field(default_factory=dict)
    internal: frozenset[str] = frozenset()


def settings_wanted(role: Role, compacted: Mapping[str, str]) -> Mapping[str, str]:
    """What topics of a role are made with; `compacted` for tables, views and frontiers."""
    if role in ("letters", "transactions"):
        return {"cleanup.policy": "delete"}
    return {"cleanup.policy": "compact"} if role == "schemas" else compacted


def check_topic(
    topic: TopicFacts, config: LogConfig, compacted: Mapping[str, str]
) -> Iterator[Finding]:
    """What does not fit, and what differs from the file without harm."""
    where = f"topic {topic.name}"
    wrong = _wrong_settings(topic, settings_wanted(topic.role, compacted))
    if wrong:
        what = "; ".join(text for text, _ in wrong.values())
        changes = {name: value for name, (_, value) in wrong.items()}
        yield Finding("error", where, what, alter_topic(config, topic.name, changes))
    if topic.role in _SINGLE and topic.partitions != 1:
        yield Finding(
            "error",
            where,
            f"it has {topic.partitions} partitions, and its records are in order in one only",
            f"somebody else made it: {tool(config, 'topics')} --delete --topic {topic.name}, and "
            "`cdc run` makes it",
        )
    yield from _check_copies(topic, config)
    yield from _check_operations(topic, config)
    yield from _differences(topic, config)


def _wrong_settings(topic: TopicFacts, wanted: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Per setting: what is wrong, and what it should be."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in wanted.items():
        have = topic.settings.get(name)
        if have is None:
            continue
        if not name.endswith(".ms"):
            if have != value:
                found[name] = (f"{name} is {have}, not {value}", value)
        elif int(have) < int(value):
            found[name] = (f"{name} is {have}, less than {value}", value)
    most = topic.settings.get("max.compaction.lag.ms")
    least = wanted.get("min.compaction.lag.ms", "0")
    if most is not None and int(most) < int(least):
        what = f"max.compaction.lag.ms is {most}, less than the lag of {least}"
        found["max.compaction.lag.ms"] = (what, str(FOR_EVER_MS))
    return found


def _check_copies(topic: TopicFacts, config: LogConfig) -> Iterator[Finding]:
    where = f"topic {topic.name}"
    needed = int(topic.settings.get("min.insync.replicas", 1))
    if needed > topic.copies:
        yield Finding(
            "error",
            where,
            f"min.insync.replicas is {needed}, and it has {_copies(topic.copies)}: nothing can be "
            "written with acks=all",
            alter_topic(config, topic.name, {"min.insync.replicas": str(topic.copies)})
            + ", or add copies with kafka-reassign-partitions.sh",
        )
    elif needed > topic.in_sync:
        yield Finding(
            "error",
            where,
            f"it has {_copies(topic.in_sync)} in sync, min.insync.replicas is {needed}: nothing "
            "can be written now",
            "start the brokers that are down",
        )
    if topic.copies > 1 and topic.settings.get("unclean.leader.election.enable") == "true":
        yield Finding(
            "warning",
            where,
            "unclean.leader.election.enable is true: a broker may lose what was acknowledged, and "
            "the source has already forgotten it",
            alter_topic(config, topic.name, {"unclean.leader.election.enable": "false"}),
        )


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"


def _check_operations(topic: TopicFacts, config: LogConfig) -> Iterator[Finding]:
    if topic.operations is None:
        return
    lacking = [name for name in OPERATIONS if name not in topic.operations]
    if lacking:
        allowed = " ".join(f"--operation {OPERATIONS[name]}" for name in lacking)
        yield Finding(
            "error",
            f"topic {topic.name}",
            f"this user lacks {', '.join(OPERATIONS[name] for name in lacking)} on it",
            f"{tool(config, 'acls')} --add --allow-principal User:NAME {allowed} "
            f"--topic {topic.name}",
        )


def _differences(topic: TopicFacts, config: LogConfig) -> Iterator[Finding]:
    """The file is for topics that are made; those that are there stay as they are."""
    if topic.role in ("table", "view") and topic.partitions != config.partitions:
        yield Finding(
            "ok",
            f"topic {topic.name}",
            f"it keeps its {topic.partitions} partitions (the file says {config.partitions}): "
            "with another number, keys would change theirs",
        )
    if config.replication_factor and topic.copies != config.replication_factor:
        yield Finding(
            "ok",
            f"topic {topic.name}",
            f"it keeps its {_copies(topic.copies)} (the file says {config.replication_factor})",
        )


def check_cluster(facts: ClusterFacts, config: LogConfig, *, makes_topics: bool) -> list[Finding]:
    """What the brokers themselves do not fit."""
    found = [Finding("ok", "log", f"Kafka, {_brokers(facts)}, cluster {facts.cluster_id}")]
    if not facts.settings:
        what = "the brokers' own settings may not be read by this user, and were not checked"
        return [*found, Finding("ok", "log", what)]
    found += _check_transactions(facts, config)
    if makes_topics:
        found += _check_new_copies(facts, config)
    if facts.settings.get("log.cleaner.enable") == "false":
        what = "log.cleaner.enable is false: topics grow for ever"
        found.append(Finding("warning", "log", what, "set it to true in each server.properties"))
    return found


def _brokers(facts: ClusterFacts) -> str:
    return "1 broker" if facts.brokers == 1 else f"{facts.brokers} brokers"


def _check_transactions(facts: ClusterFacts, config: LogConfig) -> Iterator[Finding]:
    timeout_ms = int(config.config.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS))
    most_ms = int(facts.settings.get("transaction.max.timeout.ms", timeout_ms))
    if timeout_ms > most_ms:
        yield Finding(
            "error",
            "log",
            f"transaction.timeout.ms is {timeout_ms}, and the brokers allow {most_ms}",
            f"set transaction.timeout.ms: {most_ms} under log.config, or raise the brokers' "
            "transaction.max.timeout.ms",
        )
    for topic, prefix in (
        ("__transaction_state", "transaction.state.log"),
        ("__consumer_offsets", "offsets.topic"),
    ):
        copies = int(facts.settings.get(f"{prefix}.replication.factor", 1))
        if topic not in facts.internal and copies > facts.brokers:
            yield Finding(
                "error",
                "log",
                f"{topic} cannot be made: {prefix}.replication.factor is {copies}, more than "
                f"{_brokers(facts)} can hold",
                f"start more brokers, or set {prefix}.replication.factor={facts.brokers} in each "
                "server.properties",
            )


def _check_new_copies(facts: ClusterFacts, config: LogConfig) -> Iterator[Finding]:
    copies = config.replication_factor or int(facts.settings.get("default.replication.factor", 1))
    needed = int(facts.settings.get("min.insync.replicas", 1))
    if copies < needed:
        whose = "log.replication_factor" if config.replication_factor else "the brokers' default"
        yield Finding(
            "error",
            "log",
            f"topics are made with {_copies(copies)} ({whose}), and the brokers' "
            f"min.insync.replicas is {needed}: nothing could be written with acks=all",
            f"set log.replication_factor to {needed} or more",
        )


def summary(topics: Sequence[TopicFacts], missing: Sequence[str]) -> Finding:
    """How many there are, and what will be made."""
    there = "1 topic exists" if len(topics) == 1 else f"{len(topics)} topics exist"
    will = f"; {len(missing)} to be made: {listed(missing)}" if missing else ""
    return Finding("ok", "log", there + will)


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


def alter_topic(config: LogConfig, topic: str, settings: Mapping[str, str]) -> str:
    """The command that gives a topic these settings."""
    changes = ",".join(f"{name}={value}" for name, value in settings.items())
    return (
        f"{tool(config, 'configs')} --alter --entity-type topics --entity-name {topic} "
        f"--add-config {changes}"
    )


def create_topic(
    config: LogConfig, topic: str, partitions: int, settings: Mapping[str, str]
) -> str:
    """The command by which somebody with more rights makes a topic for us."""
    copies = f" --replication-factor {config.replication_factor}" * bool(config.replication_factor)
    changes = " ".join(f"--config {name}={value}" for name, value in settings.items())
    return (
        f"{tool(config, 'topics')} --create --topic {topic} --partitions {partitions}{copies} "
        f"{changes}"
    )


def tool(config: LogConfig, name: str) -> str:
    """The beginning of a command of Kafka's own tools; what logs in stands in a file."""
    secured = any(key.startswith(("security.", "sasl.", "ssl.")) for key in config.config)
    login = " --command-config client.properties" if secured else ""
    return f"kafka-{name}.sh --bootstrap-server {config.bootstrap_servers}{login}"
