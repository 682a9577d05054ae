"""Threads that prepare posts for the model, with a deadline for each: no post holds up what is behind it.

A free thread takes what waits for one: one post, or a row of small ones, whose preparation is a trifle beside the way
to a thread and back. When one of them proves not to be, the rest of its row goes to others. A thread cannot be stopped:
one that is late keeps its place until it ends, and when all are late, the process is at fault and not the posts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from moderation import metrics
from moderation.errors import DeviceError, ModerationError, PostError
from moderation.models import Classifier, Encoded
from moderation.settings import WorkerSettings
from moderation.telemetry import frames
from moderation.types import Content, Question, Reason

SMALL_CHARS = 4 << 10  # longest text of a small post, which has no pictures
ROW = 32  # small posts that a thread takes at most
TRIFLE_S = 0.1  # for a small post; nobody waits longer for one that a thread took before it

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _Post:
    content: Content
    questions: Sequence[Question]
    windows: asyncio.Future[Sequence[Encoded]]  # done early: the caller left
    context: Context  # what is logged on the thread names the post

    @property
    def small(self) -> bool:
        return not self.content.pictures and len(self.content.text) <= SMALL_CHARS


@dataclass(eq=False, slots=True)
class _Row:
    """What a thread is at."""

    posts: list[_Post]
    found: list[Sequence[Encoded] | ModerationError] = field(default_factory=list)  # the thread adds to it
    begun: float = field(default_factory=time.monotonic)  # with the post that it is at
    cut: bool = False  # others have the rest
    late: bool = False
    watch: asyncio.TimerHandle | None = None


class Encoders:
    """A classifier's `encode`, awaited."""

    def __init__(self, classifier: Classifier, settings: WorkerSettings, check: Callable[[], None]) -> None:
        """check: raises on a thread what its caller is to get instead of an answer, when nothing is worth doing."""
        self._classifier = classifier
        self._check = check
        self._timeout_s = settings.encode_timeout_s
        self._pool = ThreadPoolExecutor(settings.encode_threads, thread_name_prefix="encode")
        self._free = settings.encode_threads
        self._on_time = settings.encode_threads  # threads that are idle, or not late yet
        self._all_late = f"no post is encoded any more: all threads have been at one for {self._timeout_s:g} s"
        self._waiting: deque[_Post] = deque()

    async def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Encoded]:
        """The post's windows. The clock of a post stands while it waits for a thread.

        Raises PostError when this post cannot be encoded or not in time, DeviceError when no thread is left for others.
        """
        if not self._on_time:
            raise DeviceError(self._all_late)
        post = _Post(content, questions, asyncio.get_running_loop().create_future(), copy_context())
        self._waiting.append(post)
        self._begin()
        return await post.windows

    def close(self, error: ModerationError) -> None:
        """Does not wait for threads; whoever waits for one gets the error."""
        self._pool.shutdown(wait=False)
        self._fail(error)

    # On the event loop

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and (posts := self._take()):
            self._free -= 1
            row = _Row(posts)
            row.watch = loop.call_later(min(TRIFLE_S, self._timeout_s), self._look, row)
            loop.run_in_executor(self._pool, self._encode, row).add_done_callback(partial(self._end, row))

    def _take(self) -> list[_Post]:
        posts: list[_Post] = []
        while self._waiting and len(posts) < ROW and (not posts or (posts[0].small and self._waiting[0].small)):
            post = self._waiting.popleft()
            if not post.windows.done():
                posts.append(post)
        return posts

    def _look(self, row: _Row) -> None:
        """Answers what is ready, and sees to it that nobody waits for a post that takes its time."""
        at = len(row.found)  # before the time is read: should the thread go on meanwhile, it is not late
        spent = time.monotonic() - row.begun
        self._answer(row)
        if at >= len(row.posts):
            return
        if spent >= self._timeout_s:
            self._give_up(row, row.posts[at])
        if spent >= min(TRIFLE_S, self._timeout_s) and not row.cut:
            row.cut = True
            # In contexts of their own: the thread may have begun with the next one just now, and none is entered twice.
            rest = [replace(post, context=post.context.copy()) for post in row.posts[at + 1 :]]
            self._waiting.extendleft(reversed(rest))
            row.posts = row.posts[: at + 1]
            self._begin()
        if not row.late:
            left = self._timeout_s - spent if row.cut else TRIFLE_S
            row.watch = asyncio.get_running_loop().call_later(left, self._look, row)

    def _give_up(self, row: _Row, post: _Post) -> None:
        row.late = True
        self._on_time -= 1
        metrics.ENCODE_TIMEOUTS.inc()
        if self._on_time:
            what = f"the post could not be encoded in {self._timeout_s:g} s"
            _set(post, PostError(Reason.DEADLINE_EXCEEDED, what))
        else:
            _set(post, DeviceError(self._all_late))
            self._fail(DeviceError(self._all_late))

    def _end(self, row: _Row, thread: asyncio.Future[None]) -> None:
        if row.watch:
            row.watch.cancel()
        self._free += 1
        self._on_time += row.late
        self._answer(row)
        if not thread.cancelled() and (error := thread.exception()):
            for post in row.posts:
                _set(post, DeviceError(f"a thread that prepares posts has failed ({type(error).__name__})"))
        self._begin()

    def _answer(self, row: _Row) -> None:
        for post, found in zip(row.posts, row.found, strict=False):
            _set(post, found)

    def _fail(self, error: ModerationError) -> None:
        while self._waiting:
            _set(self._waiting.popleft(), type(error)(*error.args))

    # On a thread

    def _encode(self, row: _Row) -> None:
        for post in tuple(row.posts):
            if row.cut:
                return
            row.begun = time.monotonic()
            row.found.append(post.context.run(self._windows, post))

    def _windows(self, post: _Post) -> Sequence[Encoded] | ModerationError:
        try:
            self._check()
            return self._classifier.encode(post.content, post.questions)
        except ModerationError as error:
            return error
        except BaseException as error:  # noqa: BLE001  whatever a tokenizer chokes on is this post's fault; Rust panics
            log.warning("encode_failed", error=type(error).__name__, frames=frames(error))
        return PostError(Reason.MODEL_FAILED, "the post cannot be encoded")


def _set(post: _Post, found: Sequence[Encoded] | ModerationError) -> None:
    if post.windows.done():
        return
    if isinstance(found, ModerationError):
        post.windows.set_exception(found)
    else:
        post.windows.set_result(found)
