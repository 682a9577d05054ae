"""H2OVL's tiling: a picture is stretched to the grid of tiles that is nearest to its shape, and cut.

Bit-exact with the published code, which needs torchvision; this code needs PIL's resize. Tiles stay bytes, a quarter of
the pixels' size, until the tower runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as Picture
from torch import Tensor

from moderation.models.shared.picture import normalised, on_device

Grid = tuple[int, int]  # columns, rows

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
MOST_TILES = 6  # of a pass, the thumbnail not counted: the published chat's own number, whatever config.json says


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """A picture as the tower takes it. raw: uint8 [tiles, 3, side, side], the thumbnail last.

    grid: of the first pass. second: of the second pass, (1, 1) where no grid was left; None: there was one pass.
    """

    raw: Tensor
    grid: Grid
    second: Grid | None = None
    tile_tokens: int = 0  # positions that a tile takes in a prompt
    tile_work: int = 0  # the tower's, in tokens of the decoder
    digest: str = ""  # of raw

    def __len__(self) -> int:
        """How many tiles there are."""
        return len(self.raw)

    @property
    def tokens(self) -> int:
        """See EncodedPicture."""
        return len(self) * self.tile_tokens

    @property
    def work(self) -> int:
        """See EncodedPicture."""
        return len(self) * self.tile_work

    @property
    def pixels(self) -> Tensor:
        """float32 [tiles, 3, side, side], normalised."""
        return self.on(self.raw.device)

    def on(self, device: torch.device) -> Tensor:
        """The pixels, computed on this device. On a CPU they equal the original's to the bit; CUDA rounds otherwise."""
        return normalised(on_device(self.raw, device), MEAN, STD)


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiling of one checkpoint. msac: a lone picture is cut twice, into two grids."""

    budget: int  # tiles of a pass, the thumbnail not counted
    side: int  # of a tile in pixels
    msac: bool
    tile_tokens: int = 0  # see Tiles
    tile_work: int = 0

    @property
    def most_tiles(self) -> int:
        """Tiles that a picture takes at most, both passes and the thumbnail counted."""
        return 1 + max(
            first[0] * first[1] + max((cols * rows for cols, rows in others(first, self.budget)), default=0) * self.msac
            for first in grids(self.budget)
        )

    def pictures(self, pictures: Sequence[Picture]) -> list[Tiles]:
        """The tiles of all pictures of a prompt."""
        twice = self.msac and len(pictures) == 1
        return [self.tiles(picture, twice=twice) for picture in pictures]

    def tiles(self, picture: Picture, *, twice: bool = False) -> Tiles:
        """The tiles of a picture: those of the second pass, if there is one, those of the first, and a thumbnail.

        A grid of one tile adds none: the thumbnail is that tile. Alpha is dropped; the colours under it stay.
        """
        picture = picture.convert("RGB")
        first, second = self.plan(picture.size, twice=twice)
        passes = [grid for grid in (second, first) if grid is not None and grid != (1, 1)]
        array = np.concatenate([self._cut(picture, grid) for grid in (*passes, (1, 1))])
        return Tiles(
            torch.from_numpy(array),
            first,
            second,
            self.tile_tokens,
            self.tile_work,
            hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest(),
        )

    def plan(self, size: tuple[int, int], *, twice: bool) -> tuple[Grid, Grid | None]:
        """The grids of the first and the second pass for a picture of this width and height."""
        first = nearest(size, grids(self.budget), self.side)
        return first, nearest(size, others(first, self.budget), self.side) if twice else None

    def _cut(self, picture: Picture, grid: Grid) -> NDArray[np.uint8]:
        """uint8 [tiles, 3, side, side], row-major: the whole picture stretched over the grid."""
        cols, rows = grid
        stretched = picture.resize((cols * self.side, rows * self.side), Image.Resampling.BICUBIC)
        array = np.asarray(stretched).reshape(rows, self.side, cols, self.side, 3).transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(array.reshape(rows * cols, 3, self.side, self.side))


def grids(budget: int) -> list[Grid]:
    """All grids of at most `budget` tiles, the smallest first."""
    fitting = [(cols, rows) for cols in range(1, budget + 1) for rows in range(1, budget // cols + 1)]
    return sorted(fitting, key=lambda grid: grid[0] * grid[1])


def others(first: Grid, budget: int) -> list[Grid]:
    """The grids of the second pass: neither side divides that of the first."""
    return [grid for grid in grids(budget) if first[0] % grid[0] and first[1] % grid[1]]


def nearest(size: tuple[int, int], candidates: Sequence[Grid], side: int) -> Grid:
    """The grid whose ratio of width to height is nearest to that of the size; (1, 1) without candidates.

    Of two that are as near, the later one if the picture has more than half its pixels. Ties are those of float64, as
    in the original: in fractions, some sizes would tie that do not, such as 500 x 1200.
    """
    width, height = size
    ratio, best, least = width / height, (1, 1), float("inf")
    for cols, rows in candidates:
        apart = abs(ratio - cols / rows)
        if apart < least or (apart == least and width * height > 0.5 * side * side * cols * rows):
            best, least = (cols, rows), apart
    return best
