"""The frames of an image file that are judged: one of a still picture, some of an animation.

Each frame must be decoded to reach the next. An animation is decoded once to choose frames, and once more to take them,
unless it has so few different pictures that all of them are kept the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

from PIL import Image as pil

from moderation.errors import PostError
from moderation.media.choice import Pictures
from moderation.media.formats.apng import Apng
from moderation.media.formats.canvas import Frame, TornError
from moderation.media.formats.gif import Gif
from moderation.media.formats.mending import Opened, pictures_of
from moderation.media.formats.samples import has_unsaid_alpha
from moderation.media.formats.webp import is_opaque, with_alpha
from moderation.media.limits import Spent
from moderation.types import Reason

if TYPE_CHECKING:
    from moderation.settings import MediaSettings

MAX_FRAMES = 1_000  # of an animation
MAX_ANIMATED_PIXELS = 25  # times max_pixels, over all frames of a post: some seconds of one core


PLAYED = ("WEBP", "AVIF")  # by Pillow; of MPO, viewers show the first picture


class Animation(Protocol):
    """The frames of a file, decoded again each time."""

    size: tuple[int, int]
    loops: bool  # it begins again for ever; otherwise its last frame stays

    def frames(self) -> Iterator[Frame]:
        """Decodes the frames in their order. Raises TornError where the file is broken or cut."""
        ...


class _OfPillow:
    """The frames of a file that Pillow draws as browsers do: WebP, AVIF."""

    def __init__(self, opened: Opened) -> None:
        image = self._image = opened.image
        self.size, self._file = image.size, opened.file
        if image.format == "WEBP" and is_opaque(self._file):  # Pillow drops alpha that the header does not say
            self._image = pil.open(BytesIO(with_alpha(self._file)), formats=["WEBP"])
        self.loops = image.info.get("loop") == 0

    def frames(self) -> Iterator[Frame]:
        for number in range(getattr(self._image, "n_frames", 1)):
            try:
                self._image.seek(number)
                self._image.load()
            except Exception as error:
                raise TornError from error
            milliseconds = self._image.info.get("duration") or 0
            picture = self._image.copy()
            picture.format = self._image.format  # which decides on how its alpha is read
            yield Frame(picture, milliseconds / 1_000, self.size[0] * self.size[1])
            if has_unsaid_alpha(picture, self._file):  # frames that look alike may differ below it
                raise TornError


@dataclass(slots=True)
class _Scan:
    """What the first pass over an animation has found."""

    pictures: Pictures = field(default_factory=Pictures)
    kept: dict[int, pil.Image] | None = field(default_factory=dict)  # None: too many to be kept
    frames: int = 0
    ended: bool = True  # not at a limit
    torn: bool = False


def judged(
    file: bytes, opened: Opened, formats: Sequence[str], settings: MediaSettings, spent: Spent
) -> Iterator[pil.Image]:
    """Yields the frames of a file that are judged, in any mode: the first one, then others in their order.

    Of a still picture that is cut there may be two: as browsers show it, and as other viewers do.

    Raises PostError behind them: IMAGE_CORRUPT if a part of the file is missing, FRAMES_UNSEEN if the frames do not
    stand for what users see.
    """
    try:
        yield from _pictures(file, opened, formats, settings, spent)
    except TornError:
        raise PostError(Reason.IMAGE_CORRUPT, "a part of the image is missing or broken") from None


def _pictures(
    file: bytes, opened: Opened, formats: Sequence[str], settings: MediaSettings, spent: Spent
) -> Iterator[pil.Image]:
    animation = _animation(file, opened, settings)
    if animation is None:
        yield from pictures_of(opened, formats)
        return
    yield from _of_animation(animation, settings, spent)
    if not opened.sound:
        raise TornError


def is_animated(image: pil.Image) -> bool:
    """Whether viewers may show more than one frame of it."""
    return image.format == "GIF" or (image.format in ("PNG", *PLAYED) and getattr(image, "n_frames", 1) > 1)


def _animation(file: bytes, opened: Opened, settings: MediaSettings) -> Animation | None:
    """None: viewers show one picture of the file."""
    image = opened.image
    if image.format == "GIF":
        return Gif(file, settings.max_pixels)
    if image.format == "PNG":
        with suppress(TornError):
            return Apng(file)
    if image.format in PLAYED and getattr(image, "n_frames", 1) > 1:
        return _OfPillow(opened)
    return None


def _of_animation(animation: Animation, settings: MediaSettings, spent: Spent) -> Iterator[pil.Image]:
    scan = _Scan()
    yield from _first_pass(animation, scan, settings, spent)
    covered = True
    if scan.frames:
        choice = scan.pictures.choose(settings.max_frames, loops=animation.loops)
        covered = choice.covered
        if scan.kept is not None:
            yield from (scan.kept[number] for number in choice.numbers if number)
        else:
            yield from _taken(animation, choice.numbers, spent)
    if isinstance(animation, Apng) and (animation.apart or not scan.frames):
        yield animation.still()
    if scan.torn:
        raise TornError
    if not (scan.ended and covered):
        raise PostError(Reason.FRAMES_UNSEEN, f"the animation shows more than {settings.max_frames} frames stand for")


def _first_pass(animation: Animation, scan: _Scan, settings: MediaSettings, spent: Spent) -> Iterator[pil.Image]:
    """Yields the first frame, and goes on to the last one within the limits.

    The second pass may take as long, so that half of what is left can be spent.
    """
    most = spent.animated + max(0, MAX_ANIMATED_PIXELS * settings.max_pixels - spent.animated) // 2
    try:
        for number, frame in enumerate(animation.frames()):
            if number == 0:
                yield frame.picture
            elif number == MAX_FRAMES or spent.animated + frame.pixels > most:
                scan.ended = False
                return
            else:
                spent.animated += frame.pixels
            scan.frames += 1
            new = scan.pictures.add(number, frame.picture, frame.seconds)
            if new and scan.kept is not None:
                scan.kept[number] = frame.picture
            if scan.kept is not None and len(scan.kept) > settings.max_frames:
                scan.kept = None
    except TornError:
        scan.torn = True


def _taken(animation: Animation, numbers: Sequence[int], spent: Spent) -> Iterator[pil.Image]:
    """The second pass, up to the last of the frames, without the first one."""
    for number, frame in enumerate(animation.frames()):
        spent.animated += frame.pixels
        if number and number in numbers:
            yield frame.picture
        if number == numbers[-1]:
            return
