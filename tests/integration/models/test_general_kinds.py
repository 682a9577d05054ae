"""Which image-text models of transformers have pictures that need no torchvision: the page, and kinds to hold it by."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest
import transformers
from PIL import Image

from moderation import models
from moderation.models.general.kinds import Kind, kinds
from moderation.settings import ModelSettings
from moderation.types import Reason
from tests.support.general import KINDS, make
from tests.support.repository import REPO
from tests.support.small_model import a_content, questions, thin_pictures


@pytest.fixture(scope="module")
def known() -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds()}


def test_the_page_is_that_of_the_installed_transformers(known: dict[str, Kind]) -> None:
    page = runpy.run_path(str(REPO / "deploy/reference.py"))["kinds_page"]()
    assert (REPO / "deploy/reference/image-text-models.md").read_text("utf-8") == page, "run `make reference`"


@pytest.mark.parametrize("name", KINDS)
def test_the_kinds_that_the_tests_run_need_nothing(name: str, known: dict[str, Kind]) -> None:
    assert known[name].lacks == ""
    assert known[name].images.endswith("Pil")


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_takes_dividers_and_spacers_with_the_margin_that_media_gives_them(name: str, tmp_path: Path) -> None:
    model = models.load(ModelSettings(name=str(make(name, tmp_path)), device="cpu"))
    windows = model.encode(a_content("a page", *thin_pictures()), questions(1))
    assert not [problem for problem in windows.problems if problem.reason is not Reason.TOO_MANY_IMAGES]
    assert all(score.sound for row in model.score(windows) for score in row)


def test_a_kind_whose_processor_is_on_torchvision_alone_needs_it(known: dict[str, Kind]) -> None:
    assert importlib.util.find_spec("torchvision") is None
    for name in ("llama4", "lfm2_vl", "molmo2"):
        assert known[name].lacks == "torchvision"
        with pytest.raises(ImportError, match=r"(?i)torchvision"):
            getattr(transformers, known[name].images)()


def test_a_kind_whose_whole_processor_is_on_torchvision_needs_it(known: dict[str, Kind]) -> None:
    assert known["mistral3"].lacks == "torchvision"
    assert "pixel_values" in getattr(transformers, known["mistral3"].images)()(images=[Image.new("RGB", (64, 48))])


def test_other_parts_and_libraries_are_named(known: dict[str, Kind]) -> None:
    """udop reads the words in a picture, gemma3n's processor takes sounds, instructblip's has a second tokenizer."""
    lacks = {name: known[name].lacks for name in ("udop", "gemma3n", "instructblip")}
    assert lacks == {"udop": "pytesseract", "gemma3n": "feature_extractor", "instructblip": "qformer_tokenizer"}
