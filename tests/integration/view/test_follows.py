"""A view that was away, that stands at the end of its topic, whose topic or whose store is not what it was."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation.api.grpc.responses import found_result
from moderation.errors import DeliveryError
from moderation.kafka.topics import check_topics
from moderation.types import Outcome
from moderation.v1 import verdict_pb2
from moderation.view import freshness
from moderation.view.stores import Kind
from moderation.view.stores.postgres_generations import NAME
from moderation.view.view import open_view
from tests.support.builders import a_verdict
from tests.support.logged import events
from tests.support.recreated import make_again
from tests.support.topics import make_topics
from tests.support.view_stores import sql
from tests.support.view_topic import FOUND, NOT_FOUND, Topic, states, until_answered

HOUR_S = 3600


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest, topic: Topic) -> Topic:
    """In each kind of store."""
    if request.param == "postgresql":
        topic.set(view_database=SecretStr(request.getfixturevalue("database")))
    return topic


@asynccontextmanager
async def following(topic: Topic) -> AsyncIterator[asyncio.Task[None]]:
    """The task of a view that has caught up. It ends with the error that it is tested for."""
    topics = await check_topics(topic.settings.kafka, [topic.name])
    async with open_view(topic.settings, topics, found_result) as view:
        task = asyncio.create_task(view.follow())
        await asyncio.wait_for(view.caught_up.wait(), 30)
        yield task


async def seen(topic: Topic, set_to_ago_s: float | None = None) -> float:
    """How many seconds ago the view was last up to date, as the store has it. Set before, if that is given."""
    if url := topic.settings.api.view_database.get_secret_value():
        admin = await asyncpg.connect(url, server_settings={"search_path": NAME})
        try:
            if set_to_ago_s is not None:
                await admin.execute(sql("UPDATE generations SET seen = now() - $1 * interval '1 second'"), set_to_ago_s)
            return float(await admin.fetchval(sql("SELECT extract(epoch FROM now() - seen)::float8 FROM generations")))
        finally:
            await admin.close()
    with closing(sqlite3.connect(topic.file)) as db, db:
        if set_to_ago_s is not None:
            db.execute("UPDATE facts SET value = ? WHERE name = 'seen'", (str(time.time() - set_to_ago_s),))
        return time.time() - float(db.execute("SELECT value FROM facts WHERE name = 'seen'").fetchone()[0])


async def test_a_view_without_verdicts_is_followed_all_the_same(stored: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.view.upkeep.RENEW_S", 0.1)
    await stored.put(a_verdict("a"))
    async with stored.view():
        await seen(stored, 13 * HOUR_S)
        async with asyncio.timeout(30):
            while await seen(stored) > HOUR_S:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await stored.put(a_verdict("b"))
    with capture_logs() as logged:
        assert await stored.states("a", "b") == [FOUND, FOUND]
    assert not events(logged, "view_rebuilt")


@pytest.mark.parametrize(
    ("ago_h", "unread", "kept"),
    [
        (13, False, True),  # nothing was written meanwhile: nothing was missed
        (13, True, False),
        (11, True, True),
    ],
)
async def test_a_view_that_was_away_is_kept_as_long_as_it_has_missed_no_erasure(
    stored: Topic, ago_h: int, unread: bool, kept: bool
) -> None:
    await stored.put(a_verdict("a"))
    await stored.states("a")
    await seen(stored, ago_h * HOUR_S)
    if unread:
        await stored.put(a_verdict("b"))
    with capture_logs() as logged:
        assert await stored.states("a") == [FOUND]
    assert [event["reason"] for event in events(logged, "view_rebuilt")] == (
        [] if kept else ["erasures may have been missed"]
    )


async def test_a_file_with_a_time_in_the_future_is_not_trusted(topic: Topic) -> None:
    """The clock was ahead and was set back: how long the view was away cannot be known."""
    await topic.put(a_verdict("a"))
    await topic.states("a")
    await seen(topic, -12 * HOUR_S)
    await topic.put(a_verdict("b"))
    with capture_logs() as logged:
        assert await topic.states("a", "b") == [FOUND, FOUND]
    assert [event["reason"] for event in events(logged, "view_rebuilt")] == ["erasures may have been missed"]
    assert abs(await seen(topic)) < HOUR_S


async def test_records_that_come_later_than_erasures_are_kept_end_the_view(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(topic) as task:
        monkeypatch.setattr(freshness, "MAX_AWAY_S", 0.0)
        await topic.put(a_verdict("a"))
        with pytest.raises(DeliveryError, match="may have missed erasures"):
            await asyncio.wait_for(task, 30)


async def test_a_topic_that_is_made_again_is_read_from_its_start(stored: Topic) -> None:
    """Also one that is longer than the one before: its positions would fit."""
    posts = [f"post-{number}" for number in range(60)]
    await stored.put(*map(a_verdict, posts))
    with capture_logs() as logged:
        async with stored.view() as view:
            await make_again(stored.bootstrap, stored.name, partitions=3, cleanup_policy="compact")
            again = [f"again-{number}" for number in range(120)]
            await stored.put(*map(a_verdict, again))
            async with asyncio.timeout(30):
                while await states(view, posts[0], *again) != [NOT_FOUND] + [FOUND] * len(again):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # no event says that a view has been built again
    assert [event["reason"] for event in events(logged, "view_rebuilt")] == ["the topic was created again"]
    assert {event["cause"] for event in events(logged, "records_lost")} == {"recreated"}


async def test_records_that_were_removed_while_the_view_was_away_are_reported_once(
    kafka: str, names: Callable[[str], str], tmp_path: Path
) -> None:
    topic = Topic(kafka, names("verdicts"), tmp_path)
    await make_topics(kafka, topic.name, partitions=3, cleanup_policy="compact,delete")
    async with topic.view() as view:
        await topic.put(a_verdict("a"))
        await until_answered(view, "a", FOUND)
        async with asyncio.timeout(30):
            while not any(view.positions.values()):  # noqa: ASYNC110  the store has the record a little earlier
                await asyncio.sleep(0.02)
        (partition,) = (number for number, position in view.positions.items() if position)
    await topic.put(*[a_verdict("a")] * 3)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic.name, partition): RecordsToDelete(before_offset=3)})
    finally:
        await admin.close()
    with capture_logs() as logged:
        for _ in range(2):
            async with topic.view() as view:
                assert view.positions[partition] == 4
    (event,) = events(logged, "records_lost")
    reported = [event[field] for field in ("topic", "partition", "cause", "committed", "position", "records")]
    assert reported == [topic.name, partition, "retention", 1, 3, 2]


async def test_a_database_that_lost_the_last_folds_is_filled_again(topic: Topic, database: str) -> None:
    topic.set(view_database=SecretStr(database))
    posts = [f"post-{number}" for number in range(20)]
    await topic.put(*map(a_verdict, posts))
    async with topic.view() as view:
        await topic.put(a_verdict("post-3", outcome=Outcome.REMOVE), a_verdict("gone"))
        await topic.put_raw(b"gone", None)
        async with asyncio.timeout(30):
            while sum(view.positions.values()) < len(posts) + 3:  # noqa: ASYNC110  # no fold may be under way
                await asyncio.sleep(0.05)
        admin = await asyncpg.connect(database, server_settings={"search_path": NAME})
        async with admin.transaction():  # a failover loses both, or none
            await admin.execute(sql("UPDATE partitions SET next = 0"))
            await admin.execute(sql("DELETE FROM verdicts_1"))
        await admin.close()
        with capture_logs() as logged, view.feed(1_000) as feed:
            decided = dict(view.decided)
            await topic.put(*(a_verdict(f"later-{number}") for number in range(20)))  # to each partition
            async with asyncio.timeout(60):
                while (await states(view, *posts)) != [FOUND] * len(posts):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                while await states(view, "later-19", "gone") != [FOUND, NOT_FOUND]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            row = (await view.find(["post-3"]))["post-3"]
            assert verdict_pb2.Verdict.FromString(row[-1] or b"").outcome == verdict_pb2.OUTCOME_REMOVE
            assert all(view.decided[number] >= offset for number, offset in decided.items())
            assert not feed.lost
        assert (await view.find(["gone"]))["gone"][0] == Kind.ERASED
    assert events(logged, "view_rewound")
