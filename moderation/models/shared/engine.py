"""A batch's way over the device: compute its pictures' features, pack its trees, one forward pass, read the scores.

Families differ in the network and in how they encode posts. The engine is the same for all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from moderation.models.shared import device, side_stream, tree
from moderation.models.shared.feature_cache import EncodedPicture, FeatureCache, PictureT, key
from moderation.models.shared.scores import scores
from moderation.models.shared.side_stream import SideStream
from moderation.models.shared.tree import Packed, Tree
from moderation.types import Score

# Tokens of one pass within a step: beyond it a CPU's caches lose more than longer matrices gain (9 % at 7,000 tokens of
# 768 numbers). A GPU takes the step as it is.
PASS_TOKENS = {"cpu": 2048}

# What `sample` scores: ids that are words in the tokenizers of published decoders.
WORDS = range(300, 800)
SAMPLES, SAMPLE_TEXT, SAMPLE_QUESTION = 8, 60, 40  # texts, with as many questions each; their tokens

PictureT_co = TypeVar("PictureT_co", bound=EncodedPicture, covariant=True)
PictureT_contra = TypeVar("PictureT_contra", bound=EncodedPicture, contravariant=True)


@dataclass(frozen=True, slots=True)
class Part:
    """Questions of a window that the network computes in the same way.

    variant: an opaque number that the engine hands to the network, such as which rope factors a prompt takes. A family
    without variants leaves it 0, which is also what the engine's own prompts take.
    """

    tree: Tree
    questions: list[int]  # places among the window's questions
    variant: int = 0


class Window(Protocol[PictureT_co]):
    """A window of a post's text, its pictures and all its questions."""

    @property
    def tree(self) -> Tree:
        """All tokens; ids below zero are slots of the pictures, in their order."""

    @property
    def pictures(self) -> Sequence[PictureT_co]:
        """The pictures that fill the slots."""

    @property
    def parts(self) -> Sequence[Part]:
        """The tree, in one part for each variant that its questions need."""


class Network(Protocol[PictureT_contra]):
    """What a family provides."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def __call__(
        self, packed: Packed, features: Sequence[Tensor], variants: Sequence[int], *, only_scored: bool
    ) -> Tensor:
        """Hidden states before the last norm, [scored, hidden].

        features: of the pictures, in the order of their slots. variants: one for each tree, see Part.
        """

    def rounded(self, tokens: int) -> int:
        """The padded size of a pass of `tokens` tokens."""

    def embed_images(self, pictures: Sequence[PictureT_contra]) -> list[Tensor]:
        """The features of pictures, [tokens, hidden] each."""

    def logits(self, hidden: Tensor, exact: Sequence[int]) -> Tensor:
        """float32 [n, vocabulary]; those of the ids `exact` are summed in float32."""


_Prompt = tuple[Part, Sequence[Tensor]]  # and its pictures' features


class Engine(Generic[PictureT]):
    """Scores windows on a network. Belongs to one thread."""

    def __init__(
        self,
        network: Network[PictureT],
        yes: Sequence[int],
        no: Sequence[int],
        *,
        feature_bytes: int,
        side: SideStream | None = None,
    ) -> None:
        """yes, no: the ids of each answer. side: default the device's own."""
        self._network = network
        self._yes, self._no = yes, no
        self.feature_cache = FeatureCache(feature_bytes)
        self._side = side or side_stream.side_stream(network.device)

    def score(self, windows: Sequence[Window[PictureT]]) -> list[list[Score]]:
        """For each window one score for each of its questions: one forward pass, on a CPU in pieces."""
        with device.faults(), torch.inference_mode():
            features = self.feature_cache.get(_pictures(windows), self._network.embed_images)
            if self._side is not None:  # only these moments: the rest of its work is for the next step
                self._side.wait({kept.ready for kept in features.values() if kept.ready is not None})
            parts = [(window, part) for window in windows for part in window.parts]
            prompts = [(part, [features[key(each)].values for each in window.pictures]) for window, part in parts]
            logits = [self._forward(chunk) for chunk in _passes(prompts, self._network.device)]
            results = iter(scores(torch.cat(logits), self._yes, self._no) if logits else ())
        by_question = {(id(window), place): next(results) for window, part in parts for place in part.questions}
        return [[by_question[id(window), place] for place in range(len(window.tree.branches))] for window in windows]

    def sample(self) -> list[float]:
        """Margins of questions about texts of drawn words, to measure how far another precision moves margins."""
        drawn = random.Random(0)  # noqa: S311 - no secret
        trees = [
            Tree(
                tuple(drawn.choices(WORDS, k=SAMPLE_TEXT)),
                tuple(tuple(drawn.choices(WORDS, k=SAMPLE_QUESTION)) for _ in range(SAMPLES)),
            )
            for _ in range(SAMPLES)
        ]
        with device.faults(), torch.inference_mode():
            logits = self._forward([(Part(each, list(range(SAMPLES))), ()) for each in trees])
            return [score.margin for score in scores(logits, self._yes, self._no)]

    def warm_up(self, sizes: Iterable[int]) -> None:
        """Runs a pass of each of these numbers of tokens, so that no post waits for the compiler."""
        with device.faults(), torch.inference_mode():
            for tokens in sizes:
                self._forward([(Part(Tree((0,) * (tokens - 2), ((0,), (0,))), [0, 1]), ())])

    def look_ahead(self, windows: Sequence[Window[PictureT]]) -> None:
        """Starts to compute features that the step after the next one will need, parallel to the next step.

        The features go into the cache. A step waits for features only if it uses them. Does nothing on a CPU.
        """
        if self._side is not None:
            with device.faults(), torch.inference_mode(), self._side.work() as ready:
                self.feature_cache.get(_pictures(windows), self._network.embed_images, ready)

    def _forward(self, prompts: Sequence[_Prompt]) -> Tensor:
        """Logits of all questions of the prompts, [questions, vocabulary]."""
        trees, variants = [part.tree for part, _ in prompts], [part.variant for part, _ in prompts]
        tokens = sum(each.tokens for each in trees)
        if padding := self._network.rounded(tokens) - tokens:  # a post of its own, without questions
            trees, variants = [*trees, Tree((0,) * padding, ())], [*variants, 0]
        packed = tree.pack(trees, self._network.device)
        features = [values for _, pictures in prompts for values in pictures]
        hidden = self._network(packed, features, variants, only_scored=True)
        return self._network.logits(hidden, exact=(*self._yes, *self._no))


def _pictures(windows: Sequence[Window[PictureT]]) -> Iterator[PictureT]:
    return (picture for window in windows for picture in window.pictures)


def _passes(prompts: Sequence[_Prompt], where: torch.device) -> Iterator[Sequence[_Prompt]]:
    """The prompts in their order, as many at once as suit the device."""
    limit = PASS_TOKENS.get(where.type)
    first = tokens = 0
    for place, (part, _) in enumerate(prompts):
        if limit is not None and place > first and tokens + part.tree.tokens > limit:
            yield prompts[first:place]
            first, tokens = place, 0
        tokens += part.tree.tokens
    if prompts:
        yield prompts[first:]
