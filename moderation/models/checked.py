"""The one seam to a model: everything that the service asks of it, and every answer checked.

A model is foreign code. It may raise anything, errors that are no Exception included, and it may return anything.
Behind this seam there is only

    encode             items; or PostError, ConfigError, DeviceError
    score              rows of sound scores, or a Failure; or DeviceError
    look_ahead         whether it went well; or DeviceError
    pictures, memory   numbers; those from before, or None, where the model fails

An exception stays on the thread that it was raised on: its frames hold the device's memory, its text may hold content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import structlog

from moderation.errors import DeviceError, ModerationError, PostError
from moderation.models.contract import Classifier, DeviceMemory, Encoded, LooksAhead, Measured
from moderation.observability.logs import frames
from moderation.types import Content, Question, Reason, Score

Scores = Sequence[Sequence[Score]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Item:
    """One window of one post, as the model has encoded it."""

    encoded: Encoded
    questions: int  # how many scores it must get
    tokens: int  # asked of the model once


class Failure(Enum):
    """How a step failed."""

    TOO_LARGE = "out_of_memory"
    RAISED = "error"
    MALFORMED = "malformed"  # what came back is no answer to what was asked


class Malformed(ValueError):
    """What a model returned is not what its contract says. The text holds counts and types alone."""


class CheckedModel:
    """A Classifier whose answers can be relied on to be answers. Each method runs where the Classifier's does."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._ahead = classifier if isinstance(classifier, LooksAhead) else None
        self._pictures = (0, 0)
        self.info = classifier.info

    @property
    def looks_ahead(self) -> bool:
        """Whether `look_ahead` does anything."""
        return self._ahead is not None

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Item]:
        """The windows of a content, at least one. Raises PostError, ConfigError and DeviceError."""
        try:
            windows = self._classifier.encode(content, questions)
            items = [Item(window, len(questions), _tokens(window)) for window in windows]
        except ModerationError:
            raise
        except BaseException as error:  # noqa: BLE001  whatever a tokenizer chokes on is this post's fault; Rust panics
            log.warning("encode_failed", error=type(error).__name__, frames=frames(error))
            items = []
        if not items:
            raise PostError(Reason.MODEL_FAILED, "the post cannot be encoded")
        return items

    def score(self, items: Sequence[Item]) -> Scores | Failure:
        """For each item one sound Score for each of its questions. Raises DeviceError."""
        try:
            return _checked(self._classifier.score([item.encoded for item in items]), items)
        except DeviceError:
            raise
        except Malformed as error:
            log.warning("step_failed", error=str(error), items=len(items))
            return Failure.MALFORMED
        except BaseException as error:  # noqa: BLE001  the device is well, so some item of the batch is at fault
            log.warning("step_failed", error=type(error).__name__, items=len(items), frames=frames(error))
            return Failure.TOO_LARGE if _out_of_memory(error) else Failure.RAISED

    def look_ahead(self, items: Sequence[Item]) -> bool:
        """Whether it went well; if not, the step that these are for finds the post at fault. Raises DeviceError."""
        if self._ahead is None or not items:
            return True
        try:
            self._ahead.look_ahead([item.encoded for item in items])
        except DeviceError:
            raise
        except BaseException as error:  # noqa: BLE001  the step that it was for will meet it, and find the post
            log.debug("look_ahead_failed", error=type(error).__name__, frames=frames(error))
            return False
        return True

    @property
    def pictures(self) -> tuple[int, int]:
        """See Measured; never less than before. A model that is not measured has seen none."""
        try:
            asked, found = self._classifier.pictures if isinstance(self._classifier, Measured) else (0, 0)
            self._pictures = max(self._pictures[0], int(asked)), max(self._pictures[1], int(found))
        except BaseException as error:  # noqa: BLE001  no post is at stake
            log.debug("measure_failed", error=type(error).__name__, frames=frames(error))
        return self._pictures

    def memory(self) -> DeviceMemory | None:
        """See Measured. None also of a model that is not measured, or fails to say."""
        try:
            found = self._classifier.memory() if isinstance(self._classifier, Measured) else None
        except BaseException as error:  # noqa: BLE001  no post is at stake
            log.debug("measure_failed", error=type(error).__name__, frames=frames(error))
            return None
        return found if isinstance(found, DeviceMemory) else None


def _tokens(window: Encoded) -> int:
    tokens: object = window.tokens
    if not isinstance(tokens, int) or tokens <= 0:
        raise Malformed("a window's tokens are no positive int")
    return tokens


def _checked(rows: object, items: Sequence[Item]) -> Scores:
    """The rows as tuples of our own, which the model cannot change any more. Raises Malformed."""
    if not isinstance(rows, Sequence):
        raise Malformed(f"score returned {type(rows).__name__}, no sequence")
    if len(rows) != len(items):
        raise Malformed(f"score returned {len(rows)} rows for {len(items)} items")
    found = [tuple(row) if isinstance(row, Sequence) else () for row in rows]
    for row, item in zip(found, items, strict=True):
        if len(row) != item.questions:
            raise Malformed(f"score returned a row of {len(row)} scores for {item.questions} questions")
        for score in row:
            if not isinstance(score, Score) or not score.sound:
                raise Malformed("score returned a score that cannot be one")
    return found


def _out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError without importing torch, and Python's own."""
    named = type(error).__name__ == "OutOfMemoryError" and isinstance(error, RuntimeError)
    return named or isinstance(error, MemoryError)
