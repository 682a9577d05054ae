"""TinyLLaVA as the service finds it: a checkpoint in one of three published layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, codegen
from moderation.models.shared.family import Checkpoint as Base
from moderation.models.shared.family import check_vocabulary, decoder_row, refuse_crops
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tokenizer import TOKENIZER, Tokenizer
from moderation.models.shared.window import Window
from moderation.models.tinyllava import config, network, template
from moderation.models.tinyllava.config import LlavaConfig
from moderation.models.tinyllava.network import TinyLlavaNetwork
from moderation.models.tinyllava.preprocessing import HALF, PREPROCESSOR, PreprocessorConfig, Square, Squares
from moderation.models.tinyllava.template import TAG, TinyLlavaTemplate


class Checkpoint(Base[TinyLlavaNetwork, Window]):
    """See shared.family.Checkpoint. A picture is one square, so there are no crops to choose."""

    wanted: ClassVar[Sequence[str]] = (*checkpoint.WANTED, codegen.MERGES)

    template: TinyLlavaTemplate

    def __init__(self, folder: Path, num_crops: int | None) -> None:
        refuse_crops(num_crops, "TinyLLaVA shows each picture as one square")
        self.folder = folder
        self.config = config.read(folder)
        self.caution = self.config.caution
        self.context = self.config.context
        self.most_crops = 1
        self.architecture = config.architecture(folder, self.config)
        self.tokenizer = Tokenizer(folder) if isinstance(self.config, LlavaConfig) else codegen.tokenizer(folder)
        check_vocabulary(folder, self.tokenizer.size, self.architecture.decoder)
        self.template = self._template()
        self.squares = self._squares()

    @property
    def files(self) -> Sequence[Path]:
        """See Base."""
        files = [self.folder / checkpoint.CONFIG, *checkpoint.weight_files(self.folder)]
        if isinstance(self.config, LlavaConfig):
            return [*files, self.folder / PREPROCESSOR, self.folder / TOKENIZER]
        if (apart := self.architecture.tower_folder) is not None:
            files += [apart / checkpoint.CONFIG, *checkpoint.weight_files(apart)]
        return [*files, *codegen.files(self.folder)]

    @property
    def rows(self) -> Mapping[str, str]:
        """See Base."""
        decoder, tower = self.architecture.decoder, self.architecture.tower
        seen = {
            "square": "scaled to the square whatever its shape",
            "pad": "padded to a square",
            "crop": "cut to the middle square; the rest is not seen",
        }
        rows = {
            "decoder": decoder_row(decoder),
            "context": f"{self.context} positions",
            "tower": f"{'CLIP' if self.architecture.clip else 'SigLIP'}, hidden {tower.hidden}, {tower.layers} layers",
            "picture": f"{tower.image} x {tower.image} pixels, {self.architecture.tokens} tokens, "
            f"{seen[self.squares.shape]}",
        }
        if self.architecture.tower_folder is not None:
            commit = self.architecture.tower_commit
            rows["tower's files"] = (
                f"{config.TOWER_REPOSITORY} at {commit}" if commit else str(self.architecture.tower_folder)
            )
        return rows

    def network(self, *, dtype: torch.dtype, device: torch.device) -> TinyLlavaNetwork:
        """See Base."""
        return network.read(self.folder, self.architecture, self.tokenizer.size, dtype=dtype, device=device)

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[Square]:
        """See Base."""
        return self.squares.of(pictures)

    def raw_ids(self, prompt: str, pictures: Sequence[EncodedPicture]) -> list[int]:
        """See Base."""
        ids = self.template.raw(prompt, [picture.tokens for picture in pictures])
        if pictures and not isinstance(self.config, LlavaConfig) and len(ids) > self.context:
            raise ConfigError(
                f"the prompt takes {len(ids)} positions of {self.context}: the original would cut off its end"
            )
        return ids

    def _template(self) -> TinyLlavaTemplate:
        if not isinstance(self.config, LlavaConfig):
            return TinyLlavaTemplate(self.tokenizer, template.PHI, None)
        image = self.tokenizer.token(TAG)
        if image != self.config.image_token_index:
            raise ConfigError(
                f"{self.folder}: config.json says image_token_index {self.config.image_token_index}, and {TAG} is "
                f"{image} in {TOKENIZER}; they are not of one checkpoint"
            )
        return TinyLlavaTemplate(self.tokenizer, template.LLAVA, image)

    def _squares(self) -> Squares:
        tower, tokens, work = self.architecture.tower, self.architecture.tokens, self.architecture.work
        if not isinstance(self.config, LlavaConfig):
            return Squares(tower.image, self.config.image_aspect_ratio, HALF, HALF, tokens, work)
        path = self.folder / PREPROCESSOR
        read = checkpoint.parse(path, PreprocessorConfig)
        if {read.crop_size.height, read.crop_size.width} != {tower.image} or read.size.shortest_edge < tower.image:
            raise ConfigError(
                f"{path}: crops {read.crop_size.width} x {read.crop_size.height} out of a short side of "
                f"{read.size.shortest_edge} pixels, and the tower of config.json takes {tower.image} x {tower.image}"
            )
        return Squares(tower.image, "crop", read.image_mean, read.image_std, tokens, work, read.size.shortest_edge)
