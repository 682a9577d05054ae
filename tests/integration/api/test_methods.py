"""What the service's methods promise, over real sockets and a real Kafka; the test plays the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import REGISTRY
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation.api import cursors, role
from moderation.api import validation as requests_module
from moderation.api.grpc import service as service_module
from moderation.client import CallError, Client
from moderation.dev.kafka import LocalKafka
from moderation.settings import ApiSettings
from moderation.types import Outcome, Source
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
from moderation.v1.post_pb2 import Post
from moderation.v1.verdict_pb2 import Outcome as OutcomeMessage
from moderation.view.stores import StoreUnavailableError
from moderation.view.stores.sqlite import Sqlite
from tests.support.builders import a_verdict
from tests.support.logged import events
from tests.support.lookups import NOT_SERVING, SERVING, Api, refused, service, watch_health

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


@asynccontextmanager
async def watching(channel: grpc.aio.Channel, **request: Any) -> AsyncIterator[Any]:
    """A watch that stands: its first message has come. `watch.first` is that message."""
    stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(**request))
    stream.first = await asyncio.wait_for(stream.read(), 30)
    try:
        yield stream
    finally:
        stream.cancel()


async def changes(stream: Any, count: int) -> list[tuple[str, str]]:
    """(post id, verdict's content digest or "erased") of the next ones."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        message = await asyncio.wait_for(stream.read(), 30)
        for one in message.changes:
            found.append((one.post_id, "erased" if one.HasField("erasure") else one.verdict.content_digest[:1]))
    return found


async def test_pending_is_neither_found_nor_unknown(running_api: Api) -> None:
    async with running_api.running() as channel:
        for _ in range(2):  # so that there is a record before the one that counts
            token = await running_api.accepted(channel, Post(id="a"))

        async def get(post_id: str, **fields: Any) -> int:
            answer = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id=post_id, **fields))
            return int(answer.state)

        assert [await get("a"), await get("never"), await get("never", consistency_token=token)] == [
            PENDING,  # this API has put it
            NOT_FOUND,
            PENDING,  # for all that it knows: the token may be about that post
        ]
        async with Client(running_api.address) as client:
            assert [one.state for one in await client.get_many(["a", "never"], after=token)] == [PENDING, PENDING]
            waiting = asyncio.create_task(client.wait("a", 30, after=token))
            ((partition, offset),) = cursors.position(token).posts.items()
            await running_api.put(running_api.judged("a", cursors.of_record(partition, offset - 1)))
            async with asyncio.timeout(30):
                while await get("a") != FOUND:
                    pass
            assert await get("a", consistency_token=token) == PENDING  # an older verdict is no answer
            assert not waiting.done()
            await running_api.put(running_api.judged("a", token, outcome=Outcome.REMOVE))
            assert (await waiting).verdict.outcome == OutcomeMessage.OUTCOME_REMOVE
            assert await get("a", consistency_token=token) == FOUND
            assert await get("never", consistency_token=token) == NOT_FOUND
        digest = "c" * 64
        assert await get("a", content_digest=digest) == FOUND
        assert await get("a", content_digest="d" * 64) == NOT_FOUND


async def test_a_row_that_was_read_before_a_fold_is_no_newer_for_it(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_api.set(recent_bytes=0)  # so that every lookup reads the store
    real = Sqlite.find
    meanwhile: list[tuple[str, bytes]] = []

    async def find(self: Any, post_ids: Any) -> Any:
        rows = await real(self, post_ids)
        while meanwhile:  # is folded in while the rows are on their way
            post_id, token = meanwhile.pop()
            await running_api.put(running_api.judged(post_id, token, content_digest="b" * 64))
            found = pb.WaitVerdictRequest(post_id=post_id, consistency_token=token)
            assert (await service(channel).WaitVerdict(found, timeout=30)).state == FOUND
        return rows

    monkeypatch.setattr(Sqlite, "find", find)
    async with running_api.running() as channel:

        async def get(post_id: str, token: bytes = b"") -> tuple[int, str]:
            request = pb.GetVerdictRequest(post_id=post_id, consistency_token=token)
            answer = await service(channel).GetVerdict(request)
            return answer.state, answer.verdict.content_digest[:1]

        first = await running_api.accepted(channel, Post(id="a"))
        await running_api.put(running_api.judged("a", first, content_digest="a" * 64))
        await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="a", consistency_token=first))
        for post_id, ask_with_token in (("a", True), ("new", True), ("another", False)):
            token = await running_api.accepted(channel, Post(id=post_id))
            meanwhile.append((post_id, token))
            assert await get(post_id, token if ask_with_token else b"") == (PENDING, "")
            assert not meanwhile
            assert await get(post_id, token) == (FOUND, "b")


