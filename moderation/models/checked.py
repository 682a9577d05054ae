"""A model whose every result is checked. The service calls models only through this module.

A model is foreign code. It may raise anything, a BaseException too, and it may return anything. The service gets only

    encode                    items and problems; or PostError, ConfigError, DeviceError
    score                     rows of sound scores, or a Failure; or DeviceError
    answer                    of a remote model: rows of sound answers
    look_ahead                whether it succeeded; or DeviceError
    pictures, device_memory   numbers; when the model fails, the last ones, or None

An exception stays on the thread that raised it: its frames hold device memory, and its text may hold content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import structlog

from moderation import normal_form
from moderation.errors import DeviceError, ModerationError, PostError
from moderation.models.contract import (
    Classifier,
    DeviceMemory,
    Encoded,
    Encoder,
    LooksAhead,
    Measured,
    RemoteModel,
    Windows,
)
from moderation.observability.logs import frames
from moderation.types import Answer, Content, Problem, Question, Reason, Score

Scores = Sequence[Sequence[Score]]
Answers = Sequence[Sequence[Answer]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Item:
    """One window of one post, as the model has encoded it."""

    encoded: Encoded
    questions: int  # how many scores it must get
    tokens: int  # read from the model once


class Failure(Enum):
    """How a step failed."""

    TOO_LARGE = "out_of_memory"
    RAISED = "error"
    MALFORMED = "malformed"  # the result does not have the shape of the batch


class Malformed(ValueError):
    """A model's result breaks its contract. The text holds only counts and types."""


class CheckedEncoder:
    """An Encoder whose results keep the contract. Runs on any thread."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Item]:
        """The windows of a content, at least one. Raises PostError, ConfigError and DeviceError.

        Where a normal form of the text differs, its windows follow those of the text as it came.
        """
        windows = self._encode(content, questions)
        try:
            normal = normal_form.to_judge(content.text)
            more = self._encode(replace(content, text=normal), questions) if normal else Windows[Item]()
        except PostError as error:
            more = Windows((), (Problem(error.reason, "text"),))
        except ModerationError:
            raise
        except Exception as error:  # noqa: BLE001  the text as it came is judged all the same
            log.warning("encode_failed", error=type(error).__name__, frames=frames(error))
            more = Windows((), (Problem(Reason.MODEL_FAILED, "text"),))
        return Windows([*windows, *more], tuple(dict.fromkeys([*windows.problems, *more.problems])))

    def _encode(self, content: Content, questions: Sequence[Question]) -> Windows[Item]:
        items: list[Item] = []
        problems: tuple[Problem, ...] = ()
        try:
            windows = self._encoder.encode(content, questions)
            problems = _problems(windows)
            items = [Item(window, len(questions), _tokens(window)) for window in windows]
        except ModerationError:
            raise
        except BaseException as error:  # noqa: BLE001  a failure is this post's fault; Rust panics
            log.warning("encode_failed", error=type(error).__name__, frames=frames(error))
        if not items:
            raise PostError(Reason.MODEL_FAILED, "the post cannot be encoded")
        return Windows(items, problems)


class CheckedModel(CheckedEncoder):
    """A Classifier whose results keep the contract. Each method runs on the thread of the Classifier's method."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        self._classifier = classifier
        self._ahead = classifier if isinstance(classifier, LooksAhead) else None
        self._pictures = (0, 0)
        self.info = classifier.info

    @property
    def looks_ahead(self) -> bool:
        """Whether `look_ahead` does anything."""
        return self._ahead is not None

    def score(self, items: Sequence[Item]) -> Scores | Failure:
        """For each item one sound Score for each of its questions. Raises DeviceError."""
        try:
            return _checked(self._classifier.score([item.encoded for item in items]), items)
        except DeviceError:
            raise
        except Malformed as error:
            log.warning("step_failed", error=str(error), items=len(items))
            return Failure.MALFORMED
        except BaseException as error:  # noqa: BLE001  the device works, so an item is at fault
            log.warning("step_failed", error=type(error).__name__, items=len(items), frames=frames(error))
            return Failure.TOO_LARGE if _out_of_memory(error) else Failure.RAISED

    def look_ahead(self, items: Sequence[Item]) -> bool:
        """Whether it succeeded. If not, the step that scores these items will fail, too. Raises DeviceError."""
        if self._ahead is None or not items:
            return True
        try:
            self._ahead.look_ahead([item.encoded for item in items])
        except DeviceError:
            raise
        except BaseException as error:  # noqa: BLE001  the step that scores these items will fail, too
            log.debug("look_ahead_failed", error=type(error).__name__, frames=frames(error))
            return False
        return True

    @property
    def pictures(self) -> tuple[int, int]:
        """See Measured. Never decreases. (0, 0) for a model that is not Measured."""
        try:
            requested, hits = self._classifier.pictures if isinstance(self._classifier, Measured) else (0, 0)
            self._pictures = max(self._pictures[0], int(requested)), max(self._pictures[1], int(hits))
        except BaseException as error:  # noqa: BLE001  no post is at stake
            log.debug("measure_failed", error=type(error).__name__, frames=frames(error))
        return self._pictures

    def device_memory(self) -> DeviceMemory | None:
        """See Measured. None also when the model is not Measured, or fails."""
        try:
            memory = self._classifier.device_memory() if isinstance(self._classifier, Measured) else None
        except BaseException as error:  # noqa: BLE001  no post is at stake
            log.debug("measure_failed", error=type(error).__name__, frames=frames(error))
            return None
        return memory if isinstance(memory, DeviceMemory) else None


