"""Threads that prepare posts for the model, with a deadline for each: no post holds up what is behind it.

A thread cannot be stopped. One that is late keeps its place until it ends; when all of them are late, the process is
at fault and not the posts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import structlog

from moderation import metrics
from moderation.errors import DeviceError, ModerationError, PostError
from moderation.models import Classifier, Encoded
from moderation.settings import WorkerSettings
from moderation.telemetry import frames
from moderation.types import Content, Question, Reason

log = structlog.get_logger()


class Encoders:
    """A classifier's `encode`, awaited."""

    def __init__(self, classifier: Classifier, settings: WorkerSettings, check: Callable[[], None]) -> None:
        """check: raises on a thread what its caller is to get instead of an answer, when nothing is worth doing."""
        self._classifier = classifier
        self._check = check
        self._timeout_s = settings.encode_timeout_s
        self._pool = ThreadPoolExecutor(settings.encode_threads, thread_name_prefix="encode")
        self._free = asyncio.Semaphore(settings.encode_threads)
        self._on_time = settings.encode_threads  # threads that are idle, or not late yet

    async def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Encoded]:
        """The post's windows. The clock of a post stands while it waits for a thread.

        Raises PostError when this post cannot be encoded or not in time, DeviceError when no thread is left for others.
        """
        await self._free.acquire()
        try:
            self._check()
        except BaseException:
            self._free.release()
            raise
        loop, context = asyncio.get_running_loop(), copy_context()  # what is logged there names the post
        working = loop.run_in_executor(self._pool, context.run, self._encode, content, questions)
        working.add_done_callback(lambda _: self._free.release())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(working)
        except TimeoutError:
            metrics.ENCODE_TIMEOUTS.inc()
            self._on_time -= 1
            working.add_done_callback(self._ended)
        if not self._on_time:
            raise DeviceError(f"no post is encoded any more: all threads have been at one for {self._timeout_s:g} s")
        raise PostError(Reason.DEADLINE_EXCEEDED, f"the post could not be encoded in {self._timeout_s:g} s")

    def close(self) -> None:
        """Does not wait for threads; what is queued there finds what `check` raises."""
        self._pool.shutdown(wait=False)

    def _ended(self, late: asyncio.Future[Sequence[Encoded]]) -> None:
        self._on_time += 1
        if not late.cancelled():
            late.exception()  # nobody else asks for it

    def _encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Encoded]:
        self._check()
        try:
            return self._classifier.encode(content, questions)
        except ModerationError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a tokenizer chokes on is this post's fault
            log.warning("encode_failed", error=type(error).__name__, frames=frames(error))
        raise PostError(Reason.MODEL_FAILED, "the post cannot be encoded")
