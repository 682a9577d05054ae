"""Phi-3-Vision and Phi-3.5-Vision as the service finds them: a checkpoint in the published layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.models.phi3 import preprocessing
from moderation.models.phi3.network import (
    LONG,
    PREPROCESSOR,
    SHORT,
    Phi3Config,
    Phi3Network,
    PreprocessorConfig,
    read,
)
from moderation.models.phi3.preprocessing import Crops
from moderation.models.phi3.template import Phi3Template
from moderation.models.shared import checkpoint, loading, window
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.engine import Part
from moderation.models.shared.family import Checkpoint as Base
from moderation.models.shared.family import check_vocabulary, decoder_row
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tokenizer import TOKENIZER, Tokenizer
from moderation.models.shared.tree import Tree
from moderation.settings import ModelSettings

TAG = re.compile(r"<\|image_(\d+)\|>")

Phi3Vision: TypeAlias = "VisionClassifier[Phi3Network, Window]"


def load(settings: ModelSettings) -> Phi3Vision:
    """See shared.loading."""
    return loading.load(Checkpoint, settings)


@dataclass(frozen=True, slots=True, eq=False)
class Window(window.Window):
    """A window that splits where some questions make a prompt longer than the original context."""

    pictures: tuple[Crops, ...]
    context: int = 1 << 30  # positions beyond which a prompt takes the long rope factors

    @property
    def parts(self) -> list[Part]:
        """One part, or two when only some of the questions make a prompt that is longer than the context.

        Each question takes the rope factors that its prompt would take alone: neither other posts nor other policies
        change its score. In the original, the longest sequence of a batch chooses the factors for all.
        """
        rest = self.context - len(self.tree.shared)
        if not self.tree.branches:
            return [Part(self.tree, [], LONG if rest < 0 else SHORT)]
        questions: dict[int, list[int]] = {SHORT: [], LONG: []}
        for place, branch in enumerate(self.tree.branches):
            questions[LONG if len(branch) > rest else SHORT].append(place)
        return [
            Part(Tree(self.tree.shared, tuple(self.tree.branches[place] for place in places)), places, variant)
            for variant, places in questions.items()
            if places
        ]


class Checkpoint(Base[Phi3Network, Window]):
    """See shared.family.Checkpoint. num_crops: local crops of a picture at most."""

    def __init__(self, folder: Path, num_crops: int | None) -> None:
        self.folder = folder
        self.config = checkpoint.parse(folder / checkpoint.CONFIG, Phi3Config)
        self.preprocessor = checkpoint.parse(folder / PREPROCESSOR, PreprocessorConfig)
        self.transform = self.preprocessor.transform(self.config, num_crops)
        self.tokenizer = Tokenizer(folder)
        check_vocabulary(folder, self.tokenizer.size, self.config)
        self.template = Phi3Template(self.tokenizer)
        self.context = self.config.max_position_embeddings
        self.most_crops = self.transform.budget + 1
        self.caution = self.config.caution

    @property
    def files(self) -> Sequence[Path]:
        """See Base."""
        named = (checkpoint.CONFIG, PREPROCESSOR, TOKENIZER)
        return [*(self.folder / name for name in named), *checkpoint.weight_files(self.folder)]

    @property
    def decisive(self) -> Mapping[str, object]:
        """See Base."""
        return {"num_crops": self.transform.budget}

    @property
    def rows(self) -> Mapping[str, str]:
        """See Base."""
        config, tower, side = self.config, self.config.tower, self.config.crop_side
        budget = self.transform.budget
        return {
            "decoder": decoder_row(config),
            "context": f"{config.max_position_embeddings} positions, other rope factors beyond "
            f"{config.original_max_position_embeddings}",
            "tower": f"hidden {tower.hidden}, {tower.layers} of "
            f"{config.img_processor.vision_config.num_hidden_layers} layers",
            "crops": f"{tower.image} x {tower.image} pixels, {side} x {side} tokens each",
            "num_crops": f"{budget}: an image takes {preprocessing.tokens(budget, 1, side)} tokens at most",
        }

    def network(self, *, dtype: torch.dtype, device: torch.device) -> Phi3Network:
        """See Base."""
        return read(self.folder, dtype=dtype, device=device)

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[Crops]:
        """See Base."""
        return [self.transform.crops(picture) for picture in pictures]

    def window(self, tree: Tree, pictures: tuple[EncodedPicture, ...], picture_work: int) -> Window:
        """See Base."""
        return Window(
            tree, cast(tuple[Crops, ...], pictures), picture_work, self.config.original_max_position_embeddings
        )

    def raw_ids(self, prompt: str, pictures: Sequence[EncodedPicture]) -> list[int]:
        """See Base.

        The original ignores the tags' numbers and fills the slots in order, so tags may be out of order. A repeated
        tag leaves slots without features, and the original fails.
        """
        if not pictures:
            return self.tokenizer.trusted(prompt, begin=True)
        tags = [int(number) for number in TAG.findall(prompt)]
        count = len(pictures)
        if sorted(set(tags)) != list(range(1, count + 1)):
            there = ", ".join(f"<|image_{tag}|>" for tag in sorted(set(tags))) or "none"
            raise ConfigError(
                f"{count} images need tags from <|image_1|> to <|image_{count}|>, each once; there is {there}"
            )
        if len(tags) != count:
            raise ConfigError(f"each image's tag may stand in the prompt once; it has {len(tags)} for {count} images")
        chunks = TAG.split(prompt)[::2]  # the others are the tags' numbers
        ids: list[int] = []
        for chunk, tag in zip(chunks, [*tags, None], strict=True):
            ids += self.tokenizer.trusted(chunk, begin=True)
            if tag is not None:
                ids += [-tag] * pictures[tag - 1].tokens
        return ids
