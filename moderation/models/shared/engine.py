"""The way of a batch over the device: see its pictures, pack its trees, one forward pass, read the answers.

Families differ in the network and in how they encode; this they share.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import device, side_stream, tree
from moderation.models.shared.compiled import SMALL
from moderation.models.shared.feature_cache import Features, key
from moderation.models.shared.side_stream import SideStream
from moderation.models.shared.tree import Packed, Tree
from moderation.types import Score

WORDS = range(300, 800)  # ids that every tokenizer of these families has as words

# Tokens of one pass within a step: beyond it a CPU's caches lose more than longer matrices gain (9 % at 7,000 tokens of
# 768 numbers). A GPU takes the step as it is.
AT_ONCE = {"cpu": 2048}


@dataclass(frozen=True, slots=True)
class Part:
    """Questions of a window that share their rope factors: those for long prompts, or the others."""

    tree: Tree
    questions: list[int]  # where they stand among the window's
    long: bool


class Window(Protocol):
    """A window of a post's text, its pictures and all its questions."""

    @property
    def tree(self) -> Tree:
        """All of its tokens; ids below zero are slots of its pictures, in their order."""

    @property
    def pictures(self) -> Sequence[Crops]:
        """What fills the slots."""

    @property
    def parts(self) -> Sequence[Part]:
        """The tree, in as many parts as its questions need."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A window of ours, without pictures."""

    tree: Tree
    pictures: tuple[Crops, ...] = ()
    parts: tuple[Part, ...] = ()


class Network(Protocol):
    """What a family brings."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    def __call__(
        self, packed: Packed, pictures: Sequence[Tensor], long: Sequence[bool], *, only_scored: bool
    ) -> Tensor:
        """Hidden states [scored, hidden] before the last norm; pictures: features, in the order of their slots."""

    def rounded(self, tokens: int) -> int:
        """Tokens that a pass of so many is padded to."""

    def embed_images(self, pictures: Sequence[Crops]) -> list[Tensor]:
        """The features of pictures, [tokens, hidden] each."""

    def logits(self, hidden: Tensor, exact: Sequence[int]) -> Tensor:
        """float32 [n, vocabulary]; those of the ids `exact` are summed in float32."""


class Engine:
    """Scores windows on a network. Belongs to one thread."""

    def __init__(
        self, network: Network, yes: int, no: int, *, feature_bytes: int, beside: SideStream | None = None
    ) -> None:
        self._network = network
        self._yes, self._no = yes, no
        self.features = Features(feature_bytes)
        self._beside = beside or side_stream.side_stream(network.device)

    def score(self, windows: Sequence[Window]) -> list[list[Score]]:
        """For each window one score for each of its questions: one forward pass, on a CPU in pieces."""
        with device.faults(), torch.inference_mode():
            seen = self.features.of(_pictures(windows), self._network.embed_images)
            if self._beside is not None:  # not for all that runs there: it is the next step's
                self._beside.wait({one.made for one in seen.values() if one.made is not None})
            features = {digest: one.features for digest, one in seen.items()}
            parts = [(window, part) for window in windows for part in window.parts]
            logits = [self._forward(some, features) for some in _passes(parts, self._network.device)]
            answers = iter(tree.answers(torch.cat(logits), self._yes, self._no) if logits else ())
        found = {(id(window), question): next(answers) for window, part in parts for question in part.questions}
        return [[found[id(window), each] for each in range(len(window.tree.branches))] for window in windows]

    def sample(self) -> list[float]:
        """Margins of questions about texts of drawn words: to see by how much another precision moves them."""
        drawn = random.Random(0)  # noqa: S311 - no secret
        trees = [
            Tree(tuple(drawn.choices(WORDS, k=60)), tuple(tuple(drawn.choices(WORDS, k=40)) for _ in range(8)))
            for _ in range(8)
        ]
        with device.faults(), torch.inference_mode():
            logits = self._forward([(_Text(one), Part(one, list(range(8)), False)) for one in trees], {})
            return [score.margin for score in tree.answers(logits, self._yes, self._no)]

    def warm_up(self) -> None:
        """Runs every size of a pass that is compiled for itself, and two of the others: no post has to wait for it."""
        with device.faults(), torch.inference_mode():
            for tokens in (*SMALL, 2 * SMALL[-1], 4 * SMALL[-1]):
                text = Tree((0,) * (tokens - 2), ((0,), (0,)))
                self._forward([(_Text(text), Part(text, [0, 1], False))], {})

    def look_ahead(self, windows: Sequence[Window]) -> None:
        """Begins to see the pictures of windows that will be scored soon, beside the step that follows, into the cache.

        A step waits for a picture only if it is one of its own. On a CPU nothing is done.
        """
        if self._beside is not None:
            with device.faults(), torch.inference_mode(), self._beside.work() as made:
                self.features.of(_pictures(windows), self._network.embed_images, made)

    def _forward(self, parts: Sequence[tuple[Window, Part]], features: Mapping[str, Tensor]) -> Tensor:
        """Logits of all questions of the parts."""
        trees, long = [part.tree for _, part in parts], [part.long for _, part in parts]
        tokens = sum(one.tokens for one in trees)
        if padding := self._network.rounded(tokens) - tokens:  # a post of its own, that nobody asks about
            trees, long = [*trees, Tree((0,) * padding, ())], [*long, False]
        packed = tree.pack(trees, self._network.device)
        seen = [features[key(picture)] for window, _ in parts for picture in window.pictures]
        hidden = self._network(packed, seen, long, only_scored=True)
        return self._network.logits(hidden, exact=(self._yes, self._no))


def _pictures(windows: Sequence[Window]) -> Iterator[Crops]:
    return (picture for window in windows for picture in window.pictures)


def _passes(parts: Sequence[tuple[Window, Part]], where: torch.device) -> Iterator[Sequence[tuple[Window, Part]]]:
    """The parts in their order, as many at once as suit the device."""
    most = AT_ONCE.get(where.type)
    first = tokens = 0
    for place, (_, part) in enumerate(parts):
        if most is not None and place > first and tokens + part.tree.tokens > most:
            yield parts[first:place]
            first, tokens = place, 0
        tokens += part.tree.tokens
    if parts:
        yield parts[first:]
