"""The probe takes a raw prompt as the published processor does. Its numbers are held by the golden cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderation.errors import ConfigError
from moderation.models import probe
from moderation.models.phi3.network import PreprocessorConfig
from moderation.models.phi3.preprocessing import Crops, HdTransform
from moderation.models.shared.tokenizer import Tokenizer
from tests.support.small_model import Reference, a_picture, seeded_folder

TOKENS = {"wide": 89, "tall": 101}  # 1 x 4 and 4 x 1 crops of 4 x 4 tokens, the global one, and the separators


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "wide.png", tmp_path / "tall.png"]
    a_picture(300, 60, seed=1).save(paths[0])
    a_picture(60, 300, seed=2).convert("RGBA").save(paths[1])
    return paths


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(seeded_folder())


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(seeded_folder())


def run(prompt: str, images: list[Path], out: Path, **options: Any) -> dict[str, Any]:
    probe(str(seeded_folder()), prompt, images, out, **options)
    with np.load(out) as arrays:
        return dict(arrays)


def crops(path: Path, budget: int = 4) -> Crops:
    published = PreprocessorConfig()
    return HdTransform(budget, 112, 4, published.image_mean, published.image_std).crops(Image.open(path))


def test_a_prompt_without_images_has_the_logits_of_the_reference(
    tmp_path: Path, tokenizer: Tokenizer, reference: Reference
) -> None:
    """A tag without images is text, as in the original."""
    arrays = run("<|user|>\nwhat is <|image_1|>?<|end|>\n<|assistant|>\n", [], tmp_path / "out.npz")
    expected = tokenizer.trusted("<|user|>\nwhat is <|image_1|>?<|end|>\n<|assistant|>\n", begin=True)
    assert arrays["input_ids"].dtype == np.int32
    assert arrays["input_ids"].tolist() == expected
    assert np.abs(arrays["last_logits"] - reference.logits(expected, []).numpy()).max() < 1e-4
    assert arrays["tail_logits_yes_no"].shape == (16, 2)
    yes, no = tokenizer.word("Yes"), tokenizer.word("No")
    assert arrays["tail_logits_yes_no"][-1].tolist() == arrays["last_logits"][[yes, no]].tolist()
    assert "pixel_mean" not in arrays


def test_a_short_prompt_has_a_short_tail(tmp_path: Path) -> None:
    assert run("Yes", [], tmp_path / "out.npz")["tail_logits_yes_no"].shape == (2, 2)


@pytest.mark.parametrize(
    ("prompt", "blocks"),
    [
        ("<|user|>\n<|image_1|>\n<|image_2|>\nboth?<|end|>\n<|assistant|>\n", ["wide", "tall"]),
        ("<|image_2|><|image_1|>", ["tall", "wide"]),
        ("look: <|image_01|> and <|image_2|> ?", ["wide", "tall"]),
    ],
)
def test_images_fill_slots_in_order_and_tags_only_mark_places(
    tmp_path: Path, images: list[Path], tokenizer: Tokenizer, reference: Reference, prompt: str, blocks: list[str]
) -> None:
    arrays = run(prompt, images, tmp_path / "out.npz")
    ids = arrays["input_ids"].tolist()
    place, slots = 0, [id for id in ids if id < 0]
    for block in blocks:
        number = -1 - ["wide", "tall"].index(block)
        assert slots[place : place + TOKENS[block]] == [number] * TOKENS[block]
        place += TOKENS[block]
    assert place == len(slots)
    assert sum(1 for id in ids if id == 1) == 3, "<s> at the start and after each image"
    expected = reference.logits(ids, [crops(path) for path in images])
    assert np.abs(arrays["last_logits"] - expected.numpy()).max() < 1e-4


def test_crops_are_described_with_the_padding_that_is_not_computed(tmp_path: Path, images: list[Path]) -> None:
    arrays = run("<|image_1|> ?", images[:1], tmp_path / "out", num_crops=9)
    assert arrays["pixel_mean"].shape == (1, 10)
    assert arrays["pixel_mean"].dtype == np.float64
    expected = crops(images[0], 9).pixels.double().mean(dim=(1, 2, 3)).numpy()
    assert arrays["pixel_mean"][0, : len(expected)] == pytest.approx(expected)
    assert not arrays["pixel_mean"][0, len(expected) :].any()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("no tag", "2 images need tags from <|image_1|> to <|image_2|>, each once; there is none"),
        ("<|image_1|>", "there is <|image_1|>"),
        ("<|image_1|><|image_3|>", "there is <|image_1|>, <|image_3|>"),
        ("<|image_0|><|image_1|>", "there is <|image_0|>, <|image_1|>"),
        ("<|image_1|><|image_2|><|image_1|>", "it has 3 for 2 images"),
    ],
)
def test_tags_that_the_original_fails_on(tmp_path: Path, images: list[Path], prompt: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(prompt, images, tmp_path / "out.npz")
    assert message in str(caught.value)
    assert not (tmp_path / "out.npz").exists()


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_text("not an image")
    with pytest.raises(ConfigError, match=r"image\.png: not readable as an image"):
        run("<|image_1|>", [tmp_path / "image.png"], tmp_path / "out.npz")
