"""Outages of a model server."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.models.remote.breaker import FAILURES, FIRST_PROBE_S, LAST_PROBE_S
from moderation.models.remote.failures import Cause, Failure
from moderation.models.remote.server import ATTEMPTS
from moderation.observability.logs import POST
from tests.support.logged import events
from tests.support.skipping import now, run
from tests.support.told_server import OUTAGE_S, REPLY, Story, away, in_turn, lost, outage, status


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


def test_a_probe_belongs_to_no_post() -> None:
    """It outlives the post that met the outage: its log lines, its phase and its trace are not the post's."""

    async def story() -> None:
        told = Story(away(0, 100))
        seen: list[str] = []
        says = told.says

        def noted(name: str) -> Any:
            if name == "own":
                seen.append(POST.get(""))
            return says(name)

        told.says = noted
        POST.set("the post")
        assert await told.ask() == "answered"
        assert set(seen) == {""}
        assert len(seen) > 3

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
        assert told.seconds - before < 5, "at once"
        assert len(told.asked) < 120, "no requests but probes"
        await asyncio.sleep(1)
        assert told.server.breaker.is_open
        assert not told.server.breaker.paused
        assert REGISTRY.get_sample_value("moderation_model_outage_given_up") == 1
        await asyncio.sleep(3_600 + LAST_PROBE_S - told.seconds)
        assert await told.all(50) == {"answered": 50}
        assert [paused for _, paused in told.pauses] == [True, False], "and no more when the server is back"
        assert REGISTRY.get_sample_value("moderation_model_outage_given_up") == 0

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
        back = [REPLY]  # to one of our own questions
        told = Story(lambda name: back.pop() if name == "own" and told.seconds > 600 and back else lost())
        assert await told.ask() == "unavailable"
        assert [paused for _, paused in told.pauses] == [True, False, True]
        assert OUTAGE_S <= told.seconds < OUTAGE_S + 10

    run(story())


def test_after_an_outage_a_request_has_all_its_attempts() -> None:
    async def story() -> None:
        left = [lost()] * (ATTEMPTS - 1)
        told = Story(lambda name: lost() if told.seconds < 60 else left.pop() if name != "own" and left else REPLY)
        assert await told.ask() == "answered"
        assert not left

    run(story())


def test_a_request_that_got_its_place_in_an_outage_waits_for_its_end() -> None:
    async def story() -> None:
        told = Story(lambda name: 5.0, concurrency=1)
        asking = [asyncio.create_task(told.ask(name)) for name in ("first", "second")]
        await asyncio.sleep(1)
        told.server.breaker.open(Failure("connection", Cause.UNREACHABLE))
        assert [await task for task in asking] == ["answered", "answered"]
        assert told.times("second") == [1 + FIRST_PROBE_S + 5]

    run(story())


def test_failures_that_are_not_in_a_row_put_nothing_in_doubt() -> None:
    async def story() -> None:
        said: list[Any] = [status(500), REPLY] * 2 * FAILURES
        told = Story(lambda name: said.pop(0))
        for _ in range(2 * FAILURES):
            assert await told.ask() == "answered"
        assert not told.times("own")

    run(story())


def test_a_request_that_fails_alone_costs_one_question_of_our_own() -> None:
    async def story() -> None:
        told = Story(in_turn(status(500)))
        for number in range(1, 5):
            assert await told.ask() == "rejected: http_500"
            assert len(told.times("own")) == number

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