async def test_verdicts_on_a_posts_topic_that_is_gone_say_nothing_of_the_new_one(running_api: Api) -> None:
    posts = running_api.settings.kafka.posts_topic
    await running_api.put(*(a_verdict(f"old-{n}", source=Source(posts, n, 1_000, 0)) for n in range(3)))
    async with running_api.running() as channel:
        token = await running_api.accepted(channel, Post(id="a"))
        found = pb.WaitVerdictRequest(post_id="a", consistency_token=token)
        assert (await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))).state == PENDING
        await running_api.put(running_api.judged("a", token))
        assert (await service(channel).WaitVerdict(found)).state == FOUND


async def test_waiting_ends_with_a_verdict_an_erasure_or_time(running_api: Api) -> None:
    running_api.set(max_wait_s=1.0)

    async def wait(post_id: str, token: bytes = b"", timeout: float | None = 60) -> Any:
        request = pb.WaitVerdictRequest(post_id=post_id, consistency_token=token)
        return await service(channel).WaitVerdict(request, timeout=timeout)

    async with running_api.running() as channel:
        started = time.monotonic()
        assert (await wait("a", timeout=None)).state == NOT_FOUND  # the API's own limit
        assert time.monotonic() - started > 0.9
        token = await running_api.accepted(channel, Post(id="a"))
        assert (await wait("a", token)).state == PENDING
    running_api.stop.clear()
    running_api.set(max_wait_s=60.0)
    async with running_api.running() as channel:
        assert (await wait("none", timeout=3.0)).state == NOT_FOUND  # a little before the caller's deadline
        waiting = asyncio.create_task(wait("a", token))
        elsewhere = asyncio.create_task(wait("b"))
        await running_api.put(running_api.judged("c", token))
        assert (await waiting).state == NOT_FOUND  # what the token names is judged, and there is no verdict: certain
        await running_api.put(a_verdict("b"))
        assert (await elsewhere).state == FOUND


async def test_a_watch_tells_what_passes_its_filters_and_where_it_is(running_api: Api) -> None:
    await running_api.put(a_verdict("before"))
    async with running_api.running() as channel:
        remove, p = [OutcomeMessage.OUTCOME_REMOVE], ["p"]
        async with (
            watching(channel) as everything,
            watching(channel, outcomes=remove, policy_ids=p) as some,
            watching(channel, outcomes=remove, tenant="t") as of_tenant,
        ):
            assert not everything.first.changes
            await running_api.put(
                a_verdict("a", outcome=Outcome.REMOVE, deciding_policy="p", content_digest="1" * 64),
                a_verdict("b", outcome=Outcome.REMOVE, deciding_policy="q", tenant="t", content_digest="2" * 64),
                a_verdict("c", outcome=Outcome.ALLOW, content_digest="3" * 64),
                "b",
            )
            assert sorted(await changes(everything, 4)) == [("a", "1"), ("b", "2"), ("b", "erased"), ("c", "3")]
            assert sorted(await changes(some, 2)) == [("a", "1"), ("b", "erased")]
            assert await changes(of_tenant, 2) == [("b", "2"), ("b", "erased")]
        token = everything.first.consistency_token
        async with watching(channel, consistency_token=token, outcomes=[OutcomeMessage.OUTCOME_ALLOW]) as again:
            found = [(one.post_id, one.HasField("erasure")) for one in again.first.changes]
            while len(found) < 2:
                message = await asyncio.wait_for(again.read(), 30)
                found += [(one.post_id, one.HasField("erasure")) for one in message.changes]
            assert sorted(found) == [("b", True), ("c", False)]  # of b only the last is told
            await running_api.put(a_verdict("d", content_digest="4" * 64))
            assert await changes(again, 1) == [("d", "4")]


async def test_a_client_watches_on_without_a_gap_when_the_api_comes_back(running_api: Api) -> None:
    seen: list[str] = []
    async with Client(running_api.address) as client:
        async with running_api.running():
            watch = client.watch()
            assert not (await anext(watch)).changes
            await running_api.put(a_verdict("a"))
            seen += [one.post_id for one in (await anext(watch)).changes]
            going_on = asyncio.ensure_future(anext(watch))
        await running_api.put(a_verdict("meanwhile"))
        running_api.stop.clear()
        async with running_api.running():
            async with asyncio.timeout(60):
                while "meanwhile" not in seen:
                    seen += [one.post_id for one in (await going_on).changes]
                    going_on = asyncio.ensure_future(anext(watch))
            going_on.cancel()
            await asyncio.wait([going_on])
            await watch.aclose()
    assert seen == ["a", "meanwhile"]


