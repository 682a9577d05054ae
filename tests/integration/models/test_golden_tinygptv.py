"""TinyGPT-V's downloads, converted, must give what the original code gives: its parts, and its logits.

The cases are in ../shared/golden or in MODERATION_TEST_GOLDEN. Without them nothing here runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moderation import models
from moderation.errors import ConfigError
from moderation.models.shared.picture import normalised
from moderation.models.tinygptv import preprocessing
from moderation.models.tinygptv.convert import Files, convert
from moderation.models.tinygptv.family import Checkpoint

GOLDEN = Path(
    os.environ.get("MODERATION_TEST_GOLDEN") or Path(__file__).parents[3] / ".." / "shared" / "golden"
).resolve()
CASES = GOLDEN / "cases" / "tinygptv"
STAGES = {
    "224": ("phi-2", "TinyGPT-V_for_Stage3.pth"),
    "448": ("phi-2-shards", "TinyGPT-V_for_Stage4.pth"),
    "448, newer PEFT": ("phi-2", "TinyGPT-V_for_Stage4_newer_peft.pth"),
}


def cases() -> list[Any]:
    listing = CASES / "cases.json"
    params = [
        pytest.param(variant, name, case, id=f"{variant}-{name}")
        for name, case in (json.loads(listing.read_text()) if listing.exists() else {}).items()
        for variant in STAGES
        if variant.startswith(case["variant"])
    ]
    missing = pytest.mark.skip(reason=f"no golden cases in {CASES}: parity with the original code is NOT checked")
    return params or [pytest.param("", "", {}, marks=missing, id="no-golden-cases")]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CASES.exists():
        pytest.skip(f"no golden cases in {CASES}")
    folder = tmp_path_factory.mktemp("downloads")
    subprocess.run([sys.executable, GOLDEN / "seeded_tinygptv.py", folder], check=True)
    return folder


def files(downloads: Path, phi: str, stage: str) -> Files:
    vit, qformer = downloads / "eva_vit_g.pth", downloads / "blip2_pretrained_flant5xxl.pth"
    return Files(vit, qformer, downloads / phi, downloads / stage)


@pytest.fixture(scope="module")
def checkpoints(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    for variant, names in STAGES.items():
        convert(folder / variant, files(downloads, *names))
    return {variant: folder / variant for variant in STAGES}


def apart(computed: Any, recorded: Any) -> float:
    assert computed.shape == recorded.shape
    return float(np.abs(computed - recorded).max())


@pytest.mark.parametrize(("variant", "name", "case"), cases())
def test_equal_to_the_original(
    checkpoints: dict[str, Path], tmp_path: Path, variant: str, name: str, case: dict[str, Any]
) -> None:
    out = tmp_path / "out.npz"
    models.probe(str(checkpoints[variant]), case["prompt"], [CASES / image for image in case["images"]], out)
    with np.load(out) as computed, np.load(CASES / f"{name}.npz") as recorded:
        assert np.array_equal(computed["input_ids"], recorded["input_ids"])
        keys = {"last_logits", "tail_logits_yes_no"} | ({"pixel_mean", "image_tokens"} if case["images"] else set())
        assert keys | {"input_ids"} == set(computed)
        assert all(computed[key].dtype == recorded[key].dtype for key in keys)
        found = {key: apart(computed[key], recorded[key]) for key in sorted(keys)}
        rounded = apart(recorded["tail_logits_yes_no_float32_rotary"], computed["tail_logits_yes_no"])
    print(f"{variant} {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in found.items()))
    assert found.pop("pixel_mean", 0.0) < 1e-6
    assert max(found.values()) < 5e-5
    assert rounded > max(found.values()), "the tables of the original are those of float16"


@pytest.mark.parametrize(("variant", "name", "case"), [each for each in cases() if "text" not in str(each.id)])
def test_each_part_equals_the_originals(
    checkpoints: dict[str, Path], variant: str, name: str, case: dict[str, Any]
) -> None:
    opened = Checkpoint(checkpoints[variant], None)
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    pictures = opened.encode_pictures([Image.open(CASES / image) for image in case["images"]])
    pixels = normalised(torch.stack([picture.bytes for picture in pictures]), preprocessing.MEAN, preprocessing.STD)
    with torch.inference_mode():
        tokens = network.tower_tokens(pixels)
        states = network.query_states(tokens)
        image_tokens = network.image_tokens(states)
    with np.load(CASES / f"{name}.npz") as recorded:
        found = {
            "pixel_channel_mean": apart(pixels.double().mean(dim=(2, 3)).numpy(), recorded["pixel_channel_mean"]),
            "vit_mean": abs(float(tokens.double().mean()) - float(np.mean(recorded["vit_mean"]))),
            "vit_first": apart(tokens[:, 0, :8].numpy(), recorded["vit_first"]),
            "vit_last": apart(tokens[:, -1, :8].numpy(), recorded["vit_last"]),
            "qformer_mean": abs(float(states.double().mean()) - float(np.mean(recorded["qformer_mean"]))),
            "qformer_first": apart(states[:, :, :4].numpy(), recorded["qformer_first"]),
            "image_tokens": apart(image_tokens.numpy(), recorded["image_tokens"]),
        }
    print(f"{variant} {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in found.items()))
    assert max(found.values()) < 5e-5


def test_files_of_two_models_are_refused(downloads: Path, tmp_path: Path) -> None:
    """A language model with one layer less than the trained file has."""
    whole = files(downloads, *STAGES["224"])
    (tmp_path / "phi").mkdir()
    for path in whole.phi.iterdir():
        (tmp_path / "phi" / path.name).symlink_to(path)
    config = json.loads((whole.phi / "config.json").read_text())
    (tmp_path / "phi" / "config.json").unlink()
    (tmp_path / "phi" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    other = Files(whole.vit, whole.qformer, tmp_path / "phi", whole.stage)
    with pytest.raises(ConfigError, match="not those of one model") as caught:
        convert(tmp_path / "out", other)
    assert str(whole.stage) in str(caught.value)
    assert not (tmp_path / "out").exists()
