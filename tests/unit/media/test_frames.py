"""What users see of an animation is judged, within the limits of a post; what is not is said."""

from __future__ import annotations

from io import BytesIO
from random import Random

import pytest
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media.decoding import decode
from moderation.media.frames import MAX_ANIMATED_PIXELS, MAX_FRAMES
from moderation.media.limits import Spent
from moderation.media.reader import Media
from moderation.settings import MediaSettings
from moderation.types import Image, Problem, Reason
from tests.support.animations import Animation, a_photo
from tests.support.builders import a_file, a_post, an_image

FORMATS = ("GIF", "WEBP", "PNG")
LIMITS = MediaSettings()
BLINK_S = 0.05


def read(
    file: bytes, limits: MediaSettings = LIMITS, spent: Spent | None = None
) -> tuple[list[pil.Image], Reason | None]:
    """The pictures that are judged, and why not more."""
    pictures: list[pil.Image] = []
    try:
        for picture in decode(file, limits, spent or Spent()):
            pictures.append(picture)
    except PostError as error:
        return pictures, error.reason
    return pictures, None


def photos(count: int) -> list[pil.Image]:
    return [a_photo(Random(number), (80, 60)) for number in range(count)]


def an_animation(pictures: list[pil.Image], seconds: float | list[float] = 0.05) -> Animation:
    return Animation("", pictures, seconds if isinstance(seconds, list) else [seconds] * len(pictures))


def colours(pictures: list[pil.Image]) -> list[tuple[int, ...]]:
    return [picture.resize((1, 1), pil.Resampling.BOX).getpixel((0, 0)) for picture in pictures]  # type: ignore[misc]


def are_alike(one: pil.Image, other: pil.Image) -> bool:
    pairs = zip(*colours([one.convert("RGB"), other.convert("RGB")]), strict=True)
    return all(abs(level - another) < 8 for level, another in pairs)


@pytest.mark.parametrize("format", FORMATS)
def test_the_frame_that_is_shown_for_a_minute_is_judged(format: str) -> None:
    shown = photos(20)
    seconds = [60.0 if number == 6 else BLINK_S for number in range(20)]
    pictures, reason = read(an_animation(shown, seconds).file(format), MediaSettings(max_frames=4))
    assert (len(pictures), reason) == (4, None)
    assert any(are_alike(picture, shown[6]) for picture in pictures)
    assert are_alike(pictures[0], shown[0])


@pytest.mark.parametrize("format", FORMATS)
def test_twenty_different_frames_are_not_judged_by_some(format: str) -> None:
    pictures, reason = read(an_animation(photos(20)).file(format))
    assert (len(pictures), reason) == (LIMITS.max_frames, Reason.FRAMES_UNSEEN)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bad", [1, 19])
def test_one_bad_frame_among_equal_ones_is_judged(format: str, bad: int) -> None:
    photo, other = photos(2)
    pictures, reason = read(an_animation([other if number == bad else photo for number in range(20)]).file(format))
    assert (len(pictures), reason) == (2, None)
    assert are_alike(pictures[1], other)


def test_more_different_frames_than_are_judged_are_decoded_twice_and_come_in_their_order() -> None:
    images = [an_image(16, 16, (number * 20, 0, 255 - number * 20)) for number in range(12)]
    pictures, reason = read(an_animation(images, 0.2).file("PNG"))
    reds = [red for red, _, _ in colours(pictures)]
    assert reds == sorted(reds)
    assert (len(pictures), reds[0], reds[-1], reason) == (8, 0, 220, None)


async def test_what_was_not_judged_is_at_least_review_and_no_dead_letter() -> None:
    images = (Image(data=a_file(an_image())), Image(data=an_animation(photos(20)).file("GIF")))
    async with Media(LIMITS) as media, media.opened(a_post(images=images)) as read:
        (problem,) = read.problems
        assert read.images == (0, *[1] * LIMITS.max_frames)
    assert problem == Problem(Reason.FRAMES_UNSEEN, "images[1]")
    assert problem.limit
    assert not problem.refused


@pytest.mark.parametrize("format", FORMATS)
def test_frames_keep_their_transparency(format: str) -> None:
    images = [an_image(40, 30, (255, 0, 0, alpha), "RGBA") for alpha in (0, 255)]
    images[0].putpixel((0, 0), (0, 0, 255, 255))
    pictures, reason = read(an_animation(images).file(format, lossless=True, disposal=2))
    assert reason is None
    assert [picture.getpixel((20, 20)) for picture in pictures] == [(255, 255, 255), (0, 0, 0), (255, 0, 0)]