async def test_a_reader_that_does_not_keep_up_is_shed(running_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiSettings, "watch_buffer", 1)
    monkeypatch.setattr(ApiSettings, "watch_stall_s", 0.5)
    async with running_api.running() as channel:
        stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await stream.read()
        large = a_verdict("x", content_digest="x" * 60_000)
        async with refused(EXHAUSTED, "SLOW_READER", retry=True):
            async with asyncio.timeout(60):
                for _ in range(20):
                    await running_api.put(*[replace(large, post_id=f"x{n}") for n in range(20)])
            while await stream.read() is not grpc.aio.EOF:  # only now it reads on
                pass
        async with watching(channel):  # others, and later ones, are none the worse for it
            pass


async def test_a_watch_does_not_live_for_ever(running_api: Api) -> None:
    running_api.set(watch_s=4.0, max_watches=1)
    async with running_api.running() as channel:
        stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await stream.read()
        async with refused(EXHAUSTED, "OVERLOADED", retry=True):
            await service(channel).WatchVerdicts(pb.WatchVerdictsRequest()).read()
        async with refused(grpc.StatusCode.UNAVAILABLE, "STOPPING", retry=True):
            await asyncio.wait_for(stream.read(), 30)


async def test_a_list_comes_in_pages(running_api: Api) -> None:
    at = 1_700_000_000_000
    await running_api.put(
        *(
            a_verdict(
                f"p{n}", outcome=Outcome(1 + n % 3), deciding_policy="spam" if n % 2 else "", decided_at_ms=at + n
            )
            for n in range(10)
        )
    )
    async with running_api.running() as channel:

        async def pages(**fields: Any) -> list[str]:
            found: list[str] = []
            token = ""
            while True:
                request = pb.ListVerdictsRequest(page_size=3, page_token=token, **fields)
                page = await service(channel).ListVerdicts(request)
                found += [verdict.post_id for verdict in page.verdicts]
                token = page.next_page_token
                if not token:
                    return found

        assert await pages() == [f"p{n}" for n in reversed(range(10))]
        assert await pages(outcomes=[OutcomeMessage.OUTCOME_REMOVE]) == ["p8", "p5", "p2"]
        assert await pages(outcomes=["OUTCOME_ALLOW", "OUTCOME_REVIEW"], policy_ids=["spam"]) == [
            "p9",
            "p7",
            "p3",
            "p1",
        ]
        since, until = Timestamp(), Timestamp()
        since.FromMilliseconds(at + 3)
        until.FromMilliseconds(at + 6)
        assert await pages(decided_from=since, decided_before=until) == ["p5", "p4", "p3"]
        assert await pages(tenant="other") == []
        first = await service(channel).ListVerdicts(pb.ListVerdictsRequest(page_size=3))
        async with refused(INVALID, "INVALID_CURSOR", field="page_token"):
            again = pb.ListVerdictsRequest(page_token=first.next_page_token, tenant="t")
            await service(channel).ListVerdicts(again)
        async with Client(running_api.address) as client:
            assert [one.post_id async for one in client.list(policy_ids=["spam"])] == ["p9", "p7", "p5", "p3", "p1"]


