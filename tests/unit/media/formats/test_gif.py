"""A GIF is drawn as browsers draw it. tests/browser holds whole files against a browser."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from PIL import Image as pil
from PIL import ImageFile

from moderation.media.formats.canvas import TornError
from moderation.media.formats.gif import Gif

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
CLEAR = (0, 0, 0, 0)
PALETTE = bytes((*RED, *GREEN, *BLUE, *BLACK))
MOST = 1_000_000


def an_image(
    index: int, box: tuple[int, int, int, int] = (0, 0, 8, 6), *, disposal: int = 0, clear: int | None = None
) -> bytes:
    """One colour of the palette; box: left, top, width, height."""
    pixels = pil.new("L", box[2:], index)
    data = BytesIO()
    pixels.encoderconfig = (8, False)
    ImageFile._save(pixels, data, [ImageFile._Tile("gif", (0, 0, *box[2:]), 0, "L")])
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2 | (clear is not None), 10, clear or 0, 0)
    return control + b"," + struct.pack("<HHHHB", *box, 0) + b"\x08" + data.getvalue() + b"\0"


def a_gif(*images: bytes, size: tuple[int, int] = (8, 6), end: bytes = b";") -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, 0, 0) + PALETTE + b"".join(images) + end


def drawn(file: bytes, place: tuple[int, int] = (0, 0)) -> list[tuple[int, ...]]:
    """The colour of each frame at a place. Raises nothing where the file is torn."""
    colours: list[tuple[int, ...]] = []
    try:
        for frame in Gif(file, MOST).frames():
            colours.append(frame.picture.getpixel(place))  # type: ignore[arg-type]
    except TornError:
        pass
    return colours


def is_whole(file: bytes) -> bool:
    try:
        return bool(list(Gif(file, MOST).frames()))
    except TornError:
        return False


def test_images_are_drawn_over_one_another_in_their_boxes() -> None:
    file = a_gif(an_image(0), an_image(1, (2, 2, 3, 3)))
    assert drawn(file) == [RED, RED]
    assert drawn(file, (2, 2)) == [RED, GREEN]


def test_a_clear_index_shows_what_is_below() -> None:
    assert drawn(a_gif(an_image(0), an_image(1, clear=1))) == [RED, RED]
    assert drawn(a_gif(an_image(1, clear=1), an_image(0))) == [CLEAR, RED]


@pytest.mark.parametrize(
    ("disposal", "next"), [(0, GREEN), (1, GREEN), (2, CLEAR), (3, RED), (4, RED), (5, GREEN), (7, GREEN)]
)
def test_an_image_leaves_what_its_disposal_says(disposal: int, next: tuple[int, ...]) -> None:
    file = a_gif(an_image(0), an_image(1, (0, 0, 4, 4), disposal=disposal), an_image(2, (6, 4, 1, 1)))
    assert drawn(file)[-1][: len(next)] == next


def test_disposal_and_the_clear_index_are_of_one_image_only() -> None:
    bare = an_image(1)[8:]  # without the extension before it
    assert drawn(a_gif(an_image(0, disposal=2), bare, an_image(2, (6, 4, 1, 1)))) == [RED, GREEN, GREEN]
    assert drawn(a_gif(an_image(0, clear=1), bare)) == [RED, GREEN]


def test_the_canvas_is_as_large_as_the_screen_and_the_first_image() -> None:
    assert Gif(a_gif(an_image(0), size=(2, 20)), MOST).size == (8, 20)
    assert Gif(a_gif(an_image(0), an_image(1, (0, 0, 30, 30))), MOST).size == (8, 6)
    assert drawn(a_gif(an_image(0), an_image(1, (-0, 0, 30, 30)))) == [RED, GREEN]
    assert drawn(a_gif(an_image(0, (2, 2, 2, 2)))) == [CLEAR], "beside the first image"


@pytest.mark.parametrize("cut", [1, 2])
def test_a_file_that_lacks_only_its_end_mark_is_whole(cut: int) -> None:
    file = a_gif(an_image(0), an_image(1))
    assert is_whole(file)
    assert is_whole(file[:-cut]) is (cut == 1)
    assert is_whole(file + b"anything")


def test_of_a_cut_image_what_is_missing_is_clear() -> None:
    file = a_gif(an_image(0, (0, 0, 300, 300)), size=(300, 300))
    cut = file[: len(file) * 3 // 4]
    assert drawn(cut)[0][:3] == RED
    assert drawn(cut, (299, 299)) == [CLEAR]
    assert not is_whole(cut)


@pytest.mark.parametrize("damage", [b"x", b"\0", b"\xff\xff"])
def test_damage_ends_the_file_where_it_begins(damage: bytes) -> None:
    file = a_gif(an_image(0), damage, an_image(1))
    assert drawn(file) == [RED]
    assert not is_whole(file)


@pytest.mark.parametrize("file", [b"", b"GIF89a", a_gif(), a_gif(end=b""), a_gif()[:12], b"PNG" + a_gif()])
def test_a_file_without_an_image_is_torn(file: bytes) -> None:
    with pytest.raises(TornError):
        Gif(file, MOST)


def test_an_image_beyond_the_limit_is_not_decoded() -> None:
    file = a_gif(an_image(0), an_image(1, (0, 0, 40, 40)))
    assert len(list(Gif(file, 40 * 40).frames())) == 2
    with pytest.raises(TornError):
        list(Gif(file, 40 * 40 - 1).frames())


@pytest.mark.parametrize(("mark", "loops"), [(b"", False), (b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", True)])
def test_an_animation_ends_unless_it_says_otherwise(mark: bytes, *, loops: bool) -> None:
    gif = Gif(a_gif(mark, an_image(0)), MOST)
    assert gif.loops is loops
    assert [frame.seconds for frame in gif.frames()] == [0.1]
