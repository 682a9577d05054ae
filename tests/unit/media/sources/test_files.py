"""Local files: only what lies below an allowed root is read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.errors import PostError
from moderation.media.sources.files import LocalFiles
from moderation.settings import MediaSettings
from moderation.types import Reason

LIMITS = MediaSettings()


async def test_a_file_below_a_root_is_read(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"bytes")
    files = LocalFiles(MediaSettings(roots=(tmp_path,)))
    assert await files.read(f"file://{tmp_path}/a%20b.png") == b"bytes"
    assert await files.read(f"file://localhost{tmp_path}/./a%20b.png") == b"bytes"


async def test_nothing_outside_the_roots_is_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    outside.write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe")
    files = LocalFiles(MediaSettings(roots=(root,)))
    for uri in (
        f"file://{outside}",
        f"file://{root}/../secret",
        f"file://{root}/%2e%2e/secret",
        f"file://{root}/link",
        f"file://{root}/pipe",
        f"file://{root}",
        f"file://elsewhere{root}/x",
        f"file://{root}/x?y",
        f"file://{root}/x%00",
        "file://[x/a.png",
        "file:secret",
        f"file://{tmp_path}/root-of-another",
    ):
        with pytest.raises(PostError) as caught:
            await files.read(uri)
        assert caught.value.reason in (Reason.IMAGE_FORBIDDEN, Reason.IMAGE_UNAVAILABLE), uri
        assert "secret" not in str(caught.value)


async def test_without_roots_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(PostError) as caught:
        await LocalFiles(LIMITS).read(f"file://{tmp_path}/x")
    assert caught.value.reason is Reason.IMAGE_FORBIDDEN


async def test_missing_and_large_files_have_their_reason(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 11)
    files = LocalFiles(MediaSettings(roots=(tmp_path,), max_bytes=10))
    for name, reason in (("large", Reason.IMAGE_TOO_LARGE), ("missing", Reason.IMAGE_NOT_FOUND)):
        with pytest.raises(PostError) as caught:
            await files.read(f"file://{tmp_path}/{name}")
        assert caught.value.reason is reason


@given(st.one_of(st.text(), st.text(alphabet="/.%0[]@:?#℀\\").map("file://".__add__)))
def test_any_reference_is_read_or_refused(uri: str) -> None:
    with pytest.raises(PostError):
        asyncio.run(LocalFiles(MediaSettings(roots=(Path(__file__).parent,))).read(uri))
