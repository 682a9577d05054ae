"""Posts of the kinds that a platform has, as windows: random words, noise for pictures, policies of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture

from moderation.models.phi3 import preprocessing
from moderation.models.phi3.classifier import Window, seeing
from moderation.models.phi3.network import Phi3Config, PreprocessorConfig
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared.tree import Tree

POLICY_TOKENS = 150
FIRST_WORD, WORDS = 300, 30_000  # ids that are words: neither bytes nor the template's


@dataclass(frozen=True, slots=True)
class Kind:
    """text: tokens of the template and the user's words. size: of the picture in pixels; none: a text post."""

    text: int
    size: tuple[int, int] | None = None
    crops: int = 0


KINDS = {
    "text": Kind(120),
    "image4": Kind(80, (640, 480), 4),
    "image16": Kind(80, (1344, 1344), 16),
}
MIX = {"text": 10, "image4": 7, "image16": 3}  # of twenty posts


def post(kind: Kind, policies: int, config: Phi3Config, seed: int) -> Window:
    """The same seed, the same post; the first policies are the same for every post, as they are in a service."""
    pictures = () if kind.size is None else (picture(kind.size, kind.crops, config, seed),)
    words = _words(kind.text, seed)
    half = kind.text // 2
    slots = tuple(
        -1 - place
        for place, one in enumerate(pictures)
        for _ in range(preprocessing.tokens(one.rows, one.cols, config.crop_side))
    )
    branches = tuple(_words(POLICY_TOKENS, 1_000_000 + policy) for policy in range(policies))
    tree = Tree((*words[:half], *slots, *words[half:]), branches)
    return Window(tree, pictures, config.original_max_position_embeddings, seeing(pictures, config))


def picture(size: tuple[int, int], budget: int, config: Phi3Config, seed: int) -> Crops:
    """Encoded as the service encodes one."""
    return crops(noise(size, seed), budget, config)


def noise(size: tuple[int, int], seed: int) -> Picture:
    """Noise over a slope."""
    drawn = np.random.default_rng(seed).uniform(0, 105, (size[1], size[0], 3))
    slope = np.linspace(0, 150, size[0])[None, :, None]
    return Image.fromarray((drawn + slope).astype(np.uint8))


def crops(image: Picture, budget: int, config: Phi3Config) -> Crops:
    """With the published mean and deviation."""
    usual = PreprocessorConfig()
    return preprocessing.crops(image, budget, config.tower.image, mean=usual.image_mean, std=usual.image_std)


def steps(windows: Sequence[Window], budget: int) -> list[list[Window]]:
    """As the batcher cuts a queue: whole posts in their order, up to a budget of tokens, pictures' work among them."""
    cut: list[list[Window]] = []
    room = 0
    for window in windows:
        if not cut or window.tokens > room:
            cut.append([])
            room = budget
        cut[-1].append(window)
        room -= window.tokens
    return cut


def _words(count: int, seed: int) -> tuple[int, ...]:
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(FIRST_WORD, WORDS, (count,), generator=drawn).tolist())
