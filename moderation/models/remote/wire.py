"""What the wires of model servers have in common: a window with its questions goes out, a reply comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openai import AsyncOpenAI

from moderation.models.remote.usage import Usage
from moderation.types import Answer, Question


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a post: what a request says about the post, and the questions."""

    text: str  # of the user, with the spellings of control tokens made harmless
    pictures: tuple[bytes, ...]  # JPEG files
    questions: tuple[Question, ...]
    tokens: int  # an estimate


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said to one request."""

    model: str  # the name that the server reports; empty: it reports none
    answers: tuple[Answer, ...]  # one for each question of the request
    usage: Usage = field(default_factory=Usage)


class Wire(Protocol):
    """How questions are put to one kind of server. Every method raises what the openai client raises."""

    @property
    def sees(self) -> bool | None:
        """Whether the model sees pictures; None until `learn` has found out."""

    @property
    def mode(self) -> str:
        """How the server is asked, for the model's digest; final after `learn`."""

    def groups(self, questions: int) -> Sequence[range]:
        """The questions that go into one request together."""

    async def learn(self, client: AsyncOpenAI) -> Reply:
        """Asks one question of our own, and learns what the server can do."""

    async def ask(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        """Asks some questions about a window, in one request. A window with pictures goes to a model that sees them."""
