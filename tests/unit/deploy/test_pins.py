"""Images have the versions that the tests use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PINS = Path(__file__).parents[3] / "deploy" / "requirements"


def pins(name: str) -> dict[str, set[str]]:
    """Versions by package. Some packages have two: one for older Pythons, one for newer."""
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"^([a-z0-9._-]+)==([^ ;\\]+)", (PINS / f"{name}.txt").read_text(), re.MULTILINE
    ):
        versions.setdefault(package, set()).add(version)
    return versions


@pytest.mark.parametrize("name", ["api", "remote", "worker", "build"])
def test_an_image_has_the_versions_of_the_tests(name: str) -> None:
    tested, shipped = pins("dev"), pins(name)
    assert shipped
    differ = {package: version for package, version in shipped.items() if tested.get(package) != version}
    assert differ == {}, "run make pins"


def test_only_the_worker_with_a_model_has_torch() -> None:
    assert not {"torch", "transformers", "numpy", "pillow"} & pins("api").keys()
    assert not {"torch", "transformers", "numpy", "tokenizers"} & pins("remote").keys()
    assert {"openai", "pillow"} <= pins("remote").keys()
    assert {"torch", "tokenizers", "safetensors"} <= pins("worker").keys()
