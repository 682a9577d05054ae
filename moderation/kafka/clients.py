"""Connections to the brokers: clients with our settings, a start that explains a failure, a stop with a deadline."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

import moderation
from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import group_members, refusals
from moderation.kafka.consumer import Consumer
from moderation.settings import KafkaSettings

STOP_S = 5.0  # for a client to stop
CANCEL_S = 1.0  # for a start that is cancelled to come to its end
METADATA_MS = 3_000  # aiokafka's default is five minutes: partitions that are added would wait as long
LONGEST_PAUSE_S = 5.0  # between two attempts to connect
FIRST_PAUSE_S = 0.25

T = TypeVar("T")

log = structlog.get_logger()


def consumer(settings: KafkaSettings, **options: Any) -> Consumer:
    """Returns a consumer that has not started. It does not commit by itself.

    With `group_id` it joins a group. Without, the caller assigns partitions. By default it reads what is committed.
    """
    # A fetch as large as the largest record. Brokers would send that record anyway.
    options = {
        "max_partition_fetch_bytes": settings.max_message_bytes,
        "isolation_level": "read_committed",
        "auto_offset_reset": "earliest",
    } | options
    return Consumer(
        max_record_bytes=settings.max_message_bytes,
        enable_auto_commit=False,
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.session_timeout_ms // 10,
        rebalance_timeout_ms=settings.rebalance_timeout_ms,  # aiokafka's default is the session's: too short to drain
        partition_assignment_strategy=[StickyPartitionAssignor],
        **connection_options(settings) | options,
    )


def member(settings: KafkaSettings) -> Consumer:
    """Returns a consumer that joins the workers' group, not started.

    It learns of new partitions within METADATA_MS. It moves no position by itself: where Kafka no longer holds the
    position, `ready` raises OffsetOutOfRangeError.
    """
    return consumer(
        settings,
        client_id=group_members.client_id(settings.verdicts_topic),  # by which other members know a worker
        group_id=settings.group,
        auto_offset_reset="none",
        metadata_max_age_ms=METADATA_MS,
    )


def producer(settings: KafkaSettings, **options: Any) -> AIOKafkaProducer:
    """Returns an idempotent producer that has not started. After any error of the broker it must be thrown away.

    With `transactional_id` it is transactional. With `enable_idempotence=False` it is a plain one.
    """
    # transaction_timeout_ms counts for transactional producers only; acks=all follows from idempotence
    defaults = {
        "enable_idempotence": True,
        "max_request_size": settings.max_message_bytes,
        "request_timeout_ms": 10_000,
    }
    client = AIOKafkaProducer(
        transaction_timeout_ms=settings.transaction_timeout_ms,
        **connection_options(settings),
        **defaults | options,
    )
    client.refusals = refusals.watch(client.client)
    return client


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Options of every client: brokers, TLS, SASL. Raises ConfigError for files that cannot be used."""
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
    """Calls `start` until it returns, for at most connect_timeout_s. Returns what it returns.

    Raises DeliveryError at the end of that time, and ConfigError as soon as the brokers refuse for good: a login, a
    certificate, a right. The caller owns the client and stops it, started or not.
    """
    causes = _Causes()
    source = logging.getLogger("aiokafka")
    source.addFilter(causes)
    deadline = time.monotonic() + settings.connect_timeout_s
    pause = FIRST_PAUSE_S
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            while True:
                try:
                    return await _begun(start)
                except (KafkaError, OSError) as error:
                    origin = error.__cause__ or error  # a producer wraps errors of its search for a coordinator
                    cause = causes.taken() or origin
                    what = f"{display_name(settings)} refused the connection"
                    if reason := refusals.for_good(settings, cause) or refusals.for_good(settings, origin):
                        raise ConfigError(f"{what}: {reason}") from None
                    if not getattr(origin, "retriable", True):
                        raise refusals.failure(settings, what, error, getattr(start, "__self__", None)) from None
                    log.warning("broker_unreachable", bootstrap=settings.bootstrap, cause=type(cause).__name__)
                await asyncio.sleep(min(random.uniform(0, pause), deadline - time.monotonic()))  # noqa: S311  jitter
                pause = min(2 * pause, LONGEST_PAUSE_S)
    except TimeoutError:
        last = causes.taken()
        if last and (reason := refusals.for_good(settings, last)):
            raise ConfigError(f"{display_name(settings)} refused the connection: {reason}") from None
        cause = type(last).__name__ if last else "no response"
        raise DeliveryError(
            f"{display_name(settings)} could not be reached within {settings.connect_timeout_s:g} s ({cause}): "
            "start Kafka there (`moderation dev kafka` runs one on this machine), or set "
            "MODERATION_KAFKA__BOOTSTRAP to its address, and MODERATION_KAFKA__SECURITY_PROTOCOL to its protocol"
        ) from None
    finally:
        source.removeFilter(causes)


async def _begun(start: Callable[[], Awaitable[T]]) -> T:
    """Returns what `start` returns. A cancellation waits for it, up to CANCEL_S.

    A client of aiokafka whose start is cancelled forgets the connection that it has just opened, and never closes it.
    """
    starting = asyncio.ensure_future(start())
    try:
        return await asyncio.shield(starting)
    finally:
        if not starting.done():
            await asyncio.wait([starting], timeout=CANCEL_S)
            starting.cancel()
            await asyncio.wait([starting])
        if not starting.cancelled():
            starting.exception()  # retrieved, also when the caller is cancelled


def display_name(settings: KafkaSettings) -> str:
    """The cluster, as errors name it."""
    return f"Kafka at {settings.bootstrap} ({settings.security_protocol})"


class _Causes(logging.Filter):
    """Keeps the last error that aiokafka logs, and drops the log lines.

    aiokafka logs why it cannot connect, and does not say so in what it raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        self._last = next((arg for arg in args if isinstance(arg, BaseException)), self._last)
        return False

    def taken(self) -> BaseException | None:
        last, self._last = self._last, None
        return last


async def stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stops a client within STOP_S. Without brokers, aiokafka's own stop can wait for ever.

    aiokafka's stop may also raise the cancellation of one of its own tasks. A task around it keeps that apart
    from a cancellation of the caller.
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
