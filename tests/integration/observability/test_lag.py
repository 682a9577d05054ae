"""Lag that readers cannot see: records behind an open transaction, and brokers that are away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from structlog.testing import capture_logs

from moderation import wire
from moderation.dev.kafka import LocalKafka
from moderation.kafka import clients, watermarks
from moderation.v1 import moderation_service_pb2 as pb
from moderation.worker import gauges
from tests.support.builders import a_verdict
from tests.support.harness import PARTITIONS, Harness, a_harness, a_value, running
from tests.support.logged import events
from tests.support.lookups import SERVING, Api, service, watch_health
from tests.support.operations_port import Port

ANSWER_AGE = "moderation_kafka_answer_age_seconds"


@asynccontextmanager
async def an_open_transaction(kafka: str, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that has begun a transaction. It commits at the end."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=transactional_id)
    async with producer, producer.transaction():
        yield producer


async def test_posts_behind_an_open_transaction_are_lag(harness: Harness, names: Callable[[str], str]) -> None:
    port = Port()
    async with running(harness.with_port(port.settings)):
        await port.until(lambda value: value == PARTITIONS, "moderation_worker_partitions")
        await port.until(lambda value: value == 0, "moderation_worker_lag_records")
        async with an_open_transaction(harness.kafka, names("platform")) as producer:
            for number in (0, 1, 2):
                await producer.send_and_wait(harness.topics[0], a_value(number), b"a", partition=3)
            await harness.produce(*((3, b"a", a_value(number), ()) for number in range(3, 8)))
            await port.until(lambda value: value == 8, "moderation_worker_lag_records", partition="3")
            for name in ("lag_seconds", "standstill_seconds"):
                await port.until(lambda value: value > 1, f"moderation_worker_{name}", partition="3")
            assert await port.value("moderation_worker_unstable_records", partition="3") == 8
            assert await port.value("moderation_worker_lag_records") == 8, "no other partition has any"
            assert (await port.get("/readyz"))[0] == 200
        await harness.expect_exactly(8)
        for name in ("lag_records", "unstable_records", "lag_seconds", "standstill_seconds"):
            await port.until(lambda value: value == 0, f"moderation_worker_{name}")


async def test_verdicts_behind_an_open_transaction_are_lag_and_lookups_go_on(
    running_api: Api, names: Callable[[str], str]
) -> None:
    """The API stays in service: no replica can read them, so that another would answer no better."""
    port = Port()
    running_api.settings = running_api.settings.model_copy(update={"ops": port.settings})
    running_api.set(max_lag=1)
    kafka = running_api.settings.kafka
    await running_api.put(a_verdict("before"))
    async with running_api.running() as channel:

        async def state(post_id: str) -> int:
            found = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id=post_id), timeout=5)
            return int(found.state)

        health = watch_health(channel)
        assert (await health.read()).status == SERVING
        async with an_open_transaction(kafka.bootstrap, names("worker")) as producer:
            for number in range(4):
                value, headers = wire.verdict_record(a_verdict(f"p{number}"), "json")
                await producer.send_and_wait(kafka.verdicts_topic, value, key=f"p{number}".encode(), headers=headers)
            await running_api.put(a_verdict("after"))
            await port.until(lambda value: value == 5, "moderation_view_lag_records")
            for name in ("lag_seconds", "standstill_seconds"):
                await port.until(lambda value: value > 1, f"moderation_view_{name}")
            assert await port.value("moderation_view_unstable_records") == 5
            assert (await port.get("/readyz"))[0] == 200
            assert await state("before") == pb.LOOKUP_STATE_FOUND
            assert await state("after") == pb.LOOKUP_STATE_NOT_FOUND
        for name in ("lag_records", "unstable_records", "lag_seconds", "standstill_seconds"):
            await port.until(lambda value: value == 0, f"moderation_view_{name}")
        assert await state("after") == pb.LOOKUP_STATE_FOUND
        assert await port.value(ANSWER_AGE) < 2
        health.cancel()


async def test_a_consumer_without_partitions_hears_from_the_brokers(harness: Harness) -> None:
    """As that of a worker for which no partition is left."""
    consumer = clients.consumer(harness.settings.kafka)
    await consumer.start()
    try:
        asked = time.monotonic()
        assert await watermarks.ends(consumer, []) == {}
        async with asyncio.timeout(5):
            while all(each._last_action <= asked for each in consumer._client._conns.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await clients.stop(consumer)


@pytest.mark.usefixtures("local_kafka")
async def test_without_brokers_the_lag_is_unknown_and_each_worker_says_how_long_they_are_away(
    tmp_path: Path, names: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "UNKNOWN_S", 2.0)
    async with LocalKafka() as local:
        port = Port()
        harness = (await a_harness(local.bootstrap, names, tmp_path)).with_port(port.settings)
        with capture_logs() as logged:
            async with running(harness):
                await port.until(lambda value: value == PARTITIONS, "moderation_worker_partitions")
                await port.until(lambda value: value == 0, "moderation_worker_lag_records")
                assert await port.value(ANSWER_AGE) < 3
                local.kill(1)
                await port.until(lambda value: value > 3, ANSWER_AGE)
                for name in ("lag_records", "unstable_records", "lag_seconds", "standstill_seconds"):
                    await port.until(math.isnan, f"moderation_worker_{name}", partition="5")
                await local.revive(1)
                await port.until(lambda value: value < 3, ANSWER_AGE)
                await port.until(lambda value: value == 0, "moderation_worker_lag_records")
        assert [events(logged, f"posts_topic_ends_{name}") != [] for name in ("unknown", "known")] == [True, True]
