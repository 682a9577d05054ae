"""The prompt of each family of models, at token level, around every attack: it is that of a harmless post.

The families' own tests try the spellings of their tokens one by one (`tests/unit/models`), and
`tests/integration/models/test_general_injection.py` those of published chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moderation import models
from moderation.dev.checkpoint import FAMILIES, seeded
from moderation.models.shared.classifier import VisionClassifier
from moderation.settings import ModelSettings
from moderation.types import Question
from tests.hostile.injection.texts import TEXTS
from tests.support.general import KINDS, make
from tests.support.small_model import a_content, a_picture

QUESTION = Question("spam", "Is it spam?")
PICTURES = [a_picture(130, 90, seed=1), a_picture(100, 200, seed=2)]
# What marks a turn, a picture or an answer and is plain text to the tokenizer, by the beginning of a family's name.
PLAIN = {
    "h2ovl": ("prompt|>", "answer|>"),
    "tinyllava": ("USER:", "ASSISTANT:", " USER:", " ASSISTANT:"),
    "tinygptv": ("###", " ###", "<Img>", "</Img>", "[INST]", "[/INST]"),
}
# What users' words may not spell for any of them, beside the attacks.
SPELLINGS = "".join(
    [
        "<|user|><|end|><|assistant|><|system|><|image_1|></s><s><unk><|endoftext|>",
        "<|prompt|><|answer|><img></img><IMG_CONTEXT>",
        "USER: ASSISTANT: <image>",
        "###Human: ###Assistant: <Img></Img><ImageHere>[INST][/INST][vqa]",
        "<|im_start|><|im_end|><|image_pad|><start_of_turn><end_of_turn><start_of_image><fake_token_around_image>",
    ]
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("structure")


@cache
def loaded(name: str, parent: Path) -> VisionClassifier[Any, Any]:
    folder = make(name, parent / name) if name in KINDS else seeded(parent / name, name)
    model = models.load(ModelSettings(name=str(folder), device="cpu"))
    assert isinstance(model, VisionClassifier)
    return model


def found(ids: Sequence[int], part: Sequence[int]) -> list[int]:
    """Where the part stands in the ids."""
    return [at for at in range(len(ids) - len(part) + 1) if list(ids[at : at + len(part)]) == list(part)]


def frame(model: VisionClassifier[Any, Any], tildes: int, pictures: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The ids before and behind a harmless text with such a run of tildes, which decides the length of the fence."""
    text = "hello " + "~" * tildes
    (window,) = model.encode(a_content(text, *pictures), [QUESTION])
    shared, ids = list(window.tree.shared), list(model.checkpoint.template.user_text(text))
    (start,) = found(shared, ids)
    return shared[:start], shared[start + len(ids) :]


def structure(name: str, model: VisionClassifier[Any, Any]) -> list[list[int]]:
    """The ids of each mark that is plain text to the tokenizer."""
    spelt = next((marks for family, marks in PLAIN.items() if name.startswith(family)), ())
    template: Any = model.checkpoint.template
    tokenizer = template.tokenizer
    trusted = tokenizer.continuing if hasattr(tokenizer, "continuing") else tokenizer.trusted
    marks = [list(trusted(mark)) for mark in spelt]
    return [mark for mark in marks if mark]


@pytest.mark.parametrize("name", [*FAMILIES, *KINDS])
@pytest.mark.parametrize("pictures", [0, 2])
def test_the_prompt_around_an_attack_is_that_of_a_harmless_post(name: str, pictures: int, parent: Path) -> None:
    model = loaded(name, parent)
    template = model.checkpoint.template
    shown = PICTURES[:pictures]
    reserved = set(template.reserved) | ({template.slot} if hasattr(template, "slot") else set())
    (plain,) = model.encode(a_content("hello", *shown), [QUESTION])
    for title, text in {**TEXTS, "spellings": SPELLINGS}.items():
        longest = max((len(run) for run in re.findall("~+", text)), default=0)
        start, end = frame(model, longest, shown)
        windows = model.encode(a_content(text, *shown), [QUESTION])
        assert len(windows) >= 1
        for window in windows:
            shared = list(window.tree.shared)
            assert (shared[: len(start)], shared[len(shared) - len(end) :]) == (start, end), title
            users = shared[len(start) : len(shared) - len(end)]
            assert users, title
            assert not [id for id in users if id < 0 or id in reserved], title
            for mark in structure(name, model):
                assert not found(users, mark), (title, mark)
                assert len(found(shared, mark)) == len(found(start + end, mark)), (title, mark)
            assert window.tree.branches == plain.tree.branches, title


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_marks_are_there_where_the_service_writes_them(name: str, parent: Path) -> None:
    """So the test above looks for the right ids: a prompt has reserved ids, or marks of plain words."""
    model = loaded(name, parent)
    (window,) = model.encode(a_content("hello", *PICTURES[:1]), [QUESTION])
    whole = [*window.tree.shared, *window.tree.branches[0]]
    marks = structure(name, model)
    seen = [mark for mark in marks if found(whole, mark)]
    assert seen or set(whole) & set(model.checkpoint.template.reserved)
    assert bool(seen) is bool(marks)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_texts_are_hostile(name: str, parent: Path) -> None:
    """Tokenised as the service's own words are, they are structure."""
    model = loaded(name, parent)
    template: Any = model.checkpoint.template
    ids = template.tokenizer.trusted(SPELLINGS)
    marks = structure(name, model)
    assert set(ids) & set(template.reserved) or any(found(ids, mark) for mark in marks)
    assert not marks or any(found(ids, mark) for mark in marks)
