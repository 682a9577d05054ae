"""Scores many posts in batches: asynchronous callers, one model thread.

A post is encoded on a pool of threads and then queued. There is no timer: a batch is what was queued while the device
was busy, filled up to a token budget that is known before the step starts. post_queue.py decides the order.

One post never fails another:

- A step that fails is repeated in halves, until the post that makes it fail is alone. That post is scored once more.
- After a step that failed, no result is returned before the model has passed its self-check.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import structlog

from moderation.errors import DeviceError, ModerationError, PostError
from moderation.inference.encode_pool import EncodePool
from moderation.inference.failed_posts import FailedPosts
from moderation.inference.model_thread import ModelThread
from moderation.inference.post_queue import Job, PostQueue, Window, middle
from moderation.inference.scoring import Scored
from moderation.inference.self_check import REFERENCE_POSTS, SelfCheck
from moderation.inference.steps import Step, report
from moderation.models.checked import CheckedModel, Failure, Item, Scores
from moderation.models.contract import Classifier, DeviceMemory, Windows
from moderation.observability import metrics, phases, traces
from moderation.observability.logs import frames
from moderation.observability.phases import Phase
from moderation.settings import WorkerSettings
from moderation.types import Arrival, Content, ModelInfo, Outcome, Question, Reason, Score

log = structlog.get_logger()

for _failure in Failure:  # from 0 on: a counter that appears above 0 has no increase
    metrics.STEPS_FAILED.labels(_failure.value)
    metrics.HALVINGS.labels(_failure.value)


class Batcher:
    """A Scorer with a classifier on a device here. Threads start inside `async with` only."""

    paused = False  # a device that fails ends the process
    patience_s = 0.0
    strictest = Outcome.REMOVE

    def __init__(
        self, classifier: Classifier, settings: WorkerSettings, on_step: Callable[[Step], None] = report
    ) -> None:
        """on_step: called on the event loop after each step that has scored posts. Must return at once."""
        self.model = CheckedModel(classifier)
        self._on_step = on_step
        self._budget = settings.batch_tokens
        self._thread = ModelThread(settings.step_timeout_s)
        self._self_check = SelfCheck(self.model)
        self._self_check_s = settings.self_check_s
        self._checked = time.perf_counter()  # when the model last passed its self-check
        self._unencoded, self._unscored = FailedPosts(settings.failed_posts), FailedPosts(settings.failed_posts)
        self._encoded: tuple[Content, Sequence[Question]] | None = None  # the last that was; without pictures
        self._scored: Sequence[Item] = ()  # a window that was scored last
        self._failed_post_s = settings.failed_post_s
        self._encoders = EncodePool(self.model, settings, self._check)
        self._admission = asyncio.Semaphore(settings.max_in_flight)
        self._queue = PostQueue(settings.batch_tokens, settings.overtake_s)
        self._jobs: set[Job] = set()  # queued, or in a step
        self._queued = asyncio.Event()
        self._closed: ModerationError | None = ModerationError("the batcher has not been started")
        self._scoring: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._closed = None
        self._scoring = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises an error in all callers that still wait. Does not wait for a step: a sick device may never end it."""
        closed = ModerationError("the batcher has been closed")
        self._close(closed)
        if self._scoring:
            self._scoring.cancel()
            await asyncio.wait([self._scoring])
        self._encoders.close(closed)
        self._thread.close()

    @property
    def info(self) -> ModelInfo:
        """The model."""
        return self.model.info

    @property
    def pictures(self) -> tuple[int, int]:
        """See Measured."""
        return self.model.pictures

    def device_memory(self) -> DeviceMemory | None:
        """See Measured."""
        return self.model.device_memory()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Nothing changes: a batcher is never paused."""

    async def watch(self) -> None:
        """Runs for ever: the model on a device stays the same."""
        await asyncio.get_running_loop().create_future()

    @property
    def waiting(self) -> int:
        """Encoded posts with windows that no step has taken yet."""
        return len(self._queue)

    @property
    def waited(self) -> float:
        """Seconds that the oldest of them has waited; 0 if none waits."""
        return self._queue.waited

    @property
    def held(self) -> int:
        """Posts that failed alone and wait until another post is scored."""
        return len(self._unencoded) + len(self._unscored)

    async def warm_up(self, questions: Sequence[Question] = ()) -> None:
        """Scores the questions on a reference post, and records the scores that later self-checks compare with.

        Raises DeviceError if the model fails on the reference post. Raises ConfigError if a question does not fit the
        model.
        """
        try:
            windows = await self._encoders.encode(REFERENCE_POSTS[0], questions) if questions else ()
        except PostError:
            raise DeviceError("the model failed its self-check: it cannot encode a reference post") from None
        if windows and isinstance(await self._thread.run(self.model.score, windows), Failure):
            raise DeviceError("the model failed its self-check: it cannot score a reference post")
        await self._thread.run(self._self_check.start)
        self._checked = time.perf_counter()

    async def score(
        self, content: Content, questions: Sequence[Question], arrival: Arrival | None = None
    ) -> Scored[Score]:
        """Returns the scores of all questions on all windows of the content. arrival: None if it arrives now.

        Raises PostError if this content alone cannot be scored, and DeviceError if no content can be scored any more.
        """
        if not questions:
            return Scored((), 0.0, 0.0, 0.0)
        phases.enter(Phase.ADMISSION)
        async with self._admission:
            self._check()
            started = time.perf_counter()
            job = Job(content.digest, Windows(), started, asyncio.get_running_loop().create_future())
            job.name = job.name or f"{id(job)}"
            job.span, job.post = traces.recorded(), phases.CURRENT.get(None)
            phases.enter(Phase.ENCODE)
            try:
                await self._encode(job, content, questions)
                if not job.failed:
                    self._enqueue(job, arrival or Arrival(started, started, started))
                finished = await job.done
            finally:
                self._jobs.discard(job)
                job.done.cancel()  # the caller has left
        encoded = job.queued
        begun = job.started or finished
        if job.span is not None:
            traces.phase(Phase.ENCODE, started, encoded)
            traces.phase(Phase.BATCH_WAIT, encoded, begun)
            traces.phase(Phase.MODEL, begun, finished, job.step)
        scores = tuple(tuple(job.scores[window]) for window in range(len(job.windows)))
        return Scored(scores, encoded - started, begun - encoded, finished - begun, job.windows.problems)

    # On the event loop

    def _check(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)

    def _close(self, error: ModerationError) -> None:
        """Accepts no further work, and raises the error in all callers that wait. The first error is kept."""
        self._closed = self._closed or error
        for job in self._jobs:
            if not job.done.done():
                job.done.set_exception(type(error)(*error.args))

    async def _encode(self, job: Job, content: Content, questions: Sequence[Question]) -> None:
        """Sets the windows of the job. A post that the model fails on twice is held."""
        successes = -1
        for again in (False, True):
            try:
                job.windows = await self._encoders.encode(content, questions)
                if self._unencoded.succeeded(job.name) and not content.pictures:
                    self._encoded = content, questions
                break
            except PostError as error:
                if error.reason is not Reason.MODEL_FAILED or (again and self._unencoded.successes > successes):
                    raise  # the model is not in doubt
                successes = self._unencoded.successes
                if again:
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
        self, job: Job, error: PostError, failed: FailedPosts, retry: Callable[[], Awaitable[bool | None]]
    ) -> None:
        """Holds a post that failed alone.

        `retry`: returns whether a post that succeeded before still succeeds; None if there is no such post. If the
        model is at fault, all callers get a DeviceError.
        """
        self._check()  # only a running `_run` releases held posts
        job.failed = True
        if job.post is not None:
            job.post.phase = Phase.HELD
        self._jobs.add(job)
        failed.hold(job.name, job.done, error)
        succeeded = await retry() if failed.doubtful else None
        if failed.hopeless or succeeded is False:
            self._close(DeviceError(_AT_FAULT))
        elif succeeded:
            failed.clear()
        self._queued.set()  # `_run` limits how long the post is held

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
        return not isinstance(await self._thread.run(self.model.score, self._scored), Failure)

    async def _run(self) -> None:
        try:
            while True:
                await self._wait()
                while batch := self._queue.take():
                    await self._score(batch)
        except DeviceError as error:
            self._close(error)
        except BaseException as error:  # noqa: BLE001  a fault here must not leave callers waiting
            closed = self._closed is not None
            self._close(DeviceError(f"the batcher has failed ({type(error).__name__})"))
            if not closed:
                log.critical("batcher_failed", error=type(error).__name__, frames=frames(error))

    async def _wait(self) -> None:
        """Waits for posts. While posts are held, waits at most failed_post_s and then releases the oldest."""
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
        """Scores a batch, in halves if it fails. again: the batch is one window that has failed alone before."""
        batch = [(job, window) for job, window in batch if not job.over]
        if not batch:
            return
        now = time.perf_counter()
        for job, _ in batch:
            job.started = job.started or now
            if job.post is not None:
                job.post.phase = Phase.MODEL
        ahead = self._queue.next() if self.model.looks_ahead else []
        looked, outcome = await self._thread.run(self._step, [job.windows[window] for job, window in batch], ahead)
        spent = time.perf_counter() - now
        if isinstance(outcome, Failure):
            metrics.STEPS_FAILED.labels(outcome.value).inc()
        if isinstance(outcome, Failure) or not looked or self._check_is_due(now):
            await self._thread.run(self._self_check.run)  # before results are returned: the check may find them wrong
            self._checked = time.perf_counter()
        if not isinstance(outcome, Failure):
            self._finish(batch, outcome, now, spent)
        elif len(batch) > 1:
            metrics.HALVINGS.labels(outcome.value).inc()
            half = middle(batch)
            await self._score(batch[:half])
            await self._score(batch[half:])
        elif not again:
            await self._score(batch, again=True)
        elif not (job := batch[0][0]).over:
            failure = PostError(Reason.MODEL_FAILED, f"the post {_FAILURES[outcome]}, alone in its batch")
            await self._hold(job, failure, self._unscored, self._still_scores)

    def _check_is_due(self, now: float) -> bool:
        return bool(self._self_check_s) and now - self._checked >= self._self_check_s

    def _trace(self, batch: Sequence[Window], begun: float, size: Mapping[str, int]) -> None:
        """Links the trace of a step and the traces of its posts."""
        if spans := [job.span for job, _ in batch if job.span is not None]:
            step = traces.stepped(spans, begun, size)
            for job, _ in batch:
                job.step = step

    def _finish(self, batch: Sequence[Window], scores: Scores, begun: float, spent: float) -> None:
        counts = self._unscored.succeeded(*(job.name for job, _ in batch))
        for (job, window), row in zip(batch, scores, strict=True):
            job.scores[window] = row
            if len(job.scores) == len(job.windows) and not job.over:
                self._scored = (job.windows[window],) if counts else self._scored  # known to fit into one step
                job.done.set_result(time.perf_counter())
        tokens = sum(job.windows[window].tokens for job, window in batch)
        posts = len({id(job) for job, _ in batch})
        self._trace(batch, begun, {"posts": posts, "items": len(batch), "tokens": tokens})
        self._on_step(Step(posts, len(batch), tokens, spent, len(self._queue), self._budget))

    # On the model's thread

    def _step(self, items: Sequence[Item], ahead: Sequence[Item]) -> tuple[bool, Scores | Failure]:
        """Returns whether the model could look ahead, and the scores."""
        return self.model.look_ahead(ahead), self.model.score(items)


_AT_FAULT = "different posts in a row have failed alone, and none has succeeded: the model is at fault"
_FAILURES = {
    Failure.TOO_LARGE: "needs more memory than the device has",
    Failure.RAISED: "makes the model raise",
    Failure.MALFORMED: "makes the model return invalid scores",
}
