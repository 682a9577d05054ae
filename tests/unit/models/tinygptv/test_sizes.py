"""Which variant it is, and how strong its adapters are: the trained file says, or the options do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.models.tinygptv.convert import convert
from tests.support.tinygptv_artefacts import Downloads


def test_options_fill_in_what_the_trained_file_does_not_say(tmp_path: Path) -> None:
    inputs = Downloads(model=None).write(tmp_path / "in")
    convert(tmp_path / "out", replace(inputs, variant="448", lora_alpha=32))
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (content["arch"], content["vision_config"]["image_size"]) == ("minigpt_v2", 448)
    assert content["conversion"]["adapters"]["alpha"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "448"}, "--variant 448: .* says itself that it is minigpt4 at 224 x 224"),
        ({"lora_alpha": 8.0}, "--lora-alpha 8: .* says itself that it is 16"),
        ({"variant": "336"}, "--variant 336: TinyGPT-V has 224 and 448"),
    ],
)
def test_options_that_contradict_the_trained_file(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path / "out", replace(Downloads().write(tmp_path / "in"), **options))


@pytest.mark.parametrize(("chosen", "used"), [(None, 16), (8.0, 8)])
def test_the_originals_strength_where_nothing_says_another(tmp_path: Path, chosen: float | None, used: float) -> None:
    """Stage 3's config has no lora_alpha."""
    inputs = Downloads(model={"arch": "minigpt4", "image_size": 224}).write(tmp_path / "in")
    convert(tmp_path / "out", replace(inputs, lora_alpha=chosen))
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["conversion"]["adapters"]["alpha"] == used


NO_STRENGTH = [0, -16, float("nan"), float("inf"), 1e300]


@pytest.mark.parametrize("alpha", [*NO_STRENGTH, pytest.param(2**2000, id="2**2000"), True, "16"])
def test_a_trained_file_with_no_strength_of_adapters(tmp_path: Path, alpha: object) -> None:
    """2**2000 is a number that no float holds."""
    model = {"arch": "minigpt4", "image_size": 224, "lora_alpha": alpha}
    with pytest.raises(ConfigError, match=r"stage\.pth: its config says lora_alpha .* not a positive number"):
        convert(tmp_path / "out", Downloads(model=model).write(tmp_path / "in"))


@pytest.mark.parametrize("alpha", NO_STRENGTH)
@pytest.mark.parametrize("own", [None, 16])
def test_an_option_with_no_strength_of_adapters(tmp_path: Path, alpha: float, own: int | None) -> None:
    inputs = Downloads(model={"arch": "minigpt4", "image_size": 224, "lora_alpha": own}).write(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"--lora-alpha .*: not a positive number"):
        convert(tmp_path / "out", replace(inputs, lora_alpha=alpha))
