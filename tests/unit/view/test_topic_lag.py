"""What a view says of its lag, on a schedule that a test decides."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.kafka.watermarks import Ends
from moderation.view import freshness, topic_lag
from moderation.view.freshness import Stall
from moderation.view.stores import StoreUnavailableError
from moderation.view.topic_lag import ViewLag


class Broker:
    """Says where the topic ends, or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topic_lag, "ASK_S", 0.0)
        self.ends: dict[int, Ends] = {}
        self.error: Exception | None = None
        self.asked = 0
        self.now = 1_000.0
        self.lag = ViewLag(lambda: self.now)
        self.caught_up = asyncio.Event()
        self.caught_up.set()

    async def ask(self) -> Mapping[int, Ends]:
        self.asked += 1
        if self.error:
            raise self.error
        return self.ends

    async def answers(self, times: int = 1) -> None:
        """Returns after so many whole rounds."""
        following = asyncio.create_task(self.lag.follow(self.ask, self.caught_up))
        end = self.asked + times
        while self.asked <= end:  # noqa: ASYNC110  counted by the task
            await asyncio.sleep(0)
        following.cancel()
        await asyncio.wait([following])


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(monkeypatch)


def records(lag: ViewLag) -> int | None:
    """As of now: a type checker takes an attribute for what it was."""
    return lag.records


def gauge(name: str) -> float:
    value = REGISTRY.get_sample_value(f"moderation_view_{name}")
    assert value is not None
    return value


async def test_the_lag_grows_while_the_view_stands(broker: Broker) -> None:
    lag = broker.lag
    assert records(lag) is None
    lag.moved({0: 5, 1: 0})
    broker.ends = {0: Ends(7, 7), 1: Ends(0, 0)}
    await broker.answers()
    assert records(lag) == gauge("lag_records") == 2
    broker.ends = {0: Ends(4_000, 4_000), 1: Ends(300, 300)}
    await broker.answers()
    assert records(lag) == gauge("lag_records") == 4_295
    lag.moved({0: 4_000, 1: 301})  # further than the brokers have said
    await broker.answers()
    assert records(lag) == gauge("lag_seconds") == 0


async def test_records_behind_an_open_transaction_are_lag_and_no_reason_to_leave_service(broker: Broker) -> None:
    lag = broker.lag
    lag.moved({0: 5, 1: 3})
    broker.ends = {0: Ends(5, 7), 1: Ends(4, 14)}
    await broker.answers()
    broker.now += 30
    await broker.answers()
    assert records(lag) == gauge("lag_records") == 13
    assert lag.readable == 1
    assert gauge("unstable_records") == 12
    assert gauge("standstill_seconds") == 30
    lag.moved({0: 5, 1: 4})
    lag.folded({1: 0})
    broker.now += 5
    await broker.answers()
    assert gauge("standstill_seconds") == 35
    lag.moved({0: 7, 1: 14})
    broker.ends = {0: Ends(7, 7), 1: Ends(14, 14)}
    await broker.answers()
    assert [gauge(name) for name in ("lag_records", "unstable_records", "lag_seconds", "standstill_seconds")] == [0] * 4


async def test_what_is_known_of_a_topic_says_nothing_of_one_that_takes_its_name(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: broker.now)
    lag = broker.lag
    lag.moved({0: 5, 1: 0})
    lag.read({0: 100_000, 1: 100_000})  # written 900 s ago
    broker.ends = {0: Ends(5, 5), 1: Ends(8, 8)}
    await broker.answers()
    broker.now += 30
    await broker.answers()
    assert (gauge("lag_seconds"), gauge("standstill_seconds")) == (930, 30)
    lag.begin_again()
    assert records(lag) is None
    assert all(math.isnan(gauge(name)) for name in ("lag_records", "lag_seconds", "standstill_seconds"))
    lag.moved({0: 0})  # of one partition
    broker.ends = {0: Ends(6, 6)}
    await broker.answers()
    assert [gauge(name) for name in ("lag_records", "lag_seconds", "standstill_seconds")] == [6, 0, 0]


async def test_an_api_without_a_view_does_not_say_that_nothing_is_behind() -> None:
    topic_lag.set_unknown()
    names = ("lag_records", "unstable_records", "lag_seconds", "standstill_seconds")
    assert all(math.isnan(gauge(name)) for name in names)


async def test_the_age_is_that_of_the_oldest_record_which_is_not_folded_in(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = 4_000.0
    monkeypatch.setattr(time, "time", lambda: broker.now + wall)
    lag = broker.lag
    lag.moved({0: 5, 1: 0})
    broker.ends = {0: Ends(7, 7), 1: Ends(0, 0)}
    await broker.answers()
    assert lag.age_s == 0  # not read yet: its age counts from now on
    broker.now += 30
    broker.ends = {0: Ends(9, 9), 1: Ends(0, 0)}
    await broker.answers()
    assert lag.age_s == gauge("lag_seconds") == 30
    lag.read({0: 4_900_000})  # it has been read, is from before this API, and older than that
    assert lag.age_s == 130
    lag.moved({0: 8, 1: 0})
    lag.folded({0: 5_010_000})
    assert lag.age_s == gauge("lag_seconds") == 0, "the next one came between two polls, and has just been seen"
    broker.now += 7
    for clock_ahead_s in (3600, -3600, 0):
        lag.read({0: 5_015_000 + 1000 * clock_ahead_s})  # of a worker: its clock changes nothing
        assert lag.age_s == 7
    lag.moved({0: 9, 1: 0})
    lag.folded({0: 5_020_000})
    assert lag.age_s == gauge("lag_seconds") == 0


async def test_without_a_response_the_lag_is_unknown_and_that_is_reported_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag = broker.lag
    lag.moved({0: 5})
    broker.ends = {0: Ends(7, 7)}
    following = asyncio.create_task(lag.follow(broker.ask, broker.caught_up))

    async def rounds() -> None:
        end = broker.asked + 3
        while broker.asked < end:  # noqa: ASYNC110  counted by the task
            await asyncio.sleep(0)

    with capture_logs() as logged:
        await rounds()
        broker.error = TimeoutError("what a broker wrote")
        await rounds()
        broker.now += topic_lag.UNKNOWN_S - 1
        await rounds()
        assert records(lag) == 2
        broker.now += 2
        await rounds()
        assert records(lag) is None
        assert math.isnan(gauge("lag_records"))
        assert gauge("topic_end_age_seconds") == lag.unknown_s == topic_lag.UNKNOWN_S + 1
        broker.error = None
        await rounds()
    following.cancel()
    await asyncio.wait([following])
    assert (lag.records, lag.unknown_s) == (2, 0)
    assert [event["event"] for event in logged] == ["verdicts_topic_ends_unknown", "verdicts_topic_ends_known"]
    assert "wrote" not in str(logged)


async def test_a_store_that_hangs_stalls_the_view_and_then_gives_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "STALL_S", 0.01)
    stall, answer = Stall(), asyncio.get_running_loop().create_future()
    with capture_logs() as logged:
        watching = asyncio.create_task(stall.watch("fold", answer))
        while gauge("stalled") != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        answer.set_result("written")
        assert await watching == "written"
        stall.end("fold")
        stall.begin("fold", StoreUnavailableError("full"))
        stall.begin("fold", StoreUnavailableError("full"))
        stall.end("fold")
    assert [event["event"] for event in logged] == ["view_stalled", "view_recovered"] * 2
    assert gauge("stalled") == 0
