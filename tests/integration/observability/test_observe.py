"""What a worker and an API say of themselves is what the topics show."""

from __future__ import annotations

import asyncio
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from moderation.errors import DeviceError
from moderation.settings import OpsSettings
from moderation.v1 import moderation_service_pb2 as pb
from tests.support.builders import a_verdict
from tests.support.harness import PARTITIONS, Harness, a_value, running
from tests.support.lookups import Api, a_free_address, refused, service
from tests.unit.observability.test_probes import ask


class Port:
    """The operations port of a role in this process."""

    def __init__(self) -> None:
        self.settings = OpsSettings(listen=a_free_address())

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0: the role has not got so far as to open it."""
        try:
            return await asyncio.to_thread(ask, self.settings.listen, path)
        except urllib.error.URLError:
            return 0, ""

    async def well(self, path: str) -> None:
        """Returns once the probe says so."""
        async with asyncio.timeout(60):
            while (await self.get(path))[0] != 200:
                pass

    async def value(self, name: str, /, **labels: str) -> float:
        """The sum of the samples with these labels."""
        _, text = await self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, condition: Callable[[float], bool], name: str, /, **labels: str) -> float:
        """Its value once the condition holds."""
        async with asyncio.timeout(60):
            while not condition(value := await self.value(name, **labels)):
                pass
        return value


def observed(harness: Harness, port: Port) -> Harness:
    return replace(harness, settings=harness.settings.model_copy(update={"ops": port.settings}))


async def test_a_worker_tells_how_far_behind_it_is_and_what_it_has_done(harness: Harness) -> None:
    port = Port()
    names = ("moderation_verdict_origins_total", "moderation_transaction_posts_sum", "moderation_phase_seconds_count")
    slow = harness.with_("fake?step_ms=400", batch_tokens=60)
    async with running(observed(slow, port)):
        await port.well("/startupz")
        before = {name: await port.value(name) for name in names}
        dead = await port.value("moderation_dead_letters_total", reason="NOT_DECODABLE")
        await harness.post(60)
        await harness.produce((0, b"broken", b"{", ()))
        await port.until(lambda found: found > 0, "moderation_worker_in_flight_posts")
        assert await port.until(lambda found: found > 1, "moderation_worker_lag_seconds") < 120
        assert await port.value("moderation_worker_lag_records") > 0
        assert (await port.get("/livez"))[0] == (await port.get("/readyz"))[0] == 200
        await harness.verdicts(61)
        await port.until(lambda found: found == 0, "moderation_worker_lag_records")
        await port.until(lambda found: found == 0, "moderation_worker_in_flight_posts")
        assert await port.value("moderation_worker_lag_seconds") == 0
        assert await port.value("moderation_worker_partitions") == PARTITIONS
        assert await port.value("moderation_verdict_origins_total") == before["moderation_verdict_origins_total"] + 61
        assert await port.value(names[1]) == before[names[1]] + 61
        assert await port.value("moderation_dead_letters_total", reason="NOT_DECODABLE") == dead + 1
        assert await port.value("moderation_model_info", name="fake") == 1


async def test_the_marks_of_transactions_on_the_posts_topic_are_no_lag(
    harness: Harness, names: Callable[[str], str]
) -> None:
    """A platform that produces in transactions: each ends with a record that nobody can read, and that stays last."""
    port = Port()
    producer = AIOKafkaProducer(bootstrap_servers=harness.kafka, transactional_id=names("platform"))
    async with running(observed(harness, port)), producer:
        for start in (0, 6):
            async with producer.transaction():
                for number in range(start, start + 6):
                    await producer.send(harness.topics[0], a_value(number), b"key", partition=number % PARTITIONS)
        await harness.verdicts(12)
        await port.until(lambda found: found == PARTITIONS, "moderation_worker_partitions")
        for name in ("moderation_worker_lag_records", "moderation_worker_lag_seconds"):
            await port.until(lambda found: found == 0, name)
        assert (await port.get("/readyz"))[0] == 200


async def test_a_worker_with_a_post_that_gets_nowhere_says_so_and_ends(harness: Harness) -> None:
    """A step that does not end, within the time that the device has for it: nothing but the post's own clock knows."""
    port = Port()
    stuck = observed(harness.with_("fake?step_ms=8000", post_timeout_s=4.0), port)

    async def judges() -> None:
        async with running(stuck) as worker:
            await port.until(lambda found: found == PARTITIONS, "moderation_worker_partitions")
            assert (await port.get("/livez"))[0] == 200
            await harness.post(1)
            await port.until(lambda found: found > 0, "moderation_worker_oldest_post_seconds")
            assert await port.value("moderation_worker_posts_in_phase", phase="model") == 1
            await worker

    with capture_logs() as events, pytest.raises(BaseExceptionGroup) as caught:
        await judges()
    assert caught.group_contains(DeviceError, match=r"offset 0 has been in hand for \d+ s, in phase model")
    (overdue,) = [event for event in events if event["event"] == "post_overdue"]
    assert (overdue["offset"], overdue["phase"], overdue["phases"]) == (0, "model", {"model": 1})


async def test_an_api_tells_of_its_view_and_its_calls(running_api: Api) -> None:
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
