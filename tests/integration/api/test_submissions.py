"""Posts that are submitted through the API, over real sockets and a real Kafka; the test plays the worker."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from aiokafka import ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from prometheus_client import REGISTRY

from moderation import wire
from moderation.api import cursors
from moderation.client import CallError, Client
from moderation.dev.kafka import LocalKafka
from moderation.errors import DeliveryError
from moderation.settings import MediaSettings
from moderation.types import Detail, Outcome, Problem, Reason, Source
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_FOUND as FOUND,
)
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_NOT_FOUND as NOT_FOUND,
)
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_PENDING as PENDING,
)
from moderation.v1.post_pb2 import Image, Post
from moderation.v1.verdict_pb2 import Source as SourceMessage
from tests.support.builders import a_verdict
from tests.support.lookups import (
    Api,
    refused,
    service,
    source_of,
)
from tests.support.recreated import id_of

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_post_with_parts_that_cannot_be_read_is_taken_as_the_topic_takes_it(running_api: Api) -> None:
    parts: list[Post] = [
        Post(id="long", text="x" * (running_api.settings.media.max_text_chars + 1)),
        Post(id="many", images=[Image(data=b"x")] * 200),
        Post(id="empty", images=[Image(alt="nothing")]),
        Post(id="far", images=[Image(uri="http://example.com/a.png")]),
    ]
    async with running_api.running() as channel, running_api.posts() as consumer:
        calls = [service(channel).ModeratePost(pb.ModeratePostRequest(post=post), timeout=60) for post in parts]
        records = [await asyncio.wait_for(consumer.getone(), 30) for _ in parts]
        for call in calls:
            call.cancel()
    read = {record.key.decode(): wire.post_record(record.value, record.headers, MediaSettings()) for record in records}
    assert read["long"].text == parts[0].text
    assert len(read["many"].images) == 200
    assert read["empty"].images[0].problem == Problem(Reason.INVALID_POST, "images[0]", Detail.MISSING)
    assert read["far"].images[0].uri == "http://example.com/a.png"


async def put_at(api: Api, record: ConsumerRecord) -> SourceMessage:
    """Where a post is, as the API says it."""
    id = await id_of(api.settings.kafka.bootstrap, record.topic)
    return wire.source_message(replace(source_of(record), topic_id=id))


async def test_a_post_is_found_when_its_verdict_comes(running_api: Api) -> None:
    post = Post(id="post-1", text="hello", images=[Image(data=b"123")], language="en")
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    async with running_api.running() as channel, running_api.posts() as consumer:
        await running_api.put(a_verdict("post-1", source=Source(running_api.settings.kafka.posts_topic, 0, 0, 0)))
        asked = asyncio.ensure_future(
            service(channel).ModeratePost(
                pb.ModeratePostRequest(post=post), timeout=60, metadata=(("traceparent", trace),)
            )
        )
        record = await asyncio.wait_for(consumer.getone(), 30)
        assert record.key == b"post-1"
        assert dict(record.headers)["traceparent"] == trace.encode()
        read = wire.post_record(record.value, record.headers, running_api.settings.media)
        assert (read.id, read.text, read.images[0].data, read.language) == ("post-1", "hello", b"123", "en")
        judged = a_verdict("post-1", outcome=Outcome.REVIEW, source=source_of(record))
        await running_api.put(judged)
        response = await asked
    assert response.state == FOUND
    assert response.verdict == wire.verdict_message(judged)
    assert response.source == await put_at(running_api, record)


async def test_an_older_verdict_of_the_same_post_is_not_taken(running_api: Api) -> None:
    async with running_api.running(), running_api.posts() as consumer, Client(running_api.address) as client:
        first = await client.moderate(Post(id="a"), timeout=3.0)
        assert first.state == PENDING
        old = await asyncio.wait_for(consumer.getone(), 30)
        assert first.source == await put_at(running_api, old)
        asked = asyncio.create_task(client.moderate(Post(id="a", text="edited"), timeout=60))
        new = await asyncio.wait_for(consumer.getone(), 30)
        await running_api.put(a_verdict("a", source=source_of(old)))
        while (await client.get("a")).state != FOUND:
            assert not asked.done()
        await running_api.put(a_verdict("a", source=source_of(new)))
        assert (await asked).verdict.source.offset == new.offset


async def test_pending_comes_before_the_callers_deadline(running_api: Api) -> None:
    async with running_api.running() as channel:
        request = pb.ModeratePostRequest(post=Post(id="a"))
        started = time.monotonic()
        response = await service(channel).ModeratePost(request, timeout=3.0)
        assert response.state == PENDING
        assert response.source.topic == running_api.settings.kafka.posts_topic
        assert 2.0 < time.monotonic() - started < 3.0
    running_api.stop.clear()
    running_api.set(max_wait_s=1.0)
    async with running_api.running() as channel:
        for deadline in (None, 60):  # the API's own limit holds in any case
            started = time.monotonic()
            assert (await service(channel).ModeratePost(request, timeout=deadline)).state == PENDING
            assert 0.9 < time.monotonic() - started < 30


async def test_a_request_id_puts_a_post_once(running_api: Api) -> None:
    running_api.set(max_wait_s=1.0)
    async with running_api.running() as channel, running_api.posts() as consumer:
        request = pb.ModeratePostRequest(post=Post(id="a", text="x"), request_id="r-1")
        first, second = await asyncio.gather(*(service(channel).ModeratePost(request) for _ in range(2)))
        assert (first.source, first.state) == (second.source, PENDING)
        async with refused(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", field="request_id"):
            request.post.text = "y"
            await service(channel).ModeratePost(request)
        await service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="b")))
        keys = [(await asyncio.wait_for(consumer.getone(), 30)).key for _ in range(2)]
        assert sorted(keys) == [b"a", b"b"]


async def test_a_post_larger_than_the_topic_takes(running_api: Api) -> None:
    async with running_api.running() as channel:
        large = pb.ModeratePostRequest(post=Post(id="a", images=[Image(data=b"x" * 200_000)]))
        async with refused(INVALID) as details:
            await service(channel).ModeratePost(large, timeout=5)
        assert details == ["INVALID_POST: the post is larger than the posts topic takes"]
        fits = pb.ModeratePostRequest(post=Post(id="a", images=[Image(data=b"x" * 199_000)]))
        assert (await service(channel).ModeratePost(fits, timeout=3)).state == PENDING


async def test_a_message_larger_than_any_post_is_not_read(running_api: Api) -> None:
    kafka_settings = running_api.settings.kafka.model_copy(update={"max_message_bytes": 100_000})
    running_api.settings = running_api.settings.model_copy(update={"kafka": kafka_settings})
    async with running_api.running() as channel:
        large = pb.ModeratePostRequest(post=Post(id="a", images=[Image(data=b"x" * 200_000)]))
        async with refused(EXHAUSTED):
            await service(channel).ModeratePost(large, timeout=5)


async def test_a_full_backlog_takes_no_further_posts(running_api: Api) -> None:
    running_api.set(max_pending_posts=1)
    async with running_api.running() as channel:
        token = await running_api.accepted(channel, Post(id="a"))
        async with refused(EXHAUSTED, "BACKLOG_FULL", retry=True):
            await service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a")))
        async with Client(running_api.address) as client:
            with pytest.raises(CallError) as caught:
                await client.moderate(Post(id="a"), timeout=30)
            assert (caught.value.reason, caught.value.retry_s) == ("BACKLOG_FULL", 2.0)
            assert REGISTRY.get_sample_value("moderation_api_pending_posts") == 1
            await running_api.put(running_api.judged("a", token))
            await client.wait("a", 30)
            assert REGISTRY.get_sample_value("moderation_api_pending_posts") == 0  # without a further post
        await running_api.accepted(channel, Post(id="a"))


@pytest.mark.usefixtures("local_kafka")
async def test_a_post_that_is_being_put_keeps_its_memory_when_its_caller_leaves(tmp_path: Path) -> None:
    def pending() -> float | None:
        return REGISTRY.get_sample_value("moderation_api_pending_posts")

    async with LocalKafka() as local:
        await local.create_topics("posts", "verdicts")
        small = Api(local.bootstrap, "posts", "verdicts", tmp_path)
        small.set(max_body_bytes=1)  # room for one body
        async with small.running() as channel, asyncio.timeout(60):
            local.kill(1)
            leaves = service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a")), timeout=60)
            while pending() != 1:
                await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
            leaves.cancel()
            async with refused(EXHAUSTED, "OVERLOADED", retry=True):
                await service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="b")), timeout=10)
            assert pending() == 1
            await local.revive(1)
            await small.put(small.judged("a", cursors.of_record(0, 0)))
            await small.accepted(channel, Post(id="b"))


async def test_a_post_that_is_erased_during_a_wait_is_not_found(running_api: Api) -> None:
    async with running_api.running() as channel, running_api.posts() as consumer:
        asked = asyncio.ensure_future(service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a"))))
        record = await asyncio.wait_for(consumer.getone(), 30)
        source = await put_at(running_api, record)
        token = cursors.of_record(source.partition, source.offset, source.topic_id)
        await running_api.put(running_api.judged("b", token))  # the record of post a is judged, and it has no verdict
        response = await asyncio.wait_for(asked, 30)
        assert (response.state, response.consistency_token) == (NOT_FOUND, token)


async def test_a_topic_limit_that_is_lowered_at_runtime_ends_the_process(running_api: Api, kafka: str) -> None:
    posts = running_api.settings.kafka.posts_topic

    async def lower_and_post() -> None:
        async with running_api.running() as channel:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
            await admin.start()
            resource = ConfigResource(ConfigResourceType.TOPIC, posts, {"max.message.bytes": "1000"})
            await admin.alter_configs([resource])
            await admin.close()
            large = pb.ModeratePostRequest(post=Post(id="a", text="x" * 50_000))
            async with refused(grpc.StatusCode.UNAVAILABLE) as details:
                for _ in range(100):  # the broker takes the new limit on when it gets to it
                    await service(channel).ModeratePost(large, timeout=0.2)
            assert details == ["the service is restarting; try again later"]
            await asyncio.sleep(30)  # cancelled by the error

    with pytest.raises(ExceptionGroup) as caught:
        await lower_and_post()
    assert caught.group_contains(DeliveryError, match="did not take a post: MessageSizeTooLargeError")


@pytest.mark.usefixtures("local_kafka")
async def test_without_brokers_lookups_go_on_and_posts_are_not_accepted(tmp_path: Path) -> None:
    async with LocalKafka() as local:
        await local.create_topics("posts", "verdicts")
        alone = Api(local.bootstrap, "posts", "verdicts", tmp_path)
        await alone.put(a_verdict("a"))
        async with alone.running() as channel:
            local.kill(1)
            started = time.monotonic()
            async with refused(grpc.StatusCode.UNAVAILABLE) as details:
                await service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="b")), timeout=2)
            assert details == ["the post may not have been accepted; the same call again is safe"]
            assert time.monotonic() - started < 3
            response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
            assert response.state == FOUND
            started = time.monotonic()
        assert time.monotonic() - started < 20  # it stops, too
