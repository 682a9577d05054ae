"""The same question gets the same answer, across restarts and reassignments: against a real Kafka."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import TopicPartition

from moderation.inference.verdict_cache import VerdictCache
from moderation.models.contract import Encoded
from moderation.models.fake import Fake
from moderation.settings import KafkaSettings
from moderation.types import Content, Origin, Question, Score, Verdict
from moderation.worker import restore
from moderation.worker.messages import Message, verdict_message
from moderation.worker.opening import Opening
from moderation.worker.publisher import Publisher
from tests.support import foreign
from tests.support.builders import a_finding, a_verdict
from tests.support.harness import WORKER, Fickle, Harness, a_value, running


async def nowhere() -> Opening:
    """A position for publishers that are never replaced."""
    return Opening(0)


async def test_a_repeat_gets_its_own_verdict_with_equal_findings(harness: Harness, fickle: Fickle) -> None:
    async with running(harness):
        await harness.produce((2, b"a", a_value(1), []))
        await harness.verdicts(1)
        await harness.produce((2, b"a", a_value(1), []), (2, b"a", a_value(1, text="an edit"), []))
        await harness.produce((2, b"a", a_value(1), []), (2, b"a", a_value(1, tenant="other"), []))
        verdicts = await harness.verdicts(5)
    assert fickle.asked == ["this is number 1", "an edit", "this is number 1"]
    assert [verdict["origin"] for verdict in verdicts] == [
        "ORIGIN_MODEL",
        "ORIGIN_CACHE",
        "ORIGIN_MODEL",
        "ORIGIN_CACHE",
        "ORIGIN_MODEL",
    ]
    assert [int(verdict["source"].get("offset", 0)) for verdict in verdicts] == list(range(5))
    first, repeat, edit, back, _ = verdicts
    for same in (repeat, back):
        for name in ("outcome", "status", "findings", "decidedAt", "contentDigest", "policySet", "model"):
            assert same[name] == first[name]
        assert not same["timings"]["model"]
        assert same["source"]["timestamp"] >= first["source"]["timestamp"]
    assert edit["contentDigest"] != first["contentDigest"]


async def test_repeats_in_flight_wait_for_the_first(harness: Harness, fickle: Fickle) -> None:
    await harness.produce(*[(0, b"a", a_value(1), [])] * 40, *[(1, b"b", a_value(2), [])] * 40)
    async with running(harness):
        verdicts = await harness.verdicts(80)
    assert sorted(fickle.asked) == ["this is number 1", "this is number 2"]
    assert len({(verdict["postId"], str(verdict["findings"])) for verdict in verdicts}) == 2


async def test_a_post_that_failed_is_tried_again(harness: Harness) -> None:
    async with running(harness.with_("fake?raise_on=poison")):
        await harness.produce(*[(0, b"a", a_value(1, text="a poison"), [])] * 2)
        verdicts = await harness.verdicts(2)
        letters = await harness.dead_letters(2)
    assert [verdict["reason"] for verdict in verdicts] == ["MODEL_FAILED"] * 2
    assert len(letters) == 2


@pytest.mark.parametrize("verdict_format", ["json", "protobuf"])
async def test_a_restarted_worker_restores_its_cache(harness: Harness, fickle: Fickle, verdict_format: Any) -> None:
    harness = harness.with_kafka(verdict_format=verdict_format)
    posts: list[Any] = [(number % 2, b"a", a_value(number), []) for number in range(6)]
    async with running(harness):
        await harness.produce(*posts)
        before = await harness.read(harness.topics[1], 6)
    assert len(fickle.asked) == 6
    async with running(harness):
        await harness.produce(*posts, (0, b"a", a_value("new"), []))
        after = await harness.read(harness.topics[1], 13)
    assert len(fickle.asked) == 7
    identity = {record.key: dict(record.headers)["verdict-identity"] for record in before}
    assert all(
        dict(record.headers)["verdict-identity"] == identity.get(record.key)
        for record in after
        if record.key != b"post-new"
    )


async def test_the_worker_after_a_killed_one_restores_what_was_committed(harness: Harness, fickle: Fickle) -> None:
    """The killed process had a model with other scores: only what it has published counts."""
    environment = os.environ | harness.environment
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    await harness.post(12)
    first = {verdict["postId"]: verdict for verdict in await harness.verdicts(12)}
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with running(harness):
        await harness.post(13)
        verdicts = await harness.verdicts(25)
    assert fickle.asked == ["this is number 12"]
    for verdict in verdicts[12:]:
        if verdict["postId"] in first:
            assert verdict["findings"] == first[verdict["postId"]]["findings"]


async def test_a_cache_without_room_asks_each_time(harness: Harness, fickle: Fickle) -> None:
    async with running(harness.with_(verdict_cache_posts=0)):
        for count in (1, 2):
            await harness.produce((0, b"a", a_value(1), []))
            await harness.verdicts(count)
    assert len(fickle.asked) == 2


# What is restored


def standing(number: int) -> Verdict:
    margin = number / 1e3
    return a_verdict(f"post-{number}", findings=(a_finding(score=Score(1 / (1 + math.exp(-margin)), margin, 0.9)),))


def messages(settings: KafkaSettings, *numbers: int) -> list[Message]:
    return [verdict_message(standing(number), (), settings) for number in numbers]


async def restored(cache: VerdictCache, settings: KafkaSettings) -> None:
    """Restores after a fence, as a worker does: a commit returns before its marker is in the log, a fence after."""
    async with Publisher(settings, 0, nowhere):
        await restore.restore(cache, settings, 0)


async def decided(cache: VerdictCache, number: int) -> Verdict:
    async def decide() -> Verdict:
        return replace(standing(number), decided_at_ms=0)

    return await cache.decided(standing(number).identity, decide, 0)


async def test_the_latest_verdicts_are_restored_in_steps_up_to_the_bounds(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "STEP", 7)
    async with Publisher(settings, 0, nowhere) as publisher:
        for number in range(30):
            await publisher.publish(messages(settings, number, 100 + number), number + 1)
    cache = VerdictCache(21, 1 << 20)
    await restored(cache, settings)
    assert len(cache) == 21
    expected = [number for pair in zip(range(30), range(100, 130), strict=True) for number in pair][-21:]
    assert [(await decided(cache, number)).origin for number in expected] == [Origin.CACHE] * 21
    assert replace(await decided(cache, 129), origin=Origin.MODEL) == standing(129)
    small = VerdictCache(1_000, 5_000)
    await restored(small, settings)
    assert 0 < small.bytes <= 5_000


async def test_neither_aborted_nor_foreign_nor_broken_records_are_restored(settings: KafkaSettings) -> None:
    async with Publisher(settings, 0, nowhere) as dead:
        await dead.publish(messages(settings, 1), 1)
        await dead._producer.begin_transaction()
        await (await dead._send(messages(settings, 2)[0]))
        async with Publisher(settings, 0, nowhere) as publisher:  # it aborts what the dead one has begun
            (like_3,) = messages(settings, 3)
            foreign = [
                replace(like_3, value=b"no verdict"),
                replace(like_3, headers=[("verdict-identity", b"\xff")]),
                replace(like_3, headers=[("verdict-identity", None)]),
                Message(settings.verdicts_topic, b"x", b"", ()),
            ]
            await publisher.publish([*messages(settings, 4), *foreign], 1)
    cache = VerdictCache(100, 1 << 20)
    await restored(cache, settings)
    origins = {number: (await decided(cache, number)).origin.name for number in (1, 2, 3, 4)}
    assert origins == {1: "CACHE", 2: "MODEL", 3: "MODEL", 4: "CACHE"}


async def test_nothing_is_restored_of_an_empty_partition(settings: KafkaSettings) -> None:
    cache = VerdictCache(100, 1 << 20)
    await restored(cache, settings)
    assert len(cache) == 0


async def test_a_foreign_batch_hides_nothing(settings: KafkaSettings) -> None:
    """Neither a header whose name is not UTF-8, nor a batch that becomes large; and its values are not held."""
    async with Publisher(settings, 0, nowhere) as publisher:
        await publisher.publish(messages(settings, 1), 1)
    partition = TopicPartition(settings.verdicts_topic, 0)
    large = b"".join(foreign.a_record(number, bytes(8 << 20), b"post-1") for number in range(12))
    for batch in (
        foreign.a_batch(foreign.a_record(0, b"x", b"x", [(b"caf\xe9", b"")]), 1),
        foreign.a_batch(large, 12, "zstd"),
    ):
        assert await foreign.put(settings.bootstrap, partition, batch) == 0
    async with Publisher(settings, 0, nowhere) as publisher:
        await publisher.publish(messages(settings, 2), 2)
    cache = VerdictCache(100, 1 << 20)
    await restored(cache, settings)
    assert [(await decided(cache, number)).origin for number in (1, 2)] == [Origin.CACHE] * 2


def test_the_fickle_model_contradicts_itself() -> None:
    model = Fickle()
    items = [_encoded(model, "a"), _encoded(model, "a")]
    first, second = model.score(items)
    assert first != second != model.score(items)[0]


def _encoded(model: Fake, text: str) -> Encoded:
    return model.encode(Content(text, (), ""), [Question("spam", "?")])[0]
