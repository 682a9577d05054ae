"""Runs a classifier's `encode` on threads, under a deadline for each post."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from moderation.errors import ModerationError, PostError
from moderation.inference.deadline_pool import DeadlinePool, LateError
from moderation.models.checked import CheckedEncoder, Item
from moderation.models.contract import Windows
from moderation.observability import metrics
from moderation.settings import WorkerSettings
from moderation.types import Content, Question, Reason

SMALL_CHARS = 4 << 10  # longest text of a small post, which has no pictures


class EncodePool:
    """The threads that encode. They start with the first post."""

    def __init__(self, model: CheckedEncoder, settings: WorkerSettings, check: Callable[[], None]) -> None:
        """check: called on a thread before each post. Raises the error of the caller if the batcher is closed."""
        self._model = model
        self._check = check
        self._late = f"the post could not be encoded in {settings.encode_timeout_s:g} s"
        all_late = f"all encoding threads are stuck ({settings.encode_timeout_s:g} s): restart the worker"
        self.pool = DeadlinePool(
            "encode", settings.encode_threads, settings.encode_timeout_s, all_late, metrics.ENCODE_TIMEOUTS.inc
        )

    async def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Item]:
        """Returns the post's windows. Waiting for a thread does not count towards the deadline.

        Raises PostError if this post cannot be encoded in time, and DeviceError if no thread is left for other posts.
        """
        small = not content.pictures and len(content.text) <= SMALL_CHARS
        try:
            return await self.pool.run(partial(self._windows, content, questions), small=small)
        except LateError:
            raise PostError(Reason.DEADLINE_EXCEEDED, self._late) from None

    def close(self, error: ModerationError) -> None:
        """Raises the error in all callers that wait. Does not wait for threads."""
        self.pool.close(error)

    def _windows(self, content: Content, questions: Sequence[Question]) -> Windows[Item]:
        """Runs on a thread."""
        self._check()
        return self._model.encode(content, questions)
