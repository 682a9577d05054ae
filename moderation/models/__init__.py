"""The models behind one contract, and the door to each.

Importing this package imports neither torch nor transformers: `load` opens the door that is asked for.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import structlog

from moderation.errors import ConfigError, DeviceError, ModerationError
from moderation.observability.logs import frames
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Question, Score

log = structlog.get_logger()

# A model's short name, or the model_type of its config.json -> the function that loads it, given ModelSettings.
MODELS: dict[str, str] = {
    "fake": "moderation.models.fake:load",
    "phi3_v": "moderation.models.phi3.classifier:load",
}


class Encoded(Protocol):
    """One window of one post with all its questions, ready for the device. Models keep what they like in it."""

    @property
    def tokens(self) -> int:
        """What it costs, in tokens of the decoder: known before the step starts, and what a step is filled by.

        The positions that a forward pass computes for it, and as many more as its pictures take elsewhere.
        """


class Classifier(Protocol):
    """Judges contents against questions. A seam of two methods; `moderation.models.fake` is its double.

    `moderation.models.checked` holds it to what is said here: an answer that breaks it is a failure of the post.
    """

    info: ModelInfo

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Encoded]:
        """On a CPU thread; several may run at once. One item for each window of the text: most posts have one.

        Raises PostError when this content cannot be put to this model.
        """

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        """On the one model thread: one forward pass. For each item of the batch, one Score for each of its questions.

        Each must be `sound`.

        Raises DeviceError when the device can no longer be trusted, torch.OutOfMemoryError or MemoryError when the
        batch is too large; any other exception is taken to be the fault of some item in the batch.
        """


@runtime_checkable
class LooksAhead(Protocol):
    """A Classifier that can begin with what comes next while the device is busy with what is there."""

    def look_ahead(self, items: Sequence[Encoded]) -> None:
        """On the model thread, right before a step: what the step after it will probably score. Moves no score.

        Returns at once. The step that follows waits only for what it uses of this itself.
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
    """A Classifier that tells operators more than its answers."""

    @property
    def pictures(self) -> tuple[int, int]:
        """How many pictures' features were needed up to now, and how many of these were kept from before."""

    def memory(self) -> DeviceMemory | None:
        """Of its device; None: a CPU. On any thread; must not wait for the device's work."""


def load(settings: ModelSettings) -> Classifier:
    """The model that the settings name, ready to score. Raises ConfigError when there is none, or it is broken.

    DeviceError: it has failed in a way that nobody foresaw. Of the error's text nothing is kept: it may quote a secret.

    A name is a short one of MODELS, with options after `?` where the model has any; else `demo` (the
    checkpoint that the package brings), a folder or a hub id, whose config.json says by model_type which door to open.
    """
    try:
        return _load(settings)
    except (ModerationError, ModuleNotFoundError):  # the latter names a module, and what to install
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # a person at the terminal
        name = type(error).__name__
        log.error("model_load_failed", error=name, frames=frames(error))  # noqa: TRY400  no text
    raise DeviceError(f"the model cannot be loaded ({name})")


def _load(settings: ModelSettings) -> Classifier:
    kind = settings.name.partition("?")[0]
    if kind not in MODELS:
        from moderation.models.shared import checkpoint  # noqa: PLC0415 - reads safetensors with torch

        kind = checkpoint.model_type(settings.name, settings.revision)
        if kind not in MODELS:
            raise ConfigError(
                f"{settings.name}: config.json says model_type {kind!r}, which this service cannot run; "
                f"it runs {', '.join(sorted(MODELS))}"
            )
    module, _, function = MODELS[kind].partition(":")
    return cast(Classifier, getattr(importlib.import_module(module), function)(settings))
