"""Async outside, one model thread inside.

A post is encoded on a pool of threads, then queues. There is no timer: a batch is what queued while the device was
busy, oldest first, filled up to a budget of tokens that is known before the step starts. A post that is older than its
place in the queue says, because it waited in its topic, goes before younger ones; but of those that it overtakes, none
is overtaken without end (`overtake_s`). Each partition that has posts in the queue has its oldest in the next step, or,
where there is no room for all of them, in its turn: two full partitions do not keep the others waiting.

One post never fails another: a step that raises is run again in halves until the post that makes it raise is alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush, nsmallest
from itertools import chain, count
from types import TracebackType
from typing import Self

import structlog

from moderation import metrics, traces
from moderation.encoders import Encoders
from moderation.errors import DeviceError, ModerationError, PostError
from moderation.models import Classifier, Encoded, LooksAhead
from moderation.settings import WorkerSettings
from moderation.telemetry import frames
from moderation.types import Content, Question, Reason, Score

PROBE = Content(text="Good morning!", pictures=(), digest="")
PROBE_QUESTIONS = (Question("probe", "Is this a post?"),)

MOST_AHEAD = 64  # posts that are looked at for the next step

Scores = Sequence[Sequence[Score]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answers:
    """The scores of a post, and the seconds that it spent on them."""

    windows: tuple[tuple[Score, ...], ...]  # window x question; no window when there is no question
    encode: float  # on a thread of the pool, and waiting for one
    wait: float  # encoded, until the first step with a window of it
    model: float  # until the last of its windows was scored


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the device took on."""

    posts: int
    items: int  # windows of these posts
    tokens: int
    seconds: float
    waiting: int  # posts in the queue when it ended
    budget: int = 0  # tokens that a step is filled up to


@dataclass(eq=False, slots=True)
class _Job:
    """A post between its encoding and its answer."""

    windows: Sequence[Encoded]
    queued: float
    done: asyncio.Future[float]  # when the last window was scored; done early: the caller left, or the post failed
    left: deque[int] = field(default_factory=deque)  # windows that no step has taken yet
    scores: dict[int, tuple[Score, ...]] = field(default_factory=dict)
    started: float | None = None
    span: traces.SpanContext | None = None  # of the post, if it will be seen
    step: traces.SpanContext | None = None  # of the last step that it was in

    @property
    def tokens(self) -> int:
        return sum(self.windows[window].tokens for window in self.left)


_Item = tuple[_Job, int]  # one window of a post
_Place = tuple[float, int, _Job]  # in the queue: the earlier first, then as they came


def report(step: Step) -> None:
    """The default for `on_step`."""
    metrics.STEP.add(step.seconds)
    metrics.BATCH_POSTS.add(step.posts)
    metrics.BATCH_TOKENS.add(step.tokens)
    metrics.BATCH_FILL.add(step.tokens / max(1, step.budget))
    log.debug(
        "step_done",
        posts=step.posts,
        items=step.items,
        tokens=step.tokens,
        seconds=round(step.seconds, 4),
        waiting=step.waiting,
    )


class _Failed(Enum):
    """How a step failed. The exception itself stays on the thread: its frames hold the device's memory."""

    TOO_LARGE = "out_of_memory"
    RAISED = "error"


