"""A view that does not move says so: its lag is what the topic has and it has not, whatever holds it up."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from structlog.testing import capture_logs

from moderation import wire
from moderation.api import role
from moderation.dev.kafka import LocalKafka
from moderation.settings import ApiSettings, OpsSettings
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view import freshness, stores, topic_lag
from moderation.view.stores import StoreUnavailableError, sqlite
from moderation.view.stores.sqlite import CLOSE_S, Sqlite
from tests.support import volumes
from tests.support.builders import a_verdict
from tests.support.logged import events
from tests.support.lookups import NOT_SERVING, SERVING, Api, a_free_address, service, watch_health
from tests.support.operations_port import Port
from tests.support.view_stores import LOG, Folding, an_entry, answering, verdict

FOUND, NOT_FOUND = pb.LOOKUP_STATE_FOUND, pb.LOOKUP_STATE_NOT_FOUND
LAG, AGE, ENDS_AGE = (f"moderation_view_{name}" for name in ("lag_records", "lag_seconds", "topic_end_age_seconds"))
ANSWER_AGE = "moderation_kafka_answer_age_seconds"
SOON_S = 3.0


class Observed:
    """An API that serves, with its operations port."""

    def __init__(self, api: Api, channel: grpc.aio.Channel, port: Port) -> None:
        self.api = api
        self.channel = channel
        self.port = port
        self._health = watch_health(channel)

    async def becomes(self, status: Any) -> None:
        """Returns once health says so, with /readyz alike."""
        async with asyncio.timeout(60):
            while (await self._health.read()).status != status:
                pass
            while (await self.port.get("/readyz"))[0] != (200 if status == SERVING else 503):
                pass

    async def state(self, post_id: str) -> int:
        response = await service(self.channel).GetVerdict(pb.GetVerdictRequest(post_id=post_id), timeout=5)
        return int(response.state)

    async def verdicts(self, begin: int, end: int) -> None:
        """On the topic."""
        topic = self.api.settings.kafka.verdicts_topic
        async with AIOKafkaProducer(bootstrap_servers=self.api.settings.kafka.bootstrap, linger_ms=20) as producer:
            for number in range(begin, end):
                value, headers = wire.verdict_record(a_verdict(f"p{number}"), "json")
                await producer.send(topic, value, key=f"p{number}".encode(), headers=headers)

    async def finds(self, post_id: str) -> None:
        """Returns once it is, and nothing is behind."""
        asked = pb.WaitVerdictRequest(post_id=post_id)
        assert (await service(self.channel).WaitVerdict(asked, timeout=60)).state == FOUND
        await self.port.until(lambda value: value == 0, LAG)

    async def lags_by(self, records: int) -> None:
        """The metric says so within SOON_S, and goes on saying so."""
        async with asyncio.timeout(SOON_S):
            while await self.port.value(LAG) != records:
                pass
        assert await self.port.value(LAG) == records


@asynccontextmanager
async def observed(api: Api, **settings: Any) -> AsyncIterator[Observed]:
    port = Port()
    api.settings = api.settings.model_copy(update={"ops": OpsSettings(listen=a_free_address())})
    port.settings = api.settings.ops
    api.set(max_lag=100, **settings)
    async with api.running() as channel:
        observer = Observed(api, channel, port)
        await observer.becomes(SERVING)
        yield observer


async def test_with_its_volume_full_the_lag_is_true_and_the_api_leaves_service_until_there_is_room(
    running_api: Api, tmp_path: Path
) -> None:
    with volumes.small(tmp_path / "volume", 32) as volume, capture_logs() as logged:
        async with observed(running_api, view=volume / "verdicts.sqlite", recent_bytes=0) as observer:
            await observer.verdicts(0, 10)
            await observer.finds("p9")
            with volumes.filled(volume):
                await observer.verdicts(10, 60)
                await observer.lags_by(50)
                await observer.verdicts(60, 20_000)
                await observer.lags_by(19_990)
                await observer.becomes(NOT_SERVING)
                before, at = await observer.port.value(AGE), time.monotonic()
                await observer.verdicts(20_000, 20_500)
                await observer.lags_by(20_490)
                grown = await observer.port.until(lambda value: value > before + 1, AGE)
                assert grown - before < time.monotonic() - at + SOON_S
                assert await observer.port.value("moderation_view_stalled") == 1
                assert await observer.state("p5") == FOUND  # lookups go on, with what there was
                assert await observer.state("p500") == NOT_FOUND
            await observer.becomes(SERVING)
            await observer.finds("p20499")
            assert await observer.port.value(AGE) == await observer.port.value("moderation_view_stalled") == 0
    assert len(events(logged, "view_recovered")) == 1
    assert any("SQLITE_FULL" in event["reason"] for event in events(logged, "view_stalled"))


async def test_at_the_largest_size_of_the_file_the_lag_is_true_and_the_api_leaves_service(
    running_api: Api, tmp_path: Path
) -> None:
    """Where no volume can be mounted: SQLite's own bound, which the view does not know of."""
    made: list[Sqlite] = []
    real = Sqlite.__init__

    def kept(self: Sqlite, *arguments: Any) -> None:
        real(self, *arguments)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sqlite, "__init__", kept)
        async with observed(running_api, view=tmp_path / "verdicts.sqlite") as observer:
            (store,) = made

            def limit(pages: int) -> None:
                store._writer.submit(lambda: store._written.execute(f"PRAGMA max_page_count={pages}")).result()  # type: ignore[union-attr]

            limit(1)
            await observer.verdicts(0, 5_000)
            await observer.lags_by(5_000)
            await observer.becomes(NOT_SERVING)
            await observer.verdicts(5_000, 5_100)
            await observer.lags_by(5_100)
            limit(1 << 29)
            await observer.becomes(SERVING)
            await observer.finds("p5099")


