"""A double of a model behind a server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moderation.models.contract import Encoded, Windows
from moderation.types import Answer, Content, ModelInfo, Outcome, Problem, Question, Score

YES = Score(0.9, math.log(9), None)


@dataclass(frozen=True)
class Word:
    """A window: each word of a post is one."""

    text: str
    questions: int
    tokens: int = 1


class Remote:
    """A model whose server is the test: `answers` says what each window gets, once `gate` is open."""

    def __init__(self, answers: Callable[[Word], Any] = lambda word: [[YES] * word.questions]) -> None:
        self.info = ModelInfo("openai:double", "double", "d" * 64)
        self.strictest = Outcome.REMOVE
        self.paused = False
        self.away = ""
        self.patience_s = 1.0
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.other = asyncio.Event()
        self.closed = False
        self.problems: tuple[Problem, ...] = ()  # what a limit left out of each post
        self._answers = answers

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:
        if content.text == "unreadable":
            raise ValueError(content.text)
        return Windows([Word(word, len(questions)) for word in content.text.split()], self.problems)

    async def answer(self, window: Encoded) -> Sequence[Sequence[Answer]]:
        assert isinstance(window, Word)
        self.asked.append(window.text)
        if "slow" in window.text:
            await self.gate.wait()
        answers: Sequence[Sequence[Answer]] = self._answers(window)
        return answers

    def on_change(self, changed: Callable[[], None]) -> None:
        changed()

    async def start(self) -> None:
        """It has started."""

    async def changed(self) -> None:
        await self.other.wait()

    async def close(self) -> None:
        self.closed = True
