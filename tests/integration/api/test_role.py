"""The gRPC service over real sockets and a real Kafka; the test plays the worker."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from moderation import wire
from moderation.api import role
from moderation.client import CallError, Client
from moderation.dev.kafka import LocalKafka
from moderation.errors import ConfigError, DeliveryError
from moderation.types import Outcome, Source
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Image
from moderation.v1.post_pb2 import Post as Message
from tests.support.builders import a_verdict
from tests.support.lookups import NOT_SERVING, SERVICE, SERVING, Api, refused, service, source_of, watch_health


async def test_lookups(running_api: Api) -> None:
    await running_api.put(a_verdict("a", outcome=Outcome.REMOVE), a_verdict("b"))
    async with running_api.running() as channel:
        found = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
        assert found.state == pb.LOOKUP_STATE_FOUND
        assert found.verdict == wire.verdict_message(a_verdict("a", outcome=Outcome.REMOVE))
        missing = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="missing"))
        assert missing == pb.GetVerdictResponse(state=pb.LOOKUP_STATE_NOT_FOUND)
        async with Client(running_api.address) as client:
            assert (await client.get("b")).verdict == wire.verdict_message(a_verdict("b"))
            many = ["a", *(f"missing-{number}" for number in range(1_500)), "b"]
            results = await client.get_many(many)
        assert [result.post_id for result in results] == many
        assert [result.post_id for result in results if result.state == pb.LOOKUP_STATE_FOUND] == ["a", "b"]


async def test_batches_have_a_limit(running_api: Api) -> None:
    async with running_api.running() as channel:
        answer = await service(channel).BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=["a"] * 1_000))
        assert len(answer.results) == 1_000
        for count in (0, 1_001):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
                await service(channel).BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=["a"] * count))
            assert details == ["post_ids must be 1 to 1000 in one call"]


async def test_bad_input_is_told_by_its_field(running_api: Api) -> None:
    written = "what-a-user-wrote\n"
    cases = [
        ("GetVerdict", pb.GetVerdictRequest(), "post_id is empty"),
        ("GetVerdict", pb.GetVerdictRequest(post_id="x" * 513), "post_id is longer than 512 bytes"),
        (
            "BatchGetVerdicts",
            pb.BatchGetVerdictsRequest(post_ids=["a", written]),
            "post_ids[1] holds a control character",
        ),
        ("ModeratePost", pb.ModeratePostRequest(), "INVALID_POST: id is empty"),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Message(id=written)),
            "INVALID_POST: id holds a control character",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Message(id="a", images=[Image()])),
            "INVALID_POST: images[0]: one of data and uri must be set and not empty",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Message(id="a", text="x" * 100_001)),
            "TEXT_TOO_LONG: text is longer than 100000 characters",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest.FromString(b"\x0a\x07\x0a\x01a\xa2\x06\x01x"),
            "INVALID_POST: a field is not known to this version",
        ),
    ]
    async with running_api.running() as channel:
        for method, request, text in cases:
            async with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
                await getattr(service(channel), method)(request)
            assert details == [text]


async def test_a_post_is_found_when_its_verdict_comes(running_api: Api) -> None:
    post = Message(id="post-1", text="hello", images=[Image(data=b"123")], language="en")
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
        answer = await asked
    assert answer.state == pb.LOOKUP_STATE_FOUND
    assert answer.verdict == wire.verdict_message(judged)
    assert answer.source == wire.source_message(source_of(record))


async def test_an_older_verdict_of_the_same_post_is_not_taken(running_api: Api) -> None:
    async with running_api.running(), running_api.posts() as consumer, Client(running_api.address) as client:
        first = await client.moderate(Message(id="a"), timeout=3.0)
        assert first.state == pb.LOOKUP_STATE_PENDING
        old = await asyncio.wait_for(consumer.getone(), 30)
        assert first.source == wire.source_message(source_of(old))
        asked = asyncio.create_task(client.moderate(Message(id="a", text="edited"), timeout=60))
        new = await asyncio.wait_for(consumer.getone(), 30)
        await running_api.put(a_verdict("a", source=source_of(old)))
        while (await client.get("a")).state != pb.LOOKUP_STATE_FOUND:
            assert not asked.done()
        await running_api.put(a_verdict("a", source=source_of(new)))
        assert (await asked).verdict.source.offset == new.offset


async def test_pending_comes_before_the_callers_deadline(running_api: Api) -> None:
    async with running_api.running() as channel:
        request = pb.ModeratePostRequest(post=Message(id="a"))
        started = time.monotonic()
        answer = await service(channel).ModeratePost(request, timeout=3.0)
        assert answer.state == pb.LOOKUP_STATE_PENDING
        assert answer.source.topic == running_api.settings.kafka.posts_topic
        assert 2.0 < time.monotonic() - started < 3.0
    running_api.stop.clear()
    running_api.set(max_wait_s=1.0)
    async with running_api.running() as channel:
        for deadline in (None, 60):  # the API's own limit holds in any case
            started = time.monotonic()
            assert (await service(channel).ModeratePost(request, timeout=deadline)).state == pb.LOOKUP_STATE_PENDING
            assert 0.9 < time.monotonic() - started < 30


async def test_a_post_larger_than_the_topic_takes(running_api: Api) -> None:
    async with running_api.running() as channel:
        large = pb.ModeratePostRequest(post=Message(id="a", images=[Image(data=b"x" * 200_000)]))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
            await service(channel).ModeratePost(large, timeout=5)
        assert details == ["INVALID_POST: the post is larger than the posts topic takes"]
        fits = pb.ModeratePostRequest(post=Message(id="a", images=[Image(data=b"x" * 199_000)]))
        assert (await service(channel).ModeratePost(fits, timeout=3)).state == pb.LOOKUP_STATE_PENDING


async def test_a_message_larger_than_any_post_is_not_read(running_api: Api) -> None:
    kafka_settings = running_api.settings.kafka.model_copy(update={"max_message_bytes": 100_000})
    running_api.settings = running_api.settings.model_copy(update={"kafka": kafka_settings})
    async with running_api.running() as channel:
        large = pb.ModeratePostRequest(post=Message(id="a", images=[Image(data=b"x" * 200_000)]))
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            await service(channel).ModeratePost(large, timeout=5)


async def test_overload_is_refused_and_others_are_still_answered(running_api: Api) -> None:
    running_api.set(max_waits=1)
    async with running_api.running() as channel, running_api.posts() as consumer:
        waiting = asyncio.ensure_future(
            service(channel).ModeratePost(pb.ModeratePostRequest(post=Message(id="a")), timeout=60)
        )
        record = await asyncio.wait_for(consumer.getone(), 30)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry=True) as details:
            await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="a"))
        assert details == ["too many calls at once; try again later"]
        await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))  # lookups have room of their own
        health: Any = health_pb2_grpc.HealthStub(channel)
        check = await health.Check(health_pb2.HealthCheckRequest())
        assert check.status == SERVING
        await running_api.put(a_verdict("a", source=source_of(record)))
        assert (await waiting).state == pb.LOOKUP_STATE_FOUND
        await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="a"))


async def test_calls_that_end_badly_are_not_counted_for_ever(running_api: Api) -> None:
    running_api.set(max_waits=1)
    async with running_api.running() as channel, running_api.posts() as consumer:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT):
            await service(channel).WaitVerdict(pb.WaitVerdictRequest())
        gone = service(channel).ModeratePost(pb.ModeratePostRequest(post=Message(id="a")), timeout=60)
        await asyncio.wait_for(consumer.getone(), 30)
        gone.cancel()
        async with asyncio.timeout(30):
            while True:
                try:
                    await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="b"), timeout=0.2)
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_drain_answers_what_is_under_way(running_api: Api) -> None:
    async with running_api.running() as channel, running_api.posts() as consumer:
        waiting = asyncio.ensure_future(
            service(channel).ModeratePost(pb.ModeratePostRequest(post=Message(id="a")), timeout=60)
        )
        await asyncio.wait_for(consumer.getone(), 30)
        health = watch_health(channel)
        assert (await health.read()).status == SERVING
        running_api.stop.set()
        assert (await health.read()).status == NOT_SERVING
        lookups = 0
        while not waiting.done():
            try:
                await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="b"))
                lookups += 1
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert lookups  # meanwhile they are answered
        assert waiting.result().state == pb.LOOKUP_STATE_PENDING


async def test_a_drain_cuts_nothing(running_api: Api) -> None:
    running_api.set(drain_delay_s=0.3)
    await running_api.put(a_verdict("a"))
    codes: Counter[str] = Counter()
    async with running_api.running() as channel:
        waits = [
            asyncio.ensure_future(service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="none"), timeout=60))
            for _ in range(50)
        ]
        watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await watch.read()

        async def ask() -> None:
            while True:
                try:
                    await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), timeout=5)
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                    return

        asking = [asyncio.create_task(ask()) for _ in range(20)]
        while codes["OK"] < 100:  # noqa: ASYNC110  counted by tasks of ours
            await asyncio.sleep(0)
        before = codes["OK"]
        running_api.stop.set()
        await asyncio.gather(*asking)
        assert codes["OK"] > before  # also while it says that it goes
        assert codes.keys() == {"OK", "UNAVAILABLE"}
        async with refused(grpc.StatusCode.UNAVAILABLE, "STOPPING", retry=True):
            await watch.read()
        assert {answer.state for answer in await asyncio.gather(*waits)} == {pb.LOOKUP_STATE_NOT_FOUND}


async def test_a_connection_that_has_aged_is_made_anew_unnoticed(running_api: Api) -> None:
    running_api.set(connection_age_s=0.3)
    await running_api.put(a_verdict("a"))
    async with running_api.running() as channel:
        watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await watch.read()
        long = asyncio.ensure_future(service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="none"), timeout=2.0))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            call = service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
            assert (await call).state == pb.LOOKUP_STATE_FOUND
            await asyncio.sleep(0.02)
        assert (await long).state == pb.LOOKUP_STATE_NOT_FOUND
        await running_api.put(a_verdict("b"))
        assert (await asyncio.wait_for(watch.read(), 30)).changes[0].post_id == "b"


async def test_reflection_lists_the_services(running_api: Api) -> None:
    async with running_api.running() as channel:
        message: Any = reflection_pb2  # half typed
        service_stubs: Any = reflection_pb2_grpc
        stub = service_stubs.ServerReflectionStub(channel)
        asked = iter([message.ServerReflectionRequest(list_services="")])
        async for answer in stub.ServerReflectionInfo(asked):
            listed = {one.name for one in answer.list_services_response.service}
    assert listed == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_port_that_is_taken(running_api: Api) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        running_api.set(listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ConfigError, match="MODERATION_API__LISTEN"):
            await role.serve(running_api.settings, running_api.stop)


async def test_a_client_without_an_api() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(CallError, match=r"127\.0\.0\.1:1: UNAVAILABLE"):
            await client.get("a")


@pytest.fixture
def without_brokers() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An API as a process, and the address at which nobody answers it."""
    program = (
        "import sys; from moderation import lifecycle, settings; from moderation.api import role; "
        "from moderation.observability import logs; some = settings.load();"
        "logs.configure(some.log); sys.exit(lifecycle.run(lambda stop: role.serve(some, stop)))"
    )
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        environment = {"MODERATION_KAFKA__BOOTSTRAP": address, "MODERATION_KAFKA__CONNECT_TIMEOUT_S": "3"}
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            yield process, address
            process.kill()


