"""Pictures as squares: the published arithmetic on bytes and on numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as Picture

from moderation.models.tinyllava import preprocessing
from moderation.models.tinyllava.preprocessing import HALF, PreprocessorConfig, Square, Squares
from tests.support.small_model import a_picture

Array: TypeAlias = NDArray[Any]

CLIP = PreprocessorConfig()
SQUARE = Squares(96, "square", HALF, HALF, tokens=5, work=7)
PAD = Squares(96, "pad", HALF, HALF, tokens=5, work=7)
CROP = Squares(96, "crop", CLIP.image_mean, CLIP.image_std, tokens=5, work=7, short=96)


def of(squares: Squares, picture: Picture) -> Square:
    (square,) = squares.of([picture])
    return square


def seen(squares: Squares, picture: Picture) -> Array:
    """[side, side, 3]."""
    return np.asarray(of(squares, picture).bytes.permute(1, 2, 0).numpy())


def published(bytes_: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """The published processors' numbers, [3, side, side]: scaled in float64, then all in float32."""
    scaled = (bytes_ * (1 / 255)).astype(np.float32)
    columns = np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
    return np.asarray(((scaled - columns[0]) / columns[1]).transpose(2, 0, 1))


def padded(picture: Picture) -> Picture:
    """The plain way: a square of the long side, which is scaled as a whole."""
    long = max(picture.size)
    square = Image.new("RGB", (long, long), (127, 127, 127))
    square.paste(picture, ((long - picture.width) // 2, (long - picture.height) // 2))
    return square.resize((96, 96), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("squares", [SQUARE, PAD, CROP], ids=lambda squares: squares.shape)
def test_numbers_are_the_published_ones_to_the_bit(squares: Squares) -> None:
    square = of(squares, a_picture(200, 150))
    assert (square.pixels.dtype, tuple(square.pixels.shape)) == (torch.float32, (1, 3, 96, 96))
    expected = published(seen(squares, a_picture(200, 150)), squares.mean, squares.std)
    assert np.array_equal(square.pixels[0].numpy(), expected)


def test_squares_together_are_normalised_like_one() -> None:
    together = SQUARE.of([a_picture(200, 150), a_picture(90, 300, seed=2)])
    stacked = torch.stack([square.bytes for square in together])
    numbers = preprocessing.normalised(stacked, together[0].table)
    assert torch.equal(numbers, torch.cat([square.pixels for square in together]))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2, 3), (9, 6), (96, 96), (640, 480), (500, 3), (3, 500)])
def test_a_square_takes_the_whole_picture(size: tuple[int, int]) -> None:
    picture = a_picture(*size)
    assert np.array_equal(seen(SQUARE, picture), np.asarray(picture.resize((96, 96), Image.Resampling.BICUBIC)))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 9))
def test_padding_in_strips_equals_padding_at_once(width: int, height: int, seed: int) -> None:
    picture = a_picture(width, height, seed)
    rows = preprocessing.STRIP_PIXELS
    preprocessing.STRIP_PIXELS = 5000
    try:
        assert np.array_equal(seen(PAD, picture), np.asarray(padded(picture)))
    finally:
        preprocessing.STRIP_PIXELS = rows


@pytest.mark.parametrize("size", [(16_000, 1000), (1000, 16_000)])
def test_a_long_thin_picture_is_padded_without_its_square(size: tuple[int, int]) -> None:
    """The square would take 768 megabytes."""
    bytes_ = seen(PAD, Image.new("RGB", size, "red"))
    assert (bytes_[0, 0].tolist(), bytes_[48, 48].tolist()) == ([127, 127, 127], [255, 0, 0])


@pytest.mark.parametrize(
    ("size", "scaled"), [((96, 96), (96, 96)), ((640, 480), (128, 96)), ((480, 641), (96, 128)), ((9, 6), (144, 96))]
)
def test_a_crop_is_the_middle_of_the_scaled_picture(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    picture = a_picture(*size)
    whole = np.asarray(picture.resize(scaled, Image.Resampling.BICUBIC))
    left, top = (scaled[0] - 96) // 2, (scaled[1] - 96) // 2
    assert np.array_equal(seen(CROP, picture), whole[top : top + 96, left : left + 96])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    picture = a_picture(40, 30).convert("L" if mode in {"LA", "1"} else "RGB").convert(mode)
    assert torch.equal(of(SQUARE, picture).bytes, of(SQUARE, picture.convert("RGB")).bytes)


def test_transparency_is_dropped_and_the_colour_under_it_stays() -> None:
    bytes_ = seen(SQUARE, Image.new("RGBA", (8, 8), (200, 10, 20, 0)))
    assert bytes_[40, 40].tolist() == [200, 10, 20]


def test_the_digest_tells_what_decides_the_features() -> None:
    picture, other = a_picture(120, 90), a_picture(120, 90, seed=1)
    digests = [of(squares, each).digest for squares in (SQUARE, PAD, CROP) for each in (picture, other)]
    assert len(set(digests)) == len(digests)
    assert of(SQUARE, picture).digest == digests[0]
    brighter = Squares(96, "square", (0.4, 0.4, 0.4), HALF, tokens=5, work=7)
    assert of(brighter, picture).digest not in digests
