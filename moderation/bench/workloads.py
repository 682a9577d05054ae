"""Posts of the kinds that a platform has, as windows: random words, pictures of noise, policies of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image as Picture

from moderation.bench import noise
from moderation.models.phi3.family import Window
from moderation.models.phi3.network import Phi3Config, PreprocessorConfig
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared.tree import Tree

POLICY_TOKENS = 150
FIRST_WORD, WORDS = 300, 30_000  # ids of words, neither bytes nor the template's


@dataclass(frozen=True, slots=True)
class Kind:
    """text: tokens of the template and the user's words. size: of the picture in pixels; None: a post of text alone."""

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
    """The post of a seed. The first policies are the same for every post, as in a service."""
    pictures = () if kind.size is None else (picture(kind.size, kind.crops, config, seed),)
    words = _words(kind.text, seed)
    half = kind.text // 2
    slots = tuple(-1 - place for place, each in enumerate(pictures) for _ in range(each.tokens))
    branches = tuple(_words(POLICY_TOKENS, 1_000_000 + policy) for policy in range(policies))
    tree = Tree((*words[:half], *slots, *words[half:]), branches)
    return Window(tree, pictures, sum(map(len, pictures)) * config.crop_work, config.original_max_position_embeddings)


def picture(size: tuple[int, int], budget: int, config: Phi3Config, seed: int) -> Crops:
    """A picture of noise, encoded as the service does."""
    return crops(noise.picture(size, seed), budget, config)


def crops(image: Picture, budget: int, config: Phi3Config) -> Crops:
    """The crops of a picture, with the published mean and deviation."""
    return PreprocessorConfig().transform(config, budget).crops(image)


def steps(windows: Sequence[Window], budget: int) -> list[list[Window]]:
    """Cuts windows into steps as the batcher does: whole posts in order, up to a budget of tokens and picture work."""
    cut: list[list[Window]] = []
    rest = 0
    for window in windows:
        if not cut or window.tokens > rest:
            cut.append([])
            rest = budget
        cut[-1].append(window)
        rest -= window.tokens
    return cut


def _words(count: int, seed: int) -> tuple[int, ...]:
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(FIRST_WORD, WORDS, (count,), generator=drawn).tolist())
