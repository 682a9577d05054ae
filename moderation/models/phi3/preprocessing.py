"""Phi-3-Vision's HD transform: a picture of any shape becomes a global crop and a grid of local crops.

Bit-exact with the published processor, which needs torchvision; this code needs PIL's resize and torch's bicubic. PIL's
part runs where posts are encoded and leaves bytes, a quarter of the pixels' size. torch's part runs on the device.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from torch import Tensor
from torch.nn import functional

from moderation.errors import PostError
from moderation.models.shared.picture import normalised, on_device
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


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """A picture as the tower takes it. canvas: uint8 [3, rows * side, cols * side], scaled and padded.

    rows, cols: of the grid of local crops. crop_side: tokens along a side of a crop.
    """

    canvas: Tensor
    rows: int
    cols: int
    crop_side: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    digest: str = ""  # of canvas, rows, cols, mean and std
    crop_work: int = 0  # the tower's work for a crop, in tokens of the decoder

    def __len__(self) -> int:
        """How many crops there are, the global one included."""
        return 1 + self.rows * self.cols

    @property
    def tokens(self) -> int:
        """Positions that the picture takes in a prompt."""
        return tokens(self.rows, self.cols, self.crop_side)

    @property
    def work(self) -> int:
        """The tower's work for the picture, in tokens of the decoder."""
        return len(self) * self.crop_work

    @property
    def pixels(self) -> Tensor:
        """float32 [1 + rows * cols, 3, side, side], normalised: the global crop first, then locals row-major."""
        return self.on(self.canvas.device)

    def on(self, device: torch.device) -> Tensor:
        """The pixels, computed on this device. On a CPU they equal the original's to the bit; CUDA rounds otherwise."""
        side = self.canvas.shape[1] // self.rows
        pixels = normalised(on_device(self.canvas, device), self.mean, self.std)
        whole = functional.interpolate(pixels[None], size=(side, side), mode="bicubic", align_corners=False)
        local = pixels.reshape(3, self.rows, side, self.cols, side).permute(1, 3, 0, 2, 4)
        return torch.cat([whole, local.flatten(0, 1)])


def layout(width: int, height: int, budget: int, side: int) -> Layout:
    """How a picture fills a budget of crops of side x side pixels: as many crops as fit its shape; it may be enlarged.

    Raises PostError for a picture so thin that one of its sides would vanish.
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
        raise PostError(Reason.IMAGE_SHAPE, f"an image of {width} x {height} is too thin to be scaled to {wide} wide")
    rows = math.ceil(high / side)
    return Layout((wide, high), (wide, rows * side), offset=(0, (rows * side - high) // 2), rows=rows, cols=cols)


def tokens(rows: int, cols: int, side: int) -> int:
    """Positions that a picture takes: a crop has side x side tokens, and each row of tokens ends in a separator."""
    return rows * side * (cols * side + 1) + 1 + side * (side + 1)


@dataclass(frozen=True, slots=True)
class HdTransform:
    """The transform of one checkpoint."""

    budget: int  # local crops at most
    crop_pixels: int  # along a side of a crop
    crop_side: int  # tokens along a side of a crop
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_work: int = 0  # see Crops

    def crops(self, picture: Picture) -> Crops:
        """The crops of a picture. Crops of the budget that the picture does not fill are left out."""
        picture = picture.convert("RGB")
        plan = layout(*picture.size, self.budget, self.crop_pixels)
        # A tall picture is turned before it is scaled, and back after: PIL rounds to 8 bits between its two passes, so
        # the order of the passes shows.
        if tall := picture.width < picture.height:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        picture = picture.resize(plan.resized[::-1] if tall else plan.resized, Image.Resampling.BILINEAR)
        if tall:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        canvas = Image.new("RGB", plan.padded, WHITE)
        canvas.paste(picture, plan.offset)
        array = np.ascontiguousarray(np.asarray(canvas).transpose(2, 0, 1))
        digest = hashlib.sha256(repr((plan.rows, plan.cols, *self.mean, *self.std)).encode())
        digest.update(array.tobytes())
        return Crops(
            torch.from_numpy(array),
            plan.rows,
            plan.cols,
            self.crop_side,
            self.mean,
            self.std,
            digest.hexdigest(),
            self.crop_work,
        )
