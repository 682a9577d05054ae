"""What the files of the corpus show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image as pil

Pixels = npt.NDArray[np.uint32]  # height x width x channels


def a_scene(width: int = 90, height: int = 70) -> pil.Image:
    """An RGB picture with every hue and brightness, edges, and nothing that is the same when it is turned."""
    x = np.linspace(0, 1, width)[None, :] * np.ones((height, 1))
    y = np.linspace(0, 1, height)[:, None] * np.ones((1, width))
    levels = np.stack([255 * x, 255 * y, 255 * (1 - x * y)], axis=2)
    levels[: height // 3, : width // 4] = (230, 20, 30)
    levels[height - height // 5 :, width - width // 3 :] = (10, 10, 60)
    levels[height // 2 : height // 2 + 3] = (250, 250, 250)
    return pil.fromarray(levels.round().astype(np.uint8))


def with_alpha(picture: pil.Image) -> pil.Image:
    """The same as RGBA: opaque at the left, clear at the right, with one corner cut out."""
    width, height = picture.size
    alpha = np.linspace(255, 0, width)[None, :] * np.ones((height, 1))
    alpha[: height // 4, : width // 8] = 0
    layered = picture.convert("RGBA")
    layered.putalpha(pil.fromarray(alpha.round().astype(np.uint8)))
    return layered


def samples(picture: pil.Image, depth: int) -> Pixels:
    """Its samples at that many bits."""
    levels = np.asarray(picture, np.uint32)
    return (levels if levels.ndim == 3 else levels[:, :, None]) * ((1 << depth) - 1) // 255
