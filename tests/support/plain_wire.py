"""The smallest wire that a test can ask a model server on: chat completions, one question a request."""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from moderation.models.remote import responses
from moderation.models.remote.model import ServedModel
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply, Window
from moderation.settings import ModelSettings
from moderation.types import Question, Score
from tests.support.model_server import MODEL

KEY = "sk-a-key-that-no-log-may-hold"
NO_CA = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the usual ones takes a tenth of a second a client
POST = "a post that no log may hold"


class PlainWire:
    """A Wire."""

    mode = "plain"
    sees: bool | None = None

    def __init__(self) -> None:
        self.learned = 0

    def groups(self, questions: int) -> Sequence[range]:
        return [range(number, number + 1) for number in range(questions)]

    async def learn(self, client: AsyncOpenAI) -> Reply:
        reply = await self._ask(client, "a question of our own: learn")
        self.learned += 1
        return reply

    async def ask(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        (number,) = questions
        return await self._ask(client, f"{window.text}\n{window.questions[number].text}")

    async def _ask(self, client: AsyncOpenAI, text: str) -> Reply:
        response: Any = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], logprobs=True, top_logprobs=20
        )
        try:
            entries = response.choices[0].logprobs.content[0].top_logprobs
            shares = {entry.token: math.exp(entry.logprob) for entry in entries}
            usage = Usage(response.usage.prompt_tokens, 0, response.usage.completion_tokens)
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError("no chat completion") from error
        mass = shares["Yes"] + shares["No"]
        yes = shares["Yes"] / mass
        return Reply(response.model or "", (Score(yes, math.log(yes / (1 - yes)), mass),), usage)


def a_window(text: str = POST, questions: int = 1) -> Window:
    asked = tuple(Question(f"p{number}", f"Is it {number}?") for number in range(questions))
    return Window(text, (), asked, 100)


def model_settings(url: str, **fields: Any) -> ModelSettings:
    defaults: dict[str, Any] = {"name": f"openai:{MODEL}", "url": url, "request_timeout_s": 5.0, "outage_s": 5.0}
    return ModelSettings.model_validate(defaults | fields)


def a_client(url: str) -> AsyncOpenAI:
    http = DefaultAsyncHttpxClient(verify=NO_CA, follow_redirects=False, event_hooks=responses.hooks())
    return AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=5.0, http_client=http)


def a_model(url: str, **fields: Any) -> ServedModel:
    """Not started yet."""
    return ServedModel(PlainWire(), a_client(url), model_settings(url, **fields))
