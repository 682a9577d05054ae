"""From the settings to a classifier that is ready to score, for every family."""

from __future__ import annotations

from typing import Any, TypeVar

import PIL.Image
import structlog
import torch

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, compiled, device, fp8
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.compiled import Compiled
from moderation.models.shared.family import Checkpoint
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Question

C = TypeVar("C", bound=Checkpoint[Any, Any])

log = structlog.get_logger()


def load(family: type[Checkpoint[Any, Any]], settings: ModelSettings) -> VisionClassifier[Any, Any]:
    """The model of the settings on its device. Raises ConfigError naming what in its folder is wrong."""
    where, opened, network, info = read(family, settings)
    model = VisionClassifier(info, network, opened, settings)
    if settings.fp8:
        _round(model)
    if settings.compile:
        network.compiled = Compiled(network.decoder)
        model.engine.warm_up(compiled.WARM_UP)
    if where.type == "cuda":
        warm_up(model)
    return model


def read(family: type[C], settings: ModelSettings) -> tuple[torch.device, C, Any, ModelInfo]:
    """(device, checkpoint, its network on the device, model) of the settings. Raises ConfigError."""
    where, dtype = device.place(settings)
    folder, revision = checkpoint.locate(settings.name, settings.revision, family.wanted)
    opened = family(folder, settings.num_crops)
    checkpoint.expect(opened.files, settings.digest)
    with device.faults():
        network = opened.network(dtype=dtype, device=where)
    return where, opened, network, _info(opened, settings, revision, dtype)


def _info(opened: Checkpoint[Any, Any], settings: ModelSettings, revision: str, dtype: torch.dtype) -> ModelInfo:
    """The model's name and digest. revision: of the hub; "": a plain folder."""
    # Everything that changes a score and is not in the files.
    decisive = {
        "dtype": str(dtype).removeprefix("torch."),
        "window_overlap": settings.window_overlap,
        "window_tokens": settings.window_tokens,
        "template": list(opened.template.words),
        "pictures_first": opened.template.pictures_first,
        **opened.decisive,
    } | ({"fp8": True} if settings.fp8 else {})
    return ModelInfo(
        name=settings.name if revision else opened.folder.resolve().name,
        revision=revision,
        digest=checkpoint.digest(opened.files, decisive),
        caution=opened.caution,
    )


def warm_up(model: VisionClassifier[Any, Any]) -> None:
    """Scores one post with a picture, so that no later post pays for what a device sets up at its first use."""
    blank = Content("Good morning!", (PIL.Image.new("RGB", (8, 8), "white"),), "")
    model.score(model.encode(blank, [Question("warm-up", "Is this a post?"), Question("again", "Is it?")]))


def _round(model: VisionClassifier[Any, Any]) -> None:
    """Rounds the decoder to eight bits and logs how far that moves scores."""
    if not fp8.available(model.network.device):
        raise ConfigError("MODERATION_MODEL__FP8: it needs a GPU of compute capability 8.9 or more")
    exact = model.engine.sample()
    count = fp8.use(model.network.decoder.layers)
    moved = [abs(before - after) for before, after in zip(exact, model.engine.sample(), strict=True)]
    log.info(
        "fp8_in_use", matrices=count, questions=len(moved), mean_move=sum(moved) / len(moved), largest_move=max(moved)
    )
