"""A file that is cut or slightly broken is judged by what is there. What lacks only its end mark is whole."""

from __future__ import annotations

from io import BytesIO
from random import Random

import pytest
from PIL import Image as pil
from PIL import ImageChops

from moderation.errors import PostError
from moderation.media.decoding import decode
from moderation.settings import MediaSettings
from moderation.types import Reason
from tests.support.animations import a_photo

SIZE = WIDTH, HEIGHT = 160, 120
PHOTO = a_photo(Random(5), SIZE)
LIMITS = MediaSettings()
TAIL = {"JPEG": 2, "PNG": 12, "GIF": 1}  # bytes of the end mark


def a_file(format: str, picture: pil.Image = PHOTO, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def read(file: bytes) -> tuple[list[pil.Image], Reason | None]:
    pictures: list[pil.Image] = []
    try:
        for picture in decode(file, LIMITS):
            pictures.append(picture)
    except PostError as error:
        return pictures, error.reason
    return pictures, None


def difference(one: pil.Image, other: pil.Image, rows: tuple[int, int] = (0, HEIGHT)) -> int:
    box = (0, rows[0], WIDTH, rows[1])
    return max(most for _, most in ImageChops.difference(one.crop(box), other.crop(box)).getextrema())  # type: ignore[misc]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_mark_is_whole(mode: str, options: dict[str, object]) -> None:
    file = a_file("JPEG", PHOTO.convert(mode), **options)
    (whole,), _ = read(file)
    for cut in (1, 2):
        pictures, reason = read(file[:-cut])
        assert reason is None
        assert difference(pictures[-1], whole) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_a_png_without_its_end_mark_is_whole(mode: str) -> None:
    picture = (
        pil.frombytes("I;16", SIZE, Random(1).randbytes(2 * WIDTH * HEIGHT)) if "I" in mode else PHOTO.convert(mode)
    )
    file = a_file("PNG", picture)
    whole, _ = read(file)
    for cut in (1, 11, 12):
        pictures, reason = read(file[:-cut])
        assert reason is None
        assert [difference(*pair) for pair in zip(pictures, whole, strict=True)] == [0] * len(whole)


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("GIF", "RGB", {"interlace": 0}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("share", [0.35, 0.6, 0.95])
def test_of_a_cut_file_the_rows_that_are_there_are_judged(
    format: str, mode: str, options: dict[str, object], share: float
) -> None:
    file = a_file(format, PHOTO.convert(mode), **options)
    (whole,), _ = read(file)
    pictures, reason = read(file[: int(len(file) * share)])
    assert reason is Reason.IMAGE_CORRUPT
    white = pil.new("RGB", SIZE, "white")
    flipped = format == "BMP"  # its rows stand from the bottom to the top
    there, ground, shown = (
        picture.transpose(pil.Transpose.FLIP_TOP_BOTTOM) if flipped else picture
        for picture in (whole, white, pictures[0])
    )
    rows = [difference(shown, there, (row, row + 1)) for row in range(HEIGHT)]
    first = next(row for row, far in enumerate(rows) if far)
    assert HEIGHT * share * 0.3 < first < HEIGHT
    assert difference(shown, ground, (min(first + 1, HEIGHT - 1), HEIGHT)) in (0, 255), "white behind it"
    assert difference(shown, ground, (min(first + 17, HEIGHT - 1), HEIGHT)) == 0


def test_a_cut_progressive_jpeg_is_shown_as_far_as_it_was_refined() -> None:
    file = a_file("JPEG", progressive=True, quality=90)
    (whole,), _ = read(file)
    (picture,), reason = read(file[: len(file) * 3 // 5])
    assert reason is Reason.IMAGE_CORRUPT
    small = [each.resize((16, 12), pil.Resampling.BOX) for each in (picture, whole)]
    assert max(most for _, most in ImageChops.difference(*small).getextrema()) < 24  # type: ignore[misc]


def test_a_cut_interlaced_gif_repeats_the_rows_that_are_there() -> None:
    file = a_file("GIF", interlace=1)
    (whole,), _ = read(file)
    (picture,), reason = read(file[: len(file) // 3])
    assert reason is Reason.IMAGE_CORRUPT
    assert difference(picture, whole, (8, 9)) == 0
    assert difference(picture.crop((0, 8, WIDTH, 9)), picture.crop((0, 9, WIDTH, 10)), (0, 1)) == 0


def test_of_a_cut_transparent_png_what_is_missing_is_transparent() -> None:
    picture = PHOTO.copy()
    picture.putalpha(pil.new("L", SIZE, 200))
    file = a_file("PNG", picture)
    (white, black), reason = read(file[: len(file) // 2])
    assert reason is Reason.IMAGE_CORRUPT
    last = (WIDTH - 1, HEIGHT - 1)
    assert [view.getpixel(last) for view in (white, black)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_of_a_file_with_nothing_in_it_nothing_is_judged(format: str) -> None:
    file = a_file(format)
    for length in (20, 40):
        pictures, reason = read(file[:length])
        assert pictures == []
        assert reason in (Reason.IMAGE_CORRUPT, Reason.IMAGE_UNSUPPORTED)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF"])
def test_any_cut_has_pictures_or_a_reason(format: str) -> None:
    file = a_file(format, PHOTO.resize((40, 30)))
    for length in range(0, len(file) - TAIL[format], 37):
        _, reason = read(file[:length])
        assert reason is not None, length
    assert read(file[: -TAIL[format]])[1] is None
