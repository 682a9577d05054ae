"""An animated PNG is drawn as browsers draw it, up to where its chunks are out of order."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import pytest

from moderation.media.decoding import decode
from moderation.media.formats.apng import Apng, mended
from moderation.media.formats.canvas import TornError
from moderation.media.formats.png import MARK
from moderation.settings import MediaSettings

RED, GREEN, BLUE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
HALF, CLEAR = (0, 0, 255, 128), (0, 0, 0, 0)
SIZE = 8, 6


class Chunk(NamedTuple):
    kind: bytes
    data: bytes
    damage: int = 0  # added to its checksum

    @property
    def stored(self) -> bytes:
        check = zlib.crc32(self.kind + self.data) + self.damage & 0xFFFFFFFF
        return struct.pack(">I", len(self.data)) + self.kind + self.data + struct.pack(">I", check)


HEADER = Chunk(b"IHDR", struct.pack(">IIBBBBB", *SIZE, 8, 6, 0, 0, 0))
END = Chunk(b"IEND", b"")


def pixels(colour: tuple[int, ...], size: tuple[int, int] = SIZE) -> bytes:
    return zlib.compress((b"\0" + bytes(colour) * size[0]) * size[1])


def control(
    number: int, size: tuple[int, int] = SIZE, place: tuple[int, int] = (0, 0), disposal: int = 0, blend: int = 0
) -> Chunk:
    return Chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *size, *place, 1, 10, disposal, blend))


def an_apng(*colours: tuple[int, ...], **options: int) -> list[Chunk]:
    """A frame of each colour; options: of the second."""
    chunks = [HEADER, Chunk(b"acTL", struct.pack(">II", len(colours), 0)), control(0)]
    chunks.append(Chunk(b"IDAT", pixels(colours[0])))
    for number, colour in enumerate(colours[1:]):
        chunks.append(control(2 * number + 1, **(options if number == 0 else {})))  # type: ignore[arg-type]
        chunks.append(Chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + pixels(colour)))
    return [*chunks, END]


def file_of(chunks: list[Chunk]) -> bytes:
    return MARK + b"".join(chunk.stored for chunk in chunks)


def drawn(chunks: list[Chunk]) -> tuple[list[tuple[int, ...]], bool]:
    """The colour of each frame, and whether the file is whole."""
    colours: list[tuple[int, ...]] = []
    try:
        for frame in Apng(file_of(chunks)).frames():
            colours.append(frame.picture.convert("RGBA").getpixel((0, 0)))  # type: ignore[arg-type]
    except TornError:
        return colours, False
    return colours, True


def test_frames_are_drawn_in_their_order() -> None:
    assert drawn(an_apng(RED, GREEN, BLUE)) == ([RED, GREEN, BLUE], True)


@pytest.mark.parametrize(("disposal", "next"), [(0, (127, 0, 128, 255)), (1, CLEAR), (2, RED)])
def test_a_frame_is_laid_over_the_others_and_leaves_what_it_says(disposal: int, next: tuple[int, ...]) -> None:
    chunks = an_apng(RED, HALF, disposal=disposal, blend=1)
    chunks[1] = Chunk(b"acTL", struct.pack(">II", 3, 0))
    chunks[-1:] = [control(3, (1, 1), (7, 5)), Chunk(b"fdAT", struct.pack(">I", 4) + pixels(BLUE, (1, 1))), END]
    colours, whole = drawn(chunks)
    assert whole
    assert colours[0] == RED
    assert max(abs(one - other) for one, other in zip(colours[1], (127, 0, 128, 255), strict=True)) <= 1
    assert max(abs(one - other) for one, other in zip(colours[2], next, strict=True)) <= 1


def test_a_frame_may_take_the_place_of_the_others() -> None:
    assert drawn(an_apng(RED, HALF, blend=0)) == ([RED, HALF], True)


def swapped(chunks: list[Chunk], one: int, other: int) -> list[Chunk]:
    chunks = list(chunks)
    chunks[one], chunks[other] = chunks[other], chunks[one]
    return chunks


@pytest.mark.parametrize(
    ("name", "change", "frames"),
    [
        ("two frames changed places", lambda it: [*it[:4], *it[6:8], *it[4:6], *it[8:]], 1),
        ("data before its control", lambda it: swapped(it, 4, 5), 1),
        ("a control twice", lambda it: [*it[:4], it[4], *it[4:]], 1),
        ("a control that is broken", lambda it: [*it[:6], it[6]._replace(damage=1), *it[7:]], 2),
        ("a frame beyond the canvas", lambda it: [*it[:4], control(1, (8, 7)), *it[5:]], 1),
        ("a first frame that is too small", lambda it: [*it[:2], control(0, (7, 6)), *it[3:]], 0),
        ("an empty frame", lambda it: [*it[:4], control(1, (0, 6)), *it[5:]], 1),
    ],
)
def test_frames_before_the_first_one_out_of_order_are_shown(name: str, change: object, frames: int) -> None:
    del name
    chunks = change(an_apng(RED, GREEN, BLUE))  # type: ignore[operator]
    assert drawn(chunks) == ([RED, GREEN, BLUE][:frames], False)
    assert next(iter(decode(file_of(chunks), MediaSettings()))).getpixel((0, 0)) == RED[:3], "at least the first"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("the mark of an animation behind its first control", lambda it: swapped(it, 1, 2)),
        ("data with a wrong checksum", lambda it: [*it[:5], it[5]._replace(damage=1), *it[6:]]),
        ("a broken text", lambda it: [it[0], Chunk(b"tEXt", b"a\0b", 1), *it[1:]]),
        ("an unknown chunk", lambda it: [*it[:5], Chunk(b"zzZz", b"anything"), *it[5:]]),
        ("no end mark", lambda it: it[:-1]),
        ("fewer frames than it says", lambda it: [it[0], Chunk(b"acTL", struct.pack(">II", 9, 0)), *it[2:]]),
    ],
)
def test_what_browsers_pass_over_changes_nothing(name: str, change: object) -> None:
    del name
    chunks = change(an_apng(RED, GREEN, BLUE))  # type: ignore[operator]
    assert drawn(chunks) == ([RED, GREEN, BLUE], True)
    assert len(list(decode(file_of(chunks), MediaSettings()))) == 3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("the mark of an animation behind the picture", lambda it: [it[0], it[2], it[3], it[1], *it[4:]]),
        ("a broken mark", lambda it: [it[0], it[1]._replace(damage=1), *it[2:]]),
        ("one frame", lambda it: [it[0], Chunk(b"acTL", struct.pack(">II", 1, 0)), *it[2:]]),
        ("no frame", lambda it: [it[0], Chunk(b"acTL", struct.pack(">II", 0, 0)), *it[2:]]),
    ],
)
def test_a_file_that_browsers_do_not_play_is_a_still_picture(name: str, change: object) -> None:
    del name
    file = file_of(change(an_apng(RED, GREEN, BLUE)))  # type: ignore[operator]
    with pytest.raises(TornError):
        Apng(file)
    (picture,) = decode(file, MediaSettings())
    assert picture.getpixel((0, 0)) == RED[:3]


def test_a_single_frame_is_shown_in_place_of_a_still_picture_that_is_none() -> None:
    said = Chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = [control(0), Chunk(b"fdAT", struct.pack(">I", 1) + pixels(GREEN))]
    file = file_of([HEADER, said, Chunk(b"IDAT", pixels(RED)), *frame, END])
    assert [picture.getpixel((0, 0)) for picture in decode(file, MediaSettings())] == [GREEN[:3], RED[:3]]


def test_the_first_frame_may_be_smaller_than_a_still_picture_that_is_none() -> None:
    data = struct.pack(">I", 1) + pixels(GREEN, (4, 3))
    said = Chunk(b"acTL", struct.pack(">II", 2, 0))
    apng = Apng(file_of([HEADER, said, Chunk(b"IDAT", pixels(RED)), control(0, (4, 3)), Chunk(b"fdAT", data), END]))
    frame = next(apng.frames()).picture
    assert (frame.getpixel((3, 2)), frame.getpixel((4, 2))) == (GREEN, CLEAR)


def test_frames_beyond_the_number_of_the_file_are_not_shown() -> None:
    chunks = an_apng(RED, GREEN, BLUE)
    chunks[1] = Chunk(b"acTL", struct.pack(">II", 2, 0))
    assert drawn(chunks) == ([RED, GREEN], True)


def test_a_cut_file_shows_the_frames_that_are_there() -> None:
    file = file_of(an_apng(RED, GREEN, BLUE))
    assert len(list(decode(file[:-12], MediaSettings()))) == 3
    for cut in range(20, 60):
        pictures = decode(file[:-cut], MediaSettings())
        assert next(pictures).getpixel((0, 0)) == RED[:3]


STILL = [HEADER, Chunk(b"IDAT", pixels(RED)), END]


@pytest.mark.parametrize(
    ("chunk", "kept"),
    [
        (Chunk(b"eXIf", b"MM\0\x2a\0\0\0\x08"), True),
        (Chunk(b"eXIf", b"MM\0\x2a"), False),
        (Chunk(b"eXIf", b"MM\0\x2a\0\0\0\x08", 1), False),
        (Chunk(b"tRNS", b"\0\1\0\2\0\3"), True),
        (Chunk(b"tRNS", b""), False),
        (Chunk(b"pHYs", bytes(9)), False),
        (Chunk(b"tEXt", b"a\0b"), False),
        (Chunk(b"zzZz", b"anything"), False),
    ],
)
def test_chunks_that_a_picture_does_not_need_stay_where_they_are_sound(chunk: Chunk, *, kept: bool) -> None:
    found = mended(file_of([STILL[0], chunk, *STILL[1:]]))
    assert found is not None
    assert (chunk.kind in found[0], found[1]) == (kept, True)


def test_a_picture_whose_needed_chunks_are_broken_is_not_whole() -> None:
    for chunks in ([HEADER._replace(damage=1), *STILL[1:]], [HEADER, Chunk(b"PLTE", b"abc", 1), *STILL[1:]]):
        found = mended(file_of(chunks))
        assert found is not None
        assert not found[1]
    data = STILL[1].data
    parts = [HEADER, Chunk(b"IDAT", data[:5]), Chunk(b"tIME", b""), Chunk(b"IDAT", data[5:]), END]
    assert (mended(file_of(parts)) or (b"", True))[1] is False
    assert mended(file_of([HEADER, END])) is None
    assert mended(b"anything") is None
