"""The view against a real Kafka: what is on the topic is what lookups find and watches get."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation import wire
from moderation.types import Outcome, Source
from moderation.v1.verdict_pb2 import Verdict
from moderation.view.outcomes import Reach
from moderation.view.stores import Kind
from tests.support import foreign
from tests.support.builders import FOREIGN_FIELDS, a_verdict
from tests.support.logged import events
from tests.support.view_topic import FOUND, NOT_FOUND, UNREADABLE, Topic, states, until_answered, verdict_of


@pytest.mark.parametrize("format", ["json", "protobuf"])
async def test_the_latest_verdict_of_each_post_is_found(topic: Topic, format: wire.Format) -> None:
    old, new = a_verdict("a", outcome=Outcome.REMOVE), a_verdict("a", outcome=Outcome.ALLOW)
    await topic.put(old, a_verdict("b"), new, format=format)
    async with topic.view() as view:
        assert await states(view, "b", "missing", "a") == [FOUND, NOT_FOUND, FOUND]
        assert await verdict_of(view, "a") == wire.verdict_message(new)
        await topic.put(a_verdict("late"))
        await until_answered(view, "late", FOUND)


async def test_an_empty_topic_is_caught_up_with(topic: Topic) -> None:
    assert await topic.states("a") == [NOT_FOUND]


async def test_only_what_is_committed_is_seen(topic: Topic, names: Callable[[str], str]) -> None:
    async def send(producer: AIOKafkaProducer, post_id: str) -> None:
        value, headers = wire.verdict_record(a_verdict(post_id), "json")
        await producer.send_and_wait(topic.name, value, key=post_id.encode(), headers=headers)

    async with topic.writer(transactional_id=names("t")) as aborting:
        await aborting.begin_transaction()
        await send(aborting, "aborted")
        await aborting.abort_transaction()
    async with topic.writer(transactional_id=names("t")) as producer:
        async with producer.transaction():
            await send(producer, "committed")
        await producer.begin_transaction()
        await send(producer, "open")
        async with topic.view() as view:  # an open transaction does not keep it from being ready
            assert await states(view, "aborted", "committed", "open") == [NOT_FOUND, FOUND, NOT_FOUND]
            await producer.commit_transaction()
            await until_answered(view, "open", FOUND)
    assert await topic.states("aborted", "committed", "open") == [NOT_FOUND, FOUND, FOUND]


async def test_a_tombstone_erases(topic: Topic) -> None:
    await topic.put(a_verdict("a"), a_verdict("b"))
    async with topic.view() as view:
        await topic.put_raw(b"a", None)
        await until_answered(view, "a", NOT_FOUND)
        assert await states(view, "b") == [FOUND]


async def test_a_foreign_record_stops_nothing_and_makes_its_post_unreadable(topic: Topic) -> None:
    await topic.put(a_verdict("a"), a_verdict("b"), a_verdict("c"))
    await topic.put_raw(b"a", b"what-somebody-wrote")
    value, _ = wire.verdict_record(a_verdict("b"), "json")
    await topic.put_raw(b"c", value)  # b's verdict under c's key
    await topic.put_raw(b"", value)
    await topic.put_raw(b"\xff", None)
    with capture_logs() as logged:
        assert await topic.states("a", "b", "c") == [UNREADABLE, FOUND, UNREADABLE]
    assert len(events(logged, "verdict_unreadable")) == 4
    assert "somebody" not in json.dumps(logged)
    await topic.put(a_verdict("a"))
    assert await topic.states("a") == [FOUND]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of each kind of store; empty: a file."""
    return str(request.getfixturevalue("database")) if request.param == "postgresql" else ""


async def test_foreign_batches_stop_nothing(topic: Topic) -> None:
    """A header whose name is not UTF-8, a time long ago, and a batch that becomes large."""
    await topic.put(a_verdict("a"))
    value, headers = wire.verdict_record(a_verdict("b"), "json")
    named = [(name.encode(), content) for name, content in headers]
    large = b"".join(foreign.a_record(number, bytes(25 << 20), b"large") for number in range(8))
    for batch in (
        foreign.a_batch(foreign.a_record(0, value, b"b", [*named, (b"caf\xe9", b"")]), 1, first_ms=-(1 << 40)),
        foreign.a_batch(large + foreign.a_record(8, value, b"\xff"), 9, "zstd"),
    ):
        assert await foreign.put(topic.settings.kafka.bootstrap, TopicPartition(topic.name, 0), batch) == 0
    await topic.put(a_verdict("c"))
    async with topic.view() as view:
        assert await states(view, "a", "b", "c", "large") == [FOUND, FOUND, FOUND, Kind.UNREADABLE]


async def test_a_verdict_that_no_store_can_hold_is_a_foreign_record(topic: Topic, database_url: str) -> None:
    topic.set(view_database=SecretStr(database_url))
    posts = [f"post-{number}" for number in range(len(FOREIGN_FIELDS))]
    for post_id, fields in zip(posts, FOREIGN_FIELDS, strict=True):
        value = Verdict(post_id=post_id, outcome=1, status=1, **fields).SerializeToString()  # type: ignore[arg-type]
        await topic.put_raw(post_id.encode(), value, [("content-type", wire.CONTENT_TYPES["protobuf"])])
    await topic.put(a_verdict("a"))
    assert await topic.states(*posts, "a") == [UNREADABLE] * len(posts) + [FOUND]


