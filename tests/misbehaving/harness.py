"""One run: real workers with a model that misbehaves, on a real Kafka, and a check of each post."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.commands import Role
from tests.support.harness import PARTITIONS, Harness, a_value
from tests.support.misbehaving_model import OF_THE_TEST, SECRET

MODULE = "tests.misbehaving.worker"


@dataclass(frozen=True)
class Case:
    """A model, posts, and what must become of them."""

    name: str
    model: str = "misbehaving?step_ms=5"
    faults: Sequence[str] = ()  # words of the posts that ask for one: each stands among good posts
    posts: int = 40  # good ones, every third of them violating
    workers: int = 1
    dead: bool = True  # whether the posts with faults end as dead letters; False: they are judged like any other
    exits: frozenset[int] = frozenset()  # codes that workers must exit with, and no others; the next one is started
    deaths: int = 0  # most exits
    settings: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 120.0  # seconds until all posts must be answered


@dataclass
class Outcome:
    """What a run did."""

    verdicts: list[dict[str, Any]]
    exits: list[int]
    logs: list[str]


def good(number: int) -> bytes:
    violates = " violates:spam" if number % 3 == 0 else ""
    return a_value(number, text=f"this is {OF_THE_TEST} {number}{violates}")


def faulty(number: int, word: str) -> bytes:
    return a_value(number, text=f"this is {OF_THE_TEST} {number} {word} violates:spam")


def posts(case: Case) -> dict[int, bytes]:
    """All values, by number: the posts with faults stand apart from one another, good ones before and after."""
    total = case.posts + len(case.faults)
    gap = total / (len(case.faults) + 1)
    places = {int(gap * (at + 1)): word for at, word in enumerate(case.faults)}
    assert len(places) == len(case.faults), "a case needs more good posts than posts with faults"
    return {n: faulty(n, places[n]) if n in places else good(n) for n in range(total)}


class _Slot:
    """A worker that is started again when it ends, as an orchestrator would."""

    def __init__(self, environment: Mapping[str, str], deaths: int) -> None:
        self._environment = environment
        self._deaths = deaths
        self.exits: list[int] = []
        self.logs: list[str] = []

    async def run(self) -> None:
        """Until cancelled; then stops the worker by a signal and waits for its end. Raises after one death too many."""
        while len(self.exits) <= self._deaths:
            role = Role("worker", environment=self._environment, module=MODULE)
            ended = asyncio.create_task(asyncio.to_thread(role.process.wait))
            try:
                await asyncio.shield(ended)
            finally:
                with contextlib.ExitStack() as stack:
                    stack.enter_context(role)
                    if role.process.poll() is None:
                        role.process.terminate()
                    await asyncio.wait([ended], timeout=30)
                self.exits.append(role.process.returncode)
                self.logs.append(role.log)
        raise AssertionError(f"the worker has ended {len(self.exits)} times: {self.exits}")


@contextlib.asynccontextmanager
async def workers(harness: Harness, case: Case, folder: Path) -> AsyncIterator[list[_Slot]]:
    settings = {
        "MODERATION_MODEL__NAME": case.model,
        "MODERATION_LOG__LEVEL": "debug",
        "MODERATION_LOG__FORMAT": "json",
        **case.settings,
    }
    slots = [_Slot(harness.environment | settings, case.deaths) for _ in range(case.workers)]
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(slot.run()) for slot in slots]
            yield slots
            for task in running:
                task.cancel()
    finally:
        for at, slot in enumerate(slots):
            for life, log in enumerate(slot.logs):
                (folder / f"worker-{at}-{life}.log").write_text(log)
                print(f"worker {at}, life {life}: exit {slot.exits[life]}, log in {folder}", log[-4_000:], sep="\n")


async def play(harness: Harness, case: Case, folder: Path) -> Outcome:
    """Sends all posts, waits for all verdicts, stops the workers, and checks what holds for every case."""
    values = posts(case)
    drawn = random.Random(0)
    await harness.produce(
        *((drawn.randrange(PARTITIONS), f"author-{n}".encode(), value, ()) for n, value in values.items())
    )
    case = replace(case, model=case.model.replace("FILE", str(folder / "struck")))
    async with workers(harness, case, folder) as slots:
        verdicts = await harness.verdicts(len(values), case.timeout)
    outcome = Outcome(verdicts, [code for slot in slots for code in slot.exits], [log for s in slots for log in s.logs])
    check(case, values, outcome)
    return outcome


def check(case: Case, values: Mapping[int, bytes], outcome: Outcome) -> None:
    """Checks for one correct verdict for each post, no exit that the fault does not explain, and no text in a log."""
    named = Counter(verdict["postId"] for verdict in outcome.verdicts)
    assert named == Counter(f"post-{number}" for number in values)
    wrong = []
    for verdict in outcome.verdicts:
        value = values[int(verdict["postId"].removeprefix("post-"))]
        fails = case.dead and b"fault:" in value
        expected = ("REVIEW", "UNDETERMINED") if fails else ("REMOVE" if b"violates:" in value else "ALLOW", "FINAL")
        decision = verdict["outcome"].removeprefix("OUTCOME_"), verdict["status"].removeprefix("STATUS_")
        if decision != expected:
            wrong.append((verdict["postId"], value, decision, expected))
    assert not wrong
    assert set(outcome.exits) <= case.exits | {0}, outcome.logs
    assert sum(code != 0 for code in outcome.exits) <= case.deaths
    assert case.exits <= set(outcome.exits), "the fault never struck"
    assert not [log for log in outcome.logs if SECRET in log or OF_THE_TEST in log]
