"""What judges contents, whether the model is on a device here or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from moderation.models.contract import DeviceMemory
from moderation.types import Answer, Arrival, Content, ModelInfo, Outcome, Problem, Question

A_co = TypeVar("A_co", bound=Answer, covariant=True)


@dataclass(frozen=True, slots=True)
class Scored(Generic[A_co]):
    """The answers for a post, and the seconds spent on them."""

    windows: tuple[tuple[A_co, ...], ...]  # window x question; empty if there is no question
    encode: float  # encoding, and waiting for a thread
    batch_wait: float  # from the encoding to the start of the first step; 0 for a remote model
    model: float  # from the start of the first step to the end of the last; of a remote model, its requests
    problems: tuple[Problem, ...] = ()  # what the windows leave out of the content


class Scorer(Protocol):
    """Answers questions about contents. Works inside `async with` only."""

    @property
    def info(self) -> ModelInfo:
        """The model."""

    @property
    def strictest(self) -> Outcome:
        """No finding is stricter than this by the model's answers."""

    @property
    def waiting(self) -> int:
        """Posts that are encoded and that the model has not begun."""

    @property
    def waited(self) -> float:
        """Seconds that the oldest of them has waited; 0 if none waits."""

    @property
    def paused(self) -> bool:
        """Whether no post should be taken: the model is away for a while."""

    @property
    def patience_s(self) -> float:
        """Seconds that a post may wait for a model that is away, beyond all deadlines."""

    @property
    def pictures(self) -> tuple[int, int]:
        """How many pictures' features were needed so far, and how many of these came from the feature cache."""

    def device_memory(self) -> DeviceMemory | None:
        """The memory of the device; None if there is none. Any thread may call this."""

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever `paused` has changed."""

    async def warm_up(self, questions: Sequence[Question] = ()) -> None:
        """Prepares the model. Raises DeviceError, and ConfigError if a question does not fit the model."""

    async def score(
        self, content: Content, questions: Sequence[Question], arrival: Arrival | None = None
    ) -> Scored[Answer]:
        """Returns the answers to all questions on all windows of the content. arrival: None if it arrives now.

        Raises PostError if this content alone cannot be judged, and DeviceError if no content can be judged any more.
        """

    async def watch(self) -> None:
        """Runs until the model is another one than `info` says: then raises ChangedError."""

    async def __aenter__(self) -> Self:
        """Starts."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises an error in all callers that still wait."""