class CheckedRemote(CheckedEncoder):
    """A RemoteModel whose results keep the contract."""

    def __init__(self, model: RemoteModel) -> None:
        super().__init__(model)
        self.model = model

    async def answer(self, item: Item) -> Answers:
        """For each part that the window was cut into, one sound Answer to each question. Raises nothing."""
        try:
            return _checked_answers(await self.model.answer(item.encoded), item)
        except Malformed as error:
            log.warning("answers_malformed", error=str(error))
        except Exception as error:  # noqa: BLE001  one post's failure must not reach its neighbours
            log.warning("answer_failed", error=type(error).__name__, frames=frames(error))
        return [(Reason.MODEL_FAILED,) * item.questions]


def _checked_answers(rows: Sequence[Sequence[Answer]], item: Item) -> Answers:
    """The rows, at least one. Raises Malformed."""
    answers = [tuple(row) for row in rows]
    if not answers or any(len(row) != item.questions for row in answers):
        raise Malformed(
            f"answer returned rows of {[len(row) for row in answers]} answers for {item.questions} questions"
        )
    if any(not answer.sound for row in answers for answer in row if isinstance(answer, Score)):
        raise Malformed("answer returned a score that cannot be one")
    return answers


def _problems(windows: object) -> tuple[Problem, ...]:
    """What a limit left out. Raises Malformed."""
    if not isinstance(windows, Windows):
        raise Malformed(f"encode returned {type(windows).__name__}, no Windows")
    problems: tuple[object, ...] = tuple(windows.problems)
    if not all(isinstance(problem, Problem) for problem in problems):
        raise Malformed("encode returned a problem that is none")
    return tuple(problem for problem in problems if isinstance(problem, Problem))


def _tokens(window: Encoded) -> int:
    tokens: object = window.tokens
    if not isinstance(tokens, int) or tokens <= 0:
        raise Malformed("a window's tokens are no positive int")
    return tokens


def _checked(rows: object, items: Sequence[Item]) -> Scores:
    """The rows as new tuples, which the model cannot change any more. Raises Malformed."""
    if not isinstance(rows, Sequence):
        raise Malformed(f"score returned {type(rows).__name__}, no sequence")
    if len(rows) != len(items):
        raise Malformed(f"score returned {len(rows)} rows for {len(items)} items")
    copies = [tuple(row) if isinstance(row, Sequence) else () for row in rows]
    for row, item in zip(copies, items, strict=True):
        if len(row) != item.questions:
            raise Malformed(f"score returned a row of {len(row)} scores for {item.questions} questions")
        for score in row:
            if not isinstance(score, Score) or not score.sound or score.mass is None:
                raise Malformed("score returned a score that cannot be one")
    return copies


def _out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError without importing torch, and Python's own."""
    named = type(error).__name__ == "OutOfMemoryError" and isinstance(error, RuntimeError)
    return named or isinstance(error, MemoryError)