async def test_rules_of_fields(running_api: Api) -> None:
    cases: list[tuple[str, Any, str, str]] = [
        ("GetVerdict", pb.GetVerdictRequest(post_id="a", content_digest="x"), "INVALID_FIELD", "content_digest"),
        ("GetVerdict", pb.GetVerdictRequest(post_id="a", tenant="x" * 200), "INVALID_FIELD", "tenant"),
        (
            "GetVerdict",
            pb.GetVerdictRequest(post_id="a", consistency_token=b"\xff"),
            "INVALID_CURSOR",
            "consistency_token",
        ),
        ("BatchGetVerdicts", pb.BatchGetVerdictsRequest(post_ids=["a", ""]), "INVALID_FIELD", "post_ids[1]"),
        ("WaitVerdict", pb.WaitVerdictRequest(), "INVALID_FIELD", "post_id"),
        ("ListVerdicts", pb.ListVerdictsRequest(page_size=-1), "INVALID_FIELD", "page_size"),
        ("ListVerdicts", pb.ListVerdictsRequest(page_token="x"), "INVALID_CURSOR", "page_token"),  # noqa: S106
        ("ListVerdicts", pb.ListVerdictsRequest(outcomes=["OUTCOME_UNSPECIFIED"]), "INVALID_FIELD", "outcomes"),
        ("ListVerdicts", pb.ListVerdictsRequest(policy_ids=["p"] * 2 + [""]), "INVALID_FIELD", "policy_ids"),
        (
            "ListVerdicts",
            pb.ListVerdictsRequest(decided_from=Timestamp(seconds=1 << 60)),
            "INVALID_FIELD",
            "decided_from",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Post(id="a"), request_id="x" * 129),
            "INVALID_FIELD",
            "request_id",
        ),
        ("ModeratePost", pb.ModeratePostRequest(post=Post(id="")), "INVALID_POST", "post"),
    ]
    async with running_api.running() as channel:
        for method, request, reason, field in cases:
            async with refused(INVALID, reason, field=field):
                await getattr(service(channel), method)(request)
        async with refused(INVALID, "INVALID_FIELD", field="policy_ids"):
            await service(channel).WatchVerdicts(pb.WatchVerdictsRequest(policy_ids=map(str, range(200)))).read()
        async with refused(INVALID, "INVALID_CURSOR", field="consistency_token"):
            token = cursors.of_record(0, 1)  # of a post: that is no place in the verdicts topic
            await service(channel).WatchVerdicts(pb.WatchVerdictsRequest(consistency_token=token)).read()


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


async def test_a_backlog_that_is_full_takes_no_more_posts(running_api: Api) -> None:
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
            assert REGISTRY.get_sample_value("moderation_api_pending_posts") == 0  # also when no post comes any more
        await running_api.accepted(channel, Post(id="a"))


@pytest.mark.usefixtures("local_kafka")
async def test_a_caller_that_leaves_does_not_give_back_the_memory_of_a_post_that_is_still_put(tmp_path: Path) -> None:
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


async def test_a_post_that_is_erased_while_one_waits_is_not_found(running_api: Api) -> None:
    async with running_api.running() as channel, running_api.posts() as consumer:
        asked = asyncio.ensure_future(service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a"))))
        record = await asyncio.wait_for(consumer.getone(), 30)
        token = cursors.of_record(record.partition, record.offset)
        await running_api.put(running_api.judged("b", token))  # its turn has come, and it has no verdict
        answer = await asyncio.wait_for(asked, 30)
        assert (answer.state, answer.consistency_token) == (NOT_FOUND, token)


async def test_policies_are_listed_without_what_the_model_reads(running_api: Api, tmp_path: Path) -> None:
    async with running_api.running() as channel:  # the settings' default: the folder of the checkout
        answer = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert [one.id for one in answer.policies] == sorted(one.id for one in answer.policies)
        assert len(answer.digest) == len(answer.policies[0].digest) == 64
        assert answer.policies[0].thresholds.review
        assert not any(one.prompt for one in answer.policies)
    running_api.stop.clear()
    running_api.set(show_prompts=True)
    async with running_api.running() as channel:
        shown = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert all(one.prompt for one in shown.policies)
    running_api.stop.clear()
    running_api.settings = running_api.settings.model_copy(update={"policies": tmp_path / "none"})
    async with running_api.running() as channel, refused(grpc.StatusCode.FAILED_PRECONDITION, "NO_POLICIES"):
        await service(channel).ListPolicies(pb.ListPoliciesRequest())


async def test_a_view_that_falls_behind_says_so_to_health_and_goes_on(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_api.set(max_lag=5)
    stalled = asyncio.Event()
    async with running_api.running() as channel:
        health = watch_health(channel)
        assert (await health.read()).status == SERVING
        real = Sqlite.fold

        async def full(self: Any, *arguments: Any) -> Any:
            if stalled.is_set():
                return await real(self, *arguments)
            raise StoreUnavailableError("as with a full disk")

        monkeypatch.setattr(Sqlite, "fold", full)
        monkeypatch.setattr("moderation.view.view.RETRY_S", 0.1)
        await running_api.put(*(a_verdict(f"p{n}") for n in range(30)))
        assert (await asyncio.wait_for(health.read(), 30)).status == NOT_SERVING
        found = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="p1"))
        assert found.state == NOT_FOUND  # lookups go on, with what there was
        stalled.set()
        assert (await asyncio.wait_for(health.read(), 30)).status == SERVING
        found = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="p1"))
        assert found.state == FOUND


