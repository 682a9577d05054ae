"""A file that a command writes is the new one or the old one, and nothing is left beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.files import replaced


def test_a_file_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    replaced(path, b"old")
    replaced(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.html"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"out\.html: not written: no space left on device"):
        replaced(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
