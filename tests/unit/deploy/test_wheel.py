"""The wheel holds what users run, and not how the shipped checkpoint was taught."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def test_the_wheel_has_the_demo_checkpoint_and_no_training(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("moderation/training/", "tests/"))]
    assert {"moderation/py.typed", "moderation/v1/post_pb2.py", "moderation/demo/posts.py"} <= set(names)
    assert [name for name in names if name.endswith(".safetensors")]
