"""The files of a view take no more than their bound, at any moment: while it is built, and while it serves."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from moderation import wire
from moderation.errors import ConfigError
from moderation.settings import ApiSettings
from moderation.view import stores
from moderation.view.stores import EVER_MS, Kind, Log, StoreUnavailableError, sqlite_budget
from moderation.view.stores.sqlite import Sqlite
from moderation.view.stores.sqlite_statements import APPLICATION_ID
from tests.support import volumes
from tests.support.builders import a_finding, a_verdict
from tests.support.logged import events
from tests.support.view_stores import Folding, an_entry, answering, opened, query, verdict
from tests.support.view_topic import FOUND, NOT_FOUND, PARTITIONS, UNREADABLE, Topic, states
from tests.support.volumes import Sizes

MIB = 1 << 20
LOG = Log("cluster", "verdicts", {0: 0, 1: 0}, {0: 1 << 40, 1: 1 << 40})


async def fill(topic: Topic, mib: int) -> list[str]:
    """The ids of posts whose verdicts are so many MiB on the topic, oldest first."""
    findings = tuple(a_finding(f"policy-{number}-{'x' * 80}") for number in range(30))
    value, headers = wire.verdict_record(a_verdict("post-000000", findings=findings), "protobuf")
    assert isinstance(value, bytes)
    posts = [f"post-{number:06}" for number in range((mib << 20) // len(value) + 1)]
    begin_ms = int(time.time() * 1000) - len(posts)
    async with topic.writer(linger_ms=20, max_batch_size=500_000) as producer:
        for number, post_id in enumerate(posts):
            await producer.send(
                topic.name,
                value.replace(b"post-000000", post_id.encode()),
                key=post_id.encode(),
                partition=number % PARTITIONS,
                headers=headers,
                timestamp_ms=begin_ms + number,
            )
    return posts


async def test_a_view_of_a_topic_larger_than_its_volume_is_built_and_keeps_the_newest(
    topic: Topic, tmp_path: Path
) -> None:
    posts = await fill(topic, 128)
    with volumes.small(tmp_path / "volume", 96) as volume, Sizes(volume) as sizes:
        topic.set(view=volume / "verdicts.sqlite", view_max_bytes=64 * MIB, recent_bytes=0)
        with capture_logs() as logged:
            async with topic.view() as view:
                found = await states(view, *posts[:100], *posts[-1000:])
                assert found == [NOT_FOUND] * 100 + [FOUND] * 1000
                kept = sum(state == FOUND for state in await states(view, *posts))
        assert kept > len(posts) // 5, "of a bound of half of the topic"
        assert not events(logged, "view_stalled")
        assert len(events(logged, "view_full")) == 1
    assert sizes.looks > 200
    assert 40 * MIB < sizes.largest <= 64 * MIB


async def test_while_it_serves_slow_readers_do_not_make_it_larger(topic: Topic, tmp_path: Path) -> None:
    folder = tmp_path / "view"
    folder.mkdir()
    await fill(topic, 40)
    topic.set(view=folder / "verdicts.sqlite", view_max_bytes=32 * MIB, recent_bytes=0)
    reads = 0

    async def watch(view: Any) -> None:
        """Goes over all of the view, again and again, and takes its time with each answer."""
        nonlocal reads
        while True:
            async for _ in view.replay(dict.fromkeys(view.positions, 0), view.positions):
                await asyncio.sleep(0.01)
                await view.store.page(query(outcomes=(3,), limit=1000))
                reads += 1

    with Sizes(folder) as sizes:
        async with topic.view() as view, asyncio.timeout(120):
            watching = [asyncio.create_task(watch(view)) for _ in range(3)]
            posts = await fill(topic, 40)
            end = (len(posts) * 2) // PARTITIONS
            while min(view.positions.values()) < end:
                assert not any(task.done() for task in watching)
                await asyncio.sleep(0.05)
            assert await states(view, *posts[-100:]) == [FOUND] * 100
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)
    assert reads > 10
    assert 20 * MIB < sizes.largest <= 32 * MIB


def long_ids(draw: random.Random) -> Iterator[dict[str, Any]]:
    """Ids of 512 bytes and many tenants, in no order, a third of them updates: the worst case of the indexes."""
    while True:
        post_id = hashlib.sha512(str(draw.randrange(4_000)).encode()).hexdigest() * 4
        verdict = draw.randbytes(draw.choice([300, 300, 3_000]))
        decided_ms = draw.randrange(1 << 40)
        yield {
            "post_id": post_id,
            "verdict": verdict,
            "tenant": f"tenant-{draw.randrange(50)}" * 8,
            "decided_ms": decided_ms,
        }


def large_verdicts(draw: random.Random) -> Iterator[dict[str, Any]]:
    """Of a few posts, that take one another's place."""
    while True:
        length = draw.choice([100, 100, 100, 100_000, stores.LARGEST_VERDICT])
        yield {"post_id": f"post-{draw.randrange(200)}", "verdict": draw.randbytes(length)}


