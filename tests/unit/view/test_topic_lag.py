"""What a view says of its lag, on a schedule that a test decides."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.view import freshness, topic_lag
from moderation.view.freshness import Stall
from moderation.view.stores import StoreUnavailableError
from moderation.view.topic_lag import ViewLag


class Broker:
    """Says where the topic ends, or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topic_lag, "ASK_S", 0.0)
        self.ends: dict[int, int] = {}
        self.error: Exception | None = None
        self.asked = 0
        self.now = 1_000.0
        self.lag = ViewLag(lambda: self.now)
        self.caught_up = asyncio.Event()
        self.caught_up.set()

    async def ask(self) -> Mapping[int, int]:
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
    broker.ends = {0: 7, 1: 0}
    await broker.answers()
    assert records(lag) == gauge("lag_records") == 2
    broker.ends = {0: 4_000, 1: 300}
    await broker.answers()
    assert records(lag) == gauge("lag_records") == 4_295
    lag.moved({0: 4_000, 1: 301})  # further than the brokers have said
    await broker.answers()
    assert records(lag) == gauge("lag_seconds") == 0


async def test_the_age_is_that_of_the_oldest_record_which_is_not_folded_in(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = 5_000.0
    monkeypatch.setattr(time, "time", lambda: wall)
    lag = broker.lag
    lag.moved({0: 5, 1: 0})
    broker.ends = {0: 7, 1: 0}
    await broker.answers()
    assert lag.age_s == 0  # not read yet: its age counts from now on
    wall += 30
    broker.ends = {0: 9, 1: 0}
    await broker.answers()
    assert lag.age_s == gauge("lag_seconds") == 30
    lag.read({0: 4_900_000})  # it has been read, and is older than that
    assert lag.age_s == 130
    lag.moved({0: 8, 1: 0})
    lag.folded({0: 5_010_000})
    assert lag.age_s == gauge("lag_seconds") == 20
    lag.moved({0: 9, 1: 0})
    lag.folded({0: 5_020_000})
    assert lag.age_s == gauge("lag_seconds") == 0


async def test_without_a_response_the_lag_is_unknown_and_that_is_reported_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag = broker.lag
    lag.moved({0: 5})
    broker.ends = {0: 7}
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
