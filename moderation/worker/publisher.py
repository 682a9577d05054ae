"""The producer of one input partition. A transactional one: outcomes and the offset they answer, all or none.

Its transactional id is {group}-{topic}-{partition}: starting it fences whoever had the partition before us, whatever
that worker still believes. An id for each worker would not do, since aiokafka commits offsets without saying which
member of the group it is, and the broker then takes them from a zombie too.

For brokers without transactions there is AtLeastOnce, which promises less.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import structlog
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from moderation import wire
from moderation.errors import ConfigError, DeliveryError, ModerationError
from moderation.kafka import clients
from moderation.kafka.records import KEY_BYTES, Omitted, Record
from moderation.observability import metrics
from moderation.settings import KafkaSettings
from moderation.types import Reason, Source, Verdict
from moderation.worker.suspects import Mark, Opening

BATCH_BYTES = 64 << 10  # of records sent together; a topic must take as much
NO_MARK = Mark()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Message:
    """One record to send, and what to send in its place where the topic does not take as much."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    cut: Callable[[], Message] | None = None

    @property
    def size(self) -> int:
        return (
            len(self.key or b"")
            + len(self.value or b"")
            + sum(len(name) + len(value or b"") for name, value in self.headers)
        )


def verdict(of: Verdict, headers: wire.Headers, settings: KafkaSettings) -> Message:
    """The verdict, keyed by its post; `headers` are the post's. Cut, it keeps all but its findings."""
    value, carried = wire.verdict_record(of, settings.verdict_format, headers)

    def cut() -> Message:
        return replace(verdict(replace(of, findings=()), (), settings), cut=None)

    return Message(settings.verdicts_topic, of.post_id.encode(), value, carried, cut)


def erasure(post_id: str, by: Source, settings: KafkaSettings) -> Message:
    """A tombstone: the post's verdict is gone from the topic, and from every view of it."""
    return Message(settings.verdicts_topic, post_id.encode(), None, wire.erasure_headers(by))


def dead_letter(source: Source, record: Record, reason: Reason, settings: KafkaSettings) -> Message:
    """The record as it came, and why: up to max_dead_letter_bytes of it.

    What is left out, of the value its end, is named in headers. Cut, it keeps nothing of the value and the headers.
    """
    bounded = _bounded(record, settings.max_dead_letter_bytes)
    value, most = bounded.value or b"", settings.max_dead_letter_bytes
    told = wire.dead_letter_headers(source, bounded.headers, reason, settings.group)
    told += [(f"dlq.{mark}", b"true") for mark in bounded.marks]
    room = max(0, most - bounded.size + len(value))
    if record.value is None:
        told.append(("dlq.value.null", b"true"))  # a null would be a tombstone, and without a key cannot be sent
    if bounded.omitted:
        told += [("dlq.value.omitted", b"true"), *_stood_for(bounded.omitted)]
    elif len(value) > room:
        told += [("dlq.value.truncated", b"true"), *_stood_for(_omitted(value))]

    def cut() -> Message:
        kept = wire.dead_letter_headers(source, (), reason, settings.group)
        stands = record.omitted or _omitted(record.value or b"")
        key = record.key if len(record.key or b"") <= KEY_BYTES else None
        marks = {*record.marks, *(["headers.omitted"] if record.headers else [])}
        marks |= {"key.omitted"} if key is None and record.key is not None else set()
        kept += [(f"dlq.{mark}", b"true") for mark in sorted(marks)]
        return Message(settings.dead_letters, key, b"", [*kept, ("dlq.value.omitted", b"true"), *_stood_for(stands)])

    return Message(settings.dead_letters, bounded.key, value[:room], told, cut)


def _bounded(record: Record, most: int) -> Record:
    """Without a key, and then without headers, that leave no room for a value."""
    if record.size > most and len(record.key or b"") > KEY_BYTES:
        record = record._replace(key=None, marks=(*record.marks, "key.omitted"))
    if record.size - len(record.value or b"") > most:
        record = record._replace(headers=(), marks=(*record.marks, "headers.omitted"))
    return record


