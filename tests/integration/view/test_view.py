"""The view against a real Kafka: what is on the topic is what is found, after every kind of restart."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation import wire
from moderation.api.grpc.responses import found_result
from moderation.errors import ConfigError, DeliveryError
from moderation.kafka.topics import Topics, check_topics
from moderation.settings import ApiSettings, KafkaSettings, Settings
from moderation.types import Outcome, Source
from moderation.v1.verdict_pb2 import Verdict
from moderation.view.stores import Kind
from moderation.view.view import View, open_view
from tests.conftest import make_topics
from tests.support import foreign
from tests.support.builders import FOREIGN_FIELDS, a_verdict

FOUND, UNREADABLE, NOT_FOUND = Kind.VERDICT, Kind.UNREADABLE, None


class Topic:
    """The verdicts topic as a worker writes it."""

    def __init__(self, bootstrap: str, name: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap=bootstrap, verdicts_topic=name),
            api=ApiSettings(view=folder / "state" / "verdicts.sqlite"),
        )

    @property
    def file(self) -> Path:
        return self.settings.api.view

    def set(self, **api: Any) -> None:
        self.settings = self.settings.model_copy(update={"api": self.settings.api.model_copy(update=api)})

    @asynccontextmanager
    async def writer(self, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", **options) as producer:
            yield producer

    async def put(self, *verdicts: Any, format: wire.Format = "json") -> None:
        async with self.writer() as producer:
            for one in verdicts:
                value, headers = wire.verdict_record(one, format)
                await producer.send_and_wait(self.name, value, key=one.post_id.encode(), headers=headers)

    async def put_raw(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        async with self.writer() as producer:
            await producer.send_and_wait(self.name, value, key=key, headers=list(headers))

    @asynccontextmanager
    async def view(self, *, cluster_id: str = "") -> AsyncIterator[View]:
        """Caught up, and following until the end of the block."""
        topics = await check_topics(self.settings.kafka, [self.name])
        if cluster_id:
            topics = Topics(cluster_id, topics.partitions, topics.max_message_bytes)
        async with open_view(self.settings, topics, found_result) as view:
            following = asyncio.create_task(view.follow())
            caught_up = asyncio.create_task(view.caught_up.wait())
            await asyncio.wait((following, caught_up), timeout=30, return_when=asyncio.FIRST_COMPLETED)
            try:
                if following.done():
                    following.result()
                assert caught_up.done()
                yield view
            finally:
                following.cancel()
                caught_up.cancel()
                await asyncio.wait((following, caught_up))

    async def states(self, *post_ids: str) -> list[int | None]:
        async with self.view() as view:
            return await states(view, *post_ids)


async def states(view: View, *post_ids: str) -> list[int | None]:
    """What the newest record about each post is; None: nothing is known, or it was erased."""
    rows = await view.store.find(post_ids)
    kinds = [rows[post_id][0] if post_id in rows else None for post_id in post_ids]
    return [None if kind == Kind.ERASED else kind for kind in kinds]


async def verdict_of(view: View, post_id: str) -> Verdict:
    return Verdict.FromString((await view.store.find([post_id]))[post_id][-1] or b"")


@pytest.fixture
async def topic(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Topic:
    name = names("verdicts")
    await make_topics(kafka, name, partitions=3, cleanup_policy="compact")
    return Topic(kafka, name, tmp_path)


def events(logged: Sequence[Any], name: str) -> list[Any]:
    return [event for event in logged if event["event"] == name]


async def until_answered(view: View, post_id: str, state: int | None) -> None:
    """Folds come on their own: looks again until this one has."""
    async with asyncio.timeout(30):
        with view.waiting(post_id, {}) as woken:
            while await states(view, post_id) != [state]:
                await woken.wait()
                woken.clear()


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


async def test_partitions_that_are_added_are_read(topic: Topic) -> None:
    await topic.put(a_verdict("before"))
    async with topic.view() as view:
        admin = AIOKafkaAdminClient(bootstrap_servers=topic.bootstrap)
        await admin.start()
        await admin.create_partitions({topic.name: NewPartitions(9)})
        await admin.close()
        posts = [f"post-{number}" for number in range(40)]
        with capture_logs() as logged:
            await view._consumer._client.force_metadata_update()  # by itself it comes every five minutes
            await topic.put(*map(a_verdict, posts))
            for post_id in [*posts, "before"]:
                await until_answered(view, post_id, FOUND)
    assert events(logged, "partitions_added")[-1]["partitions"] == 9
    assert await topic.states("post-0") == [FOUND]


async def test_the_view_knows_how_far_posts_are_judged_and_wakes_who_waits_for_it(topic: Topic) -> None:
    def answer(post_id: str, partition: int, offset: int, topic: str = "posts") -> Any:
        return a_verdict(post_id, source=Source(topic, partition, offset, 0))

    await topic.put(answer("a", 1, 4))
    async with topic.view() as view:
        assert view.reached({1: 4})
        assert not view.reached({1: 5})
        assert not view.reached({0: 0})
        with view.waiting("a", {}) as news_of_a, view.waiting("elsewhere", {1: 6}) as sixth:
            await topic.put(answer("b", 0, 9), answer("c", 1, 9, "other"), answer("d", 1, 6))
            await asyncio.wait_for(sixth.wait(), 30)
            assert view.decided == {0: 9, 1: 6, 2: -1}
            assert not news_of_a.is_set()
            await topic.put_raw(b"a", None, [(wire.ERASED_BY, b"posts/1/8")])
            await asyncio.wait_for(news_of_a.wait(), 30)
            assert view.decided[1] == 8
        assert not view._waiters
    async with topic.view() as view:
        assert view.decided == {0: 9, 1: 8, 2: -1}


async def test_what_is_too_old_is_forgotten(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.view.view.PRUNE_S", 0.1)
    topic.set(retention_days=2.0)
    now = int(time.time() * 1000)
    async with topic.writer() as producer:
        for post_id, days in (("old", 3), ("new", 1)):
            value, headers = wire.verdict_record(a_verdict(post_id), "json")
            at = now - days * 86_400_000
            await producer.send_and_wait(topic.name, value, key=post_id.encode(), headers=headers, timestamp_ms=at)
    async with topic.view() as view, asyncio.timeout(30):
        while await states(view, "old", "new") != [NOT_FOUND, FOUND]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # nobody is told when something is forgotten


async def test_what_is_folded_in_is_fed_to_who_reads_it_and_a_slow_reader_loses_it(topic: Topic) -> None:
    await topic.put(a_verdict("before"))
    async with topic.view() as view:
        with view.feed(100) as feed, view.feed(2) as small:
            await topic.put(a_verdict("a", tenant="t"))
            await topic.put_raw(b"a", None)
            seen: list[tuple[str, int, str]] = []
            async with asyncio.timeout(30):
                while len(seen) < 2:
                    seen += [(one.post_id, one.kind, one.tenant) for one in (await feed.get()).entries]
                while not small.lost:
                    await topic.put(a_verdict("more"))
            assert seen == [("a", FOUND, "t"), ("a", Kind.ERASED, "t")]
        start = dict.fromkeys(feed.positions, 0)
        replayed = {one.post_id async for changes in view.replay(start, view.positions) for one in changes.entries}
        assert {"before", "a"} <= replayed
        assert not view._feeds


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
