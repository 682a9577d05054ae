"""Attempts at requests, the first request, places and budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from openai import APITimeoutError
from prometheus_client import REGISTRY

from moderation.models.remote.breaker import LAST_PROBE_S
from moderation.models.remote.failures import Cause
from moderation.models.remote.server import ATTEMPTS, TIMEOUTS, Rejected, Unavailable
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply
from tests.support.skipping import now, run
from tests.support.told_server import OUTAGE_S, REPLY, REQUEST, Story, away, in_turn, lost, outage, status


def test_a_failure_that_passes_costs_a_retry_with_a_pause() -> None:
    async def story() -> None:
        told = Story(in_turn(status(500), lost(), ValueError("no reply"), REPLY))
        assert await told.ask() == "answered"
        first, second, third, fourth = told.times()
        assert 0.25 <= second - first <= 0.5
        assert 0.5 <= third - second <= 1.0
        assert 1.0 <= fourth - third <= 2.0
        assert len(told.asked) == 4, "no question of our own"

    run(story())


def test_a_retry_heeds_the_pause_that_the_server_asks_for() -> None:
    async def story() -> None:
        told = Story(in_turn(status(429, retry_after="7"), status(503, retry_after="12"), REPLY))
        assert await told.ask() == "answered"
        first, second, third = told.times()
        assert 7 <= second - first < 7.1
        assert 12 <= third - second < 12.1

    run(story())


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (status(400), "rejected: http_400"),
        (status(422), "rejected: http_422"),
        (status(400, "context_length_exceeded"), "rejected: too_long"),
        (status(400, "content_filter"), "rejected: filtered"),
        (status(403), "rejected: http_403"),
        (status(404), "rejected: http_404"),
        (status(402), "rejected: http_402"),
    ],
)
def test_a_request_that_is_refused_is_not_repeated(error: Exception, result: str) -> None:
    async def story() -> None:
        told = Story(in_turn(error))
        assert await told.ask() == result
        assert len(told.times()) == 1
        explained = result in ("rejected: too_long", "rejected: filtered")
        assert len(told.times("own")) == (0 if explained else 1)
        assert not told.pauses

    run(story())


@pytest.mark.parametrize(
    "error", [status(500), lost(), APITimeoutError(REQUEST), ValueError("no reply"), KeyError("x")]
)
def test_a_request_that_fails_alone_ends_and_opens_nothing(error: Exception) -> None:
    """A post that breaks the server must not pause the worker: its author would like that."""

    async def story() -> None:
        told = Story(lambda name: error if name.startswith("bad") else 0.5)
        bad = [told.ask(f"bad-{number}") for number in range(20)]
        results = await asyncio.gather(*bad, told.all(100))
        assert set(results[:-1]) <= {"rejected: http_500", "rejected: connection", "rejected: timeout"} | {
            "rejected: malformed"
        }
        assert results[-1] == {"answered": 100}
        assert not told.pauses
        attempts = TIMEOUTS if isinstance(error, APITimeoutError) else ATTEMPTS
        assert {len(told.times(f"bad-{number}")) for number in range(20)} == {attempts}
        assert told.most_probes_at_once == 1, "requests that fail share the question"

    run(story())


def test_a_used_up_quota_stops_at_once() -> None:
    async def story() -> None:
        quota = status(429, "insufficient_quota")
        told = Story(lambda name: quota)
        asking = asyncio.create_task(told.ask())
        await asyncio.sleep(0.5)
        assert [name for _, name in told.asked] == ["post", "own"], "the request is not repeated"
        assert told.server.breaker.is_open
        assert outage(Cause.QUOTA) == 1
        told.says = lambda name: REPLY
        assert await asking == "answered"
        assert outage(Cause.QUOTA) == 0

    run(story())


def test_a_rate_limit_of_our_own_making_is_waited_out() -> None:
    """The small question of our own is answered while posts are over the limit: they wait as in an outage."""

    async def story() -> None:
        start = now()
        told = Story(lambda name: status(429) if name != "own" and now() - start < 300 else REPLY)
        assert await told.all(20) == {"answered": 20}
        assert 300 <= told.seconds < 320
        told.says = lambda name: status(429) if name != "own" else REPLY
        before = told.seconds
        assert await told.ask() == "unavailable"
        assert OUTAGE_S <= told.seconds - before < OUTAGE_S + 30

    run(story())


def test_a_long_pause_that_only_one_request_is_asked_for_is_heeded() -> None:
    async def story() -> None:
        told = Story(in_turn(status(429, retry_after="120"), REPLY))
        assert await told.ask() == "answered"
        first, second = told.times()
        assert 120 <= second - first < 120.1
        assert not told.pauses
        told.says = in_turn(status(429, retry_after="7200"))
        before = told.seconds
        assert await told.ask() == "unavailable"
        assert OUTAGE_S <= told.seconds - before < OUTAGE_S + 30, "but not for longer than an outage may last"

    run(story())


def test_concurrency_is_a_bound_and_a_retry_waits_outside() -> None:
    async def story() -> None:
        told = Story(lambda name: 5.0, concurrency=4)
        assert await told.all(40) == {"answered": 40}
        assert told.most_at_once == 4
        assert told.seconds == pytest.approx(50, abs=0.5)
        slow = Story(in_turn(status(429, retry_after="15"), 1.0), concurrency=1)
        first = asyncio.create_task(slow.ask("limited"))
        await asyncio.sleep(0.1)
        assert await slow.ask("other") == "answered"
        assert slow.seconds < 5, "the pause of one takes no other's place"
        assert await first == "answered"

    run(story())


def test_the_budget_of_an_hour_ends_like_an_outage_and_comes_back() -> None:
    spent = Usage(input=1_000_000)

    async def story() -> None:
        told = Story(lambda name: Reply("model", (), spent), budget_per_hour=3.0, input_price=1.0, outage_s=7_200)
        for _ in range(3):
            assert await told.ask() == "answered"
        assert not told.pauses
        asking = asyncio.create_task(told.all(2))
        await asyncio.sleep(1_800)
        assert outage(Cause.BUDGET) == 1
        assert len(told.asked) == 3, "no request at all, nor a question of our own"
        assert await asking == {"answered": 2}
        assert 3_600 <= told.seconds < 3_600 + 60 + 2 * LAST_PROBE_S
        assert outage(Cause.BUDGET) == 0
        short = Story(lambda name: Reply("model", (), spent), budget_per_hour=1.0, input_price=1.0)
        assert await short.ask() == "answered"
        assert await short.ask() == "unavailable"
        assert OUTAGE_S <= short.seconds < OUTAGE_S + 1

    run(story())


def test_requests_that_wait_for_a_place_see_the_budgets_end() -> None:
    async def story() -> None:
        usage = Usage(input=1_000_000)
        told = Story(lambda name: Reply("m", (), usage), budget_per_hour=2.0, input_price=1.0, concurrency=1)
        assert await told.all(10) == {"answered": 2, "unavailable": 8}
        assert len(told.asked) == 2

    run(story())


def test_the_first_request_waits_for_a_server_that_is_away() -> None:
    async def story() -> None:
        told = Story(away(0, 300))
        assert await told.server.first(told.call("first")) is REPLY
        assert 300 <= told.seconds <= 300 + LAST_PROBE_S
        late = Story(away(0, 3_600))
        with pytest.raises(Unavailable):
            await late.server.first(late.call("first"))
        assert OUTAGE_S <= late.seconds < OUTAGE_S + 1

    run(story())


@pytest.mark.parametrize("wrong", [status(401), status(404), status(400), status(302), ValueError("no reply")])
def test_the_first_request_is_rejected_when_the_settings_are_wrong_and_not_later(wrong: Exception) -> None:
    async def story() -> None:
        told = Story(lambda name: wrong)
        with pytest.raises(Rejected):
            await told.server.first(told.call("first"))
        assert told.seconds < 5
        start = now()
        late = Story(lambda name: lost() if now() - start < 100 else wrong)
        with pytest.raises(Rejected):
            await late.server.first(late.call("first"))
        assert 100 <= late.seconds < 100 + LAST_PROBE_S + 5, "as soon as the server is there"
        assert not late.server.breaker.is_open

    run(story())


def test_metrics_count_attempts_tokens_and_money() -> None:
    names = {
        "answered": ("moderation_model_requests_total", {"result": "answered"}),
        "http_500": ("moderation_model_requests_total", {"result": "http_500"}),
        "input": ("moderation_model_tokens_total", {"kind": "input"}),
        "cached": ("moderation_model_tokens_total", {"kind": "cached"}),
        "output": ("moderation_model_tokens_total", {"kind": "output"}),
        "cost": ("moderation_model_cost_total", {}),
        "seconds": ("moderation_model_request_seconds_count", {}),
    }

    def read() -> Sequence[float]:
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names.values()]

    async def story() -> None:
        usage = Usage(1_000, 400, 10)
        prices = {"input_price": 2.0, "cached_price": 1.0, "output_price": 10.0}
        told = Story(in_turn(status(500), Reply("m", (), usage)), **prices)
        assert await told.ask() == "answered"

    before = read()
    run(story())
    counted = [after - earlier for earlier, after in zip(before, read(), strict=True)]
    assert counted == pytest.approx([1, 1, 1_000, 400, 10, (600 * 2 + 400 * 1 + 10 * 10) / 1e6, 1])