def _omitted(value: bytes) -> Omitted:
    return Omitted(len(value), hashlib.sha256(value).hexdigest())


def _stood_for(value: Omitted) -> list[tuple[str, bytes | None]]:
    """Headers in place of a value, or of its end."""
    return [("dlq.value.size", str(value.size).encode()), ("dlq.value.sha256", value.sha256.encode())]


class Publisher:
    """Publishes for one partition, for as long as nobody else does."""

    def __init__(
        self, settings: KafkaSettings, partition: int, find_position: Callable[[], Awaitable[Opening]]
    ) -> None:
        """`find_position`: asks Kafka for the first offset that is not answered yet. Raises DeliveryError."""
        self.position = 0  # that offset, once started
        self.found = Mark()  # what was stored with it when the publisher started
        self.replaces = True  # its producer when a request of that may still be under way; else it publishes no more
        self._settings = settings
        self._partition = partition
        self._find_position = find_position
        self._producer: Any = None  # an AIOKafkaProducer while started
        self._limits: dict[str, int] = {}  # size that a topic has refused
        self._suspect = False  # a request of this producer may still be under way

    async def __aenter__(self) -> Self:
        """Starts the producer: from here on, no earlier one of this partition can commit anything.

        The position is read after that: only then does nobody move it any more.
        """
        try:
            await self._start()
            await self._catch_up()
            self.position, self.found = await self._find_position()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """A transaction that is open stays so: the next producer of this partition aborts it."""
        await self._stop()

    async def publish(self, messages: Sequence[Message], position: int, mark: Mark = NO_MARK) -> None:
        """Commits the messages, in this order, together with `position`, the first offset they do not answer.

        `mark` is stored with the position. Without messages, only the position and the mark are committed.
        Raises DeliveryError when it is not known to be committed, and ConfigError when a topic takes next to nothing.
        """
        while True:
            if self._suspect:
                await self._replace(position)
            sized = [self._fitting(message) for message in messages]
            try:
                async with asyncio.timeout(self._settings.transaction_timeout_ms / 1000):
                    refused = await self._transact(sized, position, mark)
            except Exception as error:  # aiokafka raises what it likes, asserts included
                what = f"the transaction of {self._settings.posts_topic}/{self._partition} up to offset {position}"
                raise DeliveryError(f"{what} has failed: {type(error).__name__}") from error
            if not refused:
                self.position = position
                return
            self._learn(refused)
            self._suspect = True  # it counts a refused record as sent: its next one would be out of order

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
        """Commits, and returns an empty list; or returns the messages that were too large, with nothing committed."""
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
        """Returns when the brokers have them, but for those returned, which are too large."""
        sent: list[tuple[Message, asyncio.Future[Any]]] = []
        refused: list[Message] = []
        try:
            for message in messages:
                try:
                    sent.append((message, await self._send(message)))
                except MessageSizeTooLargeError:  # so says the producer itself
                    refused.append(message)
            # Each is awaited: aiokafka commits a transaction in which a send has failed.
            errors = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        finally:
            for _, future in sent:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # retrieved, also where the next send raised before we got here
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
        """Has the group's coordinator write something, which it says only when its replicas have it, and take it back.

        After a crash of all brokers it tells offsets of some seconds ago until its replicas are back. Whoever went on
        from there would answer anew what is answered; after a write it tells what is so.
        """
        partition = TopicPartition(self._settings.posts_topic, self._partition)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._producer.begin_transaction()
                await self._producer.send_offsets_to_transaction(
                    {partition: OffsetAndMetadata(0, "")}, self._settings.group
                )
                await self._producer.abort_transaction()
        except Exception as error:  # aiokafka raises what it likes, asserts included
            what = f"the group's coordinator takes no offset of {partition.topic}/{partition.partition}"
            raise DeliveryError(f"{what}: {type(error).__name__}") from error

    async def _replace(self, position: int) -> None:
        """A late request of the old producer, an EndTxn above all, must find itself fenced (pre-KIP-890 protocol).

        Starting fences whoever else has this partition, too: if we had lost it unawares, its new owner. What that one
        has committed is not ours to answer again.
        """
        if not self.replaces:
            where = f"{self._settings.posts_topic}/{self._partition}"
            raise DeliveryError(f"{where} up to offset {position} is not published: a request may still be under way")
        log.info("producer_replaced", partition=self._partition)
        metrics.PRODUCERS_REPLACED.inc()
        await self._stop()
        await self._start()
        await self._catch_up()
        if (found := (await self._find_position()).position) != self.position:
            what = f"{self._settings.posts_topic}/{self._partition}"
            raise DeliveryError(f"{what} stands at offset {found}, not at our {self.position}: another worker has it")

    async def _stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await clients.stop(producer)
            _retrieve(producer)


