"""Puts submitted posts on the posts topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from moderation import wire
from moderation.errors import DeliveryError, ModerationError, PostError
from moderation.kafka import clients
from moderation.kafka.topics import Topics
from moderation.observability import traces
from moderation.settings import KafkaSettings
from moderation.types import Reason, Source
from moderation.v1.post_pb2 import Post


class NotAcceptedError(ModerationError):
    """The post may or may not be on its topic. Putting the post again is safe."""


class PostProducer:
    """Puts posts on their topic, in the partition that the post id hashes to, as the platform's producers do."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def put(self, post: Post, trace: Sequence[tuple[str, bytes]], until: float) -> Source:
        """Returns where the post is, once all replicas have it. `until` is a time of the loop's clock.

        Raises PostError for a post that is larger than the topic takes, NotAcceptedError when no broker has confirmed
        the post by `until`, and DeliveryError when the producer can no longer be used.
        """
        with traces.sending(self._topic, post.id, trace) as carried:
            return await self._put(post, [("content-type", wire.CONTENT_TYPES["protobuf"]), *carried], until)

    async def _put(self, post: Post, headers: Sequence[tuple[str, bytes]], until: float) -> Source:
        try:
            async with asyncio.timeout_at(until):
                try:
                    sent = await self._producer.send(
                        self._topic, post.SerializeToString(), post.id.encode(), headers=list(headers)
                    )
                except MessageSizeTooLargeError:
                    problem = "the post is larger than the posts topic takes"
                    raise PostError(Reason.INVALID_POST, problem, post_id=post.id) from None
                record = await sent
        except (TimeoutError, KafkaTimeoutError):
            raise NotAcceptedError("brokers did not answer in time") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A producer that closes cancels what it has not sent. The caller must not look gone.
            raise NotAcceptedError("the producer was closed") from None
        except KafkaError as error:
            # The refused batch leaves a gap in the producer's sequence, and brokers refuse all that comes after it.
            raise DeliveryError(f"topic {self._topic} did not take a post: {type(error).__name__}") from error
        if record.offset < 0:
            raise NotAcceptedError("the topic has the post, but the broker does not know its offset")
        return Source(record.topic, record.partition, record.offset, record.timestamp)


@asynccontextmanager
async def open_posts(settings: KafkaSettings, topics: Topics) -> AsyncIterator[PostProducer]:
    """Yields a connected producer; stops it at the end."""
    producer = clients.producer(settings, max_request_size=topics.max_message_bytes)
    try:
        await clients.connected(producer.start, settings)
        yield PostProducer(producer, settings.posts_topic)
    finally:
        await clients.stop(producer)
