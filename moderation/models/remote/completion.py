"""A chat completion as servers send it. The fields that decide are checked; servers add others, and leave some out."""

from __future__ import annotations

import json
import re

from pydantic import BaseModel, ConfigDict, Field

from moderation.models.remote.probability import Listed, answer_in
from moderation.models.remote.usage import Usage
from moderation.types import Answer, Reason, YesNo

# A whole answer in words: Yes or No, then nothing, a punctuation mark or another line.
WORD = re.compile(r"[\W_]*(yes|no)(?:[\W_]*$|[^\w\s]|\n)", re.IGNORECASE)


class NoLogprobs(ValueError):
    """The reply has no logprobs beside the words, or of one token alone, which say nothing of the other answer."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True, protected_namespaces=())


class _Token(_Part):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None

    @property
    def listed(self) -> Listed:
        data = bytes(self.bytes) if self.bytes else None  # ValueError for what is no byte
        return Listed(self.token, data, float("-inf") if self.logprob is None else self.logprob)


class _Position(_Part):
    top_logprobs: list[_Token] | None = None


class _Logprobs(_Part):
    content: list[_Position] | None = None


class _Message(_Part):
    content: object = None
    refusal: object = None


class _Choice(_Part):
    message: _Message
    finish_reason: object = None
    logprobs: _Logprobs | None = None


class _Cached(_Part):
    cached_tokens: object = 0


class _Usage(_Part):
    prompt_tokens: object = 0
    completion_tokens: object = 0
    prompt_tokens_details: _Cached | None = None


class Completion(_Part):
    """The body of a response."""

    model: str | None = None
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None

    @property
    def tokens(self) -> Usage:
        """What the server has counted."""
        usage = self.usage or _Usage()
        cached = (usage.prompt_tokens_details or _Cached()).cached_tokens
        return Usage(*(n if isinstance(n, int) else 0 for n in (usage.prompt_tokens, cached, usage.completion_tokens)))

    @property
    def scored(self) -> Answer:
        """The answer of a request with logprobs. Raises NoLogprobs, and ValueError for those that are none."""
        if (reason := self._stopped) is not None:
            return reason
        choice = self.choices[0]
        positions = (choice.logprobs and choice.logprobs.content) or []
        if not positions and choice.finish_reason == "stop" and not choice.message.content:
            return Reason.NO_ANSWER  # the model has ended its turn without a word
        tokens = (positions and positions[0].top_logprobs) or []
        if len(tokens) < 2:
            raise NoLogprobs("the response has no logprobs of alternatives")
        return answer_in(token.listed for token in tokens)

    @property
    def words(self) -> list[str]:
        """The tokens that are listed for the first position."""
        content = self.choices[0].logprobs and self.choices[0].logprobs.content
        return [token.token for token in (content and content[0].top_logprobs) or ()]

    @property
    def said(self) -> Answer:
        """The answer in words, or in the JSON of `chat.SCHEMA`; NO_ANSWER for any other words."""
        if (reason := self._stopped) is not None:
            return reason
        content = self.choices[0].message.content
        if not isinstance(content, str):
            return Reason.NO_ANSWER
        try:
            read: object = json.loads(content)
        except (ValueError, RecursionError):
            read = content
        answer = read.get("answer") if isinstance(read, dict) else read
        said = WORD.match(answer) if isinstance(answer, str) else None
        return YesNo(said[1].lower() == "yes") if said else Reason.NO_ANSWER

    @property
    def _stopped(self) -> Reason | None:
        """Why the model has not answered at all."""
        choice = self.choices[0]
        if choice.finish_reason == "content_filter":
            return Reason.CONTENT_FILTERED
        return Reason.REFUSED if choice.message.refusal else None
