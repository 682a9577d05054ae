"""Scores posts with a model behind a server. There is no batch: no post waits for another's request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from moderation.errors import ChangedError, ModerationError, PostError
from moderation.inference.encode_pool import EncodePool
from moderation.inference.scoring import Scored
from moderation.models.checked import Answers, CheckedRemote, Item
from moderation.models.contract import RemoteModel
from moderation.observability import phases, traces
from moderation.observability.phases import Phase
from moderation.settings import WorkerSettings
from moderation.types import Answer, Arrival, Content, ModelInfo, Outcome, Question, Reason

SHARE = 0.75  # of the time that a post may be in hand; after it, a post is given up before the watchdog ends the worker


class RemoteScorer:
    """A Scorer. Encodes on threads, and asks about all windows of a post at the same time."""

    waiting = 0  # the server's places are shared by requests, not by posts
    waited = 0.0
    pictures = (0, 0)

    def __init__(self, model: RemoteModel, settings: WorkerSettings) -> None:
        """model: started."""
        self._model = CheckedRemote(model)
        self._remote = model
        self._closed: ModerationError | None = None
        self._encoders = EncodePool(self._model, settings, self._check)
        self._admission = asyncio.Semaphore(settings.max_in_flight)
        self._deadline_s = SHARE * settings.post_timeout_s + model.patience_s

    @property
    def info(self) -> ModelInfo:
        """The model."""
        return self._remote.info

    @property
    def strictest(self) -> Outcome:
        """No finding is stricter than this by the model's answers."""
        return self._remote.strictest

    @property
    def paused(self) -> bool:
        """Whether no post should be taken: the server is away, and the outage may still be waited for."""
        return self._remote.paused

    @property
    def patience_s(self) -> float:
        """The longest time that a post waits for the end of outages."""
        return self._remote.patience_s

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever `paused` has changed."""
        self._remote.on_change(changed)

    def device_memory(self) -> None:
        """There is no device here."""
        return

    async def warm_up(self, questions: Sequence[Question] = ()) -> None:
        """Does nothing: the start request has shown that the server works."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = ModerationError("the scorer has been closed")
        self._encoders.close(self._closed)
        await self._remote.close()

    async def score(
        self, content: Content, questions: Sequence[Question], arrival: Arrival | None = None
    ) -> Scored[Answer]:
        """Returns the answers to all questions on all windows of the content. Requests have no order of arrival.

        Windows whose requests take too long have the answer DEADLINE_EXCEEDED. Raises PostError if this content cannot
        be encoded, and with DEADLINE_EXCEEDED if no window was answered in time.
        """
        if not questions:
            return Scored((), 0.0, 0.0, 0.0)
        phases.enter(Phase.ADMISSION)
        async with self._admission:
            self._check()
            started = time.perf_counter()
            phases.enter(Phase.ENCODE)
            items = await self._encoders.encode(content, questions)
            encoded = time.perf_counter()
            phases.enter(Phase.MODEL)
            left = self._left()
            parts = await asyncio.gather(*(self._answer(item, left) for item in items))
            if not any(parts):
                raise PostError(Reason.DEADLINE_EXCEEDED, "the model server did not answer in time")
            finished = time.perf_counter()
        if traces.recorded() is not None:
            traces.phase(Phase.ENCODE, started, encoded)
            traces.phase(Phase.MODEL, encoded, finished)
        late = ((Reason.DEADLINE_EXCEEDED,) * len(questions),)
        windows = tuple(tuple(row) for part in parts for row in part or late)
        return Scored(windows, encoded - started, 0.0, finished - encoded, items.problems)

    async def watch(self) -> None:
        """Raises ChangedError when the server has answered under another name than at start."""
        await self._remote.changed()
        raise ChangedError(
            f"the model server now answers with another model than at start ({self.info.name}): the process ends, and "
            "starts again under the new model's digest"
        )

    async def _answer(self, item: Item, left: float) -> Answers:
        """The answers on one window; empty if they have not come in `left` seconds."""
        try:
            async with asyncio.timeout(left):
                return await self._model.answer(item)
        except TimeoutError:
            return ()

    def _left(self) -> float:
        """Seconds for the requests of the current post. They count from its poll, as those of the watchdog do."""
        post = phases.CURRENT.get(None)
        return self._deadline_s - (time.monotonic() - post.taken if post else 0.0)

    def _check(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)
