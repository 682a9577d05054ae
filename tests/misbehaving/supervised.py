"""Workers that are started again after they die, while posts come at a steady rate and one post kills workers.

python -m pytest tests/misbehaving/test_suspects.py -s      prints deaths and waiting times of each kind of fault
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from aiokafka import ConsumerRecord

from tests.misbehaving.harness import MODULE, faulty, good
from tests.support.commands import Role
from tests.support.harness import PARTITIONS, Harness

QUIET = 4  # partitions that get a post a second; the first gets the one that kills
KILLER = 0  # number of that post
WARM = 10_000  # and following: numbers of the posts before it


@dataclass(frozen=True)
class Pause:
    """Seconds between a death and the next start."""

    shortest: float
    longest: float


@dataclass
class Life:
    """A worker process that has ended."""

    code: int
    began: float
    ended: float
    log: str
    killed: bool  # by the test


@dataclass
class Supervisor:
    """Starts a worker again whenever it has died, as an orchestrator would."""

    environment: Mapping[str, str]
    pause: Pause
    chance: random.Random
    lives: list[Life] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled; then stops the worker by SIGTERM and waits for its end."""
        while True:
            await self._live()
            await asyncio.sleep(self.chance.uniform(self.pause.shortest, self.pause.longest))

    async def _live(self) -> None:
        role, began, stopped = Role("worker", environment=self.environment, module=MODULE), time.time(), False
        ended = asyncio.create_task(asyncio.to_thread(role.process.wait))
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            stopped = True
            role.process.terminate()
            await asyncio.wait([ended], timeout=30)
            raise
        finally:
            with role:
                pass
            self.lives.append(Life(role.process.returncode, began, time.time(), role.log, stopped))


@dataclass
class Run:
    """What happened to the posts and to the workers."""

    sent: dict[str, float]  # post id to the time when it was put on its topic, in seconds since the epoch
    verdicts: list[ConsumerRecord]
    letters: list[ConsumerRecord]
    supervisors: list[Supervisor]
    seconds: float  # from the killer to the last verdict

    @property
    def deaths(self) -> list[Life]:
        return [life for supervisor in self.supervisors for life in supervisor.lives if not life.killed]

    @property
    def stops(self) -> list[Life]:
        return [life for supervisor in self.supervisors for life in supervisor.lives if life.killed]

    @property
    def logs(self) -> list[str]:
        return [life.log for supervisor in self.supervisors for life in supervisor.lives]

    def events(self, name: str) -> list[dict[str, object]]:
        lines = (line for log in self.logs for line in log.splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def waits(self, *partitions: int) -> list[float]:
        """Seconds from post to verdict, of the good posts of these partitions that have one."""
        answered = [(json.loads(record.value)["postId"], record) for record in self.verdicts]
        return [
            record.timestamp / 1000 - self.sent[id]
            for id, record in answered
            if record.partition in partitions and KILLER < int(id.removeprefix("post-")) < WARM
        ]


@contextlib.asynccontextmanager
async def supervised(supervisors: list[Supervisor]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _post(harness: Harness, sent: dict[str, float], seconds: int) -> None:
    """A good post a second in each partition; `sent` is filled."""
    number = KILLER + 1
    for _ in range(seconds):
        due = time.monotonic() + 1
        values = [(number + at, good(number + at)) for at in range(QUIET)]
        number += QUIET
        sent |= {f"post-{n}": time.time() for n, _ in values}
        await harness.produce(*((at, b"key", value, ()) for at, (_, value) in enumerate(values)))
        await asyncio.sleep(due - time.monotonic())


async def play(
    harness: Harness, word: str, *, seconds: int, pause: Pause, timeout: float = 120, **settings: str
) -> Run:
    """Two workers, a post a second in each of four partitions, and one that asks for `word` in the first of them."""
    chance = random.Random(20)
    environment = harness.environment | {
        "MODERATION_MODEL__NAME": "misbehaving?step_ms=5",
        "MODERATION_LOG__FORMAT": "json",
        **settings,
    }
    supervisors = [Supervisor(environment, pause, random.Random(chance.random())) for _ in range(2)]
    sent: dict[str, float] = {}
    async with supervised(supervisors):
        await harness.produce(*((at, b"key", good(WARM + at), ()) for at in range(PARTITIONS)))
        await harness.verdicts(PARTITIONS, 60)
        begun = time.time()
        sent[f"post-{KILLER}"] = begun
        await harness.produce((0, b"key", faulty(KILLER, word), ()))
        await _post(harness, sent, seconds)
        total = PARTITIONS + len(sent)
        with contextlib.suppress(TimeoutError):  # then the figures say what there is
            await harness.read(harness.topics[1], total, timeout)
    sent |= {f"post-{WARM + at}": begun for at in range(PARTITIONS)}
    verdicts = await harness.read(harness.topics[1], 0)
    letters = await harness.read(harness.topics[2], 0)
    last = max(record.timestamp for record in verdicts) / 1000
    return Run(sent, verdicts, letters, supervisors, last - begun)
