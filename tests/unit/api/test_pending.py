"""A request id puts its post once. Posts without a verdict are known, and their number is bounded."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from moderation.api.errors import RefusalKind, RefusedError
from moderation.api.pending import PendingPosts
from moderation.errors import ConfigError, DeliveryError, ModerationError
from moderation.kafka import post_producer
from moderation.settings import ApiSettings
from moderation.types import Source
from moderation.v1.post_pb2 import Post


class Topic:
    """A producer that takes posts while it is open."""

    def __init__(self) -> None:
        self.put_ids: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def put(self, post: Post, trace: Any, until: float) -> Source:
        self.put_ids.append(post.id)
        await self.open.wait()
        if self.error:
            raise self.error
        return Source("posts", 0, len(self.put_ids) - 1, 0)


class Case:
    def __init__(self, **settings: Any) -> None:
        self.topic = Topic()
        self.broken: list[ModerationError] = []
        self.held: list[str] = []  # ids of posts whose memory is counted
        producer: Any = self.topic
        self.pending = PendingPosts(ApiSettings(**settings), producer, self.broken.append)

    async def put(self, id: str = "a", request_id: str = "", **fields: Any) -> Source:
        with ExitStack() as held:
            self.held.append(id)
            held.callback(self.held.remove, id)
            return await self.pending.put(Post(id=id, **fields), request_id, (), 0.0, held)


def metric() -> float:
    """How many posts have no verdict, by the metric."""
    value = REGISTRY.get_sample_value("moderation_api_pending_posts")
    assert value is not None
    return value


async def test_a_request_id_puts_its_post_once() -> None:
    case = Case()
    case.topic.open.clear()
    both = [asyncio.create_task(case.put(request_id="r")) for _ in range(2)]
    await asyncio.sleep(0)
    case.topic.open.set()
    first, second = await asyncio.gather(*both)
    assert first == second == await case.put(request_id="r")
    assert case.topic.put_ids == ["a"]
    await case.put(request_id="r", tenant="another")
    await case.put()
    await case.put()
    assert case.topic.put_ids == ["a"] * 4


async def test_another_post_under_the_same_request_id_is_refused() -> None:
    case = Case()
    await case.put(request_id="r", text="one")
    with pytest.raises(RefusedError) as caught:
        await case.put(request_id="r", text="two")
    assert (caught.value.kind, caught.value.reason) == (RefusalKind.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_a_caller_who_leaves_does_not_take_the_post_back() -> None:
    case = Case()
    case.topic.open.clear()
    gone = asyncio.create_task(case.put(request_id="r"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    again = asyncio.create_task(case.put(request_id="r"))
    await asyncio.sleep(0)
    case.topic.open.set()
    assert (await again).offset == 0
    assert case.topic.put_ids == ["a"]


@pytest.mark.parametrize("error", [None, post_producer.NotAcceptedError("no answer"), DeliveryError("no use")])
async def test_a_post_holds_its_memory_until_it_is_put_whether_or_not_its_caller_stays(error: Exception | None) -> None:
    case = Case(max_pending_posts=1)
    case.topic.open.clear()
    case.topic.error = error
    gone = asyncio.create_task(case.put(request_id="r"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert case.held == ["a"]
    with pytest.raises(RefusedError):
        await case.put("b")
    assert case.held == ["a"]
    case.topic.open.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not case.held
    case.pending.settle(lambda source: source.offset <= 0)
    case.topic.error = None
    first = await case.put("c", request_id="s")
    assert await case.put("c", request_id="s") == first  # a repeated request holds nothing
    assert not case.held


async def test_a_post_that_was_not_accepted_is_put_again() -> None:
    case = Case()
    case.topic.error = post_producer.NotAcceptedError("brokers did not answer")
    with pytest.raises(post_producer.NotAcceptedError):
        await case.put(request_id="r")
    case.topic.error = None
    await case.put(request_id="r")
    assert case.topic.put_ids == ["a", "a"]
    assert not case.broken


@pytest.mark.parametrize("error", [DeliveryError("no use"), ConfigError("a right is missing")])
async def test_a_broken_producer_ends_the_process_also_when_its_caller_has_left(error: Exception) -> None:
    case = Case()
    case.topic.open.clear()
    case.topic.error = error
    gone = asyncio.create_task(case.put())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    case.topic.open.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert case.broken == [error]


async def test_a_post_is_pending_from_its_put_to_its_verdict() -> None:
    case = Case()
    await case.put("a", tenant="t")
    await case.put("b")
    assert metric() == 2
    assert case.pending.is_pending("a", None)
    assert case.pending.is_pending("a", "t")
    assert not case.pending.is_pending("a", "another")
    assert not case.pending.is_pending("never", None)
    case.pending.settle(lambda source: source.offset <= 0)
    assert not case.pending.is_pending("a", None)
    assert len(case.pending) == metric() == 1
    assert case.pending.is_pending("b", None)
    case.pending.settle(lambda source: source.offset <= 1)
    assert not len(case.pending)
    assert not case.pending._latest
    assert metric() == 0


async def test_an_id_belongs_to_its_tenant_from_the_call_to_the_verdict() -> None:
    case = Case()
    case.topic.open.clear()
    putting = [asyncio.create_task(case.put("a", tenant="t")) for _ in range(2)]
    assert not case.pending.is_of_another("a", "u")
    await asyncio.sleep(0)
    for _ in ("being put", "on the topic"):
        assert case.pending.is_of_another("a", "u")
        assert case.pending.is_of_another("a", "")
        assert not case.pending.is_of_another("a", "t")
        assert not case.pending.is_of_another("b", "u")
        case.topic.open.set()
        await asyncio.gather(*putting)
    assert not case.pending._tenants
    case.pending.settle(lambda source: source.offset <= 5)
    assert not case.pending.is_of_another("a", "u")


async def test_a_verdict_may_come_before_the_broker_has_acknowledged_its_post() -> None:
    case = Case()
    case.topic.open.clear()
    putting = asyncio.create_task(case.put("a"))
    await asyncio.sleep(0)
    assert len(case.pending) == metric() == 1
    case.pending.settle(lambda source: source.offset <= 0)
    assert metric() == 1
    case.topic.open.set()
    await putting
    assert not case.pending.is_pending("a", None)
    assert len(case.pending) == metric() == 0


async def test_a_full_backlog_takes_no_further_posts() -> None:
    case = Case(max_pending_posts=2)
    await case.put("a")
    await case.put("b", request_id="r")
    with pytest.raises(RefusedError) as caught:
        await case.put("c")
    assert (caught.value.kind, caught.value.reason) == (RefusalKind.EXHAUSTED, "BACKLOG_FULL")
    assert caught.value.retry_s
    await case.put("b", request_id="r")  # which is not put again
    case.pending.settle(lambda source: source.offset <= 0)
    await case.put("c")


async def test_bytes_being_put_are_bounded_and_a_larger_post_goes_alone() -> None:
    case = Case(max_submit_bytes=100)
    case.topic.open.clear()
    large = asyncio.create_task(case.put("a", text="x" * 500))
    await asyncio.sleep(0)
    with pytest.raises(RefusedError):
        await case.put("b")
    case.topic.open.set()
    await large
    await asyncio.sleep(0)
    await case.put("b")
