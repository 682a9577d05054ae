"""Past traffic on a real Kafka: the verdicts of a period, and their posts, but for what was erased or is gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from moderation import wire
from moderation.errors import ConfigError
from moderation.evaluation.traffic import traffic
from moderation.evaluation.traffic.traffic import Counts, LeftOut, Period
from moderation.types import Source, Verdict
from tests.support.builders import a_verdict
from tests.support.harness import Harness, a_value, running

DAY = datetime(2026, 1, 31, tzinfo=UTC)
NOW_ON = Period(DAY, datetime.now(UTC) + timedelta(days=1))


async def verdicts(harness: Harness, period: Period, left_out: Counts | None = None) -> dict[str, Verdict]:
    found = [verdict async for verdict in traffic.verdicts(harness.settings, period, left_out)]
    assert len({verdict.post_id for verdict in found}) == len(found)
    return {verdict.post_id: verdict for verdict in found}


async def put(harness: Harness, partition: int, number: int, value: bytes | None = b"", **fields: str) -> None:
    sent = a_value(number, **fields) if value == b"" else value
    await harness.produce((partition, f"post-{number}".encode(), sent, ()))


def sources_of(found: dict[str, Verdict]) -> list[Source]:
    return [verdict.source for verdict in found.values() if verdict.source]


async def written(harness: Harness, lines: Sequence[tuple[str, datetime, bool]], partition: int = 0) -> None:
    """Verdicts on posts, each at its time, or their erasures."""
    topic = harness.topics[1]
    async with AIOKafkaProducer(bootstrap_servers=harness.kafka) as producer:
        for offset, (id, at, erased) in enumerate(lines):
            ms = int(at.timestamp() * 1000)
            source = Source(harness.topics[0], partition, offset, ms)
            if erased:
                value, headers = None, wire.erasure_headers(wire.Erasure(id, ms, "posts/0/1", copied=False), source)
            else:
                value, headers = wire.verdict_record(a_verdict(id, source=source), "json")
            await producer.send(topic, value, id.encode(), partition, ms, headers)
        await producer.flush()


async def test_posts_of_a_worker_come_back_but_for_those_that_users_took_back(harness: Harness) -> None:
    async with running(harness):
        for number in range(12):
            await put(harness, number % 3, number)
        await harness.verdicts(12)
        await put(harness, 0, 0, text="another text")  # an edit
        await put(harness, 1, 1, None)  # an erasure, copied to six partitions
        await harness.read(harness.topics[1], 12 + 1 + 6)
    await put(harness, 2, 2, None)  # it waits for a worker
    left_out: Counts = Counter()
    found = await verdicts(harness, NOW_ON, left_out)
    assert set(found) == {f"post-{number}" for number in range(12)} - {"post-1"}
    assert left_out == Counter({LeftOut.ERASED: 1})
    steps: list[int] = []
    given = [pair async for pair in traffic.each_post(harness.settings, sources_of(found), left_out, steps.append)]
    assert {post.id: post.text for _, post in given} == {
        f"post-{number}": "another text" if number == 0 else f"this is number {number}"
        for number in range(12)
        if number not in (1, 2)
    }
    assert left_out == Counter({LeftOut.ERASED: 2})
    assert sum(steps) == 11
    assert all(found[post.id].source == source for source, post in given)


async def test_posts_that_the_topic_has_lost_are_counted_and_if_all_are_it_says_what_there_is(harness: Harness) -> None:
    for number in range(120):  # far enough apart that not all is read in one run
        await put(harness, 0, number)
    async with running(harness):
        await harness.verdicts(120)
    found = await verdicts(harness, NOW_ON)
    wanted = [source for source in sources_of(found) if source.offset in (0, 3, 60, 61, 119)]
    assert {post.id for post in (await traffic.posts(harness.settings, wanted)).values()} == {
        f"post-{number}" for number in (0, 3, 60, 61, 119)
    }
    await _delete(harness, 61)
    left_out: Counts = Counter()
    foreign = [Source("elsewhere", 0, 1, 1), Source(harness.topics[0], 0, 100, 1)]  # another record is there
    posts = await traffic.posts(harness.settings, [*wanted, *foreign], left_out)
    assert {post.id for post in posts.values()} == {"post-61", "post-119"}
    assert left_out == Counter({LeftOut.GONE: 4, LeftOut.ELSEWHERE: 1})
    await _delete(harness, 120)
    with pytest.raises(ConfigError, match=r"has none of the 5 posts any more: it has no posts; .* \(retention\.ms\)"):
        await traffic.posts(harness.settings, wanted)


async def _delete(harness: Harness, before: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.kafka)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(harness.topics[0], 0): RecordsToDelete(before)})
    finally:
        await admin.close()


async def test_what_comes_after_the_period_counts_where_it_is_about_its_posts(harness: Harness) -> None:
    hour = timedelta(hours=1)
    await written(harness, [
        ("before", DAY - hour, False),
        ("first", DAY, False),
        ("edited", DAY + hour, False),
        ("erased", DAY + hour, False),
        ("last", DAY + 2 * hour - timedelta(milliseconds=1), False),
        ("behind", DAY + 2 * hour, False),
        ("edited", DAY + 3 * hour, False),
        ("erased", DAY + 3 * hour, True),
        ("before", DAY + 4 * hour, True),
    ])  # fmt: skip
    left_out: Counts = Counter()
    found = await verdicts(harness, Period(DAY, DAY + 2 * hour), left_out)
    assert set(found) == {"first", "last"}
    assert left_out == Counter({LeftOut.ERASED: 1, LeftOut.JUDGED_AGAIN: 1})


async def test_a_period_without_verdicts_says_which_there_are(harness: Harness) -> None:
    with pytest.raises(ConfigError, match="has no verdicts: start a worker"):
        await verdicts(harness, NOW_ON)
    await written(harness, [("a", DAY, False), ("b", DAY + timedelta(days=2), False)])
    for begins in (DAY - timedelta(days=7), DAY + timedelta(days=7)):
        says = (
            rf"has no verdicts of the period {begins:%Y-%m-%d} 00:00:00 to .* UTC: it has those of 2026-01-31 00:00:00 "
            "to 2026-02-02 00:00:00 UTC; give a period that meets these"
        )
        with pytest.raises(ConfigError, match=says):
            await verdicts(harness, Period(begins, begins + timedelta(days=1)))
    with pytest.raises(ConfigError, match="the period ends before it begins"):
        Period(DAY, DAY)


async def test_a_topic_that_is_not_there_is_named(harness: Harness) -> None:
    elsewhere = harness.with_kafka(verdicts_topic="never-made", connect_timeout_s=5.0)
    with pytest.raises(ConfigError, match="topic never-made does not exist"):
        await asyncio.wait_for(verdicts(elsewhere, NOW_ON), 60)
