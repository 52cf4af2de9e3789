"""`cdc check` of a Kafka log: brokers, topics, rights and the registry, one finding each.

1. connect: addresses, TLS, SASL, and what the brokers say of themselves
2. describe every topic that is, or has the name of, one of ours, with its settings: one request
   each for all of them
3. hand the facts to cdc.log.kafka_fit
4. ask the broker whether it would make the topics that are missing (`validate_only`): rights,
   copies, its own policies
5. compare with `cdc.schemas`: topics that somebody else writes, or in another form
6. ask the registry

Nothing is made or changed, and no producer is fenced; that a transactional id may be used is
therefore not known before `cdc run`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    TopicDescription,
)

from cdc.config import Config, LogConfig
from cdc.errors import CdcError
from cdc.log.kafka_client import Broker
from cdc.log.kafka_fit import (
    ClusterFacts,
    TopicFacts,
    check_cluster,
    check_topic,
    create_topic,
    listed,
    settings_wanted,
    summary,
    tool,
)
from cdc.log.kafka_names import Names, Role
from cdc.log.kafka_pinned import check_pinned
from cdc.log.kafka_reach import reach, remedy
from cdc.log.kafka_secrets import registry_host, without_secrets
from cdc.source import Finding

REQUEST_TIMEOUT_S = 15.0
SEEN_PATIENCE_S = 3.0
_EXISTS = KafkaError.TOPIC_ALREADY_EXISTS
_FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)


def check_log(config: Config, tables: Collection[str] = ()) -> list[Finding]:
    """All findings; never raises for what a broker or a registry says. `tables` are known to exist
    in the sources, as `source.schema.table`."""
    findings: list[Finding] = []
    log = config.log
    try:
        for finding in _findings(Names(config, tuple(tables))):
            findings.append(finding)
    except KafkaException as error:
        findings.append(_refusal(error.args[0], log))
    except CdcError as error:
        where = error.where or "log"
        findings.append(Finding("error", where, without_secrets(error.what, log), error.hint))
    return findings


def _findings(names: Names) -> Iterator[Finding]:
    log = names.config.log
    broker = Broker(log)
    heard: list[KafkaError] = []
    admin = AdminClient(
        {
            "bootstrap.servers": log.bootstrap_servers,
            "log_level": 0,
            **log.config,
            "error_cb": heard.append,
        }
    )
    compacted = broker.compacted()
    metadata = reach(admin, heard)
    wanted = [_new_topic(name, names, log, compacted) for name in names.certain()]
    refusals = _refusals(admin, [new for new in wanted if new.topic not in metadata.topics])
    unseen = [topic for topic, error in refusals.items() if error.code() == _EXISTS]
    if unseen:
        metadata = _once_seen(admin, unseen)
    missing = [new for new in wanted if new.topic not in metadata.topics]
    topics, cluster = _facts(admin, metadata, _roles(metadata, names, log.topic_prefix))
    yield from check_cluster(cluster, log, makes_topics=bool(missing))
    yield summary(topics, [new.topic for new in missing])
    for topic in topics:
        yield from check_topic(topic, log, compacted)
    refused = list(_refused(missing, refusals, log))
    yield from refused
    yield from _check_groups(admin, names, log)
    registry = list(_check_registry(log, names))
    yield from registry
    answers = all(finding.severity == "ok" for finding in registry)
    if not refused:  # else `cdc.schemas` may be there, and not for us to see
        yield from check_pinned(admin, broker, topics, log, registry_answers=answers)


def _refusal(error: KafkaError, log: LogConfig) -> Finding:
    return Finding("error", "log", without_secrets(f"Kafka: {error.str()}", log), remedy(error))


def _roles(metadata: ClusterMetadata, names: Names, prefix: str) -> dict[str, Role]:
    """The topics that are there and have a name of ours, with the prefix."""
    found: dict[str, Role] = {}
    for topic in sorted(metadata.topics):
        role = names.role(topic.removeprefix(prefix)) if topic.startswith(prefix) else None
        if role is not None:
            found[topic] = role
    return found


def _facts(
    admin: AdminClient, metadata: ClusterMetadata, roles: Mapping[str, Role]
) -> tuple[list[TopicFacts], ClusterFacts]:
    described = _described(admin, list(roles))
    some_broker = ConfigResource(ConfigResource.Type.BROKER, str(next(iter(metadata.brokers))))
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in roles]
    answers = admin.describe_configs([*resources, some_broker], request_timeout=REQUEST_TIMEOUT_S)
    topics = [
        _topic(described[name], role, _settings(answers[resource]))
        for (name, role), resource in zip(roles.items(), resources, strict=True)
    ]
    internal = frozenset(name for name in metadata.topics if name.startswith("__"))
    settings = _settings(answers[some_broker])
    return topics, ClusterFacts(str(metadata.cluster_id), len(metadata.brokers), settings, internal)


def _described(admin: AdminClient, names: list[str]) -> dict[str, TopicDescription]:
    if not names:
        return {}
    futures = admin.describe_topics(
        TopicCollection(names),
        include_authorized_operations=True,
        request_timeout=REQUEST_TIMEOUT_S,
    )
    return {name: future.result() for name, future in futures.items()}


def _settings(answer: Future[dict[str, ConfigEntry]]) -> dict[str, str]:
    """Names and values; none where this user may not read them."""
    try:
        found = answer.result()
    except KafkaException as error:
        if error.args[0].code() in _FORBIDDEN:
            return {}
        raise
    return {name: entry.value for name, entry in found.items() if entry.value is not None}


def _topic(found: TopicDescription, role: Role, settings: Mapping[str, str]) -> TopicFacts:
    operations = found.authorized_operations
    return TopicFacts(
        name=found.name,
        role=role,
        topic_id=str(found.topic_id),
        partitions=len(found.partitions),
        copies=min(len(partition.replicas) for partition in found.partitions),
        in_sync=min(len(partition.isr) for partition in found.partitions),
        settings=settings,
        operations=None if operations is None else frozenset(one.name for one in operations),
    )


def _new_topic(name: str, names: Names, log: LogConfig, compacted: Mapping[str, str]) -> NewTopic:
    """A topic as `cdc run` makes it."""
    role = names.role(name) or "table"
    settings = dict(settings_wanted(role, compacted))
    partitions = log.partitions if role in ("table", "view") else 1
    copies = log.replication_factor or -1
    return NewTopic(log.topic_prefix + name, partitions, copies, config=settings)


def _refusals(admin: AdminClient, wanted: Sequence[NewTopic]) -> dict[str, KafkaError]:
    """What the brokers would answer if these topics were made now, where that is not yes."""
    if not wanted:
        return {}
    answers = admin.create_topics(
        list(wanted), validate_only=True, request_timeout=REQUEST_TIMEOUT_S
    )
    found: dict[str, KafkaError] = {}
    for topic, answer in answers.items():
        try:
            answer.result()
        except KafkaException as error:
            found[topic] = error.args[0]
    return found


def _once_seen(admin: AdminClient, topics: Sequence[str]) -> ClusterMetadata:
    """What is there once these topics are, too: a broker hears of new ones a moment after they are
    made. Those that we have no right to see do not come."""
    deadline = time.monotonic() + SEEN_PATIENCE_S
    while True:
        metadata = admin.list_topics(timeout=REQUEST_TIMEOUT_S)
        if metadata.topics.keys() >= {*topics} or time.monotonic() > deadline:
            return metadata
        admin.poll(0.05)


def _refused(
    missing: Sequence[NewTopic], refusals: Mapping[str, KafkaError], log: LogConfig
) -> Iterator[Finding]:
    """One finding for all topics that are refused alike."""
    alike: dict[tuple[int, str], list[NewTopic]] = {}
    for new in missing:
        if new.topic in refusals:
            said = refusals[new.topic]
            text = str(said.str()).replace(f"'{new.topic}'", "its name")
            alike.setdefault((said.code(), text), []).append(new)
    for (code, text), topics in alike.items():
        yield _refused_topics(code, text, topics, log)


def _refused_topics(code: int, text: str, topics: list[NewTopic], log: LogConfig) -> Finding:
    where = f"topic {listed([new.topic for new in topics])}"
    first = topics[0]
    by_hand = create_topic(log, first.topic, first.num_partitions, first.config)
    if code == _EXISTS:
        allow = f"{tool(log, 'acls')} --add --allow-principal User:NAME --operation Describe"
        return Finding(
            "error", where, "it exists, and this user may not see it",
            f"{allow} --operation Read --operation Write --topic {first.topic}",
        )  # fmt: skip
    if code in _FORBIDDEN:
        allow = f"{tool(log, 'acls')} --add --allow-principal User:NAME --operation Create"
        return Finding(
            "error", where, "this user may not make it",
            f"{allow} --topic {first.topic}, or {by_hand}",
        )  # fmt: skip
    remedy = f"somebody with more rights may make it: {by_hand}"
    if code == KafkaError.INVALID_REPLICATION_FACTOR:
        remedy = "set log.replication_factor to at most the number of brokers, or start more"
    return Finding("error", where, f"the broker will not make it: {text}", remedy)


def _check_groups(admin: AdminClient, names: Names, log: LogConfig) -> Iterator[Finding]:
    """Positions are recorded as offsets of these groups; a group need not exist yet."""
    groups = [log.topic_prefix + group for group in names.groups()]
    if not groups:
        return
    forbidden = []
    answers = admin.describe_consumer_groups(
        groups, include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_S
    )
    for group, answer in answers.items():
        try:
            operations = answer.result().authorized_operations
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                forbidden.append(group)
        else:
            if operations and "READ" not in {one.name for one in operations}:
                forbidden.append(group)
    if forbidden:
        yield Finding(
            "error",
            f"group {listed(forbidden)}",
            "this user may not commit its offsets, which is how others see our lag",
            f"{tool(log, 'acls')} --add --allow-principal User:NAME --operation Read --group "
            f"{forbidden[0]}",
        )


def _check_registry(log: LogConfig, names: Names) -> Iterator[Finding]:
    if log.format != "avro" or not log.schema_registry:
        return
    # reason: imports an HTTP client, which takes 0.2 s
    from cdc.log.registry_ids import check_registry  # noqa: PLC0415

    tables = [name for name in names.certain() if names.role(name) in ("table", "view")]
    subjects = [f"{log.topic_prefix}{name}-value" for name in tables[:1]]
    wrong = check_registry(log.schema_registry, log.registry_config, subjects)
    if wrong is None:
        yield Finding(
            "ok", "log", f"the schema registry at {registry_host(log.schema_registry)} answers"
        )
    else:
        where = wrong.where or "log.schema_registry"
        yield Finding("error", where, without_secrets(wrong.what, log), wrong.hint)
