"""Puts submitted posts on the posts topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from moderation import wire
from moderation.errors import ModerationError, PostError
from moderation.kafka import clients, refusals
from moderation.kafka.topic_ids import IdsAsker, topic_ids
from moderation.kafka.topics import Topics
from moderation.observability import traces
from moderation.settings import KafkaSettings
from moderation.types import Reason, Source
from moderation.v1.post_pb2 import Post


class NotAcceptedError(ModerationError):
    """The post may or may not be on its topic. Putting the post again is safe."""


class PostProducer:
    """Puts posts on their topic, in the partition that the post id hashes to, as the platform's producers do."""

    def __init__(self, producer: AIOKafkaProducer, settings: KafkaSettings, topic_id: str) -> None:
        """`topic_id`: as brokers give it; empty: they know no ids."""
        self._producer = producer
        self._settings = settings
        self._topic = settings.posts_topic
        self._topic_id = topic_id
        self._ids = IdsAsker(producer.client, [self._topic])

    def renewed(self, topic_id: str) -> None:
        """Takes note that the topic was deleted and made again: no post need be put twice to find that out."""
        self._topic_id = topic_id

    async def put(self, post: Post, trace: Sequence[tuple[str, bytes]], until: float) -> Source:
        """Returns where the post is, once all replicas have it. `until` is a time of the loop's clock.

        Raises PostError for a post that is larger than the topic takes, NotAcceptedError when no broker has confirmed
        the post by `until`, and DeliveryError, or ConfigError for a missing right, when the producer can no longer be
        used.
        """
        with traces.sending(self._topic, post.id, trace) as carried:
            headers = [("content-type", wire.CONTENT_TYPES["protobuf"]), *carried]
            while True:
                before = self._topic_id
                source = await self._put(post, headers, until)
                self._topic_id = await self._id_at(source.partition, until)
                if before in ("", self._topic_id):
                    return replace(source, topic_id=self._topic_id)
                # The topic was made again: the post is on the one that was deleted, or on this one.

    async def _id_at(self, partition: int, until: float) -> str:
        """The topic's id, as the broker knows it that has taken a post. No other broker is as sure to be up to date.

        Empty where brokers know no ids. Raises NotAcceptedError.
        """
        leader = self._producer.client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        try:
            async with asyncio.timeout_at(until):
                ids = await self._ids.ask(leader if leader is not None and leader >= 0 else None)
        except (TimeoutError, KafkaError):
            raise NotAcceptedError("the topic has the post, but no broker has given the topic's id") from None
        if self._topic_id and self._topic not in ids:
            raise NotAcceptedError("the topic was deleted")
        return ids.get(self._topic, "")

    async def _put(self, post: Post, headers: Sequence[tuple[str, bytes]], until: float) -> Source:
        try:
            async with asyncio.timeout_at(until):
                try:
                    sent = await self._producer.send(
                        self._topic, post.SerializeToString(), post.id.encode(), headers=list(headers)
                    )
                except MessageSizeTooLargeError:
                    problem = "the post is larger than the posts topic takes"
                    raise PostError(Reason.INVALID_POST, problem) from None
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
            what = f"topic {self._topic} did not take a post"
            raise refusals.failure(self._settings, what, error, self._producer) from error
        if record.offset < 0:
            raise NotAcceptedError("the topic has the post, but the broker does not know its offset")
        return Source(record.topic, record.partition, record.offset, record.timestamp)


@asynccontextmanager
async def open_posts(settings: KafkaSettings, topics: Topics) -> AsyncIterator[PostProducer]:
    """Yields a connected producer; stops it at the end."""
    producer = clients.producer(settings, max_request_size=topics.max_message_bytes)
    try:
        await clients.connected(producer.start, settings)
        ids = await clients.connected(lambda: topic_ids(producer.client, [settings.posts_topic]), settings)
        yield PostProducer(producer, settings, ids.get(settings.posts_topic, ""))
    finally:
        await clients.stop(producer)
