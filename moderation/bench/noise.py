"""Pictures of noise: they cost a model what real ones cost."""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.Image import Image as Picture


def picture(size: tuple[int, int], seed: int) -> Picture:
    """A picture of noise over a slope."""
    drawn = np.random.default_rng(seed).uniform(0, 105, (size[1], size[0], 3))
    slope = np.linspace(0, 150, size[0])[None, :, None]
    return Image.fromarray((drawn + slope).astype(np.uint8))
