"""What ConfigMaps carry of policies: the policies and their certificates, all of them, and never a golden set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moderation.policies import PolicySet, check
from tests.support.certificates import a_certificate, put
from tests.support.repository import REPO

SETS = sorted({path.parent for path in (REPO / "policies").rglob("Kustomization")})


def listed(text: str) -> Iterator[str]:
    """The files of all ConfigMaps that a kustomization makes, by the names that they have there."""
    content: Any = yaml.safe_load(text)
    for made in content.get("configMapGenerator", ()) if isinstance(content, dict) else ():
        yield from (str(file).partition("=")[0].rpartition("/")[2] for file in made.get("files", ()))


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: str(folder.relative_to(REPO)))
def test_a_config_map_carries_all_policies_with_their_certificates_and_nothing_else(folder: Path) -> None:
    carried = sorted(listed((folder / "Kustomization").read_text()))
    assert carried == sorted(path.name for pattern in ("*.yaml", "*.certificate.json") for path in folder.glob(pattern))
    assert carried


def test_no_kustomization_of_the_repository_or_of_its_pages_carries_a_golden_set() -> None:
    files = [*(REPO / "policies").rglob("Kustomization"), *(REPO / "deploy").rglob("kustomization.yaml")]
    texts = [path.read_text() for path in files]
    for page in (REPO / "deploy").glob("*.md"):
        texts += re.findall(r"^```yaml\n(# kustomization.yaml.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(files) > 20
    assert len(texts) > len(files), "the pages show one"
    carried = [name for text in texts for name in listed(text)]
    assert "spam.yaml" in carried
    assert not [name for name in carried if "golden" in name]


def test_a_folder_without_its_golden_sets_is_the_same_set_with_the_same_certificates(tmp_path: Path) -> None:
    """What a ConfigMap carries is what roles read."""
    source = REPO / "policies" / "demo"
    for path in source.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    policy = next(policy for policy in PolicySet.load(tmp_path).policies if policy.id == "alcohol")
    put(tmp_path, a_certificate(policy))
    loaded = PolicySet.load(tmp_path)
    assert loaded.digest == PolicySet.load(source).digest
    assert set(loaded.certificates) == {"alcohol"}
    assert not check(tmp_path).errors
