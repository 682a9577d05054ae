"""The wire of chat completions: one request for each question, answered with the logprobs of Yes and No.

Servers differ, so `learn` finds a mode that the server takes: logprobs where it has them, else a bare yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import httpx2
from openai import APIStatusError, AsyncOpenAI, BadRequestError, InternalServerError, UnprocessableEntityError
from openai.types.chat import (
    ChatCompletionContentPartParam,
    ChatCompletionMessageParam,
    ChatCompletionUserMessageParam,
)

from moderation.models.remote.answers import GREETING, data_url, document, words_of
from moderation.models.remote.completion import Completion, NoLogprobs
from moderation.models.remote.probability import FORMS, Listed, word_of
from moderation.models.remote.sight import look
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply, Window
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Answer, Reason, Score, YesNo

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["Yes", "No"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
JSON = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
LITTLE_MASS = 0.1  # of our own question: then the model probably thinks before it answers
UNTHINKING = {"chat_template_kwargs": {"enable_thinking": False}}  # of vLLM and SGLang, for templates that think
NO_PICTURES = "image input is not supported"  # llama.cpp's server, as 500
SOON = frozenset({408, 425, 429, 503, 529})  # statuses of a server that is busy


@dataclass(frozen=True, slots=True)
class Mode:
    """How a request is made."""

    name: str
    fields: Mapping[str, object] = field(hash=False)
    scores: bool = False  # whether the answer is read from logprobs
    system: bool = True  # whether the instructions are a system message: some templates have none


def _logprobs(alternatives: int) -> Mode:
    fields = {"temperature": 0, "max_completion_tokens": 1, "logprobs": True, "top_logprobs": alternatives}
    return Mode(f"logprobs of {alternatives}", fields, scores=True)


# In the order in which they are tried. Models that reason take no temperature, and need room to do so.
MODES = (
    _logprobs(20),
    _logprobs(5),
    Mode("yes_no, JSON", {"temperature": 0, "max_completion_tokens": 64, "response_format": JSON}),
    Mode("yes_no, JSON, reasoning", {"max_completion_tokens": 2048, "response_format": JSON}),
    Mode("yes_no", {"temperature": 0, "max_completion_tokens": 16}),
    Mode("yes_no, reasoning", {"max_completion_tokens": 2048}),
)


class Chat:
    """A Wire: `POST /chat/completions`."""

    def __init__(self, settings: ModelSettings, modes: Sequence[Mode] = MODES) -> None:
        self.model = settings.name.partition(":")[2]
        self.sees: bool | None = None  # whether it sees pictures; None: not known yet
        self._modes = modes
        self._mode: Mode | None = None

    @property
    def mode(self) -> str:
        """See Wire."""
        if self._mode is None:
            return "unknown"
        roles = "" if self._mode.system else ", without a system message"
        return f"{self._mode.name}{roles}{', text' if self.sees is False else ''}"

    def groups(self, questions: int) -> Sequence[range]:
        """See Wire. One question each."""
        return [range(question, question + 1) for question in range(questions)]

    async def learn(self, client: AsyncOpenAI) -> Reply:
        """See Wire. The first time, it learns the mode, and whether the model sees pictures.

        What it has learned stays when it fails later on: slow servers need several calls.
        """
        if self._mode is None:
            mode, reply = await self._first_mode(client)
            if mode.scores:
                mode, reply = await self._thinking_off(client, mode, reply)
                mode, reply = await self._with_ids(client, mode, reply)
            self._mode = mode
        else:
            reply = await self._put(client, GREETING, 0, self._mode)
        if self.sees is not None:
            return reply
        self.sees, reply = await look(self.model, reply, partial(self._show, client, self._mode))
        return reply

    async def ask(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        """See Wire."""
        if self._mode is None:
            raise ValueError("the server's mode is not known")
        return _joined([await self._put(client, window, question, self._mode) for question in questions])

    async def _first_mode(self, client: AsyncOpenAI) -> tuple[Mode, Reply]:
        """The first mode that works, and the reply to our own question. Raises what the first request has raised."""
        first: Exception | None = None
        unused = Usage()  # of replies in modes that did not work
        for system in (True, False):
            for each in self._modes:
                mode = replace(each, system=system)
                try:
                    reply = await self._put(client, GREETING, 0, mode)
                except (BadRequestError, UnprocessableEntityError, NoLogprobs) as error:
                    first = first or error
                    continue
                if _works(mode, reply.answers[0]):
                    return mode, replace(reply, usage=unused + reply.usage)
                unused += reply.usage
        raise first or ValueError("the model says neither Yes nor No")

    async def _thinking_off(self, client: AsyncOpenAI, mode: Mode, reply: Reply) -> tuple[Mode, Reply]:
        """The mode without thinking, where the model has begun to think instead of answering, and it helps."""
        if _mass(reply) >= LITTLE_MASS:
            return mode, reply
        quick = replace(mode, name=f"{mode.name}, no thinking", fields={**mode.fields, **UNTHINKING})
        try:
            other = await self._put(client, GREETING, 0, quick)
        except (APIStatusError, ValueError) as error:
            _check_lasting(error)
            return mode, reply
        better = _mass(other) > _mass(reply)
        return quick if better else mode, replace(other if better else reply, usage=reply.usage + other.usage)

    async def _with_ids(self, client: AsyncOpenAI, mode: Mode, reply: Reply) -> tuple[Mode, Reply]:
        """The mode with the ids of all forms of the answers, where the server shows that it lists just these (vLLM)."""
        if not (ids := await self._ids(client)):
            return mode, reply
        exact = replace(mode, name=f"{mode.name}, ids {ids}", fields={**mode.fields, "logprob_token_ids": ids})
        try:
            completion = await self._complete(client, GREETING, 0, exact)
            other = _reply(completion, completion.scored)
        except (APIStatusError, ValueError) as error:
            _check_lasting(error)
            return mode, reply
        others = [word for word in completion.words if word_of(Listed(word, None, 0.0)) not in ("yes", "no")]
        shown = len(ids) <= len(completion.words) <= len(ids) + 1 and len(others) <= 1  # one: the model's own choice
        return (exact if shown else mode), replace(other if shown else reply, usage=reply.usage + other.usage)

    async def _ids(self, client: AsyncOpenAI) -> list[int]:
        """The ids of the forms of the answers that are one token each; empty where the server does not tell them."""
        base = str(client.base_url).rstrip("/")
        if not base.endswith("/v1"):
            return []
        ids: set[int] = set()
        for form in FORMS:
            body = {"model": self.model, "prompt": form, "add_special_tokens": False}
            try:
                response = await client.post(base.removesuffix("v1") + "tokenize", cast_to=httpx2.Response, body=body)
                tokens = document(response.content).get("tokens")
            except (APIStatusError, ValueError) as error:
                _check_lasting(error)
                return []
            if isinstance(tokens, list) and len(tokens) == 1 and type(tokens[0]) is int:
                ids.add(tokens[0])
        return sorted(ids)

    async def _show(self, client: AsyncOpenAI, mode: Mode, window: Window, questions: range) -> Reply:
        """As `ask`, but MODEL_FAILED from a server that says as its own failure that it takes no pictures."""
        try:
            return _joined([await self._put(client, window, question, mode) for question in questions])
        except InternalServerError as error:
            if NO_PICTURES not in error.message:
                raise
            return Reply("", (Reason.MODEL_FAILED,) * len(questions))

    async def _put(self, client: AsyncOpenAI, window: Window, question: int, mode: Mode) -> Reply:
        completion = await self._complete(client, window, question, mode)
        return _reply(completion, completion.scored if mode.scores else completion.said)

    async def _complete(self, client: AsyncOpenAI, window: Window, question: int, mode: Mode) -> Completion:
        response = await client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=messages(window, window.questions[question].text, system=mode.system),
            extra_body=dict(mode.fields),
        )
        return Completion.model_validate_json(response.content)


def messages(window: Window, question: str, *, system: bool = True) -> list[ChatCompletionMessageParam]:
    """What the model reads. The question comes last, so requests about one post share all that is before it."""
    text = f"{words_of(window)}\n{prompts.asked(question)}"
    if not system:
        text = f"{prompts.INSTRUCTIONS}\n{text}"
    parts: list[ChatCompletionContentPartParam] = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in window.pictures
    ]
    user: ChatCompletionUserMessageParam = {"role": "user", "content": text}  # servers of text models take no parts
    if parts:
        user["content"] = [*parts, {"type": "text", "text": text}]
    return [{"role": "system", "content": prompts.INSTRUCTIONS}, user] if system else [user]


def _works(mode: Mode, answer: Answer) -> bool:
    return isinstance(answer, Score) or answer is Reason.NO_ANSWER if mode.scores else isinstance(answer, YesNo)


def _check_lasting(error: Exception) -> None:
    """Raises the error if the same request may succeed soon: it does not show what the server can do."""
    if isinstance(error, APIStatusError) and error.status_code in SOON:
        raise error


def _joined(replies: Sequence[Reply]) -> Reply:
    answers = tuple(answer for reply in replies for answer in reply.answers)
    return Reply(replies[0].model, answers, sum((reply.usage for reply in replies), Usage()))


def _mass(reply: Reply) -> float:
    answer = reply.answers[0]
    return (answer.mass or 0.0) if isinstance(answer, Score) else 0.0


def _reply(completion: Completion, answer: Answer) -> Reply:
    return Reply(completion.model or "", (answer,), completion.tokens)
