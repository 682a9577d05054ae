"""Connections to the brokers: clients with our settings, a start that says what is wrong, a stop that ends."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

import moderation
from moderation.errors import ConfigError
from moderation.kafka.consumer import Consumer
from moderation.settings import KafkaSettings

STOP_S = 5.0
LONGEST_PAUSE_S = 5.0  # between two attempts to connect
RETRY_S = 0.1  # before a coordinator is asked again

T = TypeVar("T")

log = structlog.get_logger()


def consumer(settings: KafkaSettings, **options: Any) -> Consumer:
    """A consumer that has not started: commits nothing by itself, misses nothing, sees no aborted transaction.

    With `group_id` it joins a group; without, partitions are assigned by the caller.
    """
    # a fetch as large as the largest record, which brokers would send anyway
    options = {"max_partition_fetch_bytes": settings.max_message_bytes} | options
    return Consumer(
        max_record_bytes=settings.max_message_bytes,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # "latest" would lose the posts of a partition that is added
        isolation_level="read_committed",
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.session_timeout_ms // 10,
        rebalance_timeout_ms=settings.rebalance_timeout_ms,  # aiokafka's default is the session's: too short to drain
        partition_assignment_strategy=[StickyPartitionAssignor],
        **_connection(settings),
        **options,
    )


def producer(settings: KafkaSettings, **options: Any) -> AIOKafkaProducer:
    """An idempotent producer that has not started. After any error of the broker's it must be thrown away.

    With `transactional_id` it is transactional; with `enable_idempotence=False` a plain one.
    """
    # transaction_timeout_ms counts for transactional producers only; acks=all follows from idempotence
    defaults = {
        "enable_idempotence": True,
        "max_request_size": settings.max_message_bytes,
        "request_timeout_ms": 10_000,
    }
    return AIOKafkaProducer(
        transaction_timeout_ms=settings.transaction_timeout_ms,
        **_connection(settings),
        **defaults | options,
    )


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": f"moderation-{moderation.__version__}",
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return options


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca)
        if settings.ssl_certificate:
            context.load_cert_chain(settings.ssl_certificate, settings.ssl_key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (settings.ssl_ca, settings.ssl_certificate, settings.ssl_key) if path)
        raise ConfigError(f"MODERATION_KAFKA__SSL_*: cannot use {files}: {error.strerror or error}") from None
    return context


async def connected(start: Callable[[], Awaitable[T]], settings: KafkaSettings) -> T:
    """Starts or asks a client, trying again until connect_timeout_s. Then, or if it is refused for good: ConfigError.

    The caller owns the client and stops it, started or not.
    """
    causes = _Causes()
    source = logging.getLogger("aiokafka")
    source.addFilter(causes)
    deadline = time.monotonic() + settings.connect_timeout_s
    pause = 0.25
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            while True:
                try:
                    return await start()
                except (KafkaError, OSError) as error:
                    origin = error.__cause__ or error  # a producer wraps what it meets while it looks for a coordinator
                    if not getattr(origin, "retriable", True):
                        raise ConfigError(f"{_named(settings)} refused us: {type(origin).__name__}") from None
                    cause = causes.taken() or type(origin).__name__
                    log.warning("broker_unreachable", bootstrap=settings.bootstrap, cause=cause)
                await asyncio.sleep(min(random.uniform(0, pause), deadline - time.monotonic()))  # noqa: S311  jitter
                pause = min(2 * pause, LONGEST_PAUSE_S)
    except TimeoutError:
        cause = causes.taken() or "no answer"
        raise ConfigError(
            f"{_named(settings)} could not be reached within {settings.connect_timeout_s:g} s ({cause}): start Kafka "
            "there (`moderation dev kafka` runs one on this machine), or set MODERATION_KAFKA__BOOTSTRAP to its address"
        ) from None
    finally:
        source.removeFilter(causes)


def _named(settings: KafkaSettings) -> str:
    return f"Kafka at {settings.bootstrap} ({settings.security_protocol})"


class _Causes(logging.Filter):
    """aiokafka tells the log why it cannot connect, not its caller: takes the reason from there, and the noise away."""

    def __init__(self) -> None:
        super().__init__()
        self._last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        self._last = next((type(arg).__name__ for arg in args if isinstance(arg, BaseException)), self._last)
        return False

    def taken(self) -> str:
        last, self._last = self._last, ""
        return last


class Committed(NamedTuple):
    """What a group has committed for a partition."""

    offset: int
    metadata: str  # as it was committed with the offset, by whatever tool


async def committed(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Committed | None:
    """The group's offset, None if it has none. Asks until it is told or cancelled; raises KafkaError if refused.

    In place of the consumer's own, which reads the errors of partitions and not that of the group: a coordinator that
    is loading, or no longer one, is to it a group without offsets, and all of the partition would be answered anew.
    """
    coordinator = consumer._coordinator
    while True:
        try:
            await coordinator.ensure_coordinator_known()
            asked = [(partition.topic, [partition.partition])]
            answer = await coordinator._send_req(OffsetFetchRequest(coordinator.group_id, asked))
            nothing = [(partition.topic, [(partition.partition, -1, "", 0)])]
            ((_, ((_, offset, metadata, code),)),) = answer.topics or nothing
            if code := getattr(answer, "error_code", 0) or code:
                raise for_code(code)
        except KafkaError as error:
            if not error.retriable:
                raise
            if isinstance(error, NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
            await asyncio.sleep(RETRY_S)
        else:
            return None if offset < 0 else Committed(int(offset), metadata or "")


async def stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stops a client within STOP_S: with the brokers gone, aiokafka's own stop can wait for ever.

    It may also end in the cancellation of a task of its own, which is not ours: hence a task around it.
    """
    stopping = asyncio.ensure_future(client.stop())
    try:
        async with asyncio.timeout(STOP_S):
            await asyncio.wait([stopping])
    except TimeoutError:
        stopping.cancel()
        log.warning("kafka_client_abandoned", error="TimeoutError")
        return
    error = asyncio.CancelledError() if stopping.cancelled() else stopping.exception()
    if isinstance(error, KafkaError | asyncio.CancelledError):
        log.warning("kafka_client_abandoned", error=type(error).__name__)
    elif error:
        raise error


