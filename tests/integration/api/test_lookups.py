"""Lookups over real sockets and a real Kafka: what a caller gets for a post, a batch, a wait, a listing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from moderation import wire
from moderation.api import cursors, validation
from moderation.api.lookups import Lookups
from moderation.client import CallError, Client
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
from moderation.view.stores.sqlite import Sqlite
from tests.support.builders import a_verdict
from tests.support.lookups import (
    Api,
    changes,
    refused,
    service,
    watching,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_a_lookup_returns_the_verdict_of_each_known_post(running_api: Api) -> None:
    await running_api.put(a_verdict("a", outcome=Outcome.REMOVE), a_verdict("b"))
    async with running_api.running() as channel:
        response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
        assert response.state == FOUND
        assert response.verdict == wire.verdict_message(a_verdict("a", outcome=Outcome.REMOVE))
        missing = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="missing"))
        assert missing == pb.GetVerdictResponse(state=NOT_FOUND)
        async with Client(running_api.address) as client:
            assert (await client.get("b")).verdict == wire.verdict_message(a_verdict("b"))
            many = ["a", *(f"missing-{number}" for number in range(1_500)), "b"]
            results = await client.get_many(many)
        assert [result.post_id for result in results] == many
        assert [result.post_id for result in results if result.state == FOUND] == ["a", "b"]


async def test_batches_have_a_limit(running_api: Api) -> None:
    async with running_api.running() as channel:
        response = await service(channel).BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=["a"] * 1_000))
        assert len(response.results) == 1_000
        for count in (0, 1_001):
            async with refused(INVALID) as details:
                await service(channel).BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=["a"] * count))
            assert details == ["post_ids must be 1 to 1000 ids"]


async def until_pending(channel: Any, post_id: str) -> None:
    """The record of a post can be read a little before its put has ended."""
    async with asyncio.timeout(10):
        while (await service(channel).GetVerdict(pb.GetVerdictRequest(post_id=post_id))).state != PENDING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_pending_is_neither_found_nor_unknown(running_api: Api) -> None:
    async with running_api.running() as channel:
        for _ in range(2):  # the second record counts, and another one is before it
            token = await running_api.accepted(channel, Post(id="a"))

        async def get(post_id: str, **fields: Any) -> int:
            response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id=post_id, **fields))
            return int(response.state)

        await until_pending(channel, "a")
        assert [await get("a"), await get("never"), await get("never", consistency_token=token)] == [
            PENDING,  # this API has put the post
            NOT_FOUND,
            PENDING,  # as far as the API knows, the token may be of that post
        ]
        async with Client(running_api.address) as client:
            assert [result.state for result in await client.get_many(["a", "never"], after=token)] == [PENDING, PENDING]
            waiting = asyncio.create_task(client.wait("a", 30, after=token))
            ((partition, offset),) = cursors.position(token).posts.items()
            await running_api.put(running_api.judged("a", cursors.of_record(partition, offset - 1)))
            async with asyncio.timeout(30):
                while await get("a") != FOUND:
                    pass
            assert await get("a", consistency_token=token) == PENDING  # an older verdict does not count
            assert not waiting.done()
            await running_api.put(running_api.judged("a", token, outcome=Outcome.REMOVE))
            assert (await waiting).verdict.outcome == OutcomeMessage.OUTCOME_REMOVE
            assert await get("a", consistency_token=token) == FOUND
            assert await get("never", consistency_token=token) == NOT_FOUND
        digest = "c" * 64
        assert await get("a", content_digest=digest) == FOUND
        assert await get("a", content_digest="d" * 64) == NOT_FOUND


async def test_a_row_read_before_a_fold_does_not_count_as_newer(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_api.set(recent_bytes=0)  # so that every lookup reads the store
    real, real_wait = Sqlite.find, Lookups.wait
    meanwhile: list[tuple[str, bytes]] = []
    waits = ContextVar("waits", default=False)  # the call that reads: the ModeratePost of the post may still do so

    async def wait(self: Any, *arguments: Any) -> Any:
        waits.set(True)
        return await real_wait(self, *arguments)

    async def find(self: Any, post_ids: Any) -> Any:
        rows = await real(self, post_ids)
        while meanwhile and not waits.get():  # is folded in while the rows are on their way
            post_id, token = meanwhile.pop()
            await running_api.put(running_api.judged(post_id, token, content_digest="b" * 64))
            request = pb.WaitVerdictRequest(post_id=post_id, consistency_token=token)
            assert (await service(channel).WaitVerdict(request, timeout=30)).state == FOUND
        return rows

    monkeypatch.setattr(Sqlite, "find", find)
    monkeypatch.setattr(Lookups, "wait", wait)
    async with running_api.running() as channel:

        async def get(post_id: str, token: bytes = b"") -> tuple[int, str]:
            request = pb.GetVerdictRequest(post_id=post_id, consistency_token=token)
            response = await service(channel).GetVerdict(request)
            return response.state, response.verdict.content_digest[:1]

        first = await running_api.accepted(channel, Post(id="a"))
        await running_api.put(running_api.judged("a", first, content_digest="a" * 64))
        await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="a", consistency_token=first))
        for post_id, ask_with_token in (("a", True), ("new", True), ("another", False)):
            token = await running_api.accepted(channel, Post(id=post_id))
            if not ask_with_token:
                await until_pending(channel, post_id)
            meanwhile.append((post_id, token))
            assert await get(post_id, token if ask_with_token else b"") == (PENDING, "")
            assert not meanwhile
            assert await get(post_id, token) == (FOUND, "b")


async def test_verdicts_on_a_deleted_posts_topic_do_not_count_for_a_new_one(running_api: Api) -> None:
    posts = running_api.settings.kafka.posts_topic
    await running_api.put(*(a_verdict(f"old-{n}", source=Source(posts, n, 1_000, 0)) for n in range(3)))
    async with running_api.running() as channel:
        token = await running_api.accepted(channel, Post(id="a"))
        wait = pb.WaitVerdictRequest(post_id="a", consistency_token=token)
        await until_pending(channel, "a")
        await running_api.put(running_api.judged("a", token))
        assert (await service(channel).WaitVerdict(wait)).state == FOUND


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
            ids: list[str] = []
            token = ""
            while True:
                request = pb.ListVerdictsRequest(page_size=3, page_token=token, **fields)
                page = await service(channel).ListVerdicts(request)
                ids += [verdict.post_id for verdict in page.verdicts]
                token = page.next_page_token
                if not token:
                    return ids

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
            assert [verdict.post_id async for verdict in client.list(policy_ids=["spam"])] == [
                "p9",
                "p7",
                "p5",
                "p3",
                "p1",
            ]


async def test_two_apis_answer_from_one_database(
    running_api: Api, kafka: str, tmp_path: Path, database: str, names: Callable[[str], str]
) -> None:
    settings = running_api.settings.kafka
    other = Api(kafka, settings.posts_topic, settings.verdicts_topic, tmp_path)
    for each in (running_api, other):
        each.set(view_database=SecretStr(database), recent_bytes=0)
    await running_api.put(a_verdict("before"))
    async with running_api.running() as first_api, other.running() as second_api:
        await running_api.put(*(a_verdict(f"p{n}") for n in range(300)), "before")
        async with asyncio.timeout(60):
            for channel in (first_api, second_api):
                waits = (service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id=f"p{n}")) for n in range(300))
                assert {response.state for response in await asyncio.gather(*waits)} == {FOUND}
                gone = pb.GetVerdictRequest(post_id="before")
                while (await service(channel).GetVerdict(gone)).state != NOT_FOUND:
                    pass
        async with watching(first_api) as first, watching(second_api) as second:
            await running_api.put(a_verdict("late", content_digest="9" * 64))
            assert await changes(first, 1) == await changes(second, 1) == [("late", "9")]
        listed = await service(second_api).ListVerdicts(pb.ListVerdictsRequest(page_size=1_000))
        assert len(listed.verdicts) == 301


async def test_lookups_of_one_post_go_out_together(running_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await running_api.put(*(a_verdict(f"p{n}") for n in range(50)))
    asked: list[int] = []
    real = validation.batch

    def batch(request: Any, tenant: Any) -> Any:
        asked.append(len(request.post_ids))
        return real(request, tenant)

    monkeypatch.setattr(validation, "batch", batch)
    async with running_api.running(), Client(running_api.address) as client:
        results = await asyncio.gather(*(client.get(f"p{n % 60}") for n in range(120)))
        assert [result.post_id for result in results] == [f"p{n % 60}" for n in range(120)]
        assert [result.state for result in results] == ([FOUND] * 50 + [NOT_FOUND] * 10) * 2
        assert sum(asked) == 60
        assert len(asked) <= 2
        with pytest.raises(CallError, match="control character") as caught:
            await client.get("a\n")
        assert (caught.value.code, caught.value.reason) == (INVALID, "INVALID_FIELD")
