"""Attempts, outages and budgets, on a clock that skips what is only waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.models.remote import server as module
from moderation.models.remote.breaker import FAILURES, FIRST_PROBE_S, LAST_PROBE_S
from moderation.models.remote.failures import Cause
from moderation.models.remote.server import ATTEMPTS, Rejected, Server, Unavailable
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply
from tests.support.logged import events
from tests.support.plain_wire import a_client, model_settings
from tests.support.skipping import now, run

REQUEST = httpx2.Request("POST", "http://server/v1")
REPLY = Reply("model", ())
OUTAGE_S = 900.0


def status(code: int, error_code: str = "", **headers: str) -> APIStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(code, headers=named, request=REQUEST)
    return APIStatusError("text", response=response, body={"code": error_code})


def lost() -> APIConnectionError:
    return APIConnectionError(request=REQUEST)


class Story:
    """A server that answers as `says` does: a reply, an error, or how long it takes. Notes when it was asked."""

    def __init__(self, says: Callable[[str], Any] = lambda name: REPLY, **settings: Any) -> None:
        self.says = says
        self.asked: list[tuple[float, str]] = []
        self.at_once = self.most_at_once = 0
        self.probes_at_once = self.most_probes_at_once = 0
        settings = {"outage_s": OUTAGE_S, "request_timeout_s": 60.0} | settings
        url = "http://server/v1"
        self.server = Server(a_client(url), model_settings(url, **settings), self.call("own"))
        self.begun = now()
        self.pauses: list[tuple[float, bool]] = []
        breaker = self.server.breaker
        breaker.on_change(lambda: self.pauses.append((round(now() - self.begun), breaker.paused)))

    def call(self, name: str) -> module.Call:
        async def call(client: AsyncOpenAI) -> Reply:
            self.asked.append((now() - self.begun, name))
            probe = name == "own"
            self.at_once += not probe
            self.probes_at_once += probe
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.most_probes_at_once = max(self.most_probes_at_once, self.probes_at_once)
            try:
                said = self.says(name)
                if isinstance(said, float):
                    await asyncio.sleep(said)
                    return REPLY
                if isinstance(said, Exception):
                    raise said
                assert isinstance(said, Reply)
                return said
            finally:
                self.at_once -= not probe
                self.probes_at_once -= probe

        return call

    async def ask(self, name: str = "post") -> str:
        """How a request ends."""
        try:
            await self.server.ask(self.call(name), self.server.patience())
        except Rejected as rejected:
            return f"rejected: {rejected.failure.kind}"
        except Unavailable:
            return "unavailable"
        return "answered"

    async def all(self, count: int) -> Counter[str]:
        return Counter(await asyncio.gather(*(self.ask(f"post-{number}") for number in range(count))))

    def times(self, name: str = "post") -> list[float]:
        return [at for at, asked in self.asked if asked == name]

    @property
    def seconds(self) -> float:
        return now() - self.begun


def in_turn(*said: Any) -> Callable[[str], Any]:
    """What is said to each request that is not our own question; the last one to all further requests."""
    left = list(said)

    def says(name: str) -> Any:
        return REPLY if name == "own" else left.pop(0) if len(left) > 1 else left[0]

    return says


def away(begin: float, end: float, error: Callable[[], Exception] = lost, *, hangs: bool = False) -> Callable[..., Any]:
    """A server that is away between two times of the loop since the story's begin."""
    start = now()

    def says(name: str) -> Any:
        if not begin <= now() - start < end:
            return REPLY
        return 1e6 if hangs else error()

    return says


def outage(cause: Cause) -> float | None:
    return REGISTRY.get_sample_value("moderation_model_outage", {"cause": cause})


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
        assert {len(told.times(f"bad-{number}")) for number in range(20)} == {ATTEMPTS}
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


def test_posts_wait_for_the_end_of_an_outage_and_are_answered() -> None:
    async def story() -> None:
        told = Story(away(10, 800))
        await told.all(5)
        await asyncio.sleep(10)
        assert await told.all(200) == {"answered": 200}
        assert 800 <= told.seconds < 800 + LAST_PROBE_S + 10
        ((opened, first), (closed, last)) = told.pauses
        assert (first, last) == (True, False)
        assert opened < 20
        assert 800 <= closed <= 800 + LAST_PROBE_S
        during = [at for at, name in told.asked if opened + 1 < at < 800]
        assert all(at in told.times("own") for at in during), "nothing but probes"
        assert told.most_probes_at_once == 1
        assert len(during) < 40

    run(story())


def test_probes_come_less_and_less_often() -> None:
    async def story() -> None:
        told = Story(away(0, 200))
        assert await told.ask() == "answered"
        own = told.times("own")
        between = [round(later - earlier) for earlier, later in pairwise(own)]
        assert between[:6] == [FIRST_PROBE_S, 2, 4, 8, 16, LAST_PROBE_S]
        assert set(between[6:]) == {LAST_PROBE_S}

    run(story())


