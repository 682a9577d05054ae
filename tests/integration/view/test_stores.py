"""What a store promises, held by SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from moderation.errors import ConfigError, DeliveryError
from moderation.settings import ApiSettings
from moderation.view import stores
from moderation.view.stores import EVER_MS, Entry, Kind, Log, Progress, StoreUnavailableError, rank_of
from moderation.view.stores import postgres as postgres_store
from moderation.view.stores import sqlite as sqlite_store
from moderation.view.stores.postgres import CONNECTIONS
from moderation.view.stores.postgres_generations import table
from moderation.view.stores.sqlite import Sqlite
from tests.support.view_stores import LOG, Folding, an_entry, answering, opened, query, verdict


@pytest.fixture(params=["sqlite", "database", "pooled_database"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> ApiSettings:
    if request.param == "sqlite":
        return ApiSettings(view=tmp_path / "view.sqlite")
    return ApiSettings(view_database=SecretStr(request.getfixturevalue(request.param)))


async def test_the_newest_record_of_a_post_stands_when_records_come_again(settings: ApiSettings) -> None:
    async with opened(settings) as store:
        fold = Folding(store)
        await fold(an_entry("a", 3), an_entry("a", 5), an_entry("b", 6))
        assert await verdict(store, "a") == b"a@5"
        assert await store.find(["b", "missing", "a"]) == {
            "a": (Kind.VERDICT, "", 0, 5, b"a@5"),
            "b": (Kind.VERDICT, "", 0, 6, b"b@6"),
        }
        fold.at = {0: Progress(7, 6), 1: Progress(0, -1)}
        await fold(an_entry("a", 1, 1, ms=1))  # in another partition, and older
        assert await verdict(store, "a") == b"a@5"
        await fold(an_entry("a", 2, 1, ms=9_999))
        assert await verdict(store, "a") == b"a@2"
        await fold(an_entry("a", 8, rank=rank_of(9_998, copied=False), ms=20_000))  # judged later, written earlier
        assert await verdict(store, "a") == b"a@2"


@pytest.mark.parametrize("seed", range(5))
async def test_partitions_give_the_same_row_in_any_order_and_after_compaction(settings: ApiSettings, seed: int) -> None:
    """Each partition's records of a post are in the order of their ranks, as workers write them."""
    chance = random.Random(seed)
    posts = [f"p{number}" for number in range(40)]
    times = iter(chance.sample(range(1_000, 9_000), 400))  # of posts and erasures: no two are equal
    logs: dict[int, list[Entry]] = {}
    for partition in (0, 1):
        at: dict[str, list[int]] = {post: sorted(next(times) for _ in range(chance.randrange(4))) for post in posts}
        records = [post for post in posts for _ in at[post]]
        chance.shuffle(records)
        logs[partition] = [
            an_entry(
                post,
                offset,
                partition,
                ms=10_000 + chance.randrange(10_000),
                rank=rank_of(at[post].pop(0), copied=chance.random() < 0.5),
                erased=chance.random() < 0.4,
            )
            for offset, post in enumerate(records)
        ]
    newest = [{entry.post_id: entry for entry in log}.values() for log in logs.values()]
    last = [sorted(entries, key=lambda entry: entry.offset) for entries in newest]
    right = {entry.post_id: entry.verdict for entry in sorted(last[0] + last[1], key=lambda entry: entry.rank)}
    waiting = [list(reversed(log)) for log in chance.choice((list(logs.values()), last))]
    async with opened(settings) as store:
        fold = Folding(store)
        while left := [log for log in waiting if log]:
            log = chance.choice(left)
            await fold(*(log.pop() for _ in range(min(len(log), chance.randrange(1, 9)))))
        rows = await store.find(posts)
    assert {post: row[-1] for post, row in rows.items()} == right


