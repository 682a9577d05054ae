"""One seeded checkpoint for all tests of the family."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation.dev.seeds import h2ovl
from moderation.models.h2ovl.family import Checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("h2ovl")
    h2ovl.write(place)
    return place


@pytest.fixture(scope="session")
def opened(folder: Path) -> Checkpoint:
    return Checkpoint(folder, None)
