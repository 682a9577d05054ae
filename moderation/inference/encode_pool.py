"""A classifier's `encode`, awaited: it runs on threads, under a deadline for each post."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from moderation.errors import ModerationError, PostError
from moderation.inference.deadline_pool import DeadlinePool, LateError
from moderation.models.checked import CheckedModel, Item
from moderation.observability import metrics
from moderation.settings import WorkerSettings
from moderation.types import Content, Question, Reason

SMALL_CHARS = 4 << 10  # longest text of a small post, which has no pictures


class Encoders:
    """The threads that encode. Made without starting any."""

    def __init__(self, model: CheckedModel, settings: WorkerSettings, check: Callable[[], None]) -> None:
        """check: raises on a thread what its caller is to get instead of an answer, when nothing is worth doing."""
        self._model = model
        self._check = check
        self._late = f"the post could not be encoded in {settings.encode_timeout_s:g} s"
        all_late = f"no post is encoded any more: all threads have been at one for {settings.encode_timeout_s:g} s"
        self.pool = DeadlinePool(
            "encode", settings.encode_threads, settings.encode_timeout_s, all_late, metrics.ENCODE_TIMEOUTS.inc
        )

    async def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Item]:
        """The post's windows. The clock of a post stands while it waits for a thread.

        Raises PostError when this post cannot be encoded or not in time, DeviceError when no thread is left for others.
        """
        small = not content.pictures and len(content.text) <= SMALL_CHARS
        try:
            return await self.pool.run(partial(self._windows, content, questions), small=small)
        except LateError:
            raise PostError(Reason.DEADLINE_EXCEEDED, self._late) from None

    def close(self, error: ModerationError) -> None:
        """Does not wait for threads. Everyone who waits for a post gets the error."""
        self.pool.close(error)

    def _windows(self, content: Content, questions: Sequence[Question]) -> Sequence[Item]:
        """On a thread."""
        self._check()
        return self._model.encode(content, questions)
