"""TinyLLaVA's parts against what the original code recorded: pixels and features, and a tower in a hub cache.

test_golden.py compares the outputs. The cases are where it says.
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

from moderation.models.tinyllava.family import Checkpoint

GOLDEN = Path(
    os.environ.get("MODERATION_TEST_GOLDEN") or Path(__file__).parents[3] / ".." / "shared" / "golden"
).resolve()
LAYOUTS = ("tinyllava", "tinyllava_legacy", "tinyllava_v1")
SPLIT = "tinyllava_legacy_split"


def cases() -> list[Any]:
    params = [
        pytest.param(layout, name, case, id=f"{layout}-{name}")
        for layout in LAYOUTS
        if (listing := GOLDEN / "cases" / layout / "cases.json").exists()
        for name, case in json.loads(listing.read_text()).items()
        if case["images"]
    ]
    missing = pytest.mark.skip(reason=f"no golden cases in {GOLDEN}: parity with the original code is NOT checked")
    return params or [pytest.param("", "", {}, marks=missing, id="no-golden-cases")]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def seeded(parent: Path, layout: str, config: dict[str, Any] | None = None) -> Path:
    options = ["--config", json.dumps(config)] if config else []
    folder = parent / f"{layout}{json.dumps(config) if config else ''}"
    if not folder.exists():
        subprocess.run([sys.executable, GOLDEN / "seeded_tinyllava.py", layout, folder, *options], check=True)
    return folder


@pytest.mark.parametrize(("layout", "name", "case"), cases())
def test_pixels_and_features_are_the_originals(parent: Path, layout: str, name: str, case: dict[str, Any]) -> None:
    opened = Checkpoint(seeded(parent, layout, case["config"]), None)
    recorded = np.load(GOLDEN / "cases" / layout / f"{name}.npz")
    images = [Image.open(GOLDEN / "cases" / layout / image) for image in case["images"]]
    pictures = opened.encode_pictures(images)
    pixels = torch.stack([picture.pixels for picture in pictures]).numpy()
    assert np.array_equal(pixels[..., :3, :3], recorded["pixel_corner"])
    wide = pixels.astype(np.float64)
    assert np.abs(wide.mean(axis=(2, 3, 4)) - recorded["pixel_mean"]).max() < 1e-9
    assert np.abs(np.square(wide).mean(axis=(2, 3, 4)) - recorded["pixel_sq"]).max() < 1e-9
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():
        corners = [rows[[0, -1], :8].numpy() for rows in network.embed_images(pictures)]
    apart = np.abs(np.stack(corners) - recorded["features_corner"]).max()
    print(f"{layout} {name}: features {apart:.1e}")
    assert apart < 1e-5


@pytest.mark.skipif(
    not (GOLDEN / "seeded_tinyllava.py").exists(),
    reason=f"no golden cases in {GOLDEN}: parity with the original code is NOT checked",
)
def test_a_tower_in_a_repository_of_its_own_gives_the_same_logits(parent: Path, tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its cache's place when it is imported."""
    folder = seeded(parent, SPLIT)
    base = GOLDEN / "cases" / "tinyllava_legacy"
    case = json.loads((base / "cases.json").read_text())["landscape"]
    (tmp_path / "prompt.txt").write_text(case["prompt"])
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "moderation",
        "model",
        "probe",
        folder,
        "--prompt",
        tmp_path / "prompt.txt",
    ]
    command += ["--prompt", tmp_path / "prompt.txt", "--image", base / case["images"][0], "--out", tmp_path / "out.npz"]
    offline = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env=os.environ | offline)
    with np.load(tmp_path / "out.npz") as computed, np.load(base / "landscape.npz") as recorded:
        assert np.array_equal(computed["input_ids"], recorded["input_ids"])
        assert np.abs(computed["last_logits"] - recorded["last_logits"]).max() < 1e-4
