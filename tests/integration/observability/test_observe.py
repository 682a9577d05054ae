"""The metrics and probes of a worker and an API agree with what the topics show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaProducer
from structlog.testing import capture_logs

from moderation.errors import DeviceError
from moderation.v1 import moderation_service_pb2 as pb
from tests.support.builders import a_verdict
from tests.support.harness import PARTITIONS, Harness, a_value, running
from tests.support.lookups import Api, refused, service
from tests.support.operations_port import Port


def observed(harness: Harness, port: Port) -> Harness:
    return harness.with_port(port.settings)


async def test_a_worker_reports_its_lag_and_its_outcomes(harness: Harness) -> None:
    port = Port()
    names = ("moderation_verdict_origins_total", "moderation_transaction_posts_sum", "moderation_phase_seconds_count")
    slow = harness.with_("fake?step_ms=400", batch_tokens=60)
    async with running(observed(slow, port)):
        await port.well("/startupz")
        before = {name: await port.value(name) for name in names}
        dead = await port.value("moderation_dead_letters_total", reason="NOT_DECODABLE")
        await harness.post(60)
        await harness.produce((0, b"broken", b"{", ()))
        await port.until(lambda value: value > 0, "moderation_worker_in_flight_posts")
        assert await port.until(lambda value: value > 1, "moderation_worker_lag_seconds") < 120
        assert await port.value("moderation_worker_lag_records") > 0
        assert (await port.get("/livez"))[0] == (await port.get("/readyz"))[0] == 200
        await harness.verdicts(61)
        await port.until(lambda value: value == 0, "moderation_worker_lag_records")
        await port.until(lambda value: value == 0, "moderation_worker_in_flight_posts")
        assert await port.value("moderation_worker_lag_seconds") == 0
        assert await port.value("moderation_worker_partitions") == PARTITIONS
        assert await port.value("moderation_verdict_origins_total") == before["moderation_verdict_origins_total"] + 61
        assert await port.value(names[1]) == before[names[1]] + 61
        assert await port.value("moderation_dead_letters_total", reason="NOT_DECODABLE") == dead + 1
        assert await port.value("moderation_model_info", name="fake") == 1


async def test_transaction_markers_on_the_posts_topic_are_not_lag(
    harness: Harness, names: Callable[[str], str]
) -> None:
    """A platform that produces in transactions: each ends with a marker, which no consumer can read."""
    port = Port()
    producer = AIOKafkaProducer(bootstrap_servers=harness.kafka, transactional_id=names("platform"))
    async with running(observed(harness, port)), producer:
        for start in (0, 6):
            async with producer.transaction():
                for number in range(start, start + 6):
                    await producer.send(harness.topics[0], a_value(number), b"key", partition=number % PARTITIONS)
        await harness.verdicts(12)
        await port.until(lambda value: value == PARTITIONS, "moderation_worker_partitions")
        for name in ("moderation_worker_lag_records", "moderation_worker_lag_seconds"):
            await port.until(lambda value: value == 0, name)
        assert (await port.get("/readyz"))[0] == 200


async def test_a_worker_with_a_stuck_post_reports_it_and_ends(harness: Harness) -> None:
    """A step hangs, but not beyond the device's own time limit: only the time limit of the post notices."""
    port = Port()
    stuck = observed(harness.with_("fake?step_ms=8000", post_timeout_s=4.0), port)

    async def judges() -> None:
        async with running(stuck) as worker:
            await port.until(lambda value: value == PARTITIONS, "moderation_worker_partitions")
            assert (await port.get("/livez"))[0] == 200
            await harness.post(1)
            await port.until(lambda value: value > 0, "moderation_worker_oldest_post_seconds")
            await port.until(lambda value: value == 1, "moderation_worker_posts_in_phase", phase="model")
            await worker

    with capture_logs() as events, pytest.raises(BaseExceptionGroup) as caught:
        await judges()
    assert caught.group_contains(DeviceError, match=r"offset 0 has been in hand for \d+ s, in phase model")
    (overdue,) = [event for event in events if event["event"] == "post_overdue"]
    assert (overdue["offset"], overdue["phase"], overdue["phases"]) == (0, "model", {"model": 1})


async def test_an_api_reports_its_view_and_its_calls(running_api: Api) -> None:
    port = Port()
    running_api.settings = running_api.settings.model_copy(update={"ops": port.settings})
    await running_api.put(a_verdict("a"))
    call: dict[str, Any] = {"method": "GetVerdict"}
    async with running_api.running() as channel:
        served = await port.value("moderation_api_calls_total", code="OK", **call)
        timed = await port.value("moderation_api_call_seconds_count", **call)
        await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="post_id"):
            await service(channel).GetVerdict(pb.GetVerdictRequest(post_id=""))
        assert await port.value("moderation_api_calls_total", code="OK", **call) == served + 1
        assert await port.value("moderation_api_calls_total", code="INVALID_ARGUMENT", **call) >= 1
        assert await port.value("moderation_api_call_seconds_count", **call) == timed + 2
        assert await port.value("moderation_view_lag_records") == 0
        assert await port.value("moderation_view_folded_records_total") >= 1
        for path in ("/livez", "/readyz", "/startupz"):
            assert (await port.get(path))[0] == 200