def hashes(draw: random.Random) -> Iterator[dict[str, Any]]:
    """Each post once."""
    while True:
        yield {"post_id": draw.randbytes(16).hex(), "verdict": draw.randbytes(1_000)}


@pytest.mark.parametrize(("kind", "count"), [(long_ids, 12_000), (large_verdicts, 1_000), (hashes, 35_000)])
async def test_the_bound_holds_at_every_step_for_any_entries(
    kind: Callable[[random.Random], Iterator[dict[str, Any]]], count: int, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    rows = kind(draw)
    begin_ms = int(time.time() * 1000) - count
    newest: dict[str, bytes] = {}
    with Sizes(tmp_path) as sizes:
        async with opened(ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=32 * MIB), LOG) as store:
            fold = Folding(store)
            for start in range(0, count, 500):
                entries = [an_entry(offset=n, ms=begin_ms + n, **next(rows)) for n in range(start, start + 500)]
                await fold(*entries)
                sizes.look()
                newest = {entry.post_id: entry.verdict or b"" for entry in entries[-20:]}
            assert {id: row[-1] for id, row in (await store.find([*newest, "none"])).items()} == newest
            assert await store.size() == size_of(tmp_path)
    assert 20 * MIB < sizes.largest <= 32 * MIB
    with closing(sqlite3.connect(tmp_path / "view.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".lock")


async def test_a_reader_of_an_old_state_stalls_the_view_before_the_log_outgrows_its_bound(tmp_path: Path) -> None:
    """As somebody does with a shell of SQLite on the file."""
    begin_ms = int(time.time() * 1000) - 100_000
    with Sizes(tmp_path) as sizes:
        async with opened(ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=32 * MIB), LOG) as store:
            fold = Folding(store)

            async def more(times: int) -> None:
                for _ in range(times):
                    offsets = range(start := fold.at[0].next, start + 100)
                    await fold(*(an_entry(f"p{n}", n, ms=begin_ms + n, verdict=b"x" * 4_000) for n in offsets))

            await more(1)
            with closing(sqlite3.connect(tmp_path / "view.sqlite", isolation_level=None)) as shell:
                shell.execute("BEGIN")
                assert shell.execute("SELECT count(*) FROM verdicts").fetchone() == (100,)
                with pytest.raises(StoreUnavailableError, match="a reader keeps the write-ahead log"):
                    await more(200)
                stood = fold.at[0].next
                assert await verdict(store, f"p{stood - 1}") == b"x" * 4_000  # lookups go on
            await more(100)
            assert fold.at[0].next == stood + 100 * 100
    assert sizes.largest <= 32 * MIB


async def test_a_view_of_an_older_format_beyond_the_bound_is_built_again_in_its_place(
    topic: Topic, tmp_path: Path
) -> None:
    await topic.put(a_verdict("a"))
    with volumes.small(tmp_path / "volume", 96) as volume:
        file = volume / "verdicts.sqlite"
        with closing(sqlite3.connect(file, isolation_level=None)) as db:
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute("PRAGMA user_version=2")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE verdicts (post_id TEXT PRIMARY KEY, verdict BLOB)")
            for number in range(80):
                db.execute("INSERT INTO verdicts VALUES (?, ?)", (str(number), b"x" * MIB))
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert file.stat().st_size > 80 * MIB
        topic.set(view=file, view_max_bytes=64 * MIB)
        assert await topic.states("a") == [FOUND]
        assert size_of(volume) < MIB


async def test_a_view_comes_down_to_a_bound_that_is_lowered(tmp_path: Path) -> None:
    settings = ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=48 * MIB)
    begin_ms = int(time.time() * 1000) - 50_000
    async with opened(settings, LOG) as store:
        fold = Folding(store)
        for start in range(0, 10_000, 500):
            await fold(
                *(an_entry(f"p{n}", n, ms=begin_ms + n, verdict=b"x" * 4_000) for n in range(start, start + 500))
            )
    assert size_of(tmp_path) > 32 * MIB
    with Sizes(tmp_path) as sizes, capture_logs() as logged:
        async with opened(settings.model_copy(update={"view_max_bytes": 32 * MIB}), LOG) as store:
            assert await store.find(["p9999", "p0"]) == {}  # it is read again from the topic
            sizes.largest = 0
            await Folding(store)(*(an_entry(f"p{n}", n, ms=begin_ms + n, verdict=b"x" * 4_000) for n in range(500)))
    assert [event["reason"] for event in events(logged, "view_rebuilt")] == ["the file is larger than its bound"]
    assert sizes.largest <= 32 * MIB


