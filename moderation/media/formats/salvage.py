"""What is there of a picture whose file is cut or broken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from PIL import Image as pil
from PIL import ImageChops


def salvaged(opened: Callable[[], pil.Image]) -> tuple[pil.Image, pil.Image | None]:
    """Decodes a picture, and says where its pixels were in the file: 255 in a mask of mode L. None: everywhere.

    opened: opens the file. One that may be cut is decoded on two grounds, which differ where something is missing.
    """
    image = opened()
    try:
        image.load()
    except Exception:  # noqa: BLE001  decoders raise any error on hostile bytes
        image = _on(opened(), 0)
    else:
        if not _may_lack_rows(image):
            return image, None
    there = ImageChops.difference(_band(image), _band(_on(opened(), 255))).point([255] + 255 * [0])
    return image, None if there.getextrema() == (255, 255) else there


def _may_lack_rows(image: pil.Image) -> bool:
    """Whether one of the last two rows is empty. Pillow does not say that the data of a PNG end before its rows."""
    rows = (image.crop((0, y, image.width, y + 1)) for y in range(max(0, image.height - 2), image.height))
    return image.format == "PNG" and any(_band(row).getbbox() is None for row in rows)


def on_white(levels: pil.Image, there: pil.Image) -> pil.Image:
    """The part of a picture that is there, on a ground as browsers show it; a transparent picture stays one.

    levels: the picture in mode L, RGB, CMYK or RGBA.
    """
    if levels.mode == "RGBA":
        levels.putalpha(ImageChops.darker(levels.getchannel("A"), there))
        return levels
    ground = pil.new("RGB", levels.size, "white")
    ground.paste(levels.convert("RGB"), mask=there)
    return ground


def _on(image: pil.Image, level: int) -> pil.Image:
    """The picture decoded as far as it goes, on a ground of one level."""
    bands = len(image.getbands())
    full = 0xFFFF if image.mode == "I;16" and level else level
    image.im = pil.new(image.mode, image.size, full if bands == 1 else (level,) * bands).im
    with suppress(Exception):
        image.load()
    image.tile = []  # type: ignore[attr-defined]  # decodes no further
    return image


def _band(image: pil.Image) -> pil.Image:
    """The levels or indices of the first band."""
    if image.mode == "I;16":  # the upper bytes
        return pil.frombytes("L", image.size, image.tobytes()[1::2])
    if image.mode == "P":
        return pil.frombytes("L", image.size, image.tobytes())
    return image.convert("L") if image.mode == "1" else image.getchannel(0)