@dataclass(frozen=True, slots=True)
class Topics:
    """What the cluster says of our topics."""

    cluster_id: str
    partitions: int  # of each of them
    max_message_bytes: int  # largest record that the first one takes, and our settings allow


async def check_topics(settings: KafkaSettings, names: Sequence[str]) -> Topics:
    """Connects, and holds the topics to what we count on. Raises ConfigError with the command that helps.

    The first is the posts topic: the others need as many partitions.
    """
    admin = AIOKafkaAdminClient(**_connection(settings))

    async def ask() -> Topics:
        cluster = await admin.describe_cluster()
        # All topics are asked for: a question by name would create them where brokers do that.
        found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
        missing = [name for name in names if name not in found]
        if missing:
            raise ConfigError(_how_to_create(settings, missing, found.get(names[0], 6), len(cluster["brokers"])))
        for name in names[1:]:
            if found[name] != found[names[0]]:
                raise ConfigError(_how_to_match(settings, names[0], found[names[0]], name, found[name]))
        if settings.verdicts_topic in names:
            await _check_compacted(admin, settings)
        limit = await _max_message_bytes(admin, names[0])
        return Topics(cluster["cluster_id"], found[names[0]], min(limit, settings.max_message_bytes))

    try:
        await connected(admin.start, settings)
        return await connected(ask, settings)  # the broker that is asked may be on its way out or back
    finally:
        await admin.close()


async def _max_message_bytes(admin: AIOKafkaAdminClient, topic: str) -> int:
    """The topic's limit; a broker that does not let us ask gets our own."""
    value = await _config(admin, topic, "max.message.bytes")
    return int(value) if value else 1 << 31


async def _check_compacted(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    policy = await _config(admin, settings.verdicts_topic, "cleanup.policy")
    if policy not in ("", "compact"):
        log.warning(
            "verdicts_topic_is_not_kept",
            topic=settings.verdicts_topic,
            cleanup_policy=policy,
            meaning="verdicts are deleted by age, also of posts that are still looked up; nulls may erase nothing",
            command=f"kafka-configs.sh --bootstrap-server {settings.bootstrap} --alter "
            f"--topic {settings.verdicts_topic} --add-config cleanup.policy=compact",
        )


async def _config(admin: AIOKafkaAdminClient, topic: str, name: str) -> str:
    """Of a topic; empty where a broker does not let us ask."""
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: ""})])
    for code, _, _, _, entries in answer.resources:
        for entry in entries if not code else ():
            return str(entry[1])
    return ""


def _how_to_create(settings: KafkaSettings, missing: Sequence[str], partitions: int, brokers: int) -> str:
    configs = {settings.verdicts_topic: "cleanup.policy=compact"}
    commands = (
        f"kafka-topics.sh --bootstrap-server {settings.bootstrap} --create --topic {name} --partitions {partitions} "
        f"--replication-factor {min(3, brokers)} "
        f"--config {configs.get(name, f'max.message.bytes={settings.max_message_bytes}')}"
        for name in missing
    )
    return "\n".join(
        [
            f"{_named(settings)} has no topic {' and no topic '.join(missing)} that we may see. To create:",
            *(f"  {command}" for command in commands),
            "(`moderation dev kafka` runs a broker that has them)",
        ]
    )


def _how_to_match(settings: KafkaSettings, posts: str, wanted: int, name: str, has: int) -> str:
    few, many, count = (name, posts, wanted) if has < wanted else (posts, name, has)
    return (
        f"topic {name} has {has} partitions and topic {posts} {wanted}; they must have the same number. "
        f"To give {few} as many as {many}:\n"
        f"  kafka-topics.sh --bootstrap-server {settings.bootstrap} --alter --topic {few} --partitions {count}\n"
        "(a key then comes to another partition: a null does not erase what was judged before, and edits may overtake)"
    )