async def test_positions_are_kept_with_what_they_stand_for(settings: ApiSettings) -> None:
    async with opened(settings) as store:
        fold = Folding(store)
        await fold(an_entry("a", 7), an_entry("b", 3, 1))
        with pytest.raises(Exception, match=r".*"):  # all or none: the second entry is no row
            await store.fold([an_entry("c", 8), an_entry("d", 9, outcome=None)], fold.at, {0: Progress(10, 9)})
    store = stores.open_store(settings)
    try:
        assert await store.open(answering(LOG)) == {0: Progress(8, 7), 1: Progress(4, 3)}
        assert await store.find(["c", "d"]) == {}
        assert await verdict(store, "a") == b"a@7"
    finally:
        await store.close()


async def test_an_erasure_leaves_nothing_but_that_it_happened(settings: ApiSettings) -> None:
    async with opened(settings) as store:
        fold = Folding(store)
        await fold(an_entry("a", 1, tenant="t", outcome=3, policy="p"), an_entry("b", 2))
        assert await fold(an_entry("a", 3, erased=True), an_entry("never", 4, erased=True)) == {"a": "t", "never": ""}
        assert await store.find(["a"]) == {"a": (Kind.ERASED, "t", 0, 3, None)}
        assert (await store.page(query())).verdicts == [b"b@2"]
        assert [(entry.post_id, entry.kind, entry.tenant) for entry in await store.since(0, 3, 9, 10)] == [
            ("a", Kind.ERASED, "t"),
            ("never", Kind.ERASED, ""),
        ]
        await fold(an_entry("a", 5))  # posted again
        assert await verdict(store, "a") == b"a@5"
        assert await store.prune(-EVER_MS, 2_000, 100) == 1  # the other erasure is old enough
        assert await store.find(["never"]) == {}


