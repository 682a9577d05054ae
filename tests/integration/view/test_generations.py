"""Generations of the view in PostgreSQL: what is built beside one that serves, and how it takes its place."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

import moderation
from moderation.errors import DeliveryError
from moderation.settings import ApiSettings
from moderation.view import stores
from moderation.view.stores import SCHEMA, Kind, Log, Progress, Store, StoreBehindError
from moderation.view.stores import postgres as postgres_store
from moderation.view.stores import postgres_generations as generations
from moderation.view.stores.postgres_generations import NAME
from tests.support.view_stores import LOG, Folding, an_entry, answering, sql, verdict

ANOTHER = Log("cluster", "verdicts", {0: 0, 1: 0}, {0: 1, 1: 1})  # a topic that was made again
AWAY = "UPDATE generations SET seen = now() - interval '13 hours'"


class Shared:
    """A database with a view, and stores on it as many processes have them."""

    def __init__(self, url: str, admin: Any, stack: AsyncExitStack) -> None:
        self.settings = ApiSettings(view_database=SecretStr(url))
        self._admin = admin
        self._stack = stack

    async def store(self, log: Log = LOG) -> tuple[Store, Folding]:
        """An open one, and what folds into it from where it is."""
        store = stores.open_store(self.settings)
        self._stack.push_async_callback(store.close)
        return store, Folding(store, dict(await store.open(answering(log))))

    async def do(self, statement: str) -> None:
        await self._admin.execute(sql(statement))

    async def value(self, query: str) -> Any:
        return await self._admin.fetchval(sql(query))

    async def tables(self) -> list[str]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename LIKE 'verdicts%' ORDER BY 1"
        return [name.replace(f"_{SCHEMA}_", "_") for (name,) in await self._admin.fetch(query, NAME)]


@pytest.fixture
async def shared(database: str) -> AsyncIterator[Shared]:
    admin = await asyncpg.connect(database, server_settings={"search_path": NAME})
    async with AsyncExitStack() as stack:
        yield Shared(database, admin, stack)
    await admin.close()


@asynccontextmanager
async def rebuilt(reason: str) -> AsyncIterator[None]:
    with capture_logs() as logged:
        yield
    assert [event["reason"] for event in logged if event["event"] == "view_rebuilt"] == [reason]


async def test_a_generation_is_built_beside_and_takes_its_place_once_it_is_as_far(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "REPLACED_S", 0.0)
    serving, first = await shared.store()
    await first(an_entry("a", 1), an_entry("b", 2, tenant="t"), an_entry("old", 3))
    await shared.do(AWAY)
    async with rebuilt("erasures may have been missed"):
        building, second = await shared.store()
    assert second.at == {0: Progress(0, -1), 1: Progress(0, -1)}
    assert await verdict(serving, "a") == b"a@1"
    await first(an_entry("c", 4))
    assert await building.serve() is None
    await second(an_entry("a", 1), an_entry("b", 2))  # "old" was erased, and is not on the topic any more
    assert await building.serve() is None
    assert await verdict(building, "old") is None
    assert await verdict(serving, "old") == b"old@3"
    await second(an_entry("c", 4))
    await first(an_entry("b", 5, erased=True))  # from now on every fold goes into both
    await first(an_entry("d", 6))
    assert await verdict(building, "d") == b"d@6"
    assert await building.serve() == {0: Progress(7, 6), 1: Progress(0, -1)}
    assert await verdict(serving, "a") == b"a@1"
    await second(an_entry("b", 5, erased=True), an_entry("d", 6))
    await second(an_entry("e", 7))
    await building.followed(0.0)
    assert await shared.tables() == ["verdicts_2"]
    assert await verdict(serving, "d") == b"d@6"  # its table is gone, and it has taken the new one
    assert await first(an_entry("e", 7), an_entry("b", 8, erased=True)) == {"b": "t"}
    assert await serving.find(["old"]) == {}
    assert [entry.post_id for entry in await serving.since(0, 0, 100, 10)] == ["a", "c", "d", "e", "b"]


async def test_replicas_that_need_a_new_generation_build_one(shared: Shared) -> None:
    _, first = await shared.store()
    await first(an_entry("a", 1))
    await shared.do(AWAY)
    with capture_logs() as logged:
        builders = await asyncio.gather(*(shared.store() for _ in range(4)))
    assert len([event for event in logged if event["event"] == "view_rebuilt"]) == 1
    assert await shared.tables() == ["verdicts_1", "verdicts_2"]
    await asyncio.gather(*(fold(an_entry("a", 1)) for _, fold in builders))
    served = await asyncio.gather(*(store.serve() for store, _ in builders))
    assert served == [{0: Progress(2, 1), 1: Progress(0, -1)}] * 4
    assert await shared.value("SELECT number FROM generations WHERE serving") == 2


async def test_a_builder_that_dies_leaves_its_work_to_the_next_or_to_be_removed(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, first = await shared.store()
    await first(an_entry("a", 1), an_entry("b", 2))
    await shared.do(AWAY)
    died, second = await shared.store()
    await second(an_entry("a", 1))
    await died.close()
    _, third = await shared.store()
    assert third.at[0] == Progress(2, 1)
    await serving.followed(0.0)
    assert await shared.tables() == ["verdicts_1", "verdicts_2"]
    monkeypatch.setattr(generations, "ABANDONED_S", 0.0)
    await serving.followed(0.0)
    assert await shared.tables() == ["verdicts_1"]
    assert await verdict(serving, "b") == b"b@2"
    with pytest.raises(DeliveryError, match="view of another log"):
        await third(an_entry("b", 2))


async def test_a_table_that_somebody_still_reads_is_removed_later(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setattr(generations, "REPLACED_S", 0.0)
    _, first = await shared.store()
    await first(an_entry("a", 1))
    await shared.do(AWAY)
    building, second = await shared.store()
    await second(an_entry("a", 1))
    reader = await asyncpg.connect(database)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute(f"LOCK TABLE {generations.table(1)} IN ACCESS SHARE MODE")
    assert await building.serve()
    await building.followed(0.0)
    assert await shared.tables() == ["verdicts_1", "verdicts_2"]
    await transaction.rollback()
    await reader.close()
    await building.followed(0.0)
    assert await shared.tables() == ["verdicts_2"]


async def test_a_builder_that_comes_back_between_the_look_and_the_removal_keeps_its_generation(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, first = await shared.store()
    await first(an_entry("a", 1))
    await shared.do(AWAY)
    building, second = await shared.store()
    await second(an_entry("a", 1))
    await shared.do("UPDATE generations SET written = now() - interval '2 hours'")
    switching: list[asyncio.Task[Any]] = []
    real = generations.removable

    async def removable(db: Any) -> list[int]:
        """The builder takes the next turn."""
        numbers = await real(db)
        if not switching:
            assert numbers == [2]
            switching.append(asyncio.create_task(building.serve()))
            async with asyncio.timeout(4):
                while not await shared.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    pass
        return numbers

    monkeypatch.setattr(generations, "removable", removable)
    await serving.followed(0.0)
    assert await switching[0] == {0: Progress(2, 1), 1: Progress(0, -1)}
    assert await shared.tables() == ["verdicts_1", "verdicts_2"]
    assert await verdict(building, "a") == b"a@1"


async def test_what_only_the_old_generation_knows_goes_into_the_new_one(shared: Shared) -> None:
    """The tenant of an erased post, and how far posts are decided by records that the topic no longer has."""
    _, first = await shared.store()
    await first(an_entry("a", 1, tenant="t"), an_entry("b", 2, tenant="u"))
    await first(an_entry("a", 3, source_offset=9, erased=True))
    await shared.do(AWAY)
    building, second = await shared.store()
    await second(an_entry("a", 3, source_offset=-1, erased=True))  # what is left of it on the topic
    assert await building.serve() == {0: Progress(4, 9), 1: Progress(0, -1)}
    assert [entry.tenant for entry in await building.since(0, 0, 9, 9)] == ["t"]


async def test_what_only_the_old_generation_knows_of_many_erasures_is_copied_a_part_at_a_time(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a mass erasure: all at once would take longer than a statement may."""
    monkeypatch.setattr(postgres_store, "COMMAND_S", 1.0)
    _, first = await shared.store()
    await first(an_entry("late", 1, tenant="mine"))
    await shared.do(AWAY)
    building, second = await shared.store()
    insert = (
        "INSERT INTO verdicts_{} SELECT 'p' || n, 3, 1, n, n / 20000, n, 0, n, {}, 0, '', 0, NULL "
        "FROM generate_series(1, 200000) AS n"
    )
    await shared.do(insert.format(1, "'t' || n % 7"))
    await shared.do(insert.format(2, "''"))
    await shared.do("UPDATE partitions SET next = 1000000 WHERE number = 1")
    await second(an_entry("late", 0))
    assert await building.serve() is None  # the other is further, and knows of this when the next one comes
    await first(an_entry("late", 2, erased=True, ms=0))
    await second(an_entry("late", 1), an_entry("late", 2, erased=True, ms=0))
    assert await building.serve()
    assert not await shared.value(
        "SELECT count(*) FROM verdicts_2 WHERE at_partition = 1 AND tenant <> 't' || at_offset % 7"
    )
    assert await shared.value("SELECT tenant FROM verdicts_2 WHERE post_id = 'late'") == "mine"