def test_of_an_endless_animation_the_frames_within_the_limit_are_judged() -> None:
    images = [an_image(2, 2, (number % 256, number // 256, 0)) for number in range(1_100)]
    spent = Spent()
    pictures, reason = read(an_animation(images).file("GIF"), spent=spent)
    assert (len(pictures), reason) == (LIMITS.max_frames, Reason.FRAMES_UNSEEN)
    assert spent.animated < 2 * MAX_FRAMES * 2 * (2 * 2), "twice, the image and the canvas"


def test_of_an_animation_of_too_many_pixels_the_first_frames_are_judged() -> None:
    images = [an_image(50, 50, (number * 6, 0, 0)) for number in range(40)]
    file = an_animation(images).file("GIF")
    pictures, reason = read(file, MediaSettings(max_pixels=2_500))
    reds = [red // 6 for red, _, _ in colours(pictures)]
    assert max(reds) < MAX_ANIMATED_PIXELS, "25 times max_pixels"
    assert reason is Reason.FRAMES_UNSEEN
    pictures, reason = read(file, MediaSettings(max_post_pixels=2 * 2_500))
    assert (len(pictures), reason) == (2, Reason.IMAGE_TOO_LARGE)


@pytest.mark.parametrize("end", [b";", b",\0"])  # whole, and torn where a frame begins
def test_the_animations_of_a_post_share_one_limit_on_frames(end: bytes) -> None:
    """Else eight of them would take all of the post's time, and hide a picture behind them."""
    images = [an_image(50, 50, (number * 6, 0, 0)) for number in range(40)]
    file = an_animation(images).file("GIF")[:-1] + end
    limits, spent = MediaSettings(max_pixels=50 * 50), Spent()
    reached = [len(read(file, limits, spent)[0]) for _ in range(4)]
    assert reached[0] > 1
    assert reached[-1] == 1
    assert spent.animated <= (MAX_ANIMATED_PIXELS + 2) * 50 * 50
    assert read(a_file(an_image(50, 50)), limits, spent)[1] is None, "other pictures are read all the same"


def test_a_large_image_on_a_small_canvas_counts_by_its_own_pixels() -> None:
    """A later image of a GIF may be larger than the screen, of which browsers show the part on it."""
    small, large = an_image(10, 10, (0, 0, 255)), an_image(200, 200, (255, 0, 0))
    file = BytesIO()
    large.save(file, "GIF")
    header = 13 + 3 * 2 ** ((file.getvalue()[10] & 7) + 1)
    image = file.getvalue()[header:-1]
    first = an_animation([small, an_image(10, 10, (0, 255, 0))]).file("GIF")[:-1]
    whole = first + image * 30 + b";"
    spent = Spent()
    pictures, _ = read(whole, MediaSettings(max_pixels=40_000), spent)
    assert all(picture.size == (10, 10) for picture in pictures)
    assert 10 * 40_000 < spent.animated <= MAX_ANIMATED_PIXELS * 40_000
    assert read(whole, MediaSettings(max_pixels=39_999))[1] is Reason.IMAGE_CORRUPT


def test_a_still_picture_that_viewers_without_animation_show_is_judged() -> None:
    """Of a PNG whose first picture is none of its frames, browsers show the frames only."""
    hidden, first, second = photos(3)
    file = BytesIO()
    hidden.save(file, "PNG", save_all=True, append_images=[first, second], default_image=True, duration=100)
    pictures, reason = read(file.getvalue())
    assert (len(pictures), reason) == (3, None)
    assert are_alike(pictures[0], first)
    assert are_alike(pictures[2], hidden)


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_of_a_torn_animation_the_frames_before_the_break_are_judged(format: str) -> None:
    file = an_animation(photos(6)).file(format)
    for cut in range(len(file) // 2, len(file) * 2 // 3, len(file) // 40):  # within a frame, or its header
        pictures, reason = read(file[:cut])
        assert len(pictures) >= 2, cut
        assert reason is Reason.IMAGE_CORRUPT


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_of_a_torn_file_the_part_that_viewers_show_is_judged(format: str) -> None:
    noise = pil.effect_noise((300, 300), 60).convert("RGB")
    file = BytesIO()
    noise.save(file, format, **({"interlace": 0} if format == "GIF" else {}))
    pictures, reason = read(file.getvalue()[: len(file.getvalue()) // 2])
    assert reason is Reason.IMAGE_CORRUPT
    rows = (pictures[0].crop((0, row, 300, row + 1)).convert("L") for row in range(300))
    there = [number for number, row in enumerate(rows) if row.getextrema() != (255, 255)]
    assert there == list(range(len(there))), "the rest is white"
    assert 100 < len(there) < 200
