"""What fails beside others is run once more, alone: with a real pytest, on tests of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.once_more import main
from tests.support.repository import REPO

BUSY = """
from pathlib import Path

def test_that_was_too_slow():
    mark = Path(__file__).with_suffix(".ran")
    ran, _ = mark.exists(), mark.touch()
    assert ran

def test_that_passes():
    assert True
"""
BROKEN = "def test_that_is_broken():\n    assert False\n"
MANY = "import pytest\n\n@pytest.mark.parametrize('number', range(4))\ndef test_many(number):\n    assert False\n"


@pytest.mark.parametrize(
    ("tests", "status", "said"),
    [
        pytest.param(BUSY, 0, ["FAILED BESIDE OTHERS: ", "test_that_was_too_slow", "passed alone"], id="busy"),
        pytest.param(BROKEN, 1, ["FAILED BESIDE OTHERS: ", "test_that_is_broken", "failed alone, too"], id="broken"),
        pytest.param(MANY, 1, ["4 tests failed", "none is run once more"], id="many"),
    ],
)
def test_a_failure_counts_unless_it_passes_alone(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tests: str,
    status: int,
    said: list[str],
) -> None:
    (tmp_path / "pytest.ini").touch()  # so that the tests of this repository are not these tests' own
    (tmp_path / "test_own.py").write_text(tests)
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, "-m", "pytest", "-o", "cache_dir=together", "-p", "no:xdist", str(tmp_path)]
    assert subprocess.run(run, check=False, capture_output=True).returncode == 1
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    assert main(tmp_path / "together") == status
    shown = capfd.readouterr().out
    assert all(words in shown for words in said), shown
    assert "test_that_passes" not in shown
