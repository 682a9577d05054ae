"""Many API processes on one database, a flow of verdicts, and callers that remember what they got."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc
from aiokafka import AIOKafkaProducer

from moderation import wire
from moderation.api import cursors
from moderation.types import Source
from moderation.v1 import moderation_service_pb2 as pb
from tests.support.builders import a_verdict
from tests.support.commands import Role
from tests.support.lookups import service

START_S = 90.0
ASKED = 60  # ids of one question


@dataclass
class Replicas:
    """API processes of one pair of topics and one database."""

    kafka: str
    posts: str
    verdicts: str
    database: str
    recent_bytes: int = 4 << 20  # small, so that most lookups read the database
    started: list[Role] = field(default_factory=list)

    @contextmanager
    def starting(self, database: str = "", **settings: str) -> Iterator[Role]:
        """A process that has been started; killed in the end."""
        environment = {
            "MODERATION_KAFKA__BOOTSTRAP": self.kafka,
            "MODERATION_KAFKA__POSTS_TOPIC": self.posts,
            "MODERATION_KAFKA__VERDICTS_TOPIC": self.verdicts,
            "MODERATION_API__LISTEN": "127.0.0.1:0",
            "MODERATION_API__VIEW_DATABASE": database or self.database,
            "MODERATION_API__RECENT_BYTES": str(self.recent_bytes),
            "MODERATION_API__DRAIN_DELAY_S": "0",
            **{f"MODERATION_{name.upper()}": value for name, value in settings.items()},
        }
        with Role("api", environment=environment) as role:
            self.started.append(role)
            yield role

    @asynccontextmanager
    async def serving(self, database: str = "", **settings: str) -> AsyncIterator[tuple[Role, grpc.aio.Channel]]:
        """A process that answers lookups, and a channel to it."""
        with self.starting(database, **settings) as role:
            port = (await asyncio.to_thread(role.wait_for, "api_ready", START_S))["port"]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield role, channel

    def events(self, name: str) -> list[dict[str, Any]]:
        """Of all processes that were started."""
        return [event for role in self.started for event in role.events if event["event"] == name]


class Flow:
    """Posts and their verdicts at a steady rate: each verdict names where its post is."""

    def __init__(self, replicas: Replicas, each_second: float) -> None:
        self.written: dict[str, bytes] = {}  # by post id: the consistency token of its post
        self._replicas = replicas
        self._pause = 1 / each_second

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        async with AIOKafkaProducer(bootstrap_servers=self._replicas.kafka) as producer:
            due = loop.time()
            while True:
                await self.put(producer, f"post-{len(self.written)}")
                due = max(due + self._pause, loop.time())
                await asyncio.sleep(due - loop.time())  # a rate, not a wait for something

    async def put(self, producer: AIOKafkaProducer, post_id: str, **fields: Any) -> None:
        """One post and its verdict."""
        sent = await producer.send_and_wait(self._replicas.posts, b"{}", key=post_id.encode())
        verdict = a_verdict(post_id, source=Source(self._replicas.posts, sent.partition, sent.offset, 0), **fields)
        value, headers = wire.verdict_record(verdict, "protobuf")
        await producer.send_and_wait(
            self._replicas.verdicts, value, key=post_id.encode(), partition=sent.partition, headers=headers
        )
        self.written[post_id] = cursors.of_record(sent.partition, sent.offset)

    async def put_unreadable(self, post_id: str) -> None:
        """Puts a record on the verdicts topic that is no verdict."""
        async with AIOKafkaProducer(bootstrap_servers=self._replicas.kafka) as producer:
            await producer.send_and_wait(self._replicas.verdicts, b"?", key=post_id.encode())


class Caller:
    """Asks one replica again for what it had returned, and counts what is missing."""

    def __init__(self, channel: grpc.aio.Channel, flow: Flow) -> None:
        self.found: set[str] = set()
        self.wrong: Counter[str] = Counter()
        self._stub = service(channel)
        self._flow = flow

    async def run(self) -> None:
        """Until cancelled."""
        draw = random.Random(7)
        while True:
            known = sorted(self.found)
            again = draw.sample(known, min(ASKED, len(known)))
            new = [post_id for post_id in list(self._flow.written)[-ASKED:] if post_id not in self.found]
            asked = again + new
            if asked:
                request = pb.BatchGetVerdictsRequest(post_ids=asked)
                try:
                    answer = await self._stub.BatchGetVerdicts(request, timeout=30)
                except grpc.aio.AioRpcError as error:
                    self.wrong[f"status {error.code().name}"] += 1
                    await asyncio.sleep(0.1)
                    continue
                for result in answer.results:
                    if result.state == pb.LOOKUP_STATE_FOUND:
                        self.found.add(result.post_id)
                    elif result.post_id in self.found:
                        self.wrong[pb.LookupState.Name(result.state)] += 1
            if known:
                await self._ask_with_its_token(draw.choice(known))
            await asyncio.sleep(0.02)

    async def _ask_with_its_token(self, post_id: str) -> None:
        token = self._flow.written[post_id]
        try:
            answer = await self._stub.GetVerdict(
                pb.GetVerdictRequest(post_id=post_id, consistency_token=token), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            self.wrong[f"status {error.code().name}"] += 1
            return
        if answer.state != pb.LOOKUP_STATE_FOUND:
            self.wrong[f"{pb.LookupState.Name(answer.state)} with a token"] += 1


class Watcher:
    """Watches one replica after the other: each stream continues from the token of the stream before."""

    def __init__(self, *channels: grpc.aio.Channel) -> None:
        self.seen: set[str] = set()
        self.streams = 0
        self.begun = asyncio.Event()  # the first stream has begun
        self._stubs = [service(channel) for channel in channels]

    async def run(self) -> None:
        """Until cancelled. A stream ends after some messages, or with its replica."""
        token = b""
        while True:
            stub = self._stubs[self.streams % len(self._stubs)]
            self.streams += 1
            call = stub.WatchVerdicts(pb.WatchVerdictsRequest(consistency_token=token))
            try:
                for _ in range(10):
                    message = await call.read()
                    if message is grpc.aio.EOF:
                        break
                    token = message.consistency_token
                    self.seen |= {change.post_id for change in message.changes}
                    self.begun.set()  # the first message has the position where the stream begins
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            finally:
                call.cancel()


class TwoReplicas:
    """Two replicas that serve, a flow of posts, callers and a watcher."""

    def __init__(self, roles: Sequence[Role], channels: Sequence[grpc.aio.Channel], flow: Flow) -> None:
        self.flow = flow
        self.callers = [Caller(channel, flow) for channel in channels]
        self.watcher = Watcher(*channels)
        self._roles = roles

    def check(self) -> None:
        """No caller has got less than before, and no process has ended."""
        assert [role.process.poll() for role in self._roles] == [None] * len(self._roles)
        wrong = [dict(caller.wrong) for caller in self.callers]
        assert not any(wrong), wrong

    async def complete(self) -> None:
        """Returns once callers and watcher have got all that was written."""
        async with asyncio.timeout(60):
            while not all(set(self.flow.written) <= seen for seen in self._seen()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def _seen(self) -> list[set[str]]:
        return [*(caller.found for caller in self.callers), self.watcher.seen]


@asynccontextmanager
async def two_replicas(replicas: Replicas, each_second: float) -> AsyncIterator[TwoReplicas]:
    """Runs until the end of the block, and then checks all."""
    flow = Flow(replicas, each_second)
    async with (
        replicas.serving() as (role, channel),
        replicas.serving() as (role_2, channel_2),
        asyncio.TaskGroup() as tasks,
    ):
        pair = TwoReplicas((role, role_2), (channel, channel_2), flow)
        running = [tasks.create_task(pair.watcher.run()), *(tasks.create_task(each.run()) for each in pair.callers)]
        await asyncio.wait_for(pair.watcher.begun.wait(), 30)
        writing = tasks.create_task(flow.run())
        try:
            yield pair
            writing.cancel()
            await asyncio.wait([writing])
            await pair.complete()
            pair.check()
            assert pair.watcher.streams > 1
        finally:
            for task in (writing, *running):
                task.cancel()


@asynccontextmanager
async def delayed(url: str, round_trip_s: float, port: int = 0) -> AsyncIterator[str]:
    """Yields the URL of a database behind a network with this round trip. `port`: where to listen; 0: anywhere."""
    parts = urlsplit(url)
    running: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)

        async with asyncio.TaskGroup() as both:
            both.create_task(deliver())
            while True:
                data = await reader.read(1 << 16)
                under_way.put_nowait((loop.time() + round_trip_s / 2, data))
                if not data:
                    return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            database_reader, database_writer = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(
                pass_on(reader, database_writer), pass_on(database_reader, writer), return_exceptions=True
            )
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    port = server.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    try:
        yield urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
    finally:
        server.close()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