class Batcher:
    """Scores posts on a classifier. Starts its threads in `async with`, and only there."""

    def __init__(
        self, classifier: Classifier, settings: WorkerSettings, on_step: Callable[[Step], None] = report
    ) -> None:
        """on_step: told of every step that has scored something, on the event loop; must return at once."""
        self.steps = 0  # that have ended, well or not
        self._classifier = classifier
        self._on_step = on_step
        self._budget = settings.batch_tokens
        self._overtake_s = settings.overtake_s
        self._step_timeout_s = settings.step_timeout_s
        self._encoders = Encoders(classifier, settings, self._check)
        self._device = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._room = asyncio.Semaphore(settings.max_in_flight)
        self._queues: OrderedDict[Hashable, list[_Place]] = OrderedDict()  # heaps, by partition; the next turn first
        self._came = count()
        self._jobs: set[_Job] = set()  # queued, or in a step
        self._queued = asyncio.Event()
        self._refusal: ModerationError | None = ModerationError("the batcher has not been started")
        self._pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._refusal = None
        self._pump = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Whoever still waits gets an exception. A step under way is not waited for: a sick device may never end it."""
        closed = ModerationError("the batcher has been closed")
        self._refuse(closed)
        if self._pump:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._encoders.close(closed)
        self._device.shutdown(wait=False, cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Posts that are encoded and wait for a step to take all of them."""
        return sum(map(len, self._queues.values()))

    @property
    def waited(self) -> float:
        """Seconds that the longest of them has; 0 when there is none."""
        first = min((job.queued for _, _, job in chain(*self._queues.values())), default=None)
        return 0.0 if first is None else time.perf_counter() - first

    async def warm_up(self, questions: Sequence[Question] = PROBE_QUESTIONS) -> None:
        """Scores a post of our own.

        Raises DeviceError when even that fails: the model is sick, not the posts. ConfigError: a question does not fit.
        """
        try:
            windows = await self._encoders.encode(PROBE, questions)
            outcome = await self._run_step(windows)
        except PostError:
            outcome = _Failed.RAISED
        if isinstance(outcome, _Failed):
            raise DeviceError("the model fails on a post of our own")

    async def score(
        self, content: Content, questions: Sequence[Question], age: float = 0.0, partition: Hashable = None
    ) -> Answers:
        """The answers to all questions on all windows of the content. age: seconds that the post has waited before.

        partition: where it comes from; each has its turn.
        Raises PostError when this content, alone, cannot be scored, DeviceError when nothing can any more.
        """
        if not questions:
            return Answers((), 0.0, 0.0, 0.0)
        async with self._room:
            self._check()
            started = time.perf_counter()
            windows = await self._encoders.encode(content, questions)
            self._check()
            encoded = time.perf_counter()
            job = _Job(windows, encoded, asyncio.get_running_loop().create_future(), deque(range(len(windows))))
            job.span = traces.recorded()
            self._jobs.add(job)
            # Bounded, or posts out of a backlog would starve those that come in now, or the other way round.
            older = min(max(age, 0.0), self._overtake_s)
            heappush(self._queues.setdefault(partition, []), (started - older, next(self._came), job))
            self._queued.set()
            try:
                finished = await job.done
            finally:
                self._jobs.discard(job)
        begun = job.started or finished
        if job.span is not None:
            traces.stage(traces.ENCODE, started, encoded)
            traces.stage(traces.WAIT, encoded, begun)
            traces.stage(traces.MODEL, begun, finished, job.step)
        scores = tuple(job.scores[window] for window in range(len(windows)))
        return Answers(scores, encoded - started, begun - encoded, finished - begun)

    # On the event loop

    def _check(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)

    def _refuse(self, error: ModerationError) -> None:
        """No further work, and nobody is left waiting. The first reason stands."""
        self._refusal = self._refusal or error
        for job in self._jobs:
            if not job.done.done():
                job.done.set_exception(type(error)(*error.args))

    async def _run(self) -> None:
        try:
            while True:
                await self._queued.wait()
                self._queued.clear()
                while batch := self._take():
                    await self._score(batch)
        except DeviceError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001  of ours: nobody may be left waiting for a pump that is gone
            log.critical("batcher_failed", error=type(error).__name__, frames=frames(error))
            self._refuse(DeviceError(f"the batcher has failed ({type(error).__name__})"))

    def _take(self) -> list[_Item]:
        """The next batch: whole posts, the oldest of each partition, and then the oldest of all.

        Only a post that no batch can hold whole is split.
        """
        batch: list[_Item] = []
        room = self._budget
        turns = deque(self._queues)
        while self._queues:
            partition = turns[0] if turns else min(self._queues, key=lambda one: self._queues[one][0])
            queue = self._queues[partition]
            job = queue[0][2]
            if not job.done.done():
                if batch and room < job.tokens <= self._budget:
                    break
                while job.left and (not batch or job.windows[job.left[0]].tokens <= room):
                    window = job.left.popleft()
                    room -= job.windows[window].tokens
                    batch.append((job, window))
                if job.left:
                    break
                if turns:
                    self._queues.move_to_end(turns.popleft())
            heappop(queue)
            if not queue:
                del self._queues[partition]
                if turns and turns[0] == partition:
                    turns.popleft()
        return batch

    def _next(self) -> list[Encoded]:
        """What the step after this one will probably hold."""
        items: list[Encoded] = []
        room = self._budget
        first = [queue[0] for queue in self._queues.values()]
        oldest = nsmallest(MOST_AHEAD, chain(*self._queues.values()))
        for job in dict.fromkeys(job for _, _, job in chain(first, oldest)):
            if (room := room - job.tokens) < 0:
                break
            items += [job.windows[window] for window in job.left]
        return items

    async def _score(self, batch: Sequence[_Item]) -> None:
        batch = [(job, window) for job, window in batch if not job.done.done()]
        if not batch:
            return
        now = time.perf_counter()
        for job, _ in batch:
            job.started = job.started or now
        ahead = self._next() if isinstance(self._classifier, LooksAhead) else []
        outcome = await self._run_step([job.windows[window] for job, window in batch], ahead)
        if not isinstance(outcome, _Failed):
            self._answer(batch, outcome)
            tokens = sum(job.windows[window].tokens for job, window in batch)
            posts = len({id(job) for job, _ in batch})
            spent = time.perf_counter() - now
            self._trace(batch, now, {"posts": posts, "items": len(batch), "tokens": tokens})
            self._on_step(Step(posts, len(batch), tokens, spent, self.waiting, self._budget))
        elif len(batch) > 1:
            metrics.HALVINGS.labels(outcome.value).inc()
            half = _middle(batch)
            await self._score(batch[:half])
            await self._score(batch[half:])
        else:
            await self.warm_up()  # is it the post, or the model?
            what = "needs more memory than the device has" if outcome is _Failed.TOO_LARGE else "makes the model raise"
            if not batch[0][0].done.done():
                batch[0][0].done.set_exception(PostError(Reason.MODEL_FAILED, f"the post {what}, alone in its batch"))

    def _trace(self, batch: Sequence[_Item], begun: float, size: Mapping[str, int]) -> None:
        """Of a step that has ended: those who were in it find it in their traces, and it them."""
        if spans := [job.span for job, _ in batch if job.span is not None]:
            step = traces.stepped(spans, begun, size)
            for job, _ in batch:
                job.step = step

    async def _run_step(self, items: Sequence[Encoded], ahead: Sequence[Encoded] = ()) -> Scores | _Failed:
        try:
            async with asyncio.timeout(self._step_timeout_s):
                loop = asyncio.get_running_loop()
                outcome = await loop.run_in_executor(self._device, self._step, items, ahead)
        except TimeoutError:
            raise DeviceError(f"a step has not ended in {self._step_timeout_s:g} s: the device hangs") from None
        self.steps += 1
        if isinstance(outcome, _Failed):
            metrics.STEPS_FAILED.labels(outcome.value).inc()
        return outcome

    def _answer(self, batch: Sequence[_Item], scores: Scores) -> None:
        for (job, window), row in zip(batch, scores, strict=True):
            job.scores[window] = tuple(row)
            if len(job.scores) == len(job.windows) and not job.done.done():
                job.done.set_result(time.perf_counter())

    # On the model's thread

    def _step(self, items: Sequence[Encoded], ahead: Sequence[Encoded]) -> Scores | _Failed:
        if ahead and isinstance(self._classifier, LooksAhead):
            try:
                self._classifier.look_ahead(ahead)
            except DeviceError:
                raise
            except Exception as error:  # noqa: BLE001  the step that it was for will meet it, and find the post
                log.debug("look_ahead_failed", error=type(error).__name__, frames=frames(error))
        try:
            scores = self._classifier.score(items)
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001  the device is well, so some item of the batch is at fault
            log.warning("step_failed", error=type(error).__name__, items=len(items), frames=frames(error))
            return _Failed.TOO_LARGE if _out_of_memory(error) else _Failed.RAISED
        if len(scores) != len(items):
            log.warning("step_failed", items=len(items), answers=len(scores))
            return _Failed.RAISED
        return scores


def _middle(batch: Sequence[_Item]) -> int:
    """Where to halve: between two posts where that is possible, so that each keeps its windows together."""
    middle = len(batch) // 2
    cuts = [cut for cut in range(1, len(batch)) if batch[cut - 1][0] is not batch[cut][0]]
    return min(cuts, key=lambda cut: abs(cut - middle), default=middle)


def _out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError without importing torch, and Python's own."""
    named = type(error).__name__ == "OutOfMemoryError" and isinstance(error, RuntimeError)
    return named or isinstance(error, MemoryError)