async def test_an_api_that_starts_serves_once_its_view_is_near_the_topic_as_it_is_then(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told() -> None:
        """Lets the API go on for a moment."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), 0.05)

    def lag() -> float | None:
        return REGISTRY.get_sample_value("moderation_view_lag_records")

    running_api.set(max_lag=5)
    await running_api.put(*(a_verdict(f"old{n}") for n in range(10)))
    grown, stalled = asyncio.Event(), asyncio.Event()
    fold, serve = Sqlite.fold, Sqlite.serve

    async def grows(self: Any) -> Any:
        """All that was on the topic at the start is folded in: while that went on, more has come."""
        await running_api.put(*(a_verdict(f"new{n}") for n in range(30)))
        grown.set()
        return await serve(self)

    async def full(self: Any, *arguments: Any) -> Any:
        if grown.is_set() and not stalled.is_set():
            raise StoreUnavailableError("as with a full disk")
        return await fold(self, *arguments)

    monkeypatch.setattr(Sqlite, "serve", grows)
    monkeypatch.setattr(Sqlite, "fold", full)
    monkeypatch.setattr("moderation.view.view.RETRY_S", 0.1)
    with capture_logs() as logged:
        serving = asyncio.create_task(role.serve(running_api.settings, running_api.stop))
        try:
            async with grpc.aio.insecure_channel(running_api.address) as channel, asyncio.timeout(60):
                health = watch_health(channel)
                assert (await health.read()).status == NOT_SERVING
                await grown.wait()
                while not (events(logged, "view_caught_up") and lag() == 30):
                    await told()
                found = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="old1"))
                assert found.state == FOUND  # lookups are answered, and health sends nobody
                assert not events(logged, "api_ready")
                stalled.set()
                assert (await health.read()).status == SERVING
                assert (lag() or 0) <= 2  # half of the bound
                health.cancel()
        finally:
            running_api.stop.set()
            await serving


async def test_a_mistake_of_ours_is_internal_and_says_nothing(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("what a user wrote")

    async with running_api.running() as channel:
        monkeypatch.setattr(service_module.Service, "_find", broken)
        async with refused(grpc.StatusCode.INTERNAL, "INTERNAL") as details:
            await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
        assert details == ["internal error"]


async def test_two_apis_answer_from_one_database(
    running_api: Api, kafka: str, tmp_path: Path, database: str, names: Callable[[str], str]
) -> None:
    settings = running_api.settings.kafka
    other = Api(kafka, settings.posts_topic, settings.verdicts_topic, tmp_path)
    for each in (running_api, other):
        each.set(view_database=SecretStr(database), recent_bytes=0)
    await running_api.put(a_verdict("before"))
    async with running_api.running() as one, other.running() as two:
        await running_api.put(*(a_verdict(f"p{n}") for n in range(300)), "before")
        async with asyncio.timeout(60):
            for channel in (one, two):
                waits = (service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id=f"p{n}")) for n in range(300))
                assert {answer.state for answer in await asyncio.gather(*waits)} == {FOUND}
                gone = pb.GetVerdictRequest(post_id="before")
                while (await service(channel).GetVerdict(gone)).state != NOT_FOUND:
                    pass
        async with watching(one) as first, watching(two) as second:
            await running_api.put(a_verdict("late", content_digest="9" * 64))
            assert await changes(first, 1) == await changes(second, 1) == [("late", "9")]
        listed = await service(two).ListVerdicts(pb.ListVerdictsRequest(page_size=1_000))
        assert len(listed.verdicts) == 301


async def test_lookups_of_one_post_go_out_together(running_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await running_api.put(*(a_verdict(f"p{n}") for n in range(50)))
    asked: list[int] = []
    real = requests_module.many

    def many(request: Any, tenant: Any) -> Any:
        asked.append(len(request.post_ids))
        return real(request, tenant)

    monkeypatch.setattr(requests_module, "many", many)
    async with running_api.running(), Client(running_api.address) as client:
        found = await asyncio.gather(*(client.get(f"p{n % 60}") for n in range(120)))
        assert [one.post_id for one in found] == [f"p{n % 60}" for n in range(120)]
        assert [one.state for one in found] == ([FOUND] * 50 + [NOT_FOUND] * 10) * 2
        assert sum(asked) == 60
        assert len(asked) <= 2
        with pytest.raises(CallError, match="control character") as caught:
            await client.get("a\n")
        assert (caught.value.code, caught.value.reason) == (INVALID, "INVALID_FIELD")
