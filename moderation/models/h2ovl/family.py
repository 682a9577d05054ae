"""H2OVL-Mississippi as the service finds it: a checkpoint in the published layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.models.h2ovl import tokenizer
from moderation.models.h2ovl.config import H2ovlConfig
from moderation.models.h2ovl.network import H2ovlNetwork, read
from moderation.models.h2ovl.preprocessing import MOST_TILES, Tiles, Tiling
from moderation.models.h2ovl.template import H2ovlTemplate
from moderation.models.h2ovl.tokenizer import Tokenizer
from moderation.models.shared import checkpoint
from moderation.models.shared.family import Checkpoint as Base
from moderation.models.shared.family import check_vocabulary, decoder_row
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.window import Window, room_for_pictures

TAG = "<image>"


class Checkpoint(Base[H2ovlNetwork, Window]):
    """See shared.family.Checkpoint. num_crops: tiles of a pass at most."""

    wanted = (*checkpoint.WANTED, tokenizer.MODEL)
    template: H2ovlTemplate

    def __init__(self, folder: Path, num_crops: int | None) -> None:
        self.folder = folder
        self.config = checkpoint.parse(folder / checkpoint.CONFIG, H2ovlConfig)
        self.tokenizer = Tokenizer(folder)
        check_vocabulary(folder, self.tokenizer.size, self.config.llm_config)
        self.template = H2ovlTemplate(self.tokenizer)
        self.tiling = tiling(self.config, num_crops)
        self.context = self.config.llm_config.max_position_embeddings
        most, room = self.tiling.most_tiles * self.config.tile_tokens, room_for_pictures(self.context)
        if most > room:
            raise ConfigError(
                f"{f'{folder}: config.json' if num_crops is None else 'MODERATION_MODEL__NUM_CROPS'}: with "
                f"{self.tiling.budget} tiles of a pass, a picture takes up to {most} positions; {room} of "
                f"{self.context} are for pictures"
            )
        self.caution = self.config.caution

    @property
    def files(self) -> Sequence[Path]:
        """See Base."""
        named = (checkpoint.CONFIG, tokenizer.CONFIG, tokenizer.MODEL)
        return [*(self.folder / name for name in named), *checkpoint.weight_files(self.folder)]

    @property
    def decisive(self) -> Mapping[str, object]:
        """See Base."""
        return {"num_crops": self.tiling.budget}

    @property
    def rows(self) -> Mapping[str, str]:
        """See Base."""
        text, tower, tiles = self.config.llm_config, self.config.tower, self.tiling
        return {
            "decoder": f"{text.model_type}, {decoder_row(text)}",
            "context": f"{self.context} positions",
            "tower": f"hidden {tower.hidden}, {tower.layers} of {self.config.vision_config.num_hidden_layers} layers",
            "tiles": f"{tower.image} x {tower.image} pixels, {tiles.tile_tokens} tokens each",
            "num_crops": f"{tiles.budget} tiles of a pass, and a thumbnail; "
            + ("a lone image takes two passes" if tiles.msac else "one pass for each image"),
        }

    def network(self, *, dtype: torch.dtype, device: torch.device) -> H2ovlNetwork:
        """See Base."""
        return read(self.folder, self.config, dtype=dtype, device=device)

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[Tiles]:
        """See Base."""
        return self.tiling.pictures(pictures)

    def raw_ids(self, prompt: str, pictures: Sequence[EncodedPicture]) -> list[int]:
        """See Base. The pictures take the first <image> tags in their order; the original leaves others as text."""
        chunks = prompt.split(TAG, len(pictures))
        if len(chunks) <= len(pictures):
            raise ConfigError(f"{len(pictures)} images need a tag {TAG} each; there are {len(chunks) - 1}")
        ids = self.tokenizer.trusted(chunks[0])
        for number, (picture, chunk) in enumerate(zip(pictures, chunks[1:], strict=True)):
            ids += self.template.picture(number, picture.tokens)
            ids += self.tokenizer.trusted(chunk)
        if pictures and self.template.slot in ids:
            raise ConfigError("the prompt spells the token that stands for a picture; mark its place with <image>")
        return ids

    def computed(self, network: H2ovlNetwork, pictures: Sequence[EncodedPicture]) -> Mapping[str, NDArray[Any]]:
        """tiles int64 [images]; grid, msac_grid int64 [images, 2]: columns and rows of either pass."""
        tiles = [picture for picture in pictures if isinstance(picture, Tiles)]
        if not tiles:
            return {}
        second = {"msac_grid": np.array([each.second for each in tiles])} if tiles[0].second else {}
        return {
            "tiles": np.array([len(each) for each in tiles]),
            "grid": np.array([each.grid for each in tiles]),
            **second,
        }


def tiling(config: H2ovlConfig, num_crops: int | None = None) -> Tiling:
    """The pictures' way into a network of this config. num_crops: default the original's."""
    return Tiling(
        budget=num_crops or MOST_TILES,
        side=config.tower.image,
        msac=config.use_msac,
        tile_tokens=config.tile_tokens,
        tile_work=config.tile_work,
    )
