"""Pictures as EVA ViT-g takes them: a square of the tower's size, whatever the picture's shape.

Bit-exact with the published processor. PIL's part runs where posts are encoded and leaves bytes, a quarter of the
pixels' size. The numbers are made on the device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from torch import Tensor

from moderation.models.shared.picture import normalised

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, constants of the original code
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """A picture of TinyGPT-V. bytes: uint8 [3, side, side].

    tokens: positions that it takes in a prompt. work: the tower's and the Q-Former's, in tokens of the decoder.
    """

    bytes: Tensor
    tokens: int
    work: int
    digest: str  # of the bytes

    @property
    def pixels(self) -> Tensor:
        """float32 [1, 3, side, side], normalised."""
        return normalised(self.bytes[None], MEAN, STD)


def square(picture: Picture, side: int, *, tokens: int, work: int) -> Square:
    """The picture at side x side pixels. Transparent pixels keep their colour."""
    resized = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    array = np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
    return Square(torch.from_numpy(array), tokens, work, hashlib.sha256(array.tobytes()).hexdigest())
