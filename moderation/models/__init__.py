"""The registry of model families.

A family is a folder `moderation/models/NAME`, and one row in FAMILIES:

    __init__.py       `PUBLISHED`: what `moderation model list` says about its checkpoints; imports no torch
    family.py         `Checkpoint`, a `shared.family.Checkpoint`: all that the shared code calls
    network.py        a `shared.network.LanguageNetwork`, built from `shared.decoder` and a vision tower
    preprocessing.py  pictures as the vision tower takes them
    template.py       a `shared.template.Template`: the prompt's tokens

`models.shared` holds what families share, and imports no family. `models.general` runs any other checkpoint whose class
transformers has. `models.remote` asks a model server.

Importing this package imports neither torch nor transformers: the functions below import the family that they need.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from moderation.errors import ConfigError, DeviceError, ModerationError
from moderation.models.contract import Classifier, Kind, Published, RemoteModel
from moderation.observability.logs import frames
from moderation.settings import ModelSettings

if TYPE_CHECKING:
    from moderation.models.shared.family import Checkpoint

log = structlog.get_logger()

# Short names -> the functions that load them, given ModelSettings.
MODELS: dict[str, str] = {"fake": "moderation.models.fake:load"}
# A family's folder -> the values of model_type in config.json that it runs.
FAMILIES: dict[str, tuple[str, ...]] = {
    "phi3": ("phi3_v",),
    "h2ovl": ("h2ovl_chat",),
    "tinyllava": ("tinyllava", "tiny_llava_phi", "llava"),
    "tinygptv": ("tinygptv",),
}
# The folder of what no family runs.
GENERAL = "general"
# A kind that a family runs by the prompt of its model card -> files of checkpoints that have a template of their own.
BY_TEMPLATE = {"llava": ("chat_template.json", "chat_template.jinja")}
# The wires of model servers: what stands before the colon of a remote model's name.
WIRES = ("openai", "decisions", "systemone")
# Short names of checkpoints that the package ships -> their folders. `./demo` is a folder named demo.
SHIPPED = {"demo": Path(__file__).parents[1] / "demo" / "phi3-pictographs"}


def load(settings: ModelSettings) -> Classifier:
    """The model that the settings name, ready to score.

    A name is `fake`, with options after `?`; or `demo`, the checkpoint that the package ships; or a folder or hub id.
    The model_type in the checkpoint's config.json selects the family; `models.general` runs what no family does.

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


def is_remote(name: str) -> bool:
    """Whether the name is that of a model behind a server, as in openai:gpt-4o-mini."""
    return name.partition(":")[0] in WIRES and ":" in name


async def connect(settings: ModelSettings, *, patient: bool = True) -> RemoteModel:
    """The model behind a server that the settings name, started. Raises ConfigError.

    patient: whether a server that is away is none of the caller's mistakes, and may come back later.
    """
    from moderation.models import remote  # noqa: PLC0415 - imports the client's library

    model = remote.open_model(settings)
    try:
        await model.start()
    except BaseException:
        await model.close()
        raise
    if model.away and not patient:
        cause = model.away
        await model.close()
        raise ConfigError(
            f"the model server at MODERATION_MODEL__URL ({settings.url}) gives no answer ({cause}): check the URL, and "
            "that the server runs"
        )
    return model


def describe(name: str, num_crops: int | None = None) -> str:
    """A checkpoint as a table, with its model card if it has one. Raises ConfigError.

    name: as in `load`. num_crops: crops of a picture at most; default the checkpoint's.
    """
    from moderation.models.shared import describe as shared  # noqa: PLC0415 - reads safetensors with torch

    place = _place(name)
    return shared.describe(family(place), place, name, num_crops)


def question_tokens(settings: ModelSettings) -> tuple[Callable[[str], int], int]:
    """(tokens of a policy's prose as the model's tokenizer counts them, the most that a question may take).

    Reads the checkpoint's small files, and imports torch. Raises ConfigError when there is no such checkpoint.
    """
    if settings.name.partition("?")[0] in MODELS:
        raise ConfigError(f"{settings.name}: it has no tokenizer; name a checkpoint, such as demo")
    from moderation.models.shared import describe as shared  # noqa: PLC0415 - reads safetensors with torch

    place = _place(settings.name)
    return shared.question_tokens(family(place, settings.revision), place, settings)


def probe(name: str, prompt: str, images: Sequence[Path], out: Path, *, num_crops: int | None = None) -> None:
    """Runs one raw prompt in float32 on the CPU and writes what the model computed to an npz file.

    name: as in `load`. num_crops: crops of a picture at most; default the checkpoint's. `shared.probe` says what the
    file holds. Raises ConfigError when the checkpoint is broken or refuses the prompt.
    """
    from moderation.models.shared import probe as shared  # noqa: PLC0415 - imports torch

    place = _place(name)
    shared.probe(family(place), place, prompt, images, out, num_crops=num_crops)


def published() -> Iterator[tuple[str, Published]]:
    """(family, checkpoint) of all checkpoints that the families were built for."""
    for folder in FAMILIES:
        for row in importlib.import_module(f"{__name__}.{folder}").PUBLISHED:
            yield folder, row


def kinds() -> Sequence[Kind]:
    """The kinds of checkpoints that tests run on a class of transformers."""
    listed: Sequence[Kind] = importlib.import_module(f"{__name__}.{GENERAL}").KINDS
    return listed


def family(place: str, revision: str | None = None) -> type[Checkpoint[Any, Any]]:
    """What runs the model_type of a folder or hub id: a family or `general`. Raises ConfigError when nothing does."""
    from moderation.models.shared import checkpoint  # noqa: PLC0415 - reads safetensors with torch

    kind = checkpoint.model_type(place, revision)
    folder = next((folder for folder, kinds in FAMILIES.items() if kind in kinds), GENERAL)
    if kind in BY_TEMPLATE and checkpoint.has_one_of(place, revision, BY_TEMPLATE[kind]):
        folder = GENERAL
    if folder == GENERAL and not importlib.import_module(f"{__name__}.{GENERAL}.network").is_known(kind):
        known = sorted(kind for kinds in FAMILIES.values() for kind in kinds)
        raise ConfigError(
            f"{place}: config.json says model_type {kind!r}, which this service cannot run; it runs "
            f"{', '.join(known)}, and every kind that transformers has as an image-text model (`moderation model list`)"
        )
    opens: type[Checkpoint[Any, Any]] = importlib.import_module(f"{__name__}.{folder}.family").Checkpoint
    return opens


def _load(settings: ModelSettings) -> Classifier:
    if short := MODELS.get(settings.name.partition("?")[0]):
        module, _, function = short.partition(":")
        named: Classifier = getattr(importlib.import_module(module), function)(settings)
        return named
    from moderation.models.shared import loading  # noqa: PLC0415 - imports torch

    settings = settings.model_copy(update={"name": _place(settings.name)})
    opens = family(settings.name, settings.revision)
    if opens.__module__.startswith(f"{__name__}.{GENERAL}."):
        from moderation.models.general import loading as general  # noqa: PLC0415 - imports transformers

        return general.load(settings)
    return loading.load(opens, settings)


def _place(name: str) -> str:
    """The folder of a short name; any other name as it is, a folder or a hub id. Raises ConfigError."""
    if is_remote(name):
        raise ConfigError(
            f"{name} is a model behind a server: it has no checkpoint here. `worker` and `classify` run it"
        )
    return str(SHIPPED.get(name, name))
