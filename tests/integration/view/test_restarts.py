"""A view in a file after every kind of restart: where it goes on, what it rebuilds, what it leaves alone."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from moderation import wire
from moderation.errors import ConfigError, DeliveryError
from tests.support.builders import a_verdict
from tests.support.logged import events
from tests.support.view_topic import FOUND, NOT_FOUND, UNREADABLE, Topic, states


async def test_a_restart_goes_on_from_its_position(topic: Topic) -> None:
    await topic.put(a_verdict("a"))
    await topic.put_raw(b"once", b"logged once, unless it is read again")
    with capture_logs() as first:
        assert await topic.states("a") == [FOUND]
    await topic.put(a_verdict("b"))
    with capture_logs() as second:
        assert await topic.states("a", "b", "once") == [FOUND, FOUND, UNREADABLE]
    assert [event["resumed"] for event in events(first + second, "view_opened")] == [False, True]
    assert len(events(first, "verdict_unreadable")) == 1
    assert not events(second, "verdict_unreadable")
    assert not events(second, "view_rebuilt")


CHANGED = {
    "another cluster_id": "UPDATE facts SET value = 'other' WHERE name = 'cluster_id'",
    "another topic": "UPDATE facts SET value = 'other' WHERE name = 'topic'",
    "another schema": "PRAGMA user_version = 99",
    "the log ends before our position": "UPDATE partitions SET next = 1000000 WHERE number = 0",
    "erasures may have been missed": "UPDATE facts SET value = '1000' WHERE name = 'seen'",
    "this version may read what the last one could not": "UPDATE facts SET value = '0' WHERE name = 'engine_version'",
}


@pytest.mark.parametrize("reason", CHANGED)
async def test_a_file_of_another_log_is_rebuilt(topic: Topic, reason: str) -> None:
    await topic.put(a_verdict("a"))
    await topic.put_raw(b"unreadable", b"")
    await topic.states("a")
    with sqlite3.connect(topic.file) as db:
        db.execute(CHANGED[reason])
        db.execute("UPDATE verdicts SET post_id = 'stale' WHERE post_id = 'a'")
    db.close()
    await topic.put(a_verdict("later"))  # a view that has read everything has missed nothing
    with capture_logs() as logged:
        assert await topic.states("a", "stale") == [FOUND, NOT_FOUND]
    (rebuilt,) = events(logged, "view_rebuilt")
    assert rebuilt["reason"] == reason


async def test_another_clusters_view_is_rebuilt(topic: Topic) -> None:
    await topic.put(a_verdict("a"))
    async with topic.view(cluster_id="elsewhere") as view:
        assert await states(view, "a") == [FOUND]
    with capture_logs() as logged:
        assert await topic.states("a") == [FOUND]
    assert events(logged, "view_rebuilt")


async def test_a_broken_file_is_set_aside_and_rebuilt(topic: Topic) -> None:
    await topic.put(a_verdict("a"))
    topic.file.parent.mkdir()
    topic.file.write_bytes(b"no database" * 1000)
    assert await topic.states("a") == [FOUND]
    assert topic.file.with_name("verdicts.sqlite.corrupt").read_bytes().startswith(b"no database")


async def test_a_file_that_breaks_under_way_ends_the_process_and_is_rebuilt(topic: Topic) -> None:
    posts = [f"post-{number}" for number in range(300)]
    await topic.put(*map(a_verdict, posts))

    async def break_it() -> None:
        async with topic.view() as view:
            with closing(sqlite3.connect(topic.file)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with topic.file.open("r+b") as file:
                pages = topic.file.stat().st_size // 4096
                file.seek(4096)  # the first page stays: it is a database still
                file.write(b"\xa5" * 4096 * (pages - 1))
            await view.store.find(posts)

    with pytest.raises(DeliveryError, match="rebuilt at the next start"):
        await break_it()
    assert await topic.states("post-7") == [FOUND]


async def test_another_programs_database_is_left_alone(topic: Topic) -> None:
    topic.file.parent.mkdir()
    with sqlite3.connect(topic.file) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    db.close()
    before = topic.file.read_bytes()
    with pytest.raises(ConfigError, match="another program's database"):
        await topic.states("a")
    assert topic.file.read_bytes() == before


async def test_two_processes_on_one_file_are_refused(topic: Topic) -> None:
    async with topic.view():
        with pytest.raises(ConfigError, match="in use by another process"):
            await topic.states("a")


async def test_a_folder_that_cannot_be_made(topic: Topic) -> None:
    topic.file.parent.write_text("a file in its place")
    with pytest.raises(ConfigError, match="MODERATION_API__VIEW"):
        await topic.states("a")


async def test_a_view_that_is_killed_goes_on_where_its_file_is(topic: Topic) -> None:
    posts = [f"post-{number}" for number in range(3_000)]
    async with topic.writer() as producer:
        for post_id in posts:
            value, headers = wire.verdict_record(a_verdict(post_id), "protobuf")
            await producer.send(topic.name, value, key=post_id.encode(), headers=headers)
        await producer.flush()
    program = (
        "import asyncio, sys\n"
        "from moderation import settings\n"
        "from moderation.api.grpc.responses import found_result\n"
        "from moderation.kafka.topics import check_topics\n"
        "from moderation.view.view import open_view\n"
        "async def main():\n"
        "    some = settings.load()\n"
        "    topics = await check_topics(some.kafka, [some.kafka.verdicts_topic])\n"
        "    async with open_view(some, topics, found_result) as view: await view.follow()\n"
        "asyncio.run(main())"
    )
    environment = {
        "MODERATION_KAFKA__BOOTSTRAP": topic.bootstrap,
        "MODERATION_KAFKA__VERDICTS_TOPIC": topic.name,
        "MODERATION_API__VIEW": str(topic.file),
    }
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environment)
    try:
        async with asyncio.timeout(30):
            while not rows(topic.file):
                assert killed.returncode is None
                await asyncio.sleep(0.001)
    finally:
        killed.kill()
        await killed.wait()
    left = rows(topic.file)
    assert 0 < left < len(posts), "it was too fast to be killed half-way"
    with capture_logs() as logged:
        assert set(await topic.states(*posts)) == {FOUND}
    assert events(logged, "view_opened")[0]["resumed"]


def rows(file: Path) -> int:
    """Of the view as another process sees it."""
    if not file.exists():
        return 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM verdicts").fetchone()[0])
        except sqlite3.OperationalError:  # no table yet
            return 0
