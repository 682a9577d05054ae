"""Words drawn into a picture, as an author does who hopes that only the model reads them."""

from __future__ import annotations

import textwrap
from io import BytesIO

from PIL import Image as pil
from PIL import ImageDraw, ImageFont

WIDTH = 448  # of a picture of words alone, and at least: no model reads smaller letters
WIDEST = 1_024  # and highest
COLUMNS = 44
MARGIN = 8
LONGEST = 900  # characters that are drawn


def drawn(words: str, picture: pil.Image | None = None) -> bytes:
    """A PNG file of the picture with black words on a white band below it. None: of words alone.

    What the picture shows stays as it is, but for the size of pictures that are small or large.
    """
    if picture is not None:
        scale = min(max(1.0, WIDTH / picture.width), WIDEST / max(picture.size))
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture if size == picture.size else picture.resize(size, pil.Resampling.LANCZOS)
    width = picture.width if picture else WIDTH
    letter = max(8, (width - 2 * MARGIN) * 1.8 / COLUMNS)
    font = ImageFont.load_default(letter)
    lines = [part for line in words[:LONGEST].splitlines() for part in textwrap.wrap(line, COLUMNS)]
    height = round(letter * 1.3)
    top = picture.height if picture else 0
    canvas = pil.new("RGB", (width, top + 2 * MARGIN + height * max(1, len(lines))), "white")
    if picture:
        canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((MARGIN, top + MARGIN + number * height), line, fill="black", font=font)
    file = BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()
