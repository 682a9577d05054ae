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
VARIANTS = ("phi3v", "phi35v")


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
    for variant in VARIANTS:
        subprocess.run([sys.executable, GOLDEN / "seeded_checkpoint.py", variant, folder / variant], check=True)
    return {variant: folder / variant for variant in VARIANTS}


@pytest.mark.parametrize(("variant", "name", "case"), cases())
def test_equal_to_the_original(
    checkpoints: dict[str, Path], tmp_path: Path, variant: str, name: str, case: dict[str, Any]
) -> None:
    folder = GOLDEN / "cases" / variant
    out = tmp_path / "out.npz"
    images = [folder / image for image in case["images"]]
    probe(str(checkpoints[variant]), case["prompt"], images, out, num_crops=case["num_crops"])
    with np.load(out) as computed, np.load(folder / f"{name}.npz") as recorded:
        assert np.array_equal(computed["input_ids"], recorded["input_ids"])
        apart = {
            key: float(np.abs(computed[key] - recorded[key]).max())
            for key in ("last_logits", "tail_logits_yes_no", "pixel_mean")
            if key in recorded
        }
        assert all(computed[key].dtype == recorded[key].dtype for key in apart)
    print(f"{variant} {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in apart.items()))
    assert apart.pop("pixel_mean", 0.0) < 1e-6
    assert max(apart.values()) < 1e-4
