"""One run: real workers and an API under fire, and what must hold.

Each record of the posts topic has one verdict, or is an erasure. No process ends. The verdicts of good posts are what
they were before. No word of a hostile post is in a log, a status, a metric, a verdict, or a header of the service's.
Memory stays below a bound that follows from the settings.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from moderation import wire
from moderation.client import CallError, Client
from moderation.v1 import post_pb2
from moderation.wire.dead_letters import PREFIX
from tests.fire.memory import MIB, Memory
from tests.fire.neighbours import COUNT, kept, neighbour
from tests.fire.pictures import MARK
from tests.fire.posts import Headers, Hostile, Plan, hostile
from tests.support import foreign
from tests.support.commands import Role
from tests.support.foreign import a_batch, a_record
from tests.support.harness import PARTITIONS, Harness
from tests.support.lookups import a_free_address
from tests.support.operations_port import ask
from tests.support.topics import committed_records

MODULE = "tests.fire.worker"
WORKERS = 2
DECODED_MIB, IN_FLIGHT_MIB, POSTS_AT_ONCE = 192, 32, 2
SETTINGS = {
    "MODERATION_MODEL__NAME": "seeing",
    "MODERATION_LOG__LEVEL": "debug",
    "MODERATION_KAFKA__TRANSACTION_TIMEOUT_MS": "60000",  # the machine may be busy with other tests
    "MODERATION_KAFKA__SESSION_TIMEOUT_MS": "30000",
    "MODERATION_KAFKA__REBALANCE_TIMEOUT_MS": "120000",
    "MODERATION_MEDIA__MAX_PIXELS": "4000000",
    "MODERATION_MEDIA__MAX_POST_PIXELS": "12000000",
    "MODERATION_MEDIA__MAX_DECODED_BYTES": str(DECODED_MIB * MIB),
    "MODERATION_MEDIA__POSTS_AT_ONCE": str(POSTS_AT_ONCE),
    "MODERATION_MEDIA__TIMEOUT_S": "10",
    "MODERATION_WORKER__MAX_IN_FLIGHT_BYTES": str(IN_FLIGHT_MIB * MIB),
}
# Of a worker with its decoder processes: the program with its caches and Kafka's buffers; pictures, and what decoding
# them takes; each decoder's own; and records in progress four times: as they came, as JSON text, as images, and
# as texts.
PROGRAM_MIB, DECODER_MIB = 384, 256
BOUND_MIB = PROGRAM_MIB + DECODED_MIB + DECODER_MIB * POSTS_AT_ONCE + 4 * IN_FLIGHT_MIB
# A word of a hostile post as it is, in base64 at any place of it, or in hex.
LEAK = re.compile(f"{MARK[:8]}|(?:enF6cXpx|cXpxenF6)|{MARK[:4].encode().hex()}{MARK[:4].encode().hex()}", re.IGNORECASE)
BOMB_MIB = 32  # of a record, once it is decompressed
Position = tuple[int, int]  # partition and offset on the posts topic


@dataclass
class Result:
    """What a run did."""

    hostile: int = 0
    pictures: int = 0
    neighbours: int = 0
    seconds: float = 0.0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)  # by kind of record: outcome, status and reasons
    changed: list[str] = field(default_factory=list)  # neighbours whose verdict is another
    milder: list[str] = field(default_factory=list)  # posts whose text violates the policy, and that were not removed
    leaks: list[str] = field(default_factory=list)  # where a word of a hostile post was found
    exits: list[int | None] = field(default_factory=list)  # codes of processes that ended before they were stopped
    codes: list[int] = field(default_factory=list)  # of the workers and the API, once they were stopped
    peak_mib: list[int] = field(default_factory=list)  # of each worker with its children
    bound_mib: int = BOUND_MIB
    dead_letters: int = 0
    statuses: dict[str, int] = field(default_factory=dict)  # of the API's answers to a hostile caller

    @property
    def sound(self) -> bool:
        """Whether everything held."""
        wrong = self.changed or self.milder or self.leaks or self.exits or any(self.codes)
        return not wrong and max(self.peak_mib) <= self.bound_mib


class Fire:
    """Two workers and an API on the topics of a harness."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.folder = folder / "pictures"
        self.folder.mkdir()
        self.result = Result()
        self.kinds: dict[Position, Hostile] = {}
        self.neighbours: dict[Position, tuple[int, str]] = {}  # number and round
        self.verdicts: dict[Position, dict[str, Any]] = {}
        self.twice: list[Position] = []
        self.bombs = 0  # records that were too large
        self.environment = harness.environment | SETTINGS | {"MODERATION_MEDIA__ROOTS": str(self.folder)}
        self.ports = [a_free_address() for _ in range(WORKERS)]
        self.api = a_free_address()
        self.roles: list[Role] = []

    def _start(self) -> None:
        for at in self.ports:
            self.roles.append(
                Role("worker", environment=self.environment | {"MODERATION_OPS__LISTEN": at}, module=MODULE)
            )
        settings = {"LISTEN": self.api, "VIEW": str(self.folder.parent / "view.sqlite"), "DRAIN_DELAY_S": "0"}
        changed = {f"MODERATION_API__{name}": value for name, value in settings.items()}
        self.roles.append(Role("api", environment=self.environment | changed))

    async def play(self, plan: Plan, seed: int, timeout: float) -> Result:
        """Runs the plan. Raises TimeoutError where verdicts are missing, AssertionError where a process has ended."""
        begun = time.monotonic()
        async with self._running() as memory, self._following():
            await self._send(self._round("before"), timeout)
            await asyncio.gather(
                self._send(self._fire(plan, seed), timeout), self._call(plan.calls), self._bomb(plan.bombs, timeout)
            )
            await self._send(self._round("after"), timeout)
            metrics = [await asyncio.to_thread(ask, at, "/metrics") for at in self.ports]
            self.result.exits = [code for role in self.roles if (code := role.process.poll()) is not None]
        self.result.peak_mib = [peak // MIB for peak in memory.peaks]
        self._check([text for _, text in metrics], await self._letters())
        self.result.seconds = round(time.monotonic() - begun, 1)
        return self.result

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Memory]:
        try:
            self._start()
            for role, event in zip(self.roles, (*["worker_ready"] * WORKERS, "api_ready"), strict=True):
                await asyncio.to_thread(role.wait_for, event)
            memory = Memory([role.process.pid for role in self.roles[:WORKERS]])
            async with memory.sampled():
                yield memory
            for role in self.roles:
                if role.process.poll() is None:
                    role.process.terminate()
            self.result.codes = [await asyncio.to_thread(role.wait) for role in self.roles]
        finally:
            for role in self.roles:
                with role:
                    pass

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        consumer = AIOKafkaConsumer(
            self.harness.topics[1],
            bootstrap_servers=self.harness.kafka,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        async with consumer:
            task = asyncio.create_task(self._follow(consumer))
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            self._look(f"verdict {record.partition}/{record.offset}", record)
            if record.value is None:
                continue
            verdict = json.loads(record.value)
            at = verdict["source"]["partition"], int(verdict["source"]["offset"])
            self.twice += [at] * (at in self.verdicts)
            self.verdicts[at] = verdict
            self.bombs += verdict["reason"] == "RECORD_TOO_LARGE"

    def _round(self, name: str, start: int = 0, count: int = COUNT) -> Iterator[tuple[bytes | None, Any, Headers, Any]]:
        """Neighbours: key, value, headers, and who it is."""
        for number in range(start, start + count):
            value, headers = neighbour(number, f"{name}-{number}", self.folder)
            self.result.neighbours += 1
            yield f"{name}-{number}".encode(), value, headers, (number % COUNT, name)

    def _fire(self, plan: Plan, seed: int) -> Iterator[tuple[bytes | None, Any, Headers, Any]]:
        """Hostile records, and a neighbour behind every fourth one."""
        for number, record in enumerate(hostile(plan, seed)):
            slim = replace(record, value=record.value and b"")
            yield record.key, record.value, record.headers, slim
            if number % 4 == 0:
                yield from self._round("under", number // 4, 1)
        self.result.hostile, self.result.pictures = plan.records, plan.pictures

    async def _send(self, records: Iterator[tuple[bytes | None, Any, Headers, Any]], timeout: float) -> None:
        """Sends records and waits until each has its verdict."""
        options: dict[str, Any] = {"max_request_size": 8 << 20, "linger_ms": 5}
        sent = []
        async with AIOKafkaProducer(bootstrap_servers=self.harness.kafka, **options) as producer:
            for number, (key, value, headers, what) in enumerate(records):
                topic, partition = self.harness.topics[0], number % PARTITIONS
                sent.append((await producer.send(topic, value, key, partition, headers=headers), what))
            await producer.flush()
        for future, what in sent:
            at = await future
            kinds: dict[Position, Any] = self.kinds if isinstance(what, Hostile) else self.neighbours
            kinds[at.partition, at.offset] = what
        async with asyncio.timeout(timeout):
            while missing := self._missing():
                ended = [role for role in self.roles if role.process.poll() is not None]
                assert not ended, f"{len(missing)} verdicts are missing; a process has ended:\n{ended[0].log[-6_000:]}"
                await asyncio.sleep(0.1)

    def _missing(self) -> list[Position]:
        erasures = {at for at, record in self.kinds.items() if wire.erased_id(record.key, record.value)}
        return [at for at in (*self.kinds, *self.neighbours) if at not in self.verdicts and at not in erasures]

    async def _bomb(self, count: int, timeout: float) -> None:
        """Records that a codec has made small: a batch is not unpacked to find that one of its records is too large."""
        zeros = a_record(0, bytes(BOMB_MIB * MIB), b"bomb")
        for number in range(count):
            batch = await asyncio.to_thread(a_batch, zeros, 1, ("gzip", "zstd", "lz4", "snappy")[number % 4])
            at = TopicPartition(self.harness.topics[0], number % PARTITIONS)
            assert await foreign.put(self.harness.kafka, at, batch) == 0
        async with asyncio.timeout(timeout):
            while self.bombs < count:  # noqa: ASYNC110  verdicts have no event
                await asyncio.sleep(0.1)

    async def _call(self, calls: int) -> None:
        """A hostile caller of the API: refusals must name what is wrong, and not what was sent."""
        bad = [
            post_pb2.Post(id=f"{MARK}\0", text=MARK),
            post_pb2.Post(text=MARK),
            post_pb2.Post(id="called-1", tenant=f"{MARK}\n"),
            post_pb2.Post(id="called-2", language=MARK * 99, images=[post_pb2.Image(uri=f"file:///{MARK}")]),
            post_pb2.Post(id="called-3", text=MARK, images=[post_pb2.Image(data=MARK.encode(), uri=MARK)] * 20),
            post_pb2.Post.FromString(b"\x0a\x08called-4\xa2\6\x10" + MARK.encode()),
        ]
        statuses: Counter[str] = Counter()
        async with Client(self.api) as client:
            for number in range(calls):
                moderate, get = partial(client.moderate, timeout=0.5), client.get
                for call in (partial(moderate, bad[number % len(bad)]), partial(get, f"{MARK}\0{number}")):
                    try:
                        await call()
                        statuses["OK"] += 1
                    except CallError as error:
                        cause = error.__context__
                        said = [str(error), error.reason]
                        if isinstance(cause, grpc.aio.AioRpcError):
                            said += [cause.details() or "", repr(cause.trailing_metadata())]
                        self._search(f"status of call {number}", " ".join(said))
                        statuses[error.code.name] += 1
        self.result.statuses = dict(statuses)

    async def _letters(self) -> list[ConsumerRecord]:
        return await committed_records(self.harness.kafka, self.harness.topics[2], partitions=PARTITIONS)

    def _check(self, metrics: list[str], letters: list[ConsumerRecord]) -> None:
        assert not self.twice, f"verdicts came twice: {self.twice[:9]}"
        before = {number: kept(self.verdicts[at]) for at, (number, name) in self.neighbours.items() if name == "before"}
        for at, (number, name) in self.neighbours.items():
            if kept(self.verdicts[at]) != before[number]:
                self.result.changed.append(f"{name} {number}: {self.verdicts[at]} was {before[number]}")
        assert {verdict["outcome"] for verdict in before.values()} == {"OUTCOME_ALLOW", "OUTCOME_REMOVE"}
        assert {verdict["status"] for verdict in before.values()} == {"STATUS_FINAL"}
        for at, record in self.kinds.items():
            self._count(record, self.verdicts.get(at))
        for number, text in enumerate((*metrics, *(role.log for role in self.roles))):
            for line in text.splitlines():
                self._search(f"{'metrics' if number < WORKERS else 'log'} {number}", line)
        for letter in letters:
            ours = [(header, value) for header, value in letter.headers if header.startswith(PREFIX)]
            self._search(f"dead letter {letter.partition}/{letter.offset}", repr(ours))
        self.result.dead_letters = len(letters)

    def _count(self, record: Hostile, verdict: Mapping[str, Any] | None) -> None:
        counts = self.result.outcomes.setdefault(record.kind, Counter())
        if verdict is None:
            counts["ERASURE"] += 1
            return
        reasons = sorted({problem["reason"] for problem in verdict["problems"]})
        counts[" ".join([verdict["outcome"].removeprefix("OUTCOME_"), *reasons])] += 1
        if record.violates and verdict["outcome"] != "OUTCOME_REMOVE":
            self.result.milder.append(f"{record.kind} {verdict['postId']}: {verdict['outcome']} {reasons}")

    def _look(self, where: str, record: ConsumerRecord) -> None:
        self._search(where, f"{record.key!r} {record.value!r} {record.headers!r}")

    def _search(self, where: str, text: str) -> None:
        if match := LEAK.search(text):
            self.result.leaks.append(f"{where}: {text[max(0, match.start() - 200) : match.end() + 40]}")
