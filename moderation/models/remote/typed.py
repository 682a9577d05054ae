"""What the wires of decision models share: many questions in a request, and a look at whether pictures are seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

from openai import AsyncOpenAI

from moderation.models.remote.answers import GREETING
from moderation.models.remote.sight import look
from moderation.models.remote.wire import Reply, Window
from moderation.settings import ModelSettings

VERSION = 1  # of how these wires put a post and its questions; part of the model's digest


class TypedWire(ABC):
    """A Wire to a decision model: typed questions, and probabilities as answers."""

    most_questions: int  # that a request may have

    def __init__(self, settings: ModelSettings) -> None:
        self.model = settings.name.partition(":")[2]
        self.sees: bool | None = None  # whether it sees pictures; None: not known yet

    @property
    @abstractmethod
    def mode(self) -> str:
        """See Wire."""

    @abstractmethod
    async def put(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        """Puts the questions, in one request. Raises what the client raises, and ValueError for a malformed reply."""

    def groups(self, questions: int) -> Sequence[range]:
        """See Wire."""
        most = self.most_questions
        return [range(first, min(first + most, questions)) for first in range(0, questions, most)]

    async def learn(self, client: AsyncOpenAI) -> Reply:
        """See Wire. The first time, it also learns whether the model sees pictures."""
        reply = await self.put(client, GREETING, range(1))
        if self.sees is not None:
            return reply
        self.sees, reply = await look(self.model, reply, partial(self.put, client))
        return reply

    async def ask(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        """See Wire."""
        return await self.put(client, window, questions)
