"""Floating-point operations of a step, counted from shapes.

A multiply-add counts as two. Only matrices and attention are counted; the rest is about one per cent.
"""

from __future__ import annotations

from collections.abc import Iterable

from moderation.models.phi3.family import Window
from moderation.models.phi3.network import Phi3Config
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared.tree import Tree


def token(config: Phi3Config) -> int:
    """Operations of all decoder layers for one token, without attention."""
    return config.num_hidden_layers * (_keys(config) + _rest(config))


def crop(config: Phi3Config) -> int:
    """Operations of the vision tower for one crop."""
    tower = config.tower
    tokens = tower.grid**2 + 1
    layer = 2 * tokens * tower.hidden * (4 * tower.hidden + 2 * tower.intermediate) + 4 * tokens**2 * tower.hidden
    patches = 2 * tower.grid**2 * 3 * tower.patch**2 * tower.hidden
    return patches + tower.layers * layer


def step(windows: Iterable[Window], config: Phi3Config) -> int:
    """Operations of one forward pass over these posts; the last layer runs at the scored tokens alone."""
    total = 0
    width = config.num_attention_heads * config.head_size
    for window in windows:
        for part in window.parts:
            shared, branches = len(part.tree.shared), [len(branch) for branch in part.tree.branches]
            tokens, scored = shared + sum(branches), len(branches)
            pairs = _causal(shared) + sum(shared * branch + _causal(branch) for branch in branches)
            last = sum(shared + branch for branch in branches)
            total += (config.num_hidden_layers - 1) * (tokens * (_keys(config) + _rest(config)) + 4 * width * pairs)
            total += tokens * _keys(config) + scored * _rest(config) + 4 * width * last
            total += 2 * scored * config.hidden_size * config.vocab_size
        total += sum(_picture(picture, config) for picture in window.pictures)
    return total


def plain(window: Window, config: Phi3Config) -> int:
    """What separate prompts take at least: the content and its pictures again for each policy, nothing wasted."""
    shared, context = window.tree.shared, window.context
    alone = (Window(Tree(shared, (branch,)), window.pictures, context=context) for branch in window.tree.branches)
    return step(alone, config)


def _keys(config: Phi3Config) -> int:
    return 2 * config.hidden_size * 2 * config.kv_heads * config.head_size


def _rest(config: Phi3Config) -> int:
    width = config.num_attention_heads * config.head_size
    return 2 * config.hidden_size * (2 * width + 3 * config.intermediate_size)


def _causal(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


def _picture(picture: Crops, config: Phi3Config) -> int:
    projector = 2 * picture.tokens * (4 * config.tower.hidden + config.hidden_size) * config.hidden_size
    return len(picture) * crop(config) + projector