async def hangs(observer: Observed) -> None:
    """What must be true while no write to the view ends."""
    await observer.verdicts(10, 5_000)
    await observer.lags_by(4_990)
    await observer.becomes(NOT_SERVING)
    await observer.port.until(lambda value: value == 1, "moderation_view_stalled")
    worst = 0.0
    for _ in range(100):  # the event loop is there, and answers from what it has
        begun = time.monotonic()
        assert await observer.state("p5") == FOUND
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - begun)
    assert worst < 1.0
    await observer.verdicts(5_000, 5_500)
    await observer.lags_by(5_490)


async def ends(observer: Observed) -> None:
    await observer.becomes(SERVING)
    await observer.finds("p5499")


async def test_a_disk_that_hangs_leaves_the_event_loop_alone_and_the_api_leaves_service(
    running_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "STALL_S", 1.0)
    with volumes.disk(tmp_path / "disk", 64) as disk, capture_logs() as logged:
        async with observed(running_api, view=disk / "verdicts.sqlite") as observer:
            await observer.verdicts(0, 10)
            await observer.finds("p9")
            monkeypatch.setattr(sqlite, "READ_S", 1.0)
            with volumes.frozen(disk):
                await hangs(observer)
                begun = time.monotonic()
                try:  # what is not in memory is answered or refused, in time
                    assert await observer.state("nobody") == NOT_FOUND
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE, error.details()
                assert time.monotonic() - begun < 3.0
            await ends(observer)
    assert [event["reason"] for event in events(logged, "view_stalled")] == ["the store has not responded within 1 s"]


@contextmanager
def held(store: Sqlite) -> Any:
    """The thread that writes does something else, as if a system call did not return."""
    go_on = threading.Event()
    store._writer.submit(go_on.wait)
    try:
        yield
    finally:
        go_on.set()


async def test_a_thread_that_hangs_makes_the_api_leave_service(
    running_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "STALL_S", 1.0)
    made: list[Sqlite] = []
    real = Sqlite.__init__

    def kept(self: Sqlite, *arguments: Any) -> None:
        real(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Sqlite, "__init__", kept)
    async with observed(running_api, view=tmp_path / "verdicts.sqlite") as observer:
        await observer.verdicts(0, 10)
        await observer.finds("p9")
        with held(made[0]):
            await hangs(observer)
        await ends(observer)
        with held(made[0]), capture_logs() as logged:
            await observer.verdicts(6_000, 6_500)
            await observer.lags_by(500)
            begun = time.monotonic()
            observer.api.stop.set()
            async with asyncio.timeout(30):
                while not events(logged, "view_close_failed"):  # noqa: ASYNC110  it stops all the same
                    await asyncio.sleep(0.05)
            assert time.monotonic() - begun < 2 * CLOSE_S


async def test_a_store_that_could_not_be_opened_for_want_of_room_opens_when_there_is_some(tmp_path: Path) -> None:
    with volumes.small(tmp_path / "volume", 8) as volume:
        store = stores.open_store(ApiSettings(view=volume / "state" / "verdicts.sqlite"))
        try:
            (volume / "state").mkdir()
            with volumes.filled(volume):
                for _ in range(2):
                    with pytest.raises(StoreUnavailableError, match=r"SQLITE_|No space"):
                        await store.open(answering(LOG))
            assert (await store.open(answering(LOG))).keys() == {0, 1}
            await Folding(store)(an_entry("a", 1))
            assert await verdict(store, "a") == b"a@1"
        finally:
            await store.close()


