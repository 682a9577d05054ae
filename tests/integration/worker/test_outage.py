"""A worker whose model is behind a server: posts while the server is away, and when its model changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from prometheus_client import REGISTRY

from moderation.errors import ChangedError
from moderation.types import Reason
from tests.support import batching
from tests.support.harness import Harness, a_value, running
from tests.support.model_server import MODEL, ModelServer, completion, model_server
from tests.support.operations_port import Port

LONG_S = 60.0


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def asking(harness: Harness, server: ModelServer, **settings: Any) -> Harness:
    """A worker that asks this server."""
    defaults = {"name": f"openai:{MODEL}", "url": server.url, "request_timeout_s": 5.0, "outage_s": LONG_S}
    return harness.with_model(**defaults | settings)


def outages() -> float:
    """How many causes of an outage the gauge shows."""
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "moderation_model_outage")


def in_hand() -> float:
    return REGISTRY.get_sample_value("moderation_worker_in_flight_posts") or 0.0


until = partial(batching.until, timeout_s=60, pause_s=0.05)


async def say(harness: Harness, number: int, text: str) -> None:
    await harness.produce((0, b"key", a_value(number, text=text), ()))


async def test_the_probability_of_a_server_meets_the_policys_thresholds(harness: Harness, server: ModelServer) -> None:
    async with running(asking(harness, server)):
        for number, probability in enumerate(("0.03", "0.6", "0.97")):
            await say(harness, number, f"says:{probability}")
        verdicts = await harness.verdicts(3)
    assert [verdict["outcome"] for verdict in verdicts] == ["OUTCOME_ALLOW", "OUTCOME_REVIEW", "OUTCOME_REMOVE"]
    finding = verdicts[2]["findings"][0]
    assert finding["probability"] == pytest.approx(0.97)
    assert finding["mass"] == pytest.approx(0.98)
    model = verdicts[2]["model"]
    assert (model["name"], model["revision"], model["alias"]) == (f"openai:{MODEL}", MODEL, False)


async def test_an_outage_that_ends_costs_no_post_its_score(harness: Harness, server: ModelServer) -> None:
    """Posts in hand wait, no other is taken, the worker stays ready, and all have scores in the end."""
    port = Port()
    few = asking(harness, server).with_(max_in_flight=12)
    few = few.with_port(port.settings)
    async with running(few):
        await few.post(12)
        await few.verdicts(12)
        server.down()
        await few.post(6, start=12)
        await until(lambda: outages() == 1 and in_hand() == 6)
        await few.post(48, start=18)
        await asyncio.sleep(1.5)
        assert in_hand() == 6, "a paused worker takes no post"
        assert (await port.get("/readyz"))[0] == 200
        assert (await port.get("/livez"))[0] == 200
        assert len(await few.verdicts(12)) == 12
        server.up()
        verdicts = await few.expect_exactly(66)
        assert outages() == 0
    assert {verdict["status"] for verdict in verdicts} == {"STATUS_FINAL"}


async def test_a_worker_that_stops_in_an_outage_leaves_its_posts_to_the_next(
    harness: Harness, server: ModelServer
) -> None:
    """At once: to wait for the server would only hold up the stop, or the rebalance."""
    worker = asking(harness, server).with_(drain_timeout_s=50.0)
    async with running(worker):
        await worker.post(6)
        await worker.verdicts(6)
        server.down()
        await worker.post(12, start=6)
        await until(lambda: outages() == 1)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 25
    server.up()
    async with running(worker):
        verdicts = await worker.expect_exactly(18)
    assert {verdict["status"] for verdict in verdicts} == {"STATUS_FINAL"}


async def test_after_the_longest_outage_on_error_counts_until_the_server_is_back(
    harness: Harness, server: ModelServer
) -> None:
    short = asking(harness, server, outage_s=1.0)
    async with running(short) as worker:
        await short.post(1)
        await short.verdicts(1)
        server.down()
        await short.post(11, start=1)
        away = (await short.verdicts(12))[1:]
        assert {verdict["reason"] for verdict in away} == {Reason.UNAVAILABLE}
        assert {verdict["outcome"] for verdict in away} == {"OUTCOME_REVIEW"}, "the policy's on_error"
        assert len(await short.dead_letters(11)) == 11
        assert not worker.done()
        server.up()
        await until(lambda: outages() == 0)
        await short.post(12, start=12)
        verdicts = await short.expect_exactly(24)
    assert [verdict["status"] for verdict in verdicts].count("STATUS_FINAL") == 13


async def test_a_worker_that_starts_in_an_outage_waits_and_then_judges(harness: Harness, server: ModelServer) -> None:
    port = Port()
    worker = asking(harness, server)
    worker = worker.with_port(port.settings)
    server.down()
    await worker.post(6)
    async with running(worker):
        await until(lambda: outages() == 1)
        assert (await port.get("/startupz"))[0] == 200, "or a kubelet would end it again and again"
        assert (await port.get("/readyz"))[0] == 503
        server.up()
        verdicts = await worker.expect_exactly(6)
    assert {verdict["status"] for verdict in verdicts} == {"STATUS_FINAL"}


async def test_a_worker_that_started_without_the_models_name_starts_again_when_it_learns_it(
    harness: Harness, server: ModelServer
) -> None:
    worker = asking(harness, server, outage_s=1.0)
    server.down()
    await worker.post(6)

    async def nameless() -> None:
        async with running(worker) as task:
            away = await worker.expect_exactly(6)
            assert {verdict["reason"] for verdict in away} == {Reason.UNAVAILABLE}
            server.up()
            await until(lambda: outages() == 0)
            await worker.post(6, start=6)
            await asyncio.wait([task], timeout=60)

    with pytest.RaisesGroup(ChangedError):
        await nameless()
    async with running(worker):
        verdicts = await worker.expect_exactly(12)
    known = [verdict for verdict in verdicts if verdict["model"]["revision"] == MODEL]
    assert len(known) >= 5, "the answer that showed the name may be undetermined"
    assert {verdict["status"] for verdict in known} == {"STATUS_FINAL"}


async def test_when_the_model_changes_the_worker_starts_again_under_the_new_digest(
    harness: Harness, server: ModelServer
) -> None:
    worker = asking(harness, server)
    before: list[dict[str, Any]] = []

    async def changed() -> None:
        async with running(worker) as task:
            await worker.post(12)
            before.extend(await worker.expect_exactly(12))
            server.otherwise = completion(model="scripted-2")
            await worker.post(24, start=12)
            await asyncio.wait([task], timeout=60)

    with pytest.RaisesGroup(pytest.RaisesExc(ChangedError, match="starts again")):
        await changed()
    async with running(worker):
        verdicts = await worker.expect_exactly(36)
    (old,) = {verdict["model"]["digest"] for verdict in before}
    for verdict in (verdict for verdict in verdicts if verdict not in before):
        if verdict["model"]["digest"] == old:
            assert verdict["findings"][0]["reason"] == Reason.MODEL_CHANGED, "no score of another model"
        else:
            assert (verdict["status"], verdict["model"]["revision"]) == ("STATUS_FINAL", "scripted-2")


@pytest.mark.parametrize(("allowed", "outcome"), [(False, "OUTCOME_REVIEW"), (True, "OUTCOME_REMOVE")])
async def test_an_alias_removes_nothing_unless_it_is_allowed(
    harness: Harness, server: ModelServer, allowed: bool, outcome: str
) -> None:
    async with running(asking(harness, server, name="openai:scripted", alias_may_remove=allowed)):
        await say(harness, 1, "says:0.99")
        (verdict,) = await harness.verdicts(1)
    assert (verdict["outcome"], verdict["status"]) == (outcome, "STATUS_FINAL")
    assert (verdict["model"]["alias"], verdict["model"]["revision"]) == (True, MODEL)
