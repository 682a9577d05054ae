"""The contract between the service and a model family: what the service calls, and what each call may return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, overload, runtime_checkable

from moderation.types import Answer, Content, ModelInfo, Outcome, Problem, Question, Score

T_co = TypeVar("T_co", covariant=True)


class Encoded(Protocol):
    """One window of one post with all its questions, ready for the device. A family adds what it needs."""

    @property
    def tokens(self) -> int:
        """What this window costs, in tokens of the decoder. A batch is filled by this number.

        The positions that a forward pass computes for the window, plus the work of its image tower in tokens.
        """


@dataclass(frozen=True, slots=True)
class Windows(Sequence[T_co]):
    """The windows of a content in order, and what they leave out of it."""

    items: Sequence[T_co] = ()
    problems: tuple[Problem, ...] = ()  # at the path text, images, or picture_path of one picture

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)


def picture_path(number: int) -> str:
    """The path of a problem with a picture of the content, from 0. `inference.parts` turns it into its image's."""
    return f"pictures[{number}]"


class Encoder(Protocol):
    """Cuts contents into windows."""

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[Encoded]:
        """One item for each window of the text; most posts have one window. Runs on CPU threads, several at once.

        Called a second time where the text has another normal form, which then is the content's text.

        Of a content that takes more than `max_windows`, those of `moderation.models.spread`. A Problem says what the
        windows leave out, or what the model cannot take. Raises PostError when nothing is left.
        """


class Classifier(Encoder, Protocol):
    """Judges contents against questions on a device here. `moderation.models.fake` is its double.

    `moderation.models.checked` enforces this contract: a result that breaks it is a failure of the post.
    """

    info: ModelInfo

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        """One forward pass: for each item of the batch, one Score for each of its questions. Runs on one thread.

        Each Score must be `sound` and have a mass.

        Raises DeviceError when the device can no longer be trusted, torch.OutOfMemoryError or MemoryError when the
        batch is too large. Any other exception counts as the fault of an item in the batch.
        """


class RemoteModel(Encoder, Protocol):
    """Judges contents through a model server: no batches, no device. Apart from `encode` it belongs to the event loop.

    `inference/remote.py` calls it; `moderation.models.remote` implements it.
    """

    info: ModelInfo  # final after `start`

    @property
    def strictest(self) -> Outcome:
        """No finding is stricter than this by the model's answers."""

    @property
    def paused(self) -> bool:
        """Whether no post should be taken: the server is away, and the outage may still be waited for."""

    @property
    def away(self) -> str:
        """Why the server gives no answers at present, in a word; empty: it answers."""

    @property
    def patience_s(self) -> float:
        """The longest time that a post waits for the end of outages."""

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever `paused` has changed."""

    async def start(self) -> None:
        """Learns the name that the server reports. Waits for an outage to end, and goes on without the name after it.

        Raises ConfigError when the settings are wrong: an unknown model, a key that is refused.
        """

    async def answer(self, window: Encoded) -> Sequence[Sequence[Answer]]:
        """For each part of the window, an Answer to each question. One part, unless it is too long for the server."""

    async def changed(self) -> None:
        """Returns when the server has answered under another name than at start. `info` then no longer holds."""

    async def close(self) -> None:
        """Closes all connections."""


@runtime_checkable
class LooksAhead(Protocol):
    """A Classifier that can prepare the next batch while the device computes the present one."""

    def look_ahead(self, items: Sequence[Encoded]) -> None:
        """Starts work on the items that the batch after the next call of `score` will probably hold.

        Called on the model thread right before `score`. Changes no score and returns at once: `score` waits only for
        the part of this work that it uses.
        """


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a device."""

    device: str  # as in cuda:0
    allocated: int  # in tensors
    reserved: int  # held by torch, in tensors or not
    total: int


@runtime_checkable
class Measured(Protocol):
    """A Classifier that reports figures for operators."""

    @property
    def pictures(self) -> tuple[int, int]:
        """How many pictures' features were needed so far, and how many of these came from the feature cache."""

    def device_memory(self) -> DeviceMemory | None:
        """The memory of the device; None on a CPU. Any thread may call this; it does not wait for the device."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What `moderation model list` says about a kind of checkpoint that a class of transformers runs."""

    name: str  # model_type of its config.json
    title: str
    class_: str  # of transformers
    turns: str  # why a user's words cannot end a turn
    verified: str
    unverified: str


@dataclass(frozen=True, slots=True)
class Published:
    """What `moderation model list` says about a checkpoint. Tests hold the figures to the network's shapes."""

    name: str  # hub id, or what to convert
    parameters: int
    weight_bytes: int  # of the published files
    licence: str  # as the hub's page of the name shows it
    memory_bytes: int  # of the device, in bfloat16: weights, and a step of 8,192 tokens
    context: int  # positions
    image_tokens: int  # of a 640 x 480 picture
    verified: str  # what was compared with the original code, and how
    unverified: str