def test_unreachable_brokers_end_the_process_with_a_message(without_brokers: tuple[subprocess.Popen[str], str]) -> None:
    process, address = without_brokers
    started = time.monotonic()
    _, logged = process.communicate(timeout=60)
    assert process.returncode == 2
    assert time.monotonic() - started < 45  # it would try for a minute by default
    assert f"Kafka at {address}" in logged
    assert '"event": "broker_unreachable"' in logged
    assert "library_warned" not in logged


def test_a_start_in_vain_can_be_stopped(without_brokers: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = without_brokers
    assert process.stderr
    assert "policies_loaded" in process.stderr.readline()
    assert "broker_unreachable" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


async def test_a_limit_that_is_lowered_under_way_ends_the_process(running_api: Api, kafka: str) -> None:
    posts = running_api.settings.kafka.posts_topic

    async def lower_and_post() -> None:
        async with running_api.running() as channel:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
            await admin.start()
            resource = ConfigResource(ConfigResourceType.TOPIC, posts, {"max.message.bytes": "1000"})
            await admin.alter_configs([resource])
            await admin.close()
            large = pb.ModeratePostRequest(post=Message(id="a", text="x" * 50_000))
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
                await service(channel).ModeratePost(pb.ModeratePostRequest(post=Message(id="b")), timeout=2)
            assert details == ["the post may not have been accepted; the same call again is safe"]
            assert time.monotonic() - started < 3
            found = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
            assert found.state == pb.LOOKUP_STATE_FOUND
            started = time.monotonic()
        assert time.monotonic() - started < 20  # it stops, too
