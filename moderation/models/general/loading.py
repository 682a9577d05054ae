"""From the settings to a classifier on a class of transformers, and what is checked before it judges a post."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import PIL.Image
import torch

from moderation.errors import ConfigError, DeviceError
from moderation.models.general.classifier import GeneralClassifier
from moderation.models.general.family import Checkpoint
from moderation.models.general.pictures import GeneralWindow, Shown
from moderation.models.general.processor import on
from moderation.models.shared import device
from moderation.models.shared.loading import read
from moderation.models.shared.scores import scores
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Content, Question, Score

# How far the margin of a question may be from that of its own prompt. In bfloat16 the two round differently.
LARGEST_MOVE = {torch.float32: 1e-3, torch.bfloat16: 1.0}
TEXT = "Good morning!"
QUESTIONS = (Question("check", "Is this a post?"), Question("again", "Is there a picture of a dog in this post?"))


def load(settings: ModelSettings) -> GeneralClassifier:
    """The model of the settings on its device. Raises ConfigError naming what in its folder is wrong.

    Scores one post with two pictures, and checks the prompt and the scores: see `check_prompt` and `check_scores`.
    """
    for name in ("compile", "fp8"):
        if getattr(settings, name):
            raise ConfigError(f"MODERATION_MODEL__{name.upper()}: a class of transformers runs as it is; unset it")
    _, opened, network, info = read(Checkpoint, settings)
    model = GeneralClassifier(info, network, opened, settings)
    pictures = (PIL.Image.new("RGB", (64, 48), "white"), PIL.Image.new("RGB", (48, 80), "navy"))
    with _reasons(opened):
        for window in model.encode(Content(TEXT, pictures, ""), QUESTIONS):  # two where one prompt is too short
            shown = [picture.number for picture in window.pictures if isinstance(picture, Shown)]
            check_prompt(opened, window, tuple(pictures[number] for number in shown))
            check_scores(model, window)
    return model


def check_prompt(opened: Checkpoint, window: GeneralWindow, pictures: tuple[PIL.Image.Image, ...]) -> None:
    """Raises ConfigError unless the published processor makes the same of a post without malice.

    Compared are the template's tokens and the pictures' places in it, in their order, and all other inputs.
    """
    template = opened.template
    words = "".join(
        part.text for part in prompts.render(Content(TEXT, (), ""), ()).shared if not isinstance(part, prompts.Slot)
    )
    text = template.rendered(len(pictures), words + prompts.asked(QUESTIONS[0].text))
    published = dict(opened.processor.whole(text, pictures, begin=template.begin))
    theirs = published.pop("input_ids")[0].tolist()
    ours = [opened.slot if id < 0 else id for id in (*window.tree.shared, *window.tree.branches[0])]
    structure = [[id for id in ids if id in template.tokenizer.added] for ids in (theirs, ours)]
    if structure[0] != structure[1]:
        _refuse(opened, "the prompt of the published processor has other tokens of the template")
    published.pop("attention_mask", None)
    inputs = dict(window.inputs)
    if opened.kinds(ours):
        inputs = {name: value for name, value in inputs.items() if name not in opened.kinds(ours)}
        published = {name: value for name, value in published.items() if "token_type_ids" not in name}
    if other := sorted(published.keys() ^ inputs.keys()):
        _refuse(opened, f"the published processor and this service differ in the inputs {', '.join(other)}")
    if unequal := sorted(name for name, value in inputs.items() if not torch.equal(value, published[name])):
        _refuse(opened, f"the published processor makes other inputs {', '.join(unequal)}")


def check_scores(model: GeneralClassifier, window: GeneralWindow) -> None:
    """Raises ConfigError unless questions that share a prefix have the scores of prompts of their own."""
    largest = LARGEST_MOVE[model.network.dtype]
    for place, score in enumerate(model.score([window])[0]):
        if abs(score.margin - alone(model, window, place).margin) > largest:
            _refuse(model.checkpoint, "its scores change when questions share what stands before them")


def alone(model: GeneralClassifier, window: GeneralWindow, place: int) -> Score:
    """The score of one question as a prompt of its own, computed as a whole."""
    opened, network = model.checkpoint, model.network
    ids = window.tree.shared + window.tree.branches[place]
    inputs = on({**window.inputs, **opened.kinds(ids)}, network.device, network.dtype)
    yes, no = opened.template.answers
    with device.faults(), torch.inference_mode():
        return scores(network.logits(ids, inputs, (*yes, *no))[None], yes, no)[0]


@contextmanager
def _reasons(opened: Checkpoint) -> Iterator[None]:
    """Turns an error of transformers' code into ConfigError, but for the device's."""
    try:
        yield
    except (ConfigError, DeviceError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - each class has its own
        line = str(error).strip().partition("\n")[0][:300]
        _refuse(opened, f"it fails on a post of our own ({type(error).__name__}: {line})")


def _refuse(opened: Checkpoint, why: str) -> NoReturn:
    raise ConfigError(f"{opened.folder}: this service cannot run {opened.class_} of transformers: {why}")