async def test_a_topic_that_was_created_again_is_no_topic_that_other_replicas_have_read_further(shared: Shared) -> None:
    serving, first = await shared.store()
    await first(an_entry("a", 7))
    ask = answering(LOG)

    async def late() -> Log:
        """The end as it is now. Meanwhile other replicas fold beyond it."""
        log = await ask()
        await first(an_entry("b", 1_500))
        return log

    store = stores.open_store(shared.settings)
    with capture_logs() as logged:
        assert (await store.open(late))[0] == Progress(1_501, 1_500)
    await store.close()
    assert not [event for event in logged if event["event"] == "view_rebuilt"]
    async with rebuilt("the log ends before our position"):
        building, second = await shared.store(ANOTHER)
    await second(an_entry("new", 0))
    await first(an_entry("c", 1_501), an_entry("c", 0, 1))  # of the old log: it stays out of the view of the new one
    assert await verdict(serving, "a") == b"a@7"
    assert await building.serve() == {0: Progress(1, 0), 1: Progress(0, -1)}
    assert await building.find(["a", "b", "c"]) == {}
    with pytest.raises(DeliveryError, match="another log"):
        await first(an_entry("d", 1_502))


async def test_a_version_that_reads_more_builds_again_and_an_older_one_does_not(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moderation, "__version__", "1.9.0")
    _, first = await shared.store()
    await first(an_entry("a", 1))
    monkeypatch.setattr(moderation, "__version__", "1.10.0")
    assert (await shared.store())[1].at[0].next == 2  # nothing is unreadable
    monkeypatch.setattr(moderation, "__version__", "1.9.0")
    await first(an_entry("odd", 2, kind=Kind.UNREADABLE, verdict=None))
    assert (await shared.store())[1].at[0].next == 3
    monkeypatch.setattr(moderation, "__version__", "1.10.0")
    async with rebuilt("this version may read what the last one could not"):
        building, second = await shared.store()
    await second(an_entry("a", 1), an_entry("odd", 2))
    assert await building.serve()
    monkeypatch.setattr(moderation, "__version__", "1.9.0")
    assert (await shared.store())[1].at[0].next == 3
    await first(an_entry("odder", 3, kind=Kind.UNREADABLE, verdict=None))  # of a rollout's old half, into the new view
    monkeypatch.setattr(moderation, "__version__", "1.10.0")
    async with rebuilt("this version may read what the last one could not"):
        await shared.store()


