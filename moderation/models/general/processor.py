"""transformers' processor of a checkpoint, taken apart: image processor and tokenizer, without the video processor.

A video processor needs torchvision, which this service does not install. No class is asked for that is not in
transformers: code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image as Picture
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint

PROCESSOR = "processor_config.json"
INSTALL = "install torchvision beside torch (pip install torchvision), or choose a checkpoint of another kind"
ONLY_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class Processed:
    """Pictures of one prompt as the tower takes them, and the words that the processor writes in their places."""

    inputs: Mapping[str, Tensor]
    words: tuple[str, ...]  # one for each picture


class Processor:
    """The image processor and the tokenizer of a checkpoint. `pictures` runs on several threads.

    class_: the name of the processor's class. mark: what a chat template writes in a picture's place.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        """kind: model_type of config.json. Raises ConfigError."""
        transformers = library()
        self.class_ = class_of(kind)
        self._folder = folder
        self.tokenizer = self._tokenizer(transformers)
        self.images = self._images(transformers)
        self._whole = self._joined(getattr(transformers, self.class_))
        mark = getattr(self._whole, "image_token", None)
        if not isinstance(mark, str) or not mark:
            raise ConfigError(f"{folder}: {self.class_} of transformers names no image token, so it cannot be used")
        self.mark = mark

    @property
    def says_kinds(self) -> bool:
        """Whether the published processor says which ids are a picture's."""
        return bool(self._whole.return_mm_token_type_ids)

    @property
    def special(self) -> Mapping[str, object]:
        """What a chat template may read, such as bos_token."""
        return dict(self.tokenizer.special_tokens_map)

    def pictures(self, pictures: Sequence[Picture]) -> Processed:
        """The pictures of one prompt."""
        options = self._whole._merge_kwargs(tokenizer_init_kwargs={}, return_tensors="pt")["images_kwargs"]
        laid_out, *_ = self._whole.prepare_inputs_layout(images=list(pictures), text=[self.mark * len(pictures)])
        inputs, words = self._whole._process_images(laid_out, **options)
        kept = {name: value for name, value in inputs.items() if name not in self._whole.unused_input_names}
        tensors = {name: value for name, value in kept.items() if isinstance(value, Tensor)}
        return Processed(tensors, tuple(words))

    def whole(self, text: str, pictures: Sequence[Picture], *, begin: bool) -> Mapping[str, Tensor]:
        """What the published processor makes of a rendered prompt: the ids, and all that the network takes."""
        from transformers import ProcessorMixin  # noqa: PLC0415 - slow

        # ShieldGemma 2's own call writes prompts for its built-in policies.
        call = ProcessorMixin.__call__ if self.class_ == "ShieldGemma2Processor" else type(self._whole).__call__
        made = call(
            self._whole, images=list(pictures) or None, text=[text], add_special_tokens=begin, return_tensors="pt"
        )
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def kinds(self, ids: Sequence[int]) -> list[int]:
        """For each id whether it is a picture's: 1, else 0. As the networks' masks and positions take it."""
        kinds: list[list[int]] = self._whole.create_mm_token_type_ids([list(ids)])
        return kinds[0]

    def _tokenizer(self, transformers: Any) -> Any:
        with self._errors("tokenizer"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder, **ONLY_LOCAL)
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{self._folder}: its tokenizer is Python code without a tokenizer.json, which this service does not "
                "run; take a revision with one, or write one with transformers"
            )
        return tokenizer

    def _images(self, transformers: Any) -> Any:
        """The image processor that needs no torchvision."""
        try:
            with self._errors("image processor"):
                return transformers.AutoImageProcessor.from_pretrained(self._folder, backend="pil", **ONLY_LOCAL)
        except ImportError as error:
            raise _lacks(self._folder, "image processor", error) from None

    def _joined(self, class_: Any) -> Any:
        """The processor, without its video processor."""
        path = self._folder / PROCESSOR
        options = checkpoint.read_json(path) if path.exists() else {}
        try:
            attributes = class_.get_attributes()
        except ImportError as error:
            raise _lacks(self._folder, f"processor {self.class_}", error) from None
        if needed := sorted(set(attributes) - {"image_processor", "tokenizer", "video_processor"}):
            raise ConfigError(
                f"{self._folder}: {self.class_} of transformers needs {', '.join(needed)}, which this service has not"
            )
        known = {name: value for name, value in options.items() if name not in {*attributes, "chat_template"}}
        parts = {"image_processor": self.images, "tokenizer": self.tokenizer, "video_processor": None}
        changed = {"check_argument_for_proper_class": _any, "__module__": class_.__module__}
        apart: Any = type(class_.__name__, (class_,), changed)
        with self._errors("processor"), _without_video_words(class_):
            return apart.from_args_and_dict([parts[name] for name in attributes], known)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns an error of transformers into ConfigError, but for a missing library's."""
        try:
            yield
        except (ConfigError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001 - each class has its own
            if "torchvision" in str(error).lower():
                raise _lacks(self._folder, what, error) from None
            line = str(error).strip().partition("\n")[0][:300]
            raise ConfigError(
                f"{self._folder}: transformers cannot read its {what} ({type(error).__name__}: {line}); check that all "
                "files come from the same revision"
            ) from None


def class_of(kind: str) -> str:
    """The name of the processor's class for a model_type. Raises ConfigError where transformers has none."""
    name = importlib.import_module("transformers.models.auto.processing_auto").PROCESSOR_MAPPING_NAMES.get(kind)
    if not isinstance(name, str):
        raise ConfigError(f"model_type {kind!r}: transformers has no processor of pictures and texts for it")
    return name


def library() -> Any:
    """transformers, without its progress bars and advice on standard error."""
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _lacks(folder: Path, what: str, error: Exception) -> ConfigError:
    """The error of a class that a missing library keeps from working."""
    if "torchvision" in str(error).lower():
        return ConfigError(f"{folder}: its {what} needs torchvision, which is not installed; {INSTALL}")
    line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return ConfigError(f"{folder}: its {what} needs a library that is not installed ({line.strip()})")


def _any(_self: object, _name: str, argument: object) -> type:
    """In the place of transformers' check of a part's class: there is no video processor."""
    return type(argument)


@contextmanager
def _without_video_words(class_: Any) -> Iterator[None]:
    """SmolVLM's processor wants the library num2words, which only writes how many frames a video has."""
    module = sys.modules[class_.__module__]
    if getattr(module, "num2words", module) is not None:
        yield
        return
    module.num2words = str  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.num2words = None  # type: ignore[attr-defined]


def on(inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs on a device, floats in the network's dtype."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype) for name, value in inputs.items()
    }
