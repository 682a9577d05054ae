"""The producer of one input partition. It publishes outcomes and commits their offset in one transaction.

Its transactional id is {group}-{topic}-{partition}. Starting the producer fences the earlier producer of the
partition, even if the earlier worker still believes that it owns the partition. An id for each worker would not be
enough: aiokafka commits offsets without naming the member of the group, so the broker would accept the offsets of a
worker that was declared dead.

For brokers without transactions there is at_least_once.py, which promises less.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced, TopicAuthorizationFailedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from moderation.errors import ConfigError, DeliveryError, ModerationError
from moderation.kafka import broker_clock, clients, refusals
from moderation.kafka.broker_clock import BrokerClock
from moderation.kafka.records import APPENDED
from moderation.observability import metrics
from moderation.settings import KafkaSettings
from moderation.worker import offset_metadata
from moderation.worker.messages import Message
from moderation.worker.offset_metadata import Log
from moderation.worker.opening import Opening
from moderation.worker.suspects import Mark

BATCH_BYTES = 64 << 10  # of records sent together; a topic must take as much
CLOCK_S = 1.0  # for a coordinator to say its time
NO_MARK = Mark()

log = structlog.get_logger()


class Publisher:
    """Publishes for one partition until another producer fences this one."""

    def __init__(
        self,
        settings: KafkaSettings,
        partition: int,
        find_position: Callable[[], Awaitable[Opening]],
        clock: BrokerClock | None = None,
    ) -> None:
        """`find_position`: asks Kafka for the first offset without an outcome. Raises DeliveryError.

        `clock`: learns the brokers' time from this publisher's requests.
        """
        self.position = 0  # the first offset without an outcome, once started
        self.opening = Opening(0)  # what was found when the publisher started
        self.log = Log()  # that the position belongs to
        self.replaces = True  # a producer whose request may still be under way; if False, nothing more is published
        self._settings = settings
        self._partition = partition
        self._find_position = find_position
        self._producer: Any = None  # an AIOKafkaProducer while started
        self._copier: Any = None  # a plain one, from the first copy on
        self._limits: dict[str, int] = {}  # size that a topic has refused
        self._clock = clock
        self._send_request: Callable[..., Awaitable[Any]] | None = None  # the transactional producer's own
        self._begun: tuple[float, float] | None = None  # before and after the request that began the transaction
        self._suspect = False  # a request of this producer may still be under way

    async def __aenter__(self) -> Self:
        """Starts the producer. From then on no earlier producer of this partition can commit.

        The position is read after the start: only then can no other worker move it.
        """
        try:
            await self._start()
            await self._catch_up()
            self.opening = await self._find_position()
            self.position, self.log = self.opening.position, self.opening.log
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves an open transaction open: the next producer of this partition aborts it."""
        await self._stop()

    async def publish(self, messages: Sequence[Message], position: int, mark: Mark = NO_MARK) -> None:
        """Commits the messages, in this order, together with `position`: the first offset after the messages' posts.

        `mark` is stored with the position. Without messages, only the position and the mark are committed. A mark may
        be committed twice, so this is tried twice: a process that ended here would leave an attempt that never began.

        Raises DeliveryError if the commit may have failed, and ConfigError if a right is missing or a topic refuses
        even small records.
        """
        again = not messages
        while True:
            if self._suspect:
                await self._replace(position, committed_perhaps=not messages)
            sized = [self._fitting(message) for message in messages if message.partition is None]
            try:
                async with asyncio.timeout(self._settings.transaction_timeout_ms / 1000):
                    await self._send_copies(messages, position)
                    refused = await self._transact(sized, position, mark)
            except ModerationError:
                raise
            except Exception as error:  # aiokafka raises errors of any kind, also AssertionError
                what = f"the transaction of {self._settings.posts_topic}/{self._partition} up to offset {position}"
                failure = refusals.failure(self._settings, f"{what} has failed", error, self._producer)
                fenced = isinstance(error, ProducerFenced)
                if again and self.replaces and isinstance(failure, DeliveryError) and not fenced:
                    again, self._suspect = False, True
                    continue
                raise failure from error
            if not refused:
                self.position = position
                await self._read_clock()
                return
            self._learn(refused)
            self._suspect = True  # the producer counts a refused record as sent: its next record would be out of order

    def _fitting(self, message: Message) -> Message:
        limit = self._limits.get(message.topic)
        return message.cut() if limit is not None and message.size >= limit and message.cut else message

    def _learn(self, refused: Sequence[Message]) -> None:
        for message in refused:
            if message.size <= BATCH_BYTES or message.cut is None:
                raise ConfigError(
                    f"topic {message.topic} refuses a record of {message.size} bytes: its max.message.bytes must be "
                    f"{2 * BATCH_BYTES} or more"
                )
            log.warning("record_too_large", topic=message.topic, partition=self._partition, bytes=message.size)
            self._limits[message.topic] = min(message.size, self._limits.get(message.topic, message.size))

    async def _transact(self, messages: Sequence[Message], position: int, mark: Mark) -> list[Message]:
        """Commits, and returns an empty list; or commits nothing, and returns the messages that were too large."""
        producer = self._producer
        self._begun = None
        await producer.begin_transaction()
        if refused := await self._send_all(messages):
            return refused
        partition = TopicPartition(self._settings.posts_topic, self._partition)
        stored = OffsetAndMetadata(position, offset_metadata.write(position, mark, self.log))
        await producer.send_offsets_to_transaction({partition: stored}, self._settings.group)
        await producer.commit_transaction()
        return []

    async def _send_copies(self, messages: Sequence[Message], position: int) -> None:
        """Sends those of the messages that go to other partitions. Those that were sent before may be repeated.

        They are no part of the transaction: an open one would keep all partitions of their topic from being read, and
        its markers would be the last thing in them, so that the committed offsets would never reach the ends.

        A missing right stops no moderation: the erasures are carried out here, and the log and a metric say where not.
        """
        copies = [message for message in messages if message.partition is not None]
        if not copies:
            return
        try:
            if self._copier is None:
                self._copier = self._plain()
                await clients.connected(self._copier.start, self._settings)
            await asyncio.gather(*(self._copy(message) for message in copies))
        except TopicAuthorizationFailedError:
            erasures = len({message.key for message in copies})
            metrics.ERASURES_UNCOPIED.inc(erasures)
            log.error(  # noqa: TRY400  the error says no more
                "erasures_not_copied",
                topic=self._settings.posts_topic,
                partition=self._partition,
                offset=self.position,
                until=position,
                erasures=erasures,
            )
        except KafkaError as error:
            what = f"copying erasures to topic {self._settings.posts_topic} has failed"
            raise refusals.failure(self._settings, what, error, self._copier) from error

    async def _copy(self, message: Message) -> None:
        await self._copier.send_and_wait(
            message.topic, message.value, message.key, partition=message.partition, headers=list(message.headers)
        )

    def _plain(self) -> Any:
        """A producer without transactions and without their rights, not started."""
        return clients.producer(self._settings, enable_idempotence=False, acks="all", max_batch_size=BATCH_BYTES)

    async def _send_all(self, messages: Sequence[Message]) -> list[Message]:
        """Returns the messages that are too large, once the brokers have all others."""
        begun = time.perf_counter()
        sent: list[tuple[Message, asyncio.Future[Any]]] = []
        refused: list[Message] = []
        try:
            for message in messages:
                try:
                    sent.append((message, await self._send(message)))
                except MessageSizeTooLargeError:  # raised by the producer, before it sends
                    refused.append(message)
            # Each future is awaited: aiokafka would commit a transaction in which a send has failed.
            errors: list[Any] = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        finally:
            for _, future in sent:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # retrieved, also when a later send raised
        outcomes = [(message, error) for (message, _), error in zip(sent, errors, strict=True)]
        refused += [message for message, error in outcomes if isinstance(error, MessageSizeTooLargeError)]
        if self._clock is not None and errors and getattr(stored := errors[-1], "timestamp_type", None) == APPENDED:
            self._clock.observe(stored.timestamp, begun, time.perf_counter())
        for _, error in outcomes:
            if isinstance(error, BaseException) and not refused:
                raise error
        return refused

    async def _send(self, message: Message) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = await self._producer.send(
            message.topic, message.value, message.key, partition=self._partition, headers=list(message.headers)
        )
        return future

    async def _start(self) -> None:
        id = f"{self._settings.group}-{self._settings.posts_topic}-{self._partition}"
        self._producer = clients.producer(self._settings, transactional_id=id, max_batch_size=BATCH_BYTES)
        send = self._producer.client.send

        async def watched(node: int, request: Any, **options: Any) -> Any:
            sent = time.perf_counter()
            try:
                response = await send(node, request, **options)
            except BaseException as error:
                self._suspect = True
                if isinstance(error, Exception):  # counted now: the transaction may end the process
                    metrics.REQUESTS_LOST.inc()
                raise
            if self._begun is None and broker_clock.begins(request, response):
                self._begun = sent, time.perf_counter()
            return response

        self._producer.client.send, self._send_request = watched, send
        await clients.connected(self._producer.start, self._settings)
        self._suspect = False

    async def _catch_up(self) -> None:
        """Makes the group's coordinator write an offset to its replicas, and aborts the write.

        After a crash of all brokers, the coordinator returns offsets that are some seconds old until its replicas are
        back. A worker that starts from such an offset would judge posts twice. After a write the offsets are current.
        """
        partition = TopicPartition(self._settings.posts_topic, self._partition)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                self._begun = None
                await self._producer.begin_transaction()
                await self._producer.send_offsets_to_transaction(
                    {partition: OffsetAndMetadata(0, "")}, self._settings.group
                )
                await self._producer.abort_transaction()
        except Exception as error:  # aiokafka raises errors of any kind, also AssertionError
            what = f"the group's coordinator accepts no offset of {partition.topic}/{partition.partition}"
            raise refusals.failure(self._settings, what, error, self._producer) from error
        await self._read_clock()

    async def _read_clock(self) -> None:
        """Asks, now and then, when the last transaction began by the brokers' clock. Needs no answer."""
        if self._clock is None or self._begun is None or self._send_request is None or not self._clock.due():
            return
        try:
            async with asyncio.timeout(CLOCK_S):
                began_ms = await broker_clock.transaction_start_ms(self._send_request, self._producer)
        except Exception as error:  # noqa: BLE001  aiokafka raises errors of any kind
            log.debug("broker_clock_unknown", partition=self._partition, error=type(error).__name__)
        else:
            if began_ms > 0:
                self._clock.observe(began_ms, *self._begun)

    async def _replace(self, position: int, *, committed_perhaps: bool) -> None:
        """Starts a new producer. A late request of the old one, above all EndTxn, is then fenced (before KIP-890).

        The start also fences a new owner of this partition, if there is one. In this case the position has moved, and
        this worker must not publish again what the new owner has committed. `committed_perhaps`: `position` was
        committed without messages, perhaps by this worker. Then nothing is published twice.
        """
        if not self.replaces:
            where = f"{self._settings.posts_topic}/{self._partition} up to offset {position}"
            raise DeliveryError(f"{where} is not published: an earlier request may still be under way")
        log.info("producer_replaced", partition=self._partition)
        metrics.PRODUCERS_REPLACED.inc()
        await self._stop()
        await self._start()
        await self._catch_up()
        now = await self._find_position()
        if now.position != self.position and not (committed_perhaps and now.position == position):
            what = f"{self._settings.posts_topic}/{self._partition}"
            why = f"its log has changed ({now.loss.cause})" if now.loss else "another worker has it"
            raise DeliveryError(f"{what} is at offset {now.position}, not at {self.position}: {why}")

    async def _stop(self) -> None:
        for producer in (self._producer, self._copier):
            if producer is not None:
                await clients.stop(producer)
                _retrieve(producer)
        self._producer = self._copier = None


def _retrieve(producer: Any) -> None:
    """Retrieves the errors of futures that aiokafka fences and does not await. asyncio would report each of them."""
    batches = [batch for queue in producer._message_accumulator._batches.values() for batch in queue]
    end = [producer._txn_manager.wait_for_transaction_end()] if producer._txn_manager else []
    for future in (*end, *(batch._drain_waiter for batch in batches)):
        if future is not None and future.done() and not future.cancelled():
            future.exception()
