"""Doubles of a model and arrivals of posts, for tests of the batcher. No sleeps: gates and counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scored
from moderation.inference.self_check import REFERENCE_POSTS
from moderation.models.contract import Encoded, Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import WorkerSettings
from moderation.types import Arrival, Content, Question, Score

SPAM = Question("spam", "spam")  # one word: a post of n words costs n + 1 tokens


REFERENCE_WORDS = {word for post in REFERENCE_POSTS for word in post.text.split()}


class GatedModel(Fake):
    """A fake model that records its steps. A gate before each step lets a test decide when the device is busy.

    Self-checks are counted separately and pass no gate.
    """

    def __init__(self, *, window_words: int = 1000, open: bool = False, **failpoints: object) -> None:
        super().__init__(cut=(window_words, 1_000_000), **failpoints)  # type: ignore[arg-type]
        self.steps: list[list[str]] = []
        self.checks = 0
        self._gate = threading.Semaphore(1_000_000 if open else 0)
        self._begun = threading.Semaphore(0)

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        texts = [item.text for item in batch if isinstance(item, FakeEncoded)]
        if REFERENCE_WORDS.issuperset(texts[0].split()):
            self.checks += 1
            return super().score(batch)
        self.steps.append(texts)
        self._begun.release()
        self._gate.acquire()
        return super().score(batch)

    async def begun(self) -> None:
        """Waits until one more step has begun."""
        await asyncio.to_thread(self._begun.acquire)

    def release(self, steps: int = 1_000) -> None:  # each costs a turn in Python
        self._gate.release(steps)


def a_content(text: str) -> Content:
    return Content(text, (), "")


def aged(seconds: float) -> Arrival:
    """The arrival of a post that is polled now and has waited this long on its topic."""
    now = time.perf_counter()
    return Arrival(now, now - seconds, now - seconds)


async def until(condition: Callable[[], bool], timeout_s: float = 10, pause_s: float = 0.001) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what it waits for has no event to wait for
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def behind_a_busy_device(
    model: GatedModel, *texts: str, **settings: float
) -> AsyncIterator[tuple[Batcher, list[asyncio.Task[Scored[Score]]]]]:
    """Queues the posts in this order behind a step with the post `first`, which waits at the gate."""
    some = WorkerSettings.model_validate({"encode_threads": 1, "failed_post_s": 0.05} | settings)
    async with Batcher(model, some) as batcher:
        tasks = [asyncio.create_task(batcher.score(a_content("first"), [SPAM]))]
        await model.begun()
        tasks += [asyncio.create_task(batcher.score(a_content(text), [SPAM])) for text in texts]
        await until(lambda: batcher.waiting == len(texts))
        try:
            yield batcher, tasks
        finally:
            model.release()
            await asyncio.gather(*tasks, return_exceptions=True)


class HangingModel(Fake):
    """A fake model that encodes the post `hang` only after `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging, self.released = threading.Event(), threading.Event()

    def __enter__(self) -> HangingModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        if content.text == "hang":
            self.hanging.set()
            self.released.wait()
        return super().encode(content, questions)


class StutteringModel(Fake):
    """Pauses at every n-th encoding, as a thread does when its process has used up its CPU quota."""

    def __init__(self, every: int, seconds: float) -> None:
        super().__init__()
        self.every, self.seconds, self.calls = every, seconds, 0

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        self.calls += 1
        if self.calls % self.every == 0:
            time.sleep(self.seconds)
        return super().encode(content, questions)
