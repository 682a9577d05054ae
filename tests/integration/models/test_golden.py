"""Recorded outputs of the original code: the published layout must give the same ids, pixels and logits.

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

from moderation.models import probe

GOLDEN = Path(
    os.environ.get("MODERATION_TEST_GOLDEN") or Path(__file__).parents[3] / ".." / "shared" / "golden"
).resolve()
# A variant -> what writes its checkpoint.
VARIANTS = {
    "phi3v": "seeded_checkpoint.py",
    "phi35v": "seeded_checkpoint.py",
    "h2ovl_800m": "seeded_h2ovl.py",
    "h2ovl_2b": "seeded_h2ovl.py",
}
# The id that is recorded in a picture's place, where it is not the picture's number.
SLOTS = {"h2ovl_800m": 32002, "h2ovl_2b": 32002}


def cases() -> list[Any]:
    params = [
        pytest.param(variant, name, case, id=f"{variant}-{name}")
        for variant in VARIANTS
        if (listing := GOLDEN / "cases" / variant / "cases.json").exists()
        for name, case in json.loads(listing.read_text()).items()
    ]
    missing = pytest.mark.skip(reason=f"no golden cases in {GOLDEN}: parity with the original code is NOT checked")
    return params or [pytest.param("", "", {}, marks=missing, id="no-golden-cases")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    for variant, script in VARIANTS.items():
        subprocess.run([sys.executable, GOLDEN / script, variant, folder / variant], check=True)
    return {variant: folder / variant for variant in VARIANTS}


def configured(folder: Path, case: dict[str, Any], copy: Path) -> Path:
    """The checkpoint with what the case changes in its config.json."""
    if case.get("use_msac") is None:
        return folder
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | {"use_msac": case["use_msac"]}
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(("variant", "name", "case"), cases())
def test_equal_to_the_original(
    checkpoints: dict[str, Path], tmp_path: Path, variant: str, name: str, case: dict[str, Any]
) -> None:
    folder = GOLDEN / "cases" / variant
    out = tmp_path / "out.npz"
    images = [folder / image for image in case["images"]]
    place = configured(checkpoints[variant], case, tmp_path / "changed")
    probe(str(place), case["prompt"], images, out, num_crops=case["num_crops"])
    with np.load(out) as computed, np.load(folder / f"{name}.npz") as recorded:
        ids = computed["input_ids"]
        if variant in SLOTS:
            ids = np.where(ids < 0, SLOTS[variant], ids)
        assert np.array_equal(ids, recorded["input_ids"])
        shared = set(computed) & set(recorded) - {"input_ids"}
        assert all(computed[key].shape == recorded[key].shape for key in shared)
        assert all(computed[key].dtype == recorded[key].dtype for key in shared)
        apart = {key: float(np.abs(computed[key] - recorded[key]).max()) for key in sorted(shared)}
    assert {"last_logits", "tail_logits_yes_no"} <= shared
    assert "pixel_mean" in shared or not images
    print(f"{variant} {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in apart.items()))
    assert apart.pop("pixel_mean", 0.0) < 1e-6
    assert max(apart.pop(key, 0.0) for key in ("tiles", "grid", "msac_grid")) == 0
    assert max(apart.values()) < 1e-4
