"""Async outside, one model thread inside.

A post is encoded on a pool of threads, then queues. There is no timer: a batch is what queued while the device was
busy, filled up to a budget of tokens that is known before the step starts. post_queue.py decides on the order.

One post never fails another: a step that fails is run again in halves until the post that makes it fail is alone. That
one is scored once more. After each step that failed nothing is answered before the model has passed its self-check.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import structlog

from moderation.errors import DeviceError, ModerationError, PostError
from moderation.inference.encode_pool import Encoders
from moderation.inference.failed_posts import FailedPosts
from moderation.inference.post_queue import Job, PostQueue, Window, middle
from moderation.inference.self_check import PROBES, SelfCheck
from moderation.models.checked import CheckedModel, Failure, Item, Scores
from moderation.models.contract import Classifier
from moderation.observability import metrics, phases, traces
from moderation.observability.logs import frames
from moderation.observability.phases import Phase
from moderation.settings import WorkerSettings
from moderation.types import Arrival, Content, Question, Reason, Score

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answers:
    """The scores of a post, and the seconds that it spent on them."""

    windows: tuple[tuple[Score, ...], ...]  # window x question; no window when there is no question
    encode: float  # on a thread of the pool, and waiting for one
    batch_wait: float  # encoded, until the first step with a window of it
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


class Batcher:
    """Scores posts on a classifier. Starts its threads in `async with`, and only there."""

    def __init__(
        self, classifier: Classifier, settings: WorkerSettings, on_step: Callable[[Step], None] = report
    ) -> None:
        """on_step: told of every step that has scored something, on the event loop; must return at once."""
        self.model = CheckedModel(classifier)
        self._on_step = on_step
        self._budget = settings.batch_tokens
        self._step_timeout_s = settings.step_timeout_s
        self._self_check = SelfCheck(self.model)
        self._self_check_s = settings.self_check_s
        self._checked = time.perf_counter()  # when the model has last passed it
        self._unencoded, self._unscored = FailedPosts(settings.failed_posts), FailedPosts(settings.failed_posts)
        self._encoded: tuple[Content, Sequence[Question]] | None = None  # the last that was; without pictures
        self._scored: Sequence[Item] = ()  # what was last scored
        self._failed_post_s = settings.failed_post_s
        self._encoders = Encoders(self.model, settings, self._check)
        self._device = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._room = asyncio.Semaphore(settings.max_in_flight)
        self._queue = PostQueue(settings.batch_tokens, settings.overtake_s)
        self._jobs: set[Job] = set()  # queued, or in a step
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
        return len(self._queue)

    @property
    def waited(self) -> float:
        """Seconds that the longest of them has; 0 when there is none."""
        return self._queue.waited

    @property
    def held(self) -> int:
        """Posts that have failed alone, and wait for another one to be scored."""
        return len(self._unencoded) + len(self._unscored)

    async def warm_up(self, questions: Sequence[Question] = ()) -> None:
        """Puts the questions to a post of our own, and learns what the self-check compares with.

        Raises DeviceError when even that fails: the model is sick, not the posts. ConfigError: a question does not fit.
        """
        try:
            windows = await self._encoders.encode(PROBES[0], questions) if questions else ()
        except PostError:
            raise DeviceError("the model cannot encode a post of our own") from None
        if windows and isinstance(await self._on_device(self.model.score, windows), Failure):
            raise DeviceError("the model fails on a post of our own")
        await self._on_device(self._self_check.start)
        self._checked = time.perf_counter()

    async def score(self, content: Content, questions: Sequence[Question], arrival: Arrival | None = None) -> Answers:
        """The answers to all questions on all windows of the content. arrival: None if it comes only now.

        Raises PostError when this content, alone, cannot be scored, DeviceError when nothing can any more.
        """
        if not questions:
            return Answers((), 0.0, 0.0, 0.0)
        phases.enter(Phase.ADMISSION)
        async with self._room:
            self._check()
            started = time.perf_counter()
            job = Job(content.digest, (), started, asyncio.get_running_loop().create_future())
            job.name = job.name or f"{id(job)}"
            job.span, job.post = traces.recorded(), phases.CURRENT.get(None)
            phases.enter(Phase.ENCODE)
            try:
                await self._encode(job, content, questions)
                if not job.failed:
                    self._enqueue(job, arrival or Arrival(started, started))
                finished = await job.done
            finally:
                self._jobs.discard(job)
                job.done.cancel()  # for nobody any more
        encoded = job.queued
        begun = job.started or finished
        if job.span is not None:
            traces.phase(Phase.ENCODE, started, encoded)
            traces.phase(Phase.BATCH_WAIT, encoded, begun)
            traces.phase(Phase.MODEL, begun, finished, job.step)
        scores = tuple(tuple(job.scores[window]) for window in range(len(job.windows)))
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

    async def _encode(self, job: Job, content: Content, questions: Sequence[Question]) -> None:
        """Its windows; of a post that the model fails on twice, the failure."""
        well = -1
        for last in (False, True):
            try:
                job.windows = await self._encoders.encode(content, questions)
                self._unencoded.went_well()
                self._encoded = self._encoded if content.pictures else (content, questions)
                break
            except PostError as error:
                if error.reason is not Reason.MODEL_FAILED or (last and self._unencoded.well > well):
                    raise  # the model is not in doubt
                well = self._unencoded.well
                if last:
                    failure = PostError(Reason.MODEL_FAILED, str(error))
                    await self._hold(job, failure, self._unencoded, self._still_encodes)
                    return
        self._check()
        job.left.extend(range(len(job.windows)))
        job.queued = time.perf_counter()

    def _enqueue(self, job: Job, arrival: Arrival) -> None:
        phases.enter(Phase.BATCH_WAIT)
        self._jobs.add(job)
        self._queue.put(job, arrival)
        self._queued.set()

    async def _hold(
        self, job: Job, error: PostError, failed: FailedPosts, well: Callable[[], Awaitable[bool | None]]
    ) -> None:
        """This post has failed alone. `well`: whether a post that went well before still does; None: there is none.

        If the model is found to be at fault, every waiter gets a DeviceError.
        """
        self._check()  # without the pump nobody would release it
        job.failed = True
        if job.post is not None:
            job.post.phase = Phase.HELD
        self._jobs.add(job)
        failed.hold(job.name, job.done, error)
        proof = await well() if failed.doubtful else None
        if failed.hopeless or proof is False:
            self._refuse(DeviceError(_AT_FAULT))
        elif proof:
            failed.clear()
        self._queued.set()  # the pump watches how long it is held

    async def _still_encodes(self) -> bool | None:
        if self._encoded is None:
            return None
        try:
            await self._encoders.encode(*self._encoded)
        except PostError as error:
            return False if error.reason is Reason.MODEL_FAILED else None
        return True

    async def _still_scores(self) -> bool | None:
        if not self._scored:
            return None
        return not isinstance(await self._on_device(self.model.score, self._scored), Failure)

    async def _run(self) -> None:
        try:
            while True:
                await self._wait()
                while batch := self._queue.take():
                    await self._score(batch)
        except DeviceError as error:
            self._refuse(error)
        except BaseException as error:  # noqa: BLE001  of ours: nobody may be left waiting for a pump that is gone
            closed = self._refusal is not None
            self._refuse(DeviceError(f"the batcher has failed ({type(error).__name__})"))
            if not closed:
                log.critical("batcher_failed", error=type(error).__name__, frames=frames(error))

    async def _wait(self) -> None:
        """For posts; or, while some are held back, for so long that they are to be answered without others."""
        try:
            async with asyncio.timeout(self._failed_post_s if self.held else None):
                await self._queued.wait()
        except TimeoutError:
            for failed in (self._unencoded, self._unscored):
                if failed.doubtful:
                    raise DeviceError(_AT_FAULT) from None
                if failed:
                    failed.release()
        self._queued.clear()

    async def _score(self, batch: Sequence[Window], again: bool = False) -> None:
        """again: it is one window, that has failed alone before."""
        batch = [(job, window) for job, window in batch if not job.over]
        if not batch:
            return
        now = time.perf_counter()
        for job, _ in batch:
            job.started = job.started or now
            if job.post is not None:
                job.post.phase = Phase.MODEL
        ahead = self._queue.next() if self.model.looks_ahead else []
        looked, outcome = await self._on_device(self._step, [job.windows[window] for job, window in batch], ahead)
        spent = time.perf_counter() - now
        if isinstance(outcome, Failure):
            metrics.STEPS_FAILED.labels(outcome.value).inc()
        if isinstance(outcome, Failure) or not looked or self._check_is_due(now):
            await self._on_device(self._self_check.run)  # first: what it would find wrong is not answered yet
            self._checked = time.perf_counter()
        if not isinstance(outcome, Failure):
            self._answer(batch, outcome, now, spent)
        elif len(batch) > 1:
            metrics.HALVINGS.labels(outcome.value).inc()
            half = middle(batch)
            await self._score(batch[:half])
            await self._score(batch[half:])
        elif not again:
            await self._score(batch, again=True)
        elif not (job := batch[0][0]).over:
            failure = PostError(Reason.MODEL_FAILED, f"the post {_WHAT[outcome]}, alone in its batch")
            await self._hold(job, failure, self._unscored, self._still_scores)

    def _check_is_due(self, now: float) -> bool:
        return bool(self._self_check_s) and now - self._checked >= self._self_check_s

    def _trace(self, batch: Sequence[Window], begun: float, size: Mapping[str, int]) -> None:
        """Of a step that has ended: those who were in it find it in their traces, and it them."""
        if spans := [job.span for job, _ in batch if job.span is not None]:
            step = traces.stepped(spans, begun, size)
            for job, _ in batch:
                job.step = step

    async def _on_device(self, work: Callable[..., T], *arguments: object) -> T:
        """What it returns, on the model's thread. Raises DeviceError when that takes longer than a step may."""
        try:
            async with asyncio.timeout(self._step_timeout_s):
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._device, work, *arguments)
        except TimeoutError:
            raise DeviceError(f"a step has not ended in {self._step_timeout_s:g} s: the device hangs") from None
        return found

    def _answer(self, batch: Sequence[Window], scores: Scores, begun: float, spent: float) -> None:
        self._unscored.went_well()
        for (job, window), row in zip(batch, scores, strict=True):
            job.scores[window] = row
            if len(job.scores) == len(job.windows) and not job.over:
                self._scored = (job.windows[window],)  # what one step has held
                job.done.set_result(time.perf_counter())
        tokens = sum(job.windows[window].tokens for job, window in batch)
        posts = len({id(job) for job, _ in batch})
        self._trace(batch, begun, {"posts": posts, "items": len(batch), "tokens": tokens})
        self._on_step(Step(posts, len(batch), tokens, spent, len(self._queue), self._budget))

    # On the model's thread

    def _step(self, items: Sequence[Item], ahead: Sequence[Item]) -> tuple[bool, Scores | Failure]:
        """Whether it could look ahead, and the scores."""
        return self.model.look_ahead(ahead), self.model.score(items)


_AT_FAULT = "different posts in a row have failed alone, and none has gone well: the model is at fault"
_WHAT = {
    Failure.TOO_LARGE: "needs more memory than the device has",
    Failure.RAISED: "makes the model raise",
    Failure.MALFORMED: "makes the model return what is no score",
}