class AtLeastOnce(Publisher):
    """Publishes first and commits the offset then, with neither a fence nor a transaction. A weaker promise:

    Each record is answered once or more, never not at all. It is answered more than once where a worker dies, or loses
    its partition, between the two steps (up to lane.MOST posts a partition), and where a broker's reply is lost
    (aiokafka then sends those records again). Repeats say the same: the next worker answers them from memory.

    Two verdicts may contradict each other, or stand in the wrong order, only where that has no hold: when a worker that
    was cut off, and does not know it yet, writes after the next one has recalled (until its commit is refused, since
    its group knows the generation); and when the first verdict is out of memory. A contradiction of the same identity
    takes a model that does not repeat itself, besides.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partition: int,
        find_position: Callable[[], Awaitable[Opening]],
        commit: Callable[[int, str], Awaitable[None]],
    ) -> None:
        """`commit` commits a position of the partition and its metadata, as a member of the group in its generation."""
        super().__init__(settings, partition, find_position)
        self._commit = commit

    async def publish(self, messages: Sequence[Message], position: int, mark: Mark = NO_MARK) -> None:
        """Sends the messages, in this order, and then commits `position`, the first offset they do not answer.

        `mark` is stored with the position.

        Raises DeliveryError when it is not known to be done, and ConfigError when a topic takes next to nothing.
        """
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_ms / 1000):
                for run in _runs(messages):
                    while refused := await self._send_all([self._fitting(message) for message in run]):
                        self._learn(refused)
                await self._commit(position, mark.metadata(position))
                self.position = position
        except ModerationError:
            raise
        except Exception as error:  # aiokafka raises what it likes
            what = f"{self._settings.posts_topic}/{self._partition} up to offset {position}"
            raise DeliveryError(f"publishing or committing {what} has failed: {type(error).__name__}") from error

    async def _start(self) -> None:
        self._producer = clients.producer(
            self._settings, enable_idempotence=False, acks="all", max_batch_size=BATCH_BYTES
        )
        await clients.connected(self._producer.start, self._settings)

    async def _catch_up(self) -> None:
        """Without transactions there is nothing that could be taken back."""


def _runs(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """What may be sent together: one that may be refused goes alone, so that nothing behind it overtakes it."""
    run: list[Message] = []
    for message in messages:
        if message.size <= BATCH_BYTES:
            run.append(message)
            continue
        yield from ([run] if run else [])
        yield [message]
        run = []
    yield from ([run] if run else [])


def _retrieve(producer: Any) -> None:
    """aiokafka sets a fencing on futures that nobody awaits; each would be reported as an error that we overlooked."""
    batches = [batch for queue in producer._message_accumulator._batches.values() for batch in queue]
    end = [producer._txn_manager.wait_for_transaction_end()] if producer._txn_manager else []
    for future in (*end, *(batch._drain_waiter for batch in batches)):
        if future is not None and future.done() and not future.cancelled():
            future.exception()