@pytest.mark.usefixtures("local_kafka")
async def test_without_brokers_the_lag_is_not_known_and_after_a_while_the_api_leaves_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_lag, "UNKNOWN_S", 2.0)
    monkeypatch.setattr(topic_lag, "RESPONSE_S", 1.0)
    with capture_logs() as logged:
        async with LocalKafka() as local:
            await local.create_topics("posts", "verdicts")
            async with observed(Api(local.bootstrap, "posts", "verdicts", tmp_path), max_lag_unknown_s=8.0) as observer:
                await observer.verdicts(0, 10)
                await observer.finds("p9")
                local.kill(1)
                killed = time.monotonic()
                await observer.port.until(math.isnan, LAG)
                assert (await observer.port.get("/readyz"))[0] == 200  # all replicas would go at once, and lack nothing
                assert await observer.state("p5") == FOUND
                await observer.becomes(NOT_SERVING)
                assert 7.0 < time.monotonic() - killed < 20.0
                assert await observer.port.value(ENDS_AGE) >= 8.0
                assert await observer.port.value(ANSWER_AGE) >= 7.0
                await local.revive(1)
                await observer.verdicts(10, 20)
                await observer.becomes(SERVING)
                await observer.finds("p19")
                assert await observer.port.value(ENDS_AGE) < SOON_S
                assert await observer.port.value(ANSWER_AGE) < SOON_S
    assert len(events(logged, "verdicts_topic_ends_unknown")) == len(events(logged, "verdicts_topic_ends_known")) == 1


@pytest.mark.usefixtures("local_kafka")
async def test_a_partition_without_a_leader_makes_the_lag_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view gets nothing of it, silently, and all else goes on."""
    monkeypatch.setattr(topic_lag, "UNKNOWN_S", 2.0)
    monkeypatch.setattr(topic_lag, "RESPONSE_S", 1.0)
    async with LocalKafka(nodes=3) as local:
        admin = AIOKafkaAdminClient(bootstrap_servers=local.bootstrap)
        await admin.start()
        leaders = {0: [1], 1: [3]}
        await admin.create_topics([NewTopic(name, -1, -1, leaders) for name in ("posts", "verdicts")])
        await admin.close()
        for broker in local.bootstrap.split(","):  # each knows of them a little later
            async with AIOKafkaConsumer(bootstrap_servers=broker) as consumer, asyncio.timeout(30):
                while not {"posts", "verdicts"} <= await consumer.topics():
                    pass
        async with observed(Api(local.bootstrap, "posts", "verdicts", tmp_path), max_lag_unknown_s=6.0) as observer:
            await observer.verdicts(0, 10)
            await observer.finds("p9")
            local.kill(3)
            await observer.port.until(math.isnan, LAG)
            await observer.becomes(NOT_SERVING)
            assert await observer.port.value("moderation_view_stalled") == 0
            assert await observer.state("p5") == FOUND
            await local.revive(3)
            await observer.verdicts(10, 20)
            await observer.becomes(SERVING)
            await observer.finds("p19")


async def test_a_view_that_does_not_catch_up_says_how_far_it_is(
    running_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume has room for its tables and for no more."""
    monkeypatch.setattr(topic_lag, "CATCHING_UP_S", 0.5)
    port = Port()
    running_api.settings = running_api.settings.model_copy(update={"ops": port.settings})
    topic = running_api.settings.kafka.verdicts_topic
    async with AIOKafkaProducer(bootstrap_servers=running_api.settings.kafka.bootstrap, linger_ms=20) as producer:
        for number in range(5_000):
            value, headers = wire.verdict_record(a_verdict(f"p{number}"), "json")
            await producer.send(topic, value, key=f"p{number}".encode(), headers=headers)
    with volumes.small(tmp_path / "volume", 2) as volume, capture_logs() as logged:
        running_api.set(view=volume / "verdicts.sqlite")
        serving = asyncio.create_task(role.serve(running_api.settings, running_api.stop))
        try:
            lag = await port.until(lambda value: value > 0, LAG)
            await port.until(lambda value: value == 1, "moderation_view_stalled")
            async with asyncio.timeout(30):
                while not events(logged, "view_catching_up"):
                    assert (await port.get("/readyz"))[0] == 503
            with file_positions(volume / "verdicts.sqlite") as next_offset:
                assert await port.value(LAG) == 5_000 - next_offset
            assert lag <= 5_000
        finally:
            running_api.stop.set()
            await serving
    assert not events(logged, "api_ready")


@contextmanager
def file_positions(file: Path) -> Any:
    """How far the file itself says that it is."""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        yield db.execute("SELECT sum(next) FROM partitions").fetchone()[0]
    finally:
        db.close()
