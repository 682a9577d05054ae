"""The registry of model families.

A family is a folder `moderation/models/NAME`:

    classifier.py     a `contract.Classifier` and its `load(settings)`. `encode` makes windows, `score` gives them to
                      `shared.engine.Engine`
    network.py        a `shared.engine.Network`, built from `shared.decoder` and a vision tower such as `shared.clip`
    preprocessing.py  pictures as the vision tower takes them

MODELS gets one row for the family. `models.shared` holds what families share, and imports no family.

Importing this package imports neither torch nor transformers: the functions below import the family that they need.
"""

from __future__ import annotations

import importlib
import threading
from typing import cast

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
