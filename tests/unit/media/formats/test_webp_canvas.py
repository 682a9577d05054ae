"""The size of a WebP picture is known before Pillow takes memory for its pixels."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media.decoding import decode, decoded_bytes
from moderation.media.formats.webp_canvas import Canvas, canvas_of
from moderation.settings import MediaSettings
from moderation.types import Reason
from tests.support.builders import a_file, an_image

KINDS: dict[str, dict[str, Any]] = {
    "lossy": {"quality": 50},
    "lossless": {"lossless": True},
    "metadata": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (16_383, 3)])
def test_the_canvas_is_what_pillow_says(kind: str, mode: str, size: tuple[int, int]) -> None:
    colour = (1, 2, 3) if mode == "RGB" else (1, 2, 3, 99)
    file = a_file(an_image(*size, colour=colour, mode=mode), "WEBP", **KINDS[kind])
    assert canvas_of(file) == Canvas(size, animated=False)


def test_an_animation_says_so() -> None:
    frames = [an_image(30, 20, colour=(level, 0, 0)) for level in (10, 200)]
    assert canvas_of(a_file(frames[0], "WEBP", save_all=True, append_images=frames[1:])) == Canvas(
        (30, 20), animated=True
    )


@pytest.mark.parametrize("file", [b"", b"RIFF", a_file(), b"RIFF\0\0\0\0WEBPJUNK" + bytes(30), b"RIFF\0\0\0\0WEBPVP8X"])
def test_other_bytes_have_none(file: bytes) -> None:
    assert canvas_of(file) is None


def test_a_canvas_beyond_the_limits_is_refused_before_memory_is_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_file(an_image(16_383, 16), "WEBP", exif=KINDS["metadata"]["exif"])
    huge = file[:24] + (16_382).to_bytes(3, "little") * 2 + file[30:]
    monkeypatch.setattr(pil, "open", lambda *_, **__: pytest.fail("Pillow opens it"))
    assert decoded_bytes(huge, MediaSettings()) == 0
    with pytest.raises(PostError) as refused:
        list(decode(huge, MediaSettings()))
    assert refused.value.reason is Reason.IMAGE_TOO_LARGE
