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
# Cases -> the script that writes their checkpoint.
VARIANTS = {
    "phi3v": "seeded_checkpoint.py",
    "phi35v": "seeded_checkpoint.py",
    "tinyllava": "seeded_tinyllava.py",
    "tinyllava_legacy": "seeded_tinyllava.py",
    "tinyllava_v1": "seeded_tinyllava.py",
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
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def checkpoint(parent: Path, variant: str, case: dict[str, Any]) -> Path:
    """The checkpoint of a case, written once. A case may replace keys of config.json."""
    config, msac = case.get("config") or {}, case.get("use_msac")
    folder = parent / "-".join([variant, *(json.dumps(each) for each in (config, msac) if each not in ({}, None))])
    if not folder.exists():
        options = ["--config", json.dumps(config)] if config else []
        subprocess.run([sys.executable, GOLDEN / VARIANTS[variant], variant, folder, *options], check=True)
    if msac is not None:  # their script has no option for it
        path = folder / "config.json"
        changed = json.loads(path.read_text()) | {"use_msac": msac}
        path.unlink()  # the copy of a file that may not be written
        path.write_text(json.dumps(changed))
    return folder


@pytest.mark.parametrize(("variant", "name", "case"), cases())
def test_equal_to_the_original(parent: Path, tmp_path: Path, variant: str, name: str, case: dict[str, Any]) -> None:
    folder = GOLDEN / "cases" / variant
    out = tmp_path / "out.npz"
    images = [folder / image for image in case["images"]]
    written = checkpoint(parent, variant, case)
    probe(str(written), case["prompt"], images, out, num_crops=case["num_crops"])
    with np.load(out) as computed, np.load(folder / f"{name}.npz") as recorded:
        ids = computed["input_ids"]
        if variant in SLOTS:
            ids = np.where(ids < 0, SLOTS[variant], ids)
        assert np.array_equal(ids, recorded["input_ids"])
        both = set(computed) & set(recorded) - {"input_ids"}
        assert all(computed[key].shape == recorded[key].shape for key in both)
        assert all(computed[key].dtype == recorded[key].dtype for key in both)
        apart = {key: float(np.abs(computed[key] - recorded[key]).max()) for key in sorted(both)}
    assert {"last_logits", "tail_logits_yes_no", *(["pixel_mean"] if images else [])} <= both
    print(f"{variant} {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in apart.items()))
    assert apart.pop("pixel_mean", 0.0) < 1e-6
    assert max(apart.pop(key, 0.0) for key in ("tiles", "grid", "msac_grid")) == 0
    assert max(apart.values()) < 1e-4
