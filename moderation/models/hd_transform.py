"""Phi-3-Vision's HD transform: a picture of any shape becomes a global crop and a grid of local ones.

Bit-exact with the published processor, which needs torchvision; this needs PIL's resize and torch's bicubic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from torch import Tensor
from torch.nn import functional

from moderation.errors import PostError
from moderation.types import Reason

WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a picture is scaled to. Sizes are (width, height) in pixels of the upright picture."""

    resized: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int]  # of the resized picture inside the padded one
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Crops:
    """A picture for the tower: pixels [1 + rows * cols, 3, side, side], global crop first, then locals row-major."""

    pixels: Tensor
    rows: int
    cols: int


def layout(width: int, height: int, budget: int, side: int) -> Layout:
    """How a picture fills a budget of crops of side x side pixels: as many as fit its shape, enlarged if need be.

    Raises PostError for a picture so thin that a side of it would vanish.
    """
    if width < height:
        turned = layout(height, width, budget, side)
        flip = [(y, x) for x, y in (turned.resized, turned.padded, turned.offset)]
        return Layout(flip[0], flip[1], flip[2], rows=turned.cols, cols=turned.rows)
    ratio = width / height
    cols = 1
    while (cols + 1) * math.ceil((cols + 1) / ratio) <= budget:
        cols += 1
    wide = cols * side
    high = int(wide / ratio)
    if high == 0:
        raise PostError(
            Reason.IMAGE_TOO_LARGE, f"an image of {width} x {height} is too thin to be scaled to {wide} wide"
        )
    rows = math.ceil(high / side)
    return Layout((wide, high), (wide, rows * side), offset=(0, (rows * side - high) // 2), rows=rows, cols=cols)


def tokens(rows: int, cols: int, side: int) -> int:
    """Positions that a picture takes, where a crop has side x side tokens and each row of them ends in a separator."""
    return rows * side * (cols * side + 1) + 1 + side * (side + 1)


def crops(picture: Picture, budget: int, side: int, *, mean: Sequence[float], std: Sequence[float]) -> Crops:
    """The crops of a picture; the budget's unused ones are left out."""
    picture = picture.convert("RGB")
    plan = layout(*picture.size, budget, side)
    # A tall picture is turned before it is scaled, and back after: PIL rounds to 8 bits between its two passes, so the
    # order of the passes shows.
    if tall := picture.width < picture.height:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    picture = picture.resize(plan.resized[::-1] if tall else plan.resized, Image.Resampling.BILINEAR)
    if tall:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    canvas = Image.new("RGB", plan.padded, WHITE)
    canvas.paste(picture, plan.offset)
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous().float().div_(255)
    pixels = pixels.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])
    whole = functional.interpolate(pixels[None], size=(side, side), mode="bicubic", align_corners=False)
    local = pixels.reshape(3, plan.rows, side, plan.cols, side).permute(1, 3, 0, 2, 4)
    return Crops(torch.cat([whole, local.flatten(0, 1)]), plan.rows, plan.cols)