async def test_a_broken_view_is_deleted_and_only_what_may_be_anothers_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "view.sqlite"
    aside = tmp_path / "view.sqlite.corrupt"
    settings = ApiSettings(view=file, view_max_bytes=32 * MIB)
    async with opened(settings, LOG) as store:
        await Folding(store)(*(an_entry(f"p{n}", n, verdict=b"x" * 1_000) for n in range(2_000)))
    for begin in (4096, 0):  # its header says that it is ours; then only what we have written beside it does
        size = file.stat().st_size
        assert size > 2 * MIB or not begin
        with file.open("r+b") as broken:
            broken.seek(begin)
            broken.write(b"\xa5" * (size - begin))
        with capture_logs() as logged:
            async with opened(settings, LOG) as store:
                assert await store.find(["p1", "p2"]) == {}
        assert [event["reason"] for event in events(logged, "view_rebuilt")] == ["corrupt"]
        assert not aside.exists()
    with closing(sqlite3.connect(aside)) as kept:  # as an earlier version kept its own
        kept.execute(f"PRAGMA application_id={APPLICATION_ID}")
        kept.execute("CREATE TABLE verdicts (post_id TEXT)")
    async with opened(settings, LOG):
        assert not aside.exists()


async def test_of_two_partitions_the_newest_stay_in_any_order_of_reading(tmp_path: Path) -> None:
    begin_ms = int(time.time() * 1000) - 100_000
    async with opened(ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=32 * MIB), LOG) as store:
        fold = Folding(store)
        for partition, since in ((0, 50_000), (1, 0)):
            for start in range(0, 12_000, 500):
                numbers = range(start, start + 500)
                ids = ((f"p{partition}-{n}", n, begin_ms + since + n) for n in numbers)
                await fold(*(an_entry(id, n, partition, ms=ms, verdict=b"x" * 4_000) for id, n, ms in ids))
        assert len(await store.find([f"p0-{n}" for n in range(8_000, 12_000)])) == 4_000
        assert await store.find([f"p1-{n}" for n in range(12_000)]) == {}


async def test_erasures_outlast_what_makes_room_until_nothing_else_is_left(tmp_path: Path) -> None:
    begin_ms = int(time.time() * 1000) - 1_000_000
    async with opened(ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=32 * MIB), LOG) as store:
        fold = Folding(store)

        async def put(numbers: range, **fields: Any) -> None:
            for start in numbers[::500]:
                ids = ((f"p{n}-{'x' * 400}", n, begin_ms + n) for n in range(start, min(start + 500, numbers.stop)))
                await fold(*(an_entry(id, n, ms=ms, **fields) for id, n, ms in ids))

        await put(range(1_000), erased=True)
        await put(range(1_000, 13_000), verdict=b"x" * 4_000)
        kinds = [entry.kind for entry in await store.since(0, 0, 13_000, 2_000)]
        assert kinds[:1_000] == [Kind.ERASED] * 1_000
        assert await store.find([f"p1000-{'x' * 400}"]) == {}, "the file was full"
        await put(range(13_000, 63_000), erased=True)
        left = [entry.offset for entry in await store.since(0, 0, 63_000, 100_000)]
        assert left == list(range(left[0], 63_000))
        assert left[0] > 13_000, "the file was full of them"


async def test_a_store_that_is_opened_again_closes_what_it_had_and_its_event_loop_waits_for_no_lock(
    tmp_path: Path,
) -> None:
    async with opened(ApiSettings(view=tmp_path / "view.sqlite"), LOG) as store:
        assert isinstance(store, Sqlite)
        single, bulk = store._single, store._bulk

        def check_closed(db: sqlite3.Connection | None) -> None:
            assert db
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                db.execute("SELECT 1")

        await store.open(answering(LOG))
        check_closed(single)
        await asyncio.get_running_loop().run_in_executor(store._reader, check_closed, bulk)
        assert store._single
        assert store._single.execute("PRAGMA busy_timeout").fetchone() == (0,)


