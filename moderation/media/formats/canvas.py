"""The canvas of an animation: images are drawn onto it, and each leaves what the next one is drawn on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from PIL import Image as pil

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the canvas


class TornError(Exception):
    """The file is broken or cut here. What was read of it before stays."""


class Disposal(Enum):
    """What becomes of an image's box before the next image."""

    KEEP = auto()
    CLEAR = auto()
    PREVIOUS = auto()  # as it was before the image


@dataclass(frozen=True, slots=True)
class Frame:
    """What users see of an animation for some time."""

    picture: pil.Image  # RGB, or RGBA where it is transparent
    seconds: float  # as the file says; browsers show very short frames longer
    pixels: int  # that were decoded for it


class Canvas:
    """The canvas, empty at first: everywhere transparent."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._image = pil.new("RGBA", size)
        self._box: Box = (0, 0, 0, 0)
        self._rest: pil.Image | None = None  # of the box, for the next image

    def paste(self, patch: pil.Image, box: Box, mask: pil.Image | None, disposal: Disposal) -> None:
        """Replaces the box, where the mask is set, by an image of its size. What lies outside the canvas is cut off."""
        self._keep(box, disposal)
        self._image.paste(patch.convert("RGBA"), box[:2], mask)

    def compose(self, patch: pil.Image, box: Box, disposal: Disposal) -> None:
        """Lays an RGBA image over the box, which is within the canvas."""
        self._keep(box, disposal)
        self._image.alpha_composite(patch, box[:2])

    def shown(self) -> pil.Image:
        """A copy, without alpha if all of the canvas is opaque."""
        opaque = self._image.getchannel("A").getextrema() == (255, 255)
        return self._image.convert("RGB") if opaque else self._image.copy()

    def dispose(self) -> None:
        """Does with the latest image's box what its disposal says."""
        if self._rest is not None:
            self._image.paste(self._rest, self._box)
            self._rest = None

    def _keep(self, box: Box, disposal: Disposal) -> None:
        width, height = self.size
        self._box = min(box[0], width), min(box[1], height), min(box[2], width), min(box[3], height)
        if disposal is Disposal.CLEAR:
            self._rest = pil.new("RGBA", (self._box[2] - self._box[0], self._box[3] - self._box[1]))
        elif disposal is Disposal.PREVIOUS:
            self._rest = self._image.crop(self._box)
        else:
            self._rest = None
