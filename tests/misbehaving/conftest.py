from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import Harness, a_harness


@pytest.fixture
async def harness(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Harness:
    return await a_harness(kafka, names, tmp_path)