async def test_partitions_that_are_added_are_read(topic: Topic) -> None:
    await topic.put(a_verdict("before"))
    async with topic.view() as view:
        admin = AIOKafkaAdminClient(bootstrap_servers=topic.bootstrap)
        await admin.start()
        await admin.create_partitions({topic.name: NewPartitions(9)})
        await admin.close()
        posts = [f"post-{number}" for number in range(40)]
        with capture_logs() as logged:
            await topic.put(*map(a_verdict, posts))
            for post_id in [*posts, "before"]:
                await until_answered(view, post_id, FOUND)
    assert events(logged, "partitions_added")[-1]["partitions"] == 9
    assert await topic.states("post-0") == [FOUND]


async def test_the_view_knows_how_far_posts_are_decided_and_wakes_waiters(topic: Topic) -> None:
    def judged(post_id: str, partition: int, offset: int, topic: str = "posts") -> Any:
        return a_verdict(post_id, source=Source(topic, partition, offset, 0))

    await topic.put(judged("a", 1, 4))
    async with topic.view() as view:
        assert view.reach({1: 4}) is Reach.REACHED
        assert view.reach({1: 5}) is Reach.AHEAD
        assert view.reach({0: 0}) is Reach.AHEAD
        with view.waiting("a", {}) as news_of_a, view.waiting("elsewhere", {1: 6}) as sixth:
            await topic.put(judged("b", 0, 9), judged("c", 1, 9, "other"), judged("d", 1, 6))
            await asyncio.wait_for(sixth.wait(), 30)
            assert view.decided == {0: 9, 1: 6, 2: -1}
            assert not news_of_a.is_set()
            await topic.put_raw(b"a", None, [(wire.ERASED_BY, b"posts/1/8")])
            await asyncio.wait_for(news_of_a.wait(), 30)
            assert view.decided[1] == 8
        assert not view._subscribers.waiters
    async with topic.view() as view:
        assert view.decided == {0: 9, 1: 8, 2: -1}


async def test_what_is_too_old_is_forgotten(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.view.upkeep.PRUNE_S", 0.1)
    topic.set(retention_days=2.0)
    now = int(time.time() * 1000)
    async with topic.writer() as producer:
        for post_id, days in (("old", 3), ("new", 1)):
            value, headers = wire.verdict_record(a_verdict(post_id), "json")
            at = now - days * 86_400_000
            await producer.send_and_wait(topic.name, value, key=post_id.encode(), headers=headers, timestamp_ms=at)
    async with topic.view() as view, asyncio.timeout(30):
        while await states(view, "old", "new") != [NOT_FOUND, FOUND]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # no event says that a post was pruned


async def test_of_posts_in_several_partitions_the_one_written_last_stands(topic: Topic, database_url: str) -> None:
    """Whichever was judged first. The watch gets no copy of an erasure, and nothing that changes nothing."""
    topic.set(view_database=SecretStr(database_url))
    now = int(time.time() * 1000)

    async def put(producer: AIOKafkaProducer, partition: int, ago: int, text: str = "", **source: Any) -> None:
        place = Source("posts", partition, ago, now - ago)
        erasure = wire.erasure("a", place, wire.copy_headers(wire.erasure("a", place, (), now)) if source else (), now)
        value, headers = None, wire.erasure_headers(erasure, place)
        if text:
            value, carried = wire.verdict_record(a_verdict("a", content_digest=text, source=place), "json")
            headers = list(carried)
        await producer.send_and_wait(topic.name, value, b"a", partition, headers=headers)

    async with topic.view() as view, topic.writer() as producer:
        with view.feed(100) as feed:
            await put(producer, 1, 500, "an edit")
            await until_answered(view, "a", FOUND)
            await put(producer, 0, 900, "the post before")  # judged later: its partition is longer
            await put(producer, 2, 400)
            await until_answered(view, "a", NOT_FOUND)
            await put(producer, 0, 400, copied=True)
            await put(producer, 1, 400, copied=True)
            await put(producer, 1, 300, "posted again")
            await until_answered(view, "a", FOUND)
            await put(producer, 0, 350)  # an erasure from between, late
            await put(producer, 0, 100, "the end")
            seen: list[str] = []
            async with asyncio.timeout(30):
                while "the end" not in seen:
                    seen += [
                        Verdict.FromString(entry.verdict).content_digest if entry.verdict else "erased"
                        for entry in (await feed.get()).entries
                    ]
        assert seen == ["an edit", "erased", "posted again", "the end"]
        rebuilt = topic
        rebuilt.set(view=topic.file.with_name("another.sqlite"), view_database=SecretStr(""))
        async with rebuilt.view() as other:
            assert (await verdict_of(view, "a")) == (await verdict_of(other, "a"))


async def test_feeds_get_what_is_folded_in_and_a_slow_feed_is_lost(topic: Topic) -> None:
    await topic.put(a_verdict("before"))
    async with topic.view() as view:
        with view.feed(100) as feed, view.feed(2) as small:
            await topic.put(a_verdict("a", tenant="t"))
            await topic.put_raw(b"a", None)
            seen: list[tuple[str, int, str]] = []
            async with asyncio.timeout(30):
                while len(seen) < 2:
                    seen += [(entry.post_id, entry.kind, entry.tenant) for entry in (await feed.get()).entries]
                while not small.lost:
                    await topic.put(a_verdict("more"))
            assert seen == [("a", FOUND, "t"), ("a", Kind.ERASED, "t")]
        start = dict.fromkeys(feed.positions, 0)
        replayed = {entry.post_id async for changes in view.replay(start, view.positions) for entry in changes.entries}
        assert {"before", "a"} <= replayed
        assert not view._subscribers._feeds