async def test_a_view_that_has_read_everything_was_never_away(shared: Shared) -> None:
    store, fold = await shared.store()
    await fold(an_entry("a", 999), an_entry("b", 999, 1))
    await shared.do(AWAY)
    assert (await shared.store())[1].at[0] == Progress(1_000, 999)  # where the log ends
    further = Log("cluster", "verdicts", {0: 0, 1: 0}, {0: 1_001, 1: 1_000})
    await store.followed(60.0)  # by the database's clock
    assert (await shared.store(further))[1].at[0] == Progress(1_000, 999)
    await store.followed(14 * 3600.0)  # from one who is behind: it takes nothing back
    assert 59 < await shared.value("SELECT extract(epoch FROM now() - seen)::float8 FROM generations") < 120
    await shared.do(AWAY)
    async with rebuilt("erasures may have been missed"):
        await shared.store(further)


async def test_a_server_that_lost_the_last_folds_says_how_far_it_is(shared: Shared) -> None:
    _, fold = await shared.store()
    await fold(an_entry("a", 7))
    await shared.do("UPDATE partitions SET next = 3 WHERE number = 0")
    await shared.do("DELETE FROM partitions WHERE number = 1")
    with pytest.raises(StoreBehindError) as caught:
        await fold(an_entry("b", 8))
    assert caught.value.progress == {0: Progress(3, 7), 1: Progress(0, -1)}
    fold.at[0] = Progress(3, 7)
    await fold(an_entry("a", 7), an_entry("b", 8), an_entry("c", 1, 1))