async def test_a_file_that_was_set_aside_counts(tmp_path: Path) -> None:
    aside = tmp_path / "view.sqlite.corrupt"
    aside.write_bytes(b"photos" * (4 * MIB))
    settings = ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=48 * MIB)
    with pytest.raises(ConfigError, match=r"\.corrupt was set aside and takes 25165824 of the 50331648 bytes"):
        async with opened(settings, LOG):
            pass
    assert aside.stat().st_size == 24 * MIB
    begin_ms = int(time.time() * 1000) - 50_000
    with Sizes(tmp_path) as sizes:
        async with opened(settings.model_copy(update={"view_max_bytes": 56 * MIB}), LOG) as store:
            fold = Folding(store)
            for start in range(0, 20_000, 500):
                rows = (an_entry(f"p{n}", n, ms=begin_ms + n, verdict=b"x" * 4_000) for n in range(start, start + 500))
                await fold(*rows)
    assert 40 * MIB < sizes.largest <= 56 * MIB


@pytest.mark.parametrize("bound", [1, sqlite_budget.SMALLEST - 1])
def test_a_bound_that_is_too_small_is_refused(bound: int, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"MODERATION_API__VIEW_MAX_BYTES: {bound} is too small .* at least 33554432"
    ):
        stores.open_store(ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=bound))


async def test_what_is_older_than_the_retention_is_not_written_and_supersedes_all_the_same(tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    old = now - 3 * 86_400_000
    async with opened(ApiSettings(view=tmp_path / "view.sqlite", retention_days=2.0), LOG) as store:
        fold = Folding(store)
        await fold(an_entry("old", 1, ms=old), an_entry("new", 2, ms=now), an_entry("edited", 3, ms=now, tenant="t"))
        assert (await store.find(["old", "new", "edited"])).keys() == {"new", "edited"}
        await fold(an_entry("edited", 4, ms=old))  # of a clock that is behind: the row that it replaces must go
        assert await store.find(["old", "edited"]) == {}
        await fold(an_entry("new", 5, ms=old, erased=True))
        assert (await store.find(["new", "x"]))["new"][0] == Kind.ERASED
        await fold(an_entry("again", 6, ms=old, erased=True), an_entry("again", 7, ms=old))  # in one transaction
        assert await store.find(["again"]) == {}


async def test_a_record_of_a_clock_that_is_ahead_does_not_outlast_those_after_it(tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    async with opened(ApiSettings(view=tmp_path / "view.sqlite"), LOG) as store:
        fold = Folding(store)
        await fold(an_entry("ahead", 1, ms=now + 86_400_000))
        await fold(*(an_entry(f"p{n}", n, ms=now + 60_000 + n) for n in range(2, 50)))
        assert await store.prune(EVER_MS, 0, 1) == 1
        assert await store.find(["ahead", "p49"]) == {"p49": (Kind.VERDICT, "", 0, 49, b"p49@49")}


async def test_a_verdict_that_is_too_large_for_a_view_is_unreadable(topic: Topic) -> None:
    async with topic.writer(max_request_size=4 * MIB, compression_type="gzip") as producer:
        for post_id, count in (("fits", 4_500), ("larger", 6_500)):
            findings = tuple(a_finding(f"policy-{number:0120}") for number in range(count))
            value, headers = wire.verdict_record(a_verdict(post_id, findings=findings), "protobuf")
            assert value is not None
            assert (len(value) > stores.LARGEST_VERDICT) == (post_id == "larger")
            await producer.send_and_wait(topic.name, value, key=post_id.encode(), headers=headers)
    with capture_logs() as logged:
        assert await topic.states("fits", "larger") == [FOUND, UNREADABLE]
    assert [event["reason"] for event in events(logged, "verdict_unreadable")] == ["it is larger than 1048576 bytes"]


async def test_a_full_file_makes_room_where_an_estimate_was_too_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_budget, "pages", lambda entries: 30)
    begin_ms = int(time.time() * 1000) - 50_000
    async with opened(ApiSettings(view=tmp_path / "view.sqlite", view_max_bytes=32 * MIB), LOG) as store:
        assert isinstance(store, Sqlite)
        fold = Folding(store)
        for start in range(0, 20_000, 500):
            await fold(
                *(an_entry(f"p{n}", n, ms=begin_ms + n, verdict=b"x" * 4_000) for n in range(start, start + 500))
            )
        assert await verdict(store, "p19999") == b"x" * 4_000
        assert await verdict(store, "p0") is None
