"""Pictures of TinyGPT-V: one square, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from moderation.models.tinygptv.preprocessing import MEAN, STD, Square, square
from tests.support.small_model import a_picture


def prepared(picture: Image.Image, side: int = 28) -> Square:
    return square(picture, side, tokens=32, work=100)


@pytest.mark.parametrize("size", [(28, 28), (300, 20), (20, 300), (1, 1), (3, 1)])
def test_every_shape_becomes_a_square(size: tuple[int, int]) -> None:
    made = prepared(a_picture(*size))
    assert (made.bytes.shape, made.bytes.dtype) == ((3, 28, 28), torch.uint8)
    assert (made.pixels.shape, made.pixels.dtype) == ((1, 3, 28, 28), torch.float32)
    assert (made.tokens, made.work) == (32, 100)


def test_the_picture_is_resized_bicubically_and_normalised() -> None:
    picture = a_picture(90, 40, seed=3)
    resized = np.asarray(picture.resize((28, 28), Image.Resampling.BICUBIC), dtype=np.float32)
    mean, std = (np.array(values, dtype=np.float32) for values in (MEAN, STD))
    expected = (resized / np.float32(255) - mean) / std
    assert np.array_equal(prepared(picture).pixels[0].permute(1, 2, 0).numpy(), expected)


def test_alpha_is_dropped_and_palettes_are_expanded() -> None:
    picture = a_picture(40, 40)
    clear = picture.copy()
    clear.putalpha(0)
    assert torch.equal(prepared(clear).bytes, prepared(picture).bytes), "the colour under it stays"
    indexed = picture.convert("P")
    assert torch.equal(prepared(indexed).bytes, prepared(indexed.convert("RGB")).bytes)
    grey = prepared(picture.convert("L"))
    assert torch.equal(grey.bytes[0], grey.bytes[2])


def test_orientation_is_the_callers() -> None:
    """The service turns pictures upright before a model sees them; here, as in the original, EXIF is not read."""
    picture = a_picture(60, 30)
    picture.getexif()[0x0112] = 6
    assert torch.equal(prepared(picture).bytes, prepared(a_picture(60, 30)).bytes)


def test_the_digest_is_of_the_pixels() -> None:
    one, same, other = prepared(a_picture(seed=1)), prepared(a_picture(seed=1)), prepared(a_picture(seed=2))
    assert one.digest == same.digest != other.digest