def test_probes_heed_the_servers_pause() -> None:
    async def story() -> None:
        told = Story(away(0, 500, lambda: status(429, retry_after="120")))
        assert await told.ask() == "answered"
        own = told.times("own")
        assert all(later - earlier >= 119.9 for earlier, later in pairwise(own))
        assert len(own) > 3

    run(story())


def test_after_the_longest_outage_posts_do_not_wait() -> None:
    async def story() -> None:
        told = Story(away(0, 3_600))
        assert await told.all(50) == {"unavailable": 50}
        assert OUTAGE_S <= told.seconds <= OUTAGE_S + 10
        before = told.seconds
        assert await told.all(50) == {"unavailable": 50}
        assert told.seconds - before < 0.1, "at once"
        assert len(told.asked) < 120, "no requests but probes"
        assert told.server.breaker.is_open
        assert not told.server.breaker.paused
        await asyncio.sleep(3_600 + LAST_PROBE_S - told.seconds)
        assert await told.all(50) == {"answered": 50}
        assert [paused for _, paused in told.pauses] == [True, False], "and no more when the server is back"

    with capture_logs() as logged:
        run(story())
    names = [event["event"] for event in logged if event["log_level"] != "debug"]
    assert names == ["model_server_away", "model_outage_given_up", "model_server_back"]


def test_a_post_of_a_later_moment_waits_only_for_what_is_left_of_the_outage() -> None:
    async def story() -> None:
        told = Story(away(0, 3_600))
        first = asyncio.create_task(told.ask())
        await asyncio.sleep(600)
        assert await told.ask() == "unavailable"
        assert told.seconds <= OUTAGE_S + 10
        assert await first == "unavailable"

    run(story())


def test_a_post_waits_in_several_outages_for_no_longer_than_the_longest() -> None:
    async def story() -> None:
        told = Story()
        start = now()

        def flaps(name: str) -> Any:  # probes are answered, posts are not, and then the server is away again
            return REPLY if name == "own" and (now() - start) % 60 > 30 else lost()

        told.says = flaps
        assert await told.ask() in ("unavailable", "rejected: connection")
        assert told.seconds <= OUTAGE_S + 60

    run(story())


def test_a_server_that_hangs_is_away() -> None:
    async def story() -> None:
        told = Story(away(0, 500, hangs=True))
        assert await told.all(20) == {"answered": 20}
        ((opened, _), _) = told.pauses
        assert opened == 120, "one timeout of a request, and one of our own question"

    run(story())


def test_many_failures_at_once_put_the_server_in_doubt_early() -> None:
    async def story() -> None:
        told = Story(away(0, 60))
        await told.all(16)
        before = [name for at, name in told.asked if at < told.pauses[0][0] + 0.01]
        assert len([name for name in before if name != "own"]) <= 16 + FAILURES
        assert told.pauses[0][0] <= 1

    run(story())


def test_a_moments_failure_of_many_requests_rejects_none() -> None:
    """Connections are cut when a server starts again. Each request has all of its attempts left."""

    async def story() -> None:
        told = Story(away(0, 0.2))
        assert await told.all(100) == {"answered": 100}

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

    run(story())


def test_the_cause_of_an_outage_is_that_of_our_own_question_and_may_change() -> None:
    async def story() -> None:
        start = now()

        def says(name: str) -> Any:
            seconds = now() - start
            return lost() if seconds < 60 else status(401) if seconds < 200 else REPLY

        told = Story(says)
        asking = asyncio.create_task(told.ask())
        await asyncio.sleep(30)
        assert (outage(Cause.UNREACHABLE), outage(Cause.DENIED) or 0) == (1, 0)
        await asyncio.sleep(100)
        assert (outage(Cause.UNREACHABLE), outage(Cause.DENIED)) == (0, 1)
        assert await asking == "answered"
        assert (outage(Cause.UNREACHABLE), outage(Cause.DENIED)) == (0, 0)

    with capture_logs() as logged:
        run(story())
    (changed,) = events(logged, "model_server_still_away")
    assert (changed["cause"], changed["status"]) == (Cause.DENIED, 401)


def test_a_server_that_refuses_all_that_it_took_before_is_away() -> None:
    async def story() -> None:
        told = Story(away(0, 100, lambda: status(400)))
        assert await told.all(10) == {"answered": 10}
        assert len(told.pauses) == 2

    with capture_logs() as logged:
        run(story())
    (opened,) = events(logged, "model_server_away")
    assert (opened["cause"], opened["status"]) == (Cause.REJECTING, 400)


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
