"""Limits on the pixels of a post's images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image as pil

from moderation.errors import PostError
from moderation.types import Reason

if TYPE_CHECKING:
    from moderation.settings import MediaSettings


@dataclass(slots=True)
class Spent:
    """What the images of one post have taken of its limits so far, in pixels."""

    shown: int = 0  # of pictures
    animated: int = 0  # of the frames of animations: each is decoded to reach the next


def check_size(image: pil.Image, settings: MediaSettings) -> None:
    """See `check_sides`, of an opened image."""
    check_sides(image.size, settings)


def check_sides(size: tuple[int, int], settings: MediaSettings) -> None:
    """Raises PostError before anything is decoded: a header of a few bytes may announce gigabytes."""
    width, height = size
    if width * height > settings.max_pixels or max(size) > settings.max_side:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the image is {width} x {height} pixels, more than the limits allow")
    if max(size) > settings.max_thinness * min(size):
        raise PostError(Reason.IMAGE_SHAPE, f"the image is {width} x {height} pixels, too thin to be seen by a model")


def within(pictures: Iterator[pil.Image], most: int, spent: Spent) -> Iterator[pil.Image]:
    for picture in pictures:
        pixels = picture.width * picture.height
        if spent.shown + pixels > most:
            raise PostError(Reason.IMAGE_TOO_LARGE, f"the post has more than {most} pixels")
        spent.shown += pixels
        yield picture
