"""A model behind a server: learns its name, cuts posts into windows, puts the questions, checks who answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial

import structlog
from openai import AsyncOpenAI, BadRequestError, UnprocessableEntityError

from moderation.errors import ConfigError
from moderation.models.contract import Encoded, Windows
from moderation.models.remote import content as contents
from moderation.models.remote.answers import GREETING
from moderation.models.remote.breaker import Patience
from moderation.models.remote.failures import Failure
from moderation.models.remote.server import Rejected, Server, Unavailable
from moderation.models.remote.wire import Reply, Window, Wire
from moderation.settings import ModelSettings
from moderation.types import Answer, Content, ModelInfo, Outcome, Problem, Question, Reason

log = structlog.get_logger()


CONFIRMATIONS = 5  # replies in a row under another name than at start: then the model has changed
MAX_HALVINGS = 4  # of a window that is too long for the server
LONGEST_NAME = 200  # characters


class ServedModel:
    """A RemoteModel on one wire."""

    def __init__(
        self, wire: Wire, client: AsyncOpenAI, settings: ModelSettings, fresh: Callable[[], Wire] | None = None
    ) -> None:
        """fresh: another wire of the same kind, which has learned nothing yet."""
        self._wire = wire
        self._fresh = fresh
        self._client = client
        self._settings = settings
        self._server = Server(client, settings, self._probe)
        self._started = self._learned = False
        self._changed = asyncio.Event()
        self._confirming: asyncio.Task[None] | None = None
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
    def away(self) -> str:
        """See RemoteModel."""
        breaker = self._server.breaker
        return str(breaker.cause) if breaker.is_open and breaker.cause else ""

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
            raise ConfigError(self._refusal(rejected.failure)) from None
        except Unavailable:
            log.warning("model_name_unknown", model=self._settings.name)
        else:
            self._learned = True
            self.info = self._info(_name(reply))
            usage, prices = reply.usage, self._settings
            if (prices.input_price and not usage.input) or (prices.output_price and not usage.output):
                log.warning("model_usage_unknown", model=self._settings.name)
        self._started = True

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Window]:
        """See Encoder."""
        blind = self._wire.sees is False and bool(content.pictures and content.text)
        seen = replace(content, pictures=()) if blind else content
        windows = contents.windows(seen, questions, self._settings)
        unseen = (Problem(Reason.PICTURES_UNSEEN, "images"),) if blind else ()
        return replace(windows, problems=windows.problems + unseen)

    async def answer(self, window: Encoded) -> Sequence[Sequence[Answer]]:
        """See RemoteModel."""
        if not isinstance(window, Window):
            raise TypeError("the window was encoded by another model")
        if window.pictures and self._wire.sees is False:  # an answer would not be about the pictures
            return [(Reason.PICTURES_UNSEEN,) * len(window.questions)]
        parts = await self._parts(window, self._server.patience(), MAX_HALVINGS, set())
        failed = (Reason.MODEL_FAILED,) * len(window.questions)
        return [failed] if all(part == failed for part in parts) else parts

    async def changed(self) -> None:
        """See RemoteModel."""
        await self._changed.wait()

    async def close(self) -> None:
        """See RemoteModel."""
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.wait([self._confirming])
        await self._server.breaker.close()
        await self._client.close()

    async def _parts(
        self, window: Window, patience: Patience, halvings: int, hopeless: set[tuple[bytes, ...]]
    ) -> list[Sequence[Answer]]:
        """For each part of the window, an Answer to each question: MODEL_FAILED if it cannot be made short enough.

        hopeless: pictures with which no text was short enough so far. With these, a text is not halved any more.
        """
        groups = self._wire.groups(len(window.questions))
        answers = await asyncio.gather(*(self._ask(window, group, patience) for group in groups))
        if all(answer is not None for answer in answers):
            hopeless.discard(window.pictures)
            return [tuple(answer for group in answers for answer in group or ())]
        halves = contents.halves(window) if halvings and window.pictures not in hopeless else ()
        if not halves:
            hopeless.add(window.pictures)
            failed = [Reason.MODEL_FAILED]
            each = [answer or failed * len(group) for group, answer in zip(groups, answers, strict=True)]
            return [tuple(answer for group in each for answer in group)]
        rows: list[Sequence[Answer]] = []
        for half in halves:  # one after another: the first one shows whether the others have a chance
            rows += await self._parts(half, patience, halvings - 1, hopeless)
        return rows

    async def _ask(self, window: Window, questions: range, patience: Patience) -> Sequence[Answer] | None:
        """One answer to each of these questions; None if the window is too long for the server's model."""
        try:
            reply = await self._server.ask(partial(self._wire.ask, window=window, questions=questions), patience)
        except Unavailable:
            return [Reason.UNAVAILABLE] * len(questions)
        except Rejected as rejected:
            if rejected.failure.too_long:
                return None
            if self._changed.is_set():
                return [Reason.MODEL_CHANGED] * len(questions)
            return [Reason.CONTENT_FILTERED if rejected.failure.filtered else Reason.MODEL_FAILED] * len(questions)
        if self._is_other(reply):
            return [Reason.MODEL_CHANGED] * len(questions)
        if len(reply.answers) != len(questions):
            log.warning("answers_malformed", answers=len(reply.answers), questions=len(questions))
            return [Reason.MODEL_FAILED] * len(questions)
        return reply.answers

    async def _probe(self, client: AsyncOpenAI) -> Reply:
        """Asks a question of our own. Learns the name that the server reports, where the start could not."""
        if self._learned:
            try:
                return await self._wire.ask(client, GREETING, range(1))
            except (BadRequestError, UnprocessableEntityError, ValueError):
                if (reply := await self._learn_anew(client)) is None:
                    raise
                return reply
        reply = await self._wire.learn(client)
        if self._started:  # without the name. What the wire has learned is not in the digest, either
            self._learned = True
            self._set_changed(_name(reply))
        return reply

    async def _learn_anew(self, client: AsyncOpenAI) -> Reply | None:
        """The reply of a server that must be asked in another way than at start; None: there is no other way.

        The way is part of the digest, so the process starts again.
        """
        if self._fresh is None:
            return None
        wire = self._fresh()
        reply = await wire.learn(client)
        if wire.mode == self._wire.mode:
            return None
        self._set_changed(_name(reply))
        return reply

    def _is_other(self, reply: Reply) -> bool:
        """Whether another model than at start has answered."""
        if self._changed.is_set():
            return True
        if _name(reply) == self.info.revision:
            return False
        if self._confirming is None or self._confirming.done():
            self._confirming = asyncio.create_task(self._confirm(_name(reply)), context=Context())
        return True

    async def _confirm(self, reported: str) -> None:
        """Ends the process if the model has changed. One answer of another model may be a balancer's mistake."""
        for _ in range(CONFIRMATIONS):
            try:
                reply = await self._server.ask(
                    partial(self._wire.ask, window=GREETING, questions=range(1)), Patience(0)
                )
            except (Unavailable, Rejected):
                return  # the next answer under another name asks again
            if (reported := _name(reply)) == self.info.revision:
                log.warning("model_name_wavered", model=self._settings.name, known=self.info.revision)
                return
        self._set_changed(reported)

    def _set_changed(self, reported: str) -> None:
        log.error("model_changed", asked=self._settings.name, known=self.info.revision, reported=reported)
        self._changed.set()

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
            "halving": [MAX_HALVINGS, contents.SHORTEST, contents.OVERLAP],
            "window": [settings.window_tokens, settings.window_overlap],
            "alias_may_remove": settings.alias_may_remove,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return ModelInfo(settings.name, reported, digest, alias=reported != requested)

    def _refusal(self, failure: Failure) -> str:
        wire, _, model = self._settings.name.partition(":")
        says = f"HTTP {failure.status}" if failure.status else failure.kind
        hints = {
            401: "check the key (MODERATION_MODEL__API_KEY_FILE)",
            403: "check the key (MODERATION_MODEL__API_KEY_FILE) and what it may use",
            404: f"check that the URL ends as the server's documentation says, and that it serves {model!r}",
        }
        hint = hints.get(failure.status, f"check that it serves {model!r} on the wire {wire!r}")
        if failure.kind == "malformed":
            hint = f"what answers there does not speak the wire {wire!r}; check the URL, often it ends in /v1"
        elif failure.kind == "certificate":
            hint = "its certificate is not valid here; check the host's name, and SSL_CERT_FILE for a CA of your own"
        elif 300 <= failure.status < 400:
            hint = "it sends us elsewhere; give the final URL"
        address = self._settings.url.partition("?")[0]
        return f"MODERATION_MODEL__URL ({address}) refuses a question of our own ({says}): {hint}"


def _name(reply: Reply) -> str:
    """The name that the server reports, as verdicts and metrics may hold it."""
    name = reply.model
    if len(name) <= LONGEST_NAME and name.isprintable():
        return name
    return "sha256:" + hashlib.sha256(name.encode(errors="replace")).hexdigest()