async def test_pages_hold_what_is_asked_for_once_and_in_order(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    monkeypatch.setattr("moderation.view.stores.statements.SCANNED", 7)
    entries = [
        an_entry(
            f"post-{number:03}",
            number,
            outcome=draw.choice([1, 2, 3]),
            policy=draw.choice(["", "p", "q"]),
            tenant=draw.choice(["", "t"]),
            decided_ms=draw.randrange(40),
        )
        for number in range(120)
    ]
    async with opened(settings) as store:
        await Folding(store)(*entries)
        for fields in (
            {},
            {"tenant": "t"},
            {"outcomes": (3,)},
            {"outcomes": (1, 2), "policies": ("p", ""), "tenant": "t"},
            {"from_ms": 10, "before_ms": 30, "policies": ("q",)},
            {"policies": ("unknown",)},
        ):
            asked = query(**fields)
            wanted = [
                entry
                for entry in sorted(entries, key=lambda entry: (entry.decided_ms, entry.post_id), reverse=True)
                if asked.tenant in (None, entry.tenant)
                and (not asked.outcomes or entry.outcome in asked.outcomes)
                and (not asked.policies or entry.policy in asked.policies)
                and asked.from_ms <= entry.decided_ms < asked.before_ms
            ]
            listed: list[bytes] = []
            after: tuple[int, str] | None = (EVER_MS, "")
            while after is not None:
                page = await store.page(query(**fields, after=after, limit=5))
                assert len(page.verdicts) <= 5
                listed += page.verdicts
                after = page.after
            assert listed == [entry.verdict for entry in wanted], fields


async def test_age_and_room_take_the_oldest_first(settings: ApiSettings) -> None:
    async with opened(settings) as store:
        await Folding(store)(*(an_entry(f"post-{number}", number) for number in range(20)))
        assert await store.prune(1_005, 0, 3) == 3
        assert await store.prune(1_005, 0, 100) == 2
        assert await store.prune(1_005, 0, 100) == 0
        assert sorted(await store.find([f"post-{n}" for n in range(20)])) == sorted(f"post-{n}" for n in range(5, 20))
        assert await store.prune(EVER_MS, 0, 4) == 4  # no room: of any age
        assert await store.find(["post-8"]) == {}


@pytest.mark.parametrize(
    ("log", "kept"),
    [
        (LOG, True),
        (Log("cluster", "verdicts", {0: 0, 1: 0, 2: 0}, {0: 1_000, 1: 1_000, 2: 5}), True),  # a partition was added
        (Log("cluster", "verdicts", {0: 0, 1: 0}, {0: 1, 1: 1}), False),  # the topic was created again
    ],
)
async def test_what_is_of_another_log_is_built_again(settings: ApiSettings, log: Log, kept: bool) -> None:
    async with opened(settings) as store:
        await Folding(store)(an_entry("a", 7))
    async with opened(settings, log) as store:
        assert (await verdict(store, "a") is not None) == kept


@pytest.mark.parametrize("end", [1, 8, 1_000])
async def test_a_topic_with_another_id_is_another_log_of_any_length(settings: ApiSettings, end: int) -> None:
    """Found by a store that is opened, or opened again. What is known of posts stays: their topic is the same."""
    before, after, third = (replace(LOG, topic_id=letter * 22, ends={0: end, 1: 0}) for letter in "ABC")
    known = Progress(8, 7, "P" * 22)
    async with opened(settings, replace(before, ends=LOG.ends)) as store:
        await store.fold([an_entry("a", 7)], {0: Progress(0, -1), 1: Progress(0, -1)}, {0: known})
        assert not store.gone
        again = await store.open(answering(after))
        assert (again[0].next, store.gone[0]) == (0, known)
        served = await store.serve()
        assert served is not None
        assert served[0] == known._replace(next=0)
        assert await verdict(store, "a") is None
        await store.fold([an_entry("b", 0)], served, {0: served[0]._replace(next=1)})
    async with opened(settings, replace(after, topic_id="")) as store:  # brokers did not say
        assert await verdict(store, "b") == b"b@0"
    async with opened(settings, third) as store:
        assert store.gone[0] == known._replace(next=1)
        assert await store.serve()
        assert await verdict(store, "b") is None


async def test_two_processes_share_a_database_and_the_work(database: str) -> None:
    settings = ApiSettings(view_database=SecretStr(database))
    async with opened(settings) as one, opened(settings) as two:
        first, second = Folding(one), Folding(two)
        await first(an_entry("a", 1), an_entry("b", 2))
        await first(an_entry("a", 3, erased=True))
        await second(an_entry("a", 1))  # it is behind: what it has read is folded in already, and the erasure stands
        assert await two.find(["a"]) == {"a": (Kind.ERASED, "", 0, 3, None)}
        assert await second(an_entry("b", 2), an_entry("a", 3, erased=True), an_entry("c", 4)) == {"a": ""}
        assert await verdict(one, "c") == b"c@4"

        async def follow(fold: Folding) -> None:
            for number in range(5, 25):
                await fold(an_entry(f"x{number}", number))

        await asyncio.gather(follow(first), follow(second))
        assert len(await one.find([f"x{number}" for number in range(5, 25)])) == 20


async def test_a_database_of_another_topic_is_left_alone(database: str) -> None:
    settings = ApiSettings(view_database=SecretStr(database))
    async with opened(settings) as store:
        await Folding(store)(an_entry("a", 1))
    with pytest.raises(ConfigError, match="another topic"):
        async with opened(settings, Log("cluster", "elsewhere", {0: 0}, {0: 9})):
            pass
    async with opened(settings) as store:
        assert await verdict(store, "a") == b"a@1"


async def test_a_database_that_goes_away_is_unavailable_and_comes_back(database: str) -> None:
    async with opened(ApiSettings(view_database=SecretStr(database))) as store:
        fold = Folding(store)
        await fold(an_entry("a", 1))
        admin = await asyncpg.connect(database)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        refused = 0
        async with asyncio.timeout(30):
            while True:
                try:
                    await fold(an_entry("b", 2))
                    break
                except StoreUnavailableError:
                    refused += 1
        assert await verdict(store, "b") == b"b@2"
        await admin.execute(f"ALTER TABLE {table(1)} RENAME TO gone")
        await admin.close()
        with pytest.raises(DeliveryError, match="refused a statement"):
            await store.find(["a"])


async def test_lookups_that_a_database_does_not_answer_end_and_hold_no_fold_up(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "FIND_S", 0.5)  # far below the time that a statement may take
    waiting = 200
    async with opened(ApiSettings(view_database=SecretStr(database))) as store:
        fold = Folding(store)
        await fold(an_entry("a", 1))
        admin = await asyncpg.connect(database)
        locked = admin.transaction()
        await locked.start()
        await admin.execute(f"LOCK TABLE {table(1)}")  # as one that hangs: no row is read
        asked = [asyncio.create_task(store.find([f"x{number}"])) for number in range(waiting)]
        async with asyncio.timeout(30):
            while await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < CONNECTIONS - 1:
                pass
            assert await store.fold([], fold.at, {0: Progress(3, 2)}) == {}  # of records without a verdict
            assert not all(task.done() for task in asked)
            begun = time.monotonic()
            responses = await asyncio.gather(*asked, return_exceptions=True)
            with pytest.raises(StoreUnavailableError, match=r"no response within 0\.5 s"):
                await store.find(["a"])
            assert time.monotonic() - begun < 3.0
        assert {type(error) for error in responses} == {StoreUnavailableError}
        await locked.rollback()
        await admin.close()
        assert await verdict(store, "a") == b"a@1"


async def test_a_lookup_that_a_file_does_not_answer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "FIND_S", 0.3)
    async with opened(ApiSettings(view=tmp_path / "view.sqlite")) as store:
        assert isinstance(store, Sqlite)
        await Folding(store)(an_entry("a", 1))
        hung = threading.Event()
        store._reader.submit(hung.wait)  # as on a disk that hangs
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"no response within 0\.3 s"):
            await store.find(["a", "b"])
        assert time.monotonic() - begun < 2.0
        hung.set()
        assert (await store.find(["a", "b"])).keys() == {"a"}


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", StoreUnavailableError),  # it may be starting
        ("postgresql://me:secret@nowhere.invalid/x", StoreUnavailableError),
        ("postgresql://me:secret@127.0.0.1:port/x", ConfigError),
        ("mysql://me:secret@127.0.0.1:1/x", ConfigError),
    ],
)
async def test_a_database_that_cannot_be_reached_or_named_is_reported_without_the_password(
    url: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        async with opened(ApiSettings(view_database=SecretStr(url))):
            pass
    assert "secret" not in str(caught.value)


async def test_a_database_that_takes_no_tls_is_unavailable(database: str) -> None:
    with pytest.raises(StoreUnavailableError):
        async with opened(ApiSettings(view_database=SecretStr(f"{database}?sslmode=require"))):
            pass


async def test_a_full_disk_is_reported_and_lookups_continue(tmp_path: Path) -> None:
    async with opened(ApiSettings(view=tmp_path / "view.sqlite")) as store:
        fold = Folding(store)
        await fold(an_entry("a", 1))
        file: Any = store

        def limit(pages: int) -> None:
            """As far as SQLite can tell, that is all that the disk has."""
            file._writer.submit(lambda: file._written.execute(f"PRAGMA max_page_count = {pages}").fetchall()).result()

        limit(1)
        with pytest.raises(StoreUnavailableError, match="SQLITE_FULL"):
            await fold(*(an_entry(f"x{n}", n, verdict=b"x" * 500) for n in range(2, 100)))
        assert await verdict(store, "a") == b"a@1"
        limit(1_000_000)
        await fold(*(an_entry(f"x{n}", n, verdict=b"x" * 500) for n in range(2, 100)))
        assert len(await store.find([f"x{n}" for n in range(2, 100)])) == 98
        assert await store.size() > 98 * 500
