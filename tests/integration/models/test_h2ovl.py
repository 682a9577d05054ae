"""H2OVL's published tokenizer, and all pixels that the original code recorded.

The cases are in ../shared/golden or in MODERATION_TEST_GOLDEN. Without them nothing here runs.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moderation.models.h2ovl.preprocessing import MOST_TILES, Tiling
from moderation.models.h2ovl.template import ANSWER, END, PROMPT, H2ovlTemplate
from moderation.models.h2ovl.tokenizer import CONFIG, MODEL, Tokenizer

GOLDEN = Path(
    os.environ.get("MODERATION_TEST_GOLDEN") or Path(__file__).parents[3] / ".." / "shared" / "golden"
).resolve()
VARIANTS = {"h2ovl_800m": False, "h2ovl_2b": True}  # use_msac of their config.json
SPELT = ["<unk>", "<s>", "</s>", "<img>", "</img>", "<IMG_CONTEXT>", "<box>", "<image>", END, PROMPT, ANSWER]

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "h2ovl_tokenizer.model.xz").exists(),
    reason=f"no golden cases in {GOLDEN}: parity with the original code is NOT checked",
)


def cases() -> list[Any]:
    return [
        pytest.param(variant, name, case, id=f"{variant}-{name}")
        for variant in VARIANTS
        if (listing := GOLDEN / "cases" / variant / "cases.json").exists()
        for name, case in json.loads(listing.read_text()).items()
        if case["images"]
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> H2ovlTemplate:
    folder = tmp_path_factory.mktemp("published")
    (folder / MODEL).write_bytes(lzma.decompress((GOLDEN / "h2ovl_tokenizer.model.xz").read_bytes()))
    shutil.copy(GOLDEN / "h2ovl_800m" / CONFIG, folder)
    return H2ovlTemplate(Tokenizer(folder))


@pytest.mark.parametrize(("variant", "name", "case"), cases())
def test_pixels_are_the_originals(variant: str, name: str, case: dict[str, Any]) -> None:
    folder = GOLDEN / "cases" / variant
    msac = VARIANTS[variant] if case["use_msac"] is None else case["use_msac"]
    tiling = Tiling(budget=case["num_crops"] or MOST_TILES, side=448, msac=msac)
    pictures = tiling.pictures([Image.open(folder / image) for image in case["images"]])
    with np.load(folder / f"{name}.npz") as recorded:
        assert [len(each) for each in pictures] == recorded["tiles"].tolist()
        assert [list(each.grid) for each in pictures] == recorded["grid"].tolist()
        second = [list(each.second) for each in pictures if each.second]
        assert second == (recorded["msac_grid"].tolist() if "msac_grid" in recorded else [])
        for place, each in enumerate(pictures):
            pixels, count = each.pixels, len(each)
            assert np.array_equal(pixels[:, :, :3, :3].numpy(), recorded["pixel_corner"][place, :count])
            for key, power in (("pixel_mean", 1), ("pixel_sq", 2)):
                computed = pixels.double().pow(power).mean(dim=(1, 2, 3)).numpy()
                assert np.abs(computed - recorded[key][place, :count]).max() < 1e-12
                assert not recorded[key][place, count:].any()


def test_published_ids(template: H2ovlTemplate) -> None:
    words = template.tokenizer.trusted
    opening, answer = [523, 28766, 14350, 447, 28766, 28767], [523, 28766, 24115, 28766, 28767]
    question = [6802, 349, 28705, 28740, 28806, 28740, 28804]
    assert words("<|prompt|>what is 1+1?<|end|><|answer|>") == [*opening, *question, 32009, *answer]
    assert words("</img>\nWhat") == [32001, 28705, 13, 3195]
    assert template.answers == ((5613,), (2501,))
    assert template.tokenizer.size == 32010


@given(st.lists(st.one_of(st.sampled_from([*SPELT, "<0x0A>", "▁", "\0", "<|", "|>"]), st.text()), max_size=8))
def test_a_users_words_never_become_structure(template: H2ovlTemplate, parts: list[str]) -> None:
    text = "".join(part.encode(errors="replace").decode() for part in parts)
    ids = template.user_text(text)
    assert template.tokenizer.added.isdisjoint(ids)
    for marker in ([14350, 447, 28766, 28767], [28766, 24115, 28766, 28767]):
        assert marker not in [ids[place : place + 4] for place in range(len(ids))]


@given(st.text(max_size=60))
def test_a_users_words_have_the_ids_of_the_whole_prompt(template: H2ovlTemplate, text: str) -> None:
    """What is tokenised apart is what the original makes of the whole, where no token's name is in it."""
    text = text.encode(errors="replace").decode().replace("<", "(")
    apart = [*template.start("Text:\n"), *template.user_text(text), *template.question("\nSpam?")]
    assert apart == template.tokenizer.trusted(f"{PROMPT}Text:\n{text}\nSpam?{END}{ANSWER}")