async def test_a_server_that_lost_a_switch_gets_it_again(shared: Shared) -> None:
    serving, first = await shared.store()
    await first(an_entry("a", 1))
    await shared.do(AWAY)
    building, second = await shared.store()
    await second(an_entry("a", 1))
    await building.followed(0.0)
    assert await shared.value("SELECT number FROM generations WHERE serving") == 1  # no replica has switched yet
    assert await building.serve()
    await shared.do("UPDATE generations SET serving = false, replaced = NULL")
    await shared.do("UPDATE generations SET serving = true WHERE number = 1")
    assert await verdict(serving, "a") == await verdict(building, "a") == b"a@1"
    await building.followed(0.0)
    assert await shared.value("SELECT number FROM generations WHERE serving") == 2
    await first(an_entry("b", 2))
    assert await verdict(building, "b") == b"b@2"


async def test_replicas_that_prune_at_once_forget_each_post_once(shared: Shared) -> None:
    replicas = [await shared.store() for _ in range(4)]
    await replicas[0][1](*(an_entry(f"post-{number}", number) for number in range(200)))
    gone = await asyncio.gather(*(store.prune(1_150, 0, 50) for store, _ in replicas))
    assert sorted(gone) == [0, 50, 50, 50]
    assert await shared.value("SELECT count(*) FROM verdicts_1") == 50


PROGRAM = """
import asyncio, os, signal
from moderation import settings
from moderation.view import stores
async def main():
    store = stores.open_store(settings.load().api)
    await store._connect()
    async with store._turn():
        os.kill(os.getpid(), signal.SIGSTOP)
asyncio.run(main())
"""


async def test_a_process_that_stands_still_in_its_turn_loses_it(
    shared: Shared, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fold = await shared.store()
    await fold(an_entry("a", 1))
    environment = {"MODERATION_API__VIEW_DATABASE": database}
    stopped = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, env=environment)
    try:
        async with asyncio.timeout(30):
            while not await shared.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"):
                pass

        await asyncio.wait_for(fold(an_entry("b", 2)), 30)  # it waits, and need not try again
        assert await verdict(store, "b") == b"b@2"
    finally:
        stopped.kill()
        await stopped.wait()
