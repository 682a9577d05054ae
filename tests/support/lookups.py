"""An API in this process, its callers, and what the topics bring it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from moderation import wire
from moderation.api import cursors, role
from moderation.dev.ports import free_ports
from moderation.settings import ApiSettings, AuthSettings, KafkaSettings, MediaSettings, Settings
from moderation.types import Source, Verdict
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc
from moderation.v1.post_pb2 import Post
from tests.support.builders import a_verdict

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "moderation.v1.ModerationService"


def a_free_address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


class Api:
    """An API in this process, on a port of its own, and what talks to it."""

    def __init__(self, bootstrap: str, posts: str, verdicts: str, folder: Path) -> None:
        self.address = a_free_address()
        self.stop = asyncio.Event()
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap=bootstrap, posts_topic=posts, verdicts_topic=verdicts),
            media=MediaSettings(max_text_chars=100_000),
            api=ApiSettings(
                listen=self.address, view=folder / "verdicts.sqlite", drain_timeout_s=2.0, drain_delay_s=0.0
            ),
        )

    def set(self, *, auth: dict[str, Any] | None = None, **api: Any) -> None:
        changed = {"api": self.settings.api.model_copy(update=api)}
        self.settings = self.settings.model_copy(update=changed)
        if auth:
            self.settings = self.settings.model_copy(update={"auth": AuthSettings(**auth)})

    @asynccontextmanager
    async def running(self, credentials: grpc.ChannelCredentials | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """Serving; its end is awaited, and raises what it raised."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        opened = (
            grpc.aio.secure_channel(self.address, credentials, options=options)
            if credentials
            else grpc.aio.insecure_channel(self.address, options=options)
        )
        async with opened as channel, asyncio.TaskGroup() as tasks:
            tasks.create_task(role.serve(self.settings, self.stop))
            async with asyncio.timeout(30):
                if self.settings.auth.open:
                    health = watch_health(channel)
                    while (await health.read()).status != SERVING:
                        pass
                else:
                    await until_serving(channel)
            yield channel  # health is still watched here: that must not hold the drain up
            self.stop.set()

    async def put(self, *verdicts: Any) -> None:
        """Verdicts, or ids of posts whose verdicts are erased."""
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka.bootstrap) as producer:
            for verdict in verdicts:
                post_id, value = verdict, None
                headers: list[tuple[str, bytes]] = []
                if isinstance(verdict, Verdict):
                    value, headers = wire.verdict_record(verdict, "json")
                    post_id = verdict.post_id
                await producer.send_and_wait(
                    self.settings.kafka.verdicts_topic, value, key=post_id.encode(), headers=headers
                )

    async def accepted(self, channel: grpc.aio.Channel, post: Post, **call: Any) -> bytes:
        """Puts a post through the API and leaves; the token of its record, once that is on the topic."""
        async with self.posts() as consumer:
            topic = self.settings.kafka.posts_topic
            numbers = consumer.partitions_for_topic(topic) or ()
            before = await consumer.end_offsets([TopicPartition(topic, number) for number in numbers])
            asked = service(channel).ModeratePost(pb.ModeratePostRequest(post=post), timeout=300, **call)
            async with asyncio.timeout(60):
                async for record in consumer:
                    if record.offset >= before[TopicPartition(topic, record.partition)]:
                        break
            # The API knows of the post once the broker has acknowledged it: the record can be read a little earlier.
            look = pb.GetVerdictRequest(post_id=post.id)
            async with asyncio.timeout(60):
                while (await service(channel).GetVerdict(look, **call)).state == pb.LOOKUP_STATE_NOT_FOUND:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            asked.cancel()
        return cursors.of_record(record.partition, record.offset)

    def judged(self, post_id: str, token: bytes, **fields: Any) -> Verdict:
        """The verdict on the record that a token names."""
        ((partition, offset),) = cursors.position(token).posts.items()
        return a_verdict(post_id, source=Source(self.settings.kafka.posts_topic, partition, offset, 0), **fields)

    @asynccontextmanager
    async def posts(self) -> AsyncIterator[AIOKafkaConsumer]:
        """Reads the posts topic, as a worker would."""
        async with AIOKafkaConsumer(
            self.settings.kafka.posts_topic,
            bootstrap_servers=self.settings.kafka.bootstrap,
            auto_offset_reset="earliest",
        ) as consumer:
            yield consumer


def watch_health(channel: grpc.aio.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True)


async def until_serving(channel: grpc.aio.Channel) -> None:
    """Returns once the API serves, as a probe without credentials sees it."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    while (await stub.Check(request, wait_for_ready=True)).status != SERVING:  # noqa: ASYNC110  the API has no other sign
        await asyncio.sleep(0.02)  # a caller that asks without a pause is disconnected


def service(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.ModerationServiceStub(channel)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def refused(
    code: grpc.StatusCode, reason: str = "", *, field: str = "", retry: bool = False
) -> AsyncIterator[list[str]]:
    """What is awaited in the block ends with this status, and with these details for programs."""
    details: list[str] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield details
    assert caught.value.code() == code, caught.value.details()
    details.append(caught.value.details() or "")
    if reason:
        status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # has all that a Call has
        details_by_type = {detail.type_url.rpartition(".")[2]: detail for detail in status.details}
        info = error_details_pb2.ErrorInfo()
        assert details_by_type["ErrorInfo"].Unpack(info)
        assert (info.domain, info.reason) == ("moderation.v1", reason)
        assert f"ERROR_REASON_{info.reason}" in pb.ErrorReason.keys()  # noqa: SIM118  an enum's wrapper
        assert ("RetryInfo" in details_by_type) == retry
        assert ("BadRequest" in details_by_type) == bool(field)
        if field:
            request = error_details_pb2.BadRequest()
            assert details_by_type["BadRequest"].Unpack(request)
            assert [violation.field for violation in request.field_violations] == [field]


@asynccontextmanager
async def watching(channel: grpc.aio.Channel, **request: Any) -> AsyncIterator[Any]:
    """A watch whose first message has come. `watch.first` is that message."""
    stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(**request))
    stream.first = await asyncio.wait_for(stream.read(), 30)
    try:
        yield stream
    finally:
        stream.cancel()


async def changes(stream: Any, count: int) -> list[tuple[str, str]]:
    """The next changes of a watch: post id, and the first character of the verdict's content digest, or "erased"."""
    read: list[tuple[str, str]] = []
    while len(read) < count:
        message = await asyncio.wait_for(stream.read(), 30)
        for change in message.changes:
            digest = change.verdict.content_digest[:1]
            read.append((change.post_id, "erased" if change.HasField("erasure") else digest))
    return read


def source_of(record: ConsumerRecord) -> Source:
    return Source(record.topic, record.partition, record.offset, record.timestamp)
