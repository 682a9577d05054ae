"""The image-text models that transformers has, by model_type, and what their pictures need beside this service.

transformers has most image processors twice: on Pillow and numpy, and on torchvision, which this service does not
install. Some it has on torchvision alone.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

# Classes that wrap the network that is run: published checkpoints have the wrapper's tensor names.
WRAPPED = {"shieldgemma2": "ShieldGemma2ForImageClassification"}
TORCHVISION = "torchvision"
PARTS = frozenset({"image_processor", "tokenizer", "video_processor"})  # of a processor; videos are not used
LIBRARIES = {"PyTesseract": "pytesseract"}  # as an error of transformers names them, and as pip does


@dataclass(frozen=True, slots=True)
class Kind:
    """A model_type. images: the class of its image processor that is used; "": the checkpoint's files name it.

    lacks: what is missing for its pictures: a library to install, or a part that this service has not; "": nothing.
    """

    name: str
    class_: str
    images: str
    lacks: str


def kinds() -> list[Kind]:
    """Every kind of the installed transformers, by name. Takes seconds: most image processors are shown a picture."""
    auto: Any = importlib.import_module("transformers.models.auto.modeling_auto")
    classes: dict[str, str] = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return [Kind(name, WRAPPED.get(name, classes[name]), *_pictures(name)) for name in sorted(classes)]


def _pictures(name: str) -> tuple[str, str]:
    """(image processor, what it and the processor lack) of a model_type."""
    images: Any = importlib.import_module("transformers.models.auto.image_processing_auto")
    backends: dict[str, str] = images.IMAGE_PROCESSOR_MAPPING_NAMES.get(name, {})
    if backends and "pil" not in backends:
        return backends["torchvision"], TORCHVISION
    class_ = backends.get("pil", "")
    return class_, (_missing(class_) if class_ else "") or _processor_lacks(name)


@cache
def _missing(name: str) -> str:
    """The library that an image processor of transformers asks for when it is shown a picture; "": none."""
    transformers = importlib.import_module("transformers")
    try:
        getattr(transformers, name)()(images=[Image.new("RGB", (64, 48))])
    except ImportError as error:
        return next((library for word, library in LIBRARIES.items() if word in str(error)), TORCHVISION)
    return ""


def _processor_lacks(name: str) -> str:
    """What the processor of a model_type needs that is not there."""
    transformers = importlib.import_module("transformers")
    auto: Any = importlib.import_module("transformers.models.auto.processing_auto")
    processor = auto.PROCESSOR_MAPPING_NAMES.get(name)
    if not processor:
        return "a processor in transformers' list"
    try:
        parts = getattr(transformers, processor).get_attributes()
    except ImportError:  # a stand-in for a class whose library is not installed
        return TORCHVISION
    return ", ".join(sorted(set(parts) - PARTS))
