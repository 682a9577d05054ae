"""Pictures as the towers take them: one square of pixels, whatever the picture's shape.

Bit-exact with the published processors: PIL's bicubic on bytes where posts are encoded, numbers on the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from pydantic import BaseModel, field_validator
from torch import Tensor

from moderation.models.shared.config_types import Number, Positive, Side

PREPROCESSOR = "preprocessor_config.json"
BICUBIC = Image.Resampling.BICUBIC
STRIP_PIXELS = 4_000_000  # of a padded picture that are in memory at once

Numbers: TypeAlias = tuple[float, float, float]
HALF: Numbers = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """One picture. bytes: uint8 [3, side, side]. table: float32 [3, 256], the number of each byte of each channel."""

    bytes: Tensor
    table: Tensor
    tokens: int  # positions that it takes in a prompt
    work: int  # the tower's, in tokens of the decoder
    digest: str  # of bytes and table

    @property
    def pixels(self) -> Tensor:
        """float32 [1, 3, side, side], normalised."""
        return normalised(self.bytes[None], self.table)


def normalised(squares: Tensor, table: Tensor) -> Tensor:
    """uint8 [n, 3, side, side] -> float32 of the same shape."""
    channels = squares.transpose(0, 1).flatten(1).long()
    return table.gather(1, channels).view(3, len(squares), *squares.shape[2:]).transpose(0, 1)


@cache  # one for each checkpoint
def table(mean: Numbers, std: Numbers) -> Tensor:
    """The published arithmetic: bytes scaled in float64 and rounded, then normalised in float32."""
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    columns = np.asarray(mean, dtype=np.float32)[:, None], np.asarray(std, dtype=np.float32)[:, None]
    return torch.from_numpy((scaled[None] - columns[0]) / columns[1])


@dataclass(frozen=True, slots=True)
class Squares:
    """The way of pictures into one checkpoint's tower.

    shape: "square": a picture of any shape is scaled to the square. "pad": grey bands make it a square first.
    "crop": its short side is scaled to `short`, and the middle is cut out: what lies outside of it is not seen.
    """

    side: int
    shape: Literal["square", "pad", "crop"]
    mean: Numbers
    std: Numbers
    tokens: int
    work: int
    short: int = 0

    def of(self, pictures: Sequence[Picture]) -> list[Square]:
        """Each picture as a square."""
        numbers = table(self.mean, self.std)
        return [self._square(picture.convert("RGB"), numbers) for picture in pictures]

    def _square(self, picture: Picture, numbers: Tensor) -> Square:
        shaped = {"square": self._scaled, "pad": self._padded, "crop": self._cropped}[self.shape](picture)
        array = np.ascontiguousarray(np.asarray(shaped).transpose(2, 0, 1))
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        digest.update(array.tobytes())
        return Square(torch.from_numpy(array), numbers, self.tokens, self.work, digest.hexdigest())

    def _scaled(self, picture: Picture) -> Picture:
        return picture.resize((self.side, self.side), BICUBIC)

    def _padded(self, picture: Picture) -> Picture:
        """The picture in the middle of a square of the mean's colour, scaled.

        PIL scales rows first and columns after. So the rows are padded and scaled strip by strip, and the square of a
        long thin picture, which may take a gigabyte, never exists.
        """
        (width, height), long = picture.size, max(picture.size)
        grey = tuple(int(mean * 255) for mean in self.mean)
        scaled = Image.new("RGB", (self.side, long), grey)
        rows = max(1, STRIP_PIXELS // long)
        for top in range(0, height, rows):
            strip = picture.crop((0, top, width, min(top + rows, height)))
            padded = Image.new("RGB", (long, strip.height), grey)
            padded.paste(strip, ((long - width) // 2, 0))
            scaled.paste(padded.resize((self.side, strip.height), BICUBIC), (0, (long - height) // 2 + top))
        return scaled.resize((self.side, self.side), BICUBIC)

    def _cropped(self, picture: Picture) -> Picture:
        short, long = min(picture.size), max(picture.size)
        scaled = int(self.short * long / short)
        size = (self.short, scaled) if picture.width <= picture.height else (scaled, self.short)
        picture = picture.resize(size, BICUBIC)
        left, top = ((length - self.side) // 2 for length in size)
        return picture.crop((left, top, left + self.side, top + self.side))


class Edge(BaseModel):
    """`size` of a preprocessor_config.json."""

    shortest_edge: Side


class Sides(BaseModel):
    """`crop_size` of a preprocessor_config.json."""

    height: Side
    width: Side


class PreprocessorConfig(BaseModel):
    """preprocessor_config.json of the stock Llava layout, with the defaults of CLIP's processor."""

    size: Edge = Edge(shortest_edge=224)
    crop_size: Sides = Sides(height=224, width=224)
    image_mean: tuple[Number, Number, Number] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Positive, Positive, Positive] = (0.26862954, 0.26130258, 0.27577711)
    resample: Literal[3] = 3
    do_resize: Literal[True] = True
    do_center_crop: Literal[True] = True
    do_rescale: Literal[True] = True
    rescale_factor: float = 1 / 255
    do_normalize: Literal[True] = True
    do_convert_rgb: Literal[True] = True

    @field_validator("rescale_factor")
    @classmethod
    def _bytes(cls, factor: float) -> float:
        if not math.isclose(factor, 1 / 255):
            raise ValueError(f"{factor} is not 1/255, which makes numbers from 0 to 1 of bytes")
        return factor
