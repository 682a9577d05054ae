"""The producer of one input partition. It publishes outcomes and commits their offset in one transaction.

Its transactional id is {group}-{topic}-{partition}. Starting the producer fences the earlier producer of the
partition, even if the earlier worker still believes that it owns the partition. An id for each worker would not be
enough: aiokafka commits offsets without naming the member of the group, so the broker would accept the offsets of a
worker that was declared dead.

For brokers without transactions there is at_least_once.py, which promises less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import clients
from moderation.observability import metrics
from moderation.settings import KafkaSettings
from moderation.worker.messages import Message
from moderation.worker.suspects import Mark, Opening

BATCH_BYTES = 64 << 10  # of records sent together; a topic must take as much
NO_MARK = Mark()

log = structlog.get_logger()


class Publisher:
    """Publishes for one partition until another producer fences this one."""

    def __init__(
        self, settings: KafkaSettings, partition: int, find_position: Callable[[], Awaitable[Opening]]
    ) -> None:
        """`find_position`: asks Kafka for the first offset without an outcome. Raises DeliveryError."""
        self.position = 0  # the first offset without an outcome, once started
        self.mark = Mark()  # the mark that was stored with the position when the publisher started
        self.replaces = True  # a producer whose request may still be under way; if False, nothing more is published
        self._settings = settings
        self._partition = partition
        self._find_position = find_position
        self._producer: Any = None  # an AIOKafkaProducer while started
        self._limits: dict[str, int] = {}  # size that a topic has refused
        self._suspect = False  # a request of this producer may still be under way

    async def __aenter__(self) -> Self:
        """Starts the producer. From then on no earlier producer of this partition can commit.

        The position is read after the start: only then can no other worker move it.
        """
        try:
            await self._start()
            await self._catch_up()
            self.position, self.mark = await self._find_position()
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

        `mark` is stored with the position. Without messages, only the position and the mark are committed.

        Raises DeliveryError if the commit may have failed, and ConfigError if a topic refuses even small records.
        """
        while True:
            if self._suspect:
                await self._replace(position)
            sized = [self._fitting(message) for message in messages]
            try:
                async with asyncio.timeout(self._settings.transaction_timeout_ms / 1000):
                    refused = await self._transact(sized, position, mark)
            except Exception as error:  # aiokafka raises errors of any kind, also AssertionError
                what = f"the transaction of {self._settings.posts_topic}/{self._partition} up to offset {position}"
                raise DeliveryError(f"{what} has failed: {type(error).__name__}") from error
            if not refused:
                self.position = position
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
        await producer.begin_transaction()
        if refused := await self._send_all(messages):
            return refused
        partition = TopicPartition(self._settings.posts_topic, self._partition)
        stored = OffsetAndMetadata(position, mark.metadata(position))
        await producer.send_offsets_to_transaction({partition: stored}, self._settings.group)
        await producer.commit_transaction()
        return []

    async def _send_all(self, messages: Sequence[Message]) -> list[Message]:
        """Returns the messages that are too large, once the brokers have all others."""
        sent: list[tuple[Message, asyncio.Future[Any]]] = []
        refused: list[Message] = []
        try:
            for message in messages:
                try:
                    sent.append((message, await self._send(message)))
                except MessageSizeTooLargeError:  # raised by the producer, before it sends
                    refused.append(message)
            # Each future is awaited: aiokafka would commit a transaction in which a send has failed.
            errors = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        finally:
            for _, future in sent:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # retrieved, also when a later send raised
        outcomes = [(message, error) for (message, _), error in zip(sent, errors, strict=True)]
        refused += [message for message, error in outcomes if isinstance(error, MessageSizeTooLargeError)]
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

        async def watched(*arguments: Any, **options: Any) -> Any:
            try:
                return await send(*arguments, **options)
            except BaseException:
                self._suspect = True
                raise

        self._producer.client.send = watched
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
                await self._producer.begin_transaction()
                await self._producer.send_offsets_to_transaction(
                    {partition: OffsetAndMetadata(0, "")}, self._settings.group
                )
                await self._producer.abort_transaction()
        except Exception as error:  # aiokafka raises errors of any kind, also AssertionError
            what = f"the group's coordinator accepts no offset of {partition.topic}/{partition.partition}"
            raise DeliveryError(f"{what}: {type(error).__name__}") from error

    async def _replace(self, position: int) -> None:
        """Starts a new producer. A late request of the old one, above all EndTxn, is then fenced (before KIP-890).

        The start also fences a new owner of this partition, if there is one. In this case the position has moved, and
        this worker must not publish again what the new owner has committed.
        """
        if not self.replaces:
            where = f"{self._settings.posts_topic}/{self._partition} up to offset {position}"
            raise DeliveryError(f"{where} is not published: an earlier request may still be under way")
        log.info("producer_replaced", partition=self._partition)
        metrics.PRODUCERS_REPLACED.inc()
        await self._stop()
        await self._start()
        await self._catch_up()
        if (position_now := (await self._find_position()).position) != self.position:
            what = f"{self._settings.posts_topic}/{self._partition}"
            raise DeliveryError(f"{what} is at offset {position_now}, not at {self.position}: another worker has it")

    async def _stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await clients.stop(producer)
            _retrieve(producer)


def _retrieve(producer: Any) -> None:
    """Retrieves the errors of futures that aiokafka fences and does not await. asyncio would report each of them."""
    batches = [batch for queue in producer._message_accumulator._batches.values() for batch in queue]
    end = [producer._txn_manager.wait_for_transaction_end()] if producer._txn_manager else []
    for future in (*end, *(batch._drain_waiter for batch in batches)):
        if future is not None and future.done() and not future.cancelled():
            future.exception()
