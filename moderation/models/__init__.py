"""The registry of model families.

A family is a folder `moderation/models/NAME`:

    classifier.py     a `contract.Classifier` and its `load(settings)`. `encode` makes windows, `score` gives them to
                      `shared.engine.Engine`
    network.py        a `shared.engine.Network`, built from `shared.decoder` and a vision tower such as `shared.clip`
    preprocessing.py  pictures as the vision tower takes them

    describe.py       optional: `describe(place, name)` for `moderation model info`
    probe.py          optional: `probe(place, prompt, images, out, num_crops=...)` for `moderation model probe`

MODELS gets one row for the family, DESCRIPTIONS and PROBES one each where it has them. `models.shared` holds what
families share, and imports no family.

Importing this package imports neither torch nor transformers: the functions below import the family that they need.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from moderation.errors import ConfigError, DeviceError, ModerationError
from moderation.models.contract import Classifier
from moderation.observability.logs import frames
from moderation.settings import ModelSettings

log = structlog.get_logger()

# A model's short name, or the model_type of its config.json -> the function that loads it, given ModelSettings.
MODELS: dict[str, str] = {
    "fake": "moderation.models.fake:load",
    "phi3_v": "moderation.models.phi3.classifier:load",
}
# The model_type of a checkpoint -> the function that describes it, and the one that runs a raw prompt on it.
DESCRIPTIONS: dict[str, str] = {"phi3_v": "moderation.models.phi3.describe:describe"}
PROBES: dict[str, str] = {"phi3_v": "moderation.models.phi3.probe:probe"}
# Short names of checkpoints that the package ships -> their folders. `./demo` is a folder named demo.
SHIPPED = {"demo": Path(__file__).parents[1] / "demo" / "phi3-pictographs"}


def load(settings: ModelSettings) -> Classifier:
    """The model that the settings name, ready to score.

    A name is a short name of MODELS, with options after `?` where the model has any; or `demo`, the checkpoint that
    the package ships; or a folder or hub id. The model_type in the checkpoint's config.json selects the family.

    Raises ConfigError when there is no such model or the checkpoint is broken. Raises DeviceError for any other
    failure; its message holds the error's type alone, because the text may quote a secret.
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


def describe(name: str) -> str:
    """A checkpoint as a table, with its model card if it has one. name: as in `load`. Raises ConfigError."""
    place = _place(name)
    text: str = _family_function(DESCRIPTIONS, place, None)(place, name)
    return text


def probe(name: str, prompt: str, images: Sequence[Path], out: Path, *, num_crops: int | None = None) -> None:
    """Runs one raw prompt in float32 on the CPU and writes what the model computed to an npz file.

    name: as in `load`. num_crops: crops of a picture at most; default the checkpoint's. The family's own `probe` says
    what the file holds. Raises ConfigError when the checkpoint is broken or refuses the prompt.
    """
    place = _place(name)
    _family_function(PROBES, place, None)(place, prompt, images, out, num_crops=num_crops)


def _load(settings: ModelSettings) -> Classifier:
    kind = settings.name.partition("?")[0]
    by_name = MODELS.get(kind)
    if by_name:
        function = _function(by_name)
    else:
        settings = settings.model_copy(update={"name": _place(settings.name)})
        function = _family_function(MODELS, settings.name, settings.revision)
    classifier: Classifier = function(settings)
    return classifier


def _place(name: str) -> str:
    """The folder of a short name; any other name as it is, a folder or a hub id."""
    return str(SHIPPED.get(name, name))


def _family_function(functions: Mapping[str, str], place: str, revision: str | None) -> Callable[..., Any]:
    """The function for the model_type of a folder or hub id. Raises ConfigError when there is none."""
    from moderation.models.shared import checkpoint  # noqa: PLC0415 - reads safetensors with torch

    kind = checkpoint.model_type(place, revision)
    if kind not in functions:
        raise ConfigError(
            f"{place}: config.json says model_type {kind!r}, which this service cannot run; "
            f"it runs {', '.join(sorted(functions))}"
        )
    return _function(functions[kind])


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
