"""Responses to a stock gRPC client, which takes 4 MiB: batches and pages end early, and watches have more messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from moderation.api.grpc import responses
from moderation.client import Client
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_DEFERRED as DEFERRED
from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND as FOUND
from tests.support.builders import a_finding, a_verdict
from tests.support.lookups import Api, refused, service

COUNT = 80
IDS = [f"p{number}" for number in range(COUNT)]
FINDINGS = tuple(a_finding(f"policy-{number:01000}") for number in range(140))  # a record of 180 kB
STOCK = 4 << 20  # bytes that a client takes of a message by default


@pytest.fixture
async def stock(running_api: Api) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with gRPC's own defaults, to an API with 8 MiB of verdicts or more, half of them in memory."""
    running_api.set(recent_bytes=6 << 20)
    kafka = running_api.settings.kafka.model_copy(update={"max_message_bytes": 200_000})  # posts are smaller than pages
    running_api.settings = running_api.settings.model_copy(update={"kafka": kafka})
    verdicts = [a_verdict(post_id, findings=FINDINGS) for post_id in IDS]
    await running_api.put(*verdicts)
    async with running_api.running(), grpc.aio.insecure_channel(running_api.address) as channel:
        yield channel


async def test_a_batch_is_answered_in_order_as_far_as_there_is_room(running_api: Api, stock: grpc.aio.Channel) -> None:
    asked, calls = IDS, 0
    while asked:
        response = await service(stock).BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=asked))
        assert [result.post_id for result in response.results] == asked
        found = [result.post_id for result in response.results if result.state == FOUND]
        assert found
        assert found == asked[: len(found)]
        assert {result.state for result in response.results[len(found) :]} <= {DEFERRED}
        assert all(len(result.verdict.findings) == len(FINDINGS) for result in response.results[: len(found)])
        asked, calls = asked[len(found) :], calls + 1
    assert calls > 1
    async with Client(running_api.address) as client:
        results = await client.get_many([*IDS, "unknown"])
    assert [(result.post_id, result.state) for result in results] == [
        *((post_id, FOUND) for post_id in IDS),
        ("unknown", pb.LOOKUP_STATE_NOT_FOUND),
    ]


async def test_a_page_ends_early(running_api: Api, stock: grpc.aio.Channel) -> None:
    listed, token, pages = [], "", 0
    while token or not pages:
        page = await service(stock).ListVerdicts(pb.ListVerdictsRequest(page_size=1_000, page_token=token))
        assert page.verdicts
        listed += [verdict.post_id for verdict in page.verdicts]
        token, pages = page.next_page_token, pages + 1
    assert pages > 1
    assert sorted(listed) == sorted(IDS)
    async with Client(running_api.address) as client:
        assert sorted([verdict.post_id async for verdict in client.list()]) == sorted(IDS)


async def test_a_watch_has_more_messages_and_continues_after_each(stock: grpc.aio.Channel) -> None:
    async def watched(token: bytes) -> list[tuple[bytes, list[str]]]:
        """Token and posts of each message, until all that was there has come."""
        messages: list[tuple[bytes, list[str]]] = []
        stream = service(stock).WatchVerdicts(pb.WatchVerdictsRequest(consistency_token=token), timeout=30)
        async for message in stream:
            if not message.changes:
                break  # after what was there, a message says where the watch begins to follow
            assert message.ByteSize() <= STOCK
            messages.append((message.consistency_token, [change.post_id for change in message.changes]))
        stream.cancel()
        return messages

    begin = pb.Position(verdicts=dict.fromkeys(range(3), 0)).SerializeToString()
    messages = await watched(begin)
    assert len(messages) > 3  # there are three partitions
    assert sorted(post_id for _, ids in messages for post_id in ids) == sorted(IDS)
    for number, (token, _) in enumerate(messages):
        rest = [post_id for _, ids in await watched(token) for post_id in ids]
        assert rest == [post_id for _, ids in messages[number + 1 :] for post_id in ids]


async def test_policies_come_in_pages(running_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_api.running() as channel:
        whole = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert not whole.next_page_token
        monkeypatch.setattr(responses, "MAX_RESPONSE_BYTES", whole.ByteSize() // 3)  # no set is so large
        first = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert list(first.policies) == list(whole.policies[: len(first.policies)])
        assert 0 < len(first.policies) < len(whole.policies)
        assert first.ByteSize() < whole.ByteSize() // 2
        async with Client(running_api.address) as client:
            assert await client.policies() == whole
        for token in ("x", first.next_page_token[::-1]):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CURSOR", field="page_token"):
                await service(channel).ListPolicies(pb.ListPoliciesRequest(page_token=token))
