"""A model behind a server: learns its name, cuts posts into windows, puts the questions, checks who answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from openai import AsyncOpenAI

from moderation.errors import ConfigError
from moderation.models.contract import Encoded
from moderation.models.remote import content as contents
from moderation.models.remote.server import Rejected, Server, Unavailable
from moderation.models.remote.wire import Reply, Window, Wire
from moderation.settings import ModelSettings
from moderation.types import Answer, Content, ModelInfo, Outcome, Question, Reason

log = structlog.get_logger()


class ServedModel:
    """A RemoteModel on one wire."""

    def __init__(self, wire: Wire, client: AsyncOpenAI, settings: ModelSettings) -> None:
        self._wire = wire
        self._client = client
        self._settings = settings
        self._server = Server(client, settings, wire.learn)
        self._changed = asyncio.Event()
        self.info = self._info("")

    @property
    def strictest(self) -> Outcome:
        """REVIEW for an alias: its model may change unseen."""
        capped = self.info.alias and not self._settings.alias_may_remove
        return Outcome.REVIEW if capped else Outcome.REMOVE

    @property
    def paused(self) -> bool:
        """See RemoteModel."""
        return self._server.breaker.paused

    @property
    def patience_s(self) -> float:
        """See RemoteModel."""
        return self._settings.outage_s

    def on_change(self, changed: Callable[[], None]) -> None:
        """See RemoteModel."""
        self._server.breaker.on_change(changed)

    async def start(self) -> None:
        """See RemoteModel."""
        try:
            reply = await self._server.first(self._wire.learn)
        except Rejected as rejected:
            raise ConfigError(self._refusal(rejected)) from None
        except Unavailable:
            log.warning("model_name_unknown", model=self._settings.name)
            return
        self.info = self._info(reply.model)

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Window]:
        """See Encoder."""
        return contents.windows(content, questions, self._settings)

    async def answer(self, window: Encoded) -> Sequence[Sequence[Answer]]:
        """See RemoteModel."""
        if not isinstance(window, Window):
            raise TypeError("the window was encoded by another model")
        groups = self._wire.groups(len(window.questions))
        answers = await asyncio.gather(*(self._ask(window, group) for group in groups))
        if any(answer is None for answer in answers):
            return await self._answer_halves(window)
        return [tuple(answer for group in answers for answer in group or ())]

    async def changed(self) -> None:
        """See RemoteModel."""
        await self._changed.wait()

    async def close(self) -> None:
        """See RemoteModel."""
        await self._server.breaker.close()
        await self._client.close()

    async def _ask(self, window: Window, questions: range) -> Sequence[Answer] | None:
        """One answer to each of these questions; None if the window is too long for the server's model."""
        try:
            reply = await self._server.ask(partial(self._wire.ask, window=window, questions=questions))
        except Unavailable:
            return [Reason.UNAVAILABLE] * len(questions)
        except Rejected as rejected:
            if rejected.failure.too_long:
                return None
            return [Reason.CONTENT_FILTERED if rejected.failure.filtered else Reason.MODEL_FAILED] * len(questions)
        if self._is_other(reply):
            return [Reason.MODEL_CHANGED] * len(questions)
        if len(reply.answers) != len(questions):
            log.warning("answers_malformed", answers=len(reply.answers), questions=len(questions))
            return [Reason.MODEL_FAILED] * len(questions)
        return reply.answers

    async def _answer_halves(self, window: Window) -> Sequence[Sequence[Answer]]:
        halves = contents.halves(window)
        if not halves:
            return [(Reason.MODEL_FAILED,) * len(window.questions)]
        rows = await asyncio.gather(*(self.answer(half) for half in halves))
        return [row for part in rows for row in part]

    def _is_other(self, reply: Reply) -> bool:
        """Whether another model than at start has answered. Then the process must start again."""
        if reply.model == self.info.revision:
            return False
        if not self._changed.is_set():
            log.error("model_changed", asked=self._settings.name, known=self.info.revision, reported=reply.model)
            self._changed.set()
        return True

    def _info(self, reported: str) -> ModelInfo:
        settings = self._settings
        requested = settings.name.partition(":")[2]
        parts = {
            "wire": settings.name.partition(":")[0],
            "requested": requested,
            "reported": reported,
            "url": settings.url,
            "mode": self._wire.mode,
            "encoding": contents.VERSION,
            "window": [settings.window_tokens, settings.window_overlap],
            "alias_may_remove": settings.alias_may_remove,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return ModelInfo(settings.name, reported, digest, alias=reported != requested)

    def _refusal(self, rejected: Rejected) -> str:
        status = rejected.failure.status
        return (
            f"the model server at MODERATION_MODEL__URL refuses a question of our own (HTTP {status}): check the URL, "
            f"the key, and that it serves {self._settings.name.partition(':')[2]!r} on this wire"
        )
