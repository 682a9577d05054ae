"""TinyGPT-V as the service finds it: a folder that `moderation model convert tinygptv` has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, codegen, family
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tokenizer import Tokenizer
from moderation.models.shared.window import Window
from moderation.models.tinygptv import preprocessing
from moderation.models.tinygptv.network import TinyGptvConfig, TinyGptvNetwork, read
from moderation.models.tinygptv.preprocessing import Square
from moderation.models.tinygptv.template import TinyGptvTemplate

TAG = "<ImageHere>"


class Checkpoint(family.Checkpoint[TinyGptvNetwork, Window]):
    """See shared.family.Checkpoint."""

    wanted: ClassVar[Sequence[str]] = (*checkpoint.WANTED, codegen.MERGES)
    template: TinyGptvTemplate

    def __init__(self, folder: Path, num_crops: int | None) -> None:
        family.refuse_crops(num_crops, "TinyGPT-V cuts no picture into crops")
        self.folder = folder
        self.config = checkpoint.parse(folder / checkpoint.CONFIG, TinyGptvConfig)
        slow = (folder / codegen.VOCABULARY).exists()  # where the Phi-2 folder had no tokenizer.json
        self.tokenizer = codegen.tokenizer(folder) if slow else Tokenizer(folder)
        family.check_vocabulary(folder, self.tokenizer.size, self.config.text_config)
        self.template = TinyGptvTemplate(self.tokenizer, self.config.arch)
        self.context = self.config.text_config.max_position_embeddings
        self.caution = self.config.caution

    @property
    def files(self) -> Sequence[Path]:
        """See Checkpoint of shared.family."""
        return [
            self.folder / checkpoint.CONFIG,
            *codegen.files(self.folder),
            *checkpoint.weight_files(self.folder),
        ]

    @property
    def rows(self) -> Mapping[str, str]:
        """See Checkpoint of shared.family."""
        text, vision, former = self.config.text_config, self.config.vision_config, self.config.qformer_config
        return {
            "variant": f"{self.config.arch}, {vision.image_size} x {vision.image_size} pixels",
            "decoder": family.decoder_row(text),
            "context": f"{text.max_position_embeddings} positions",
            "tower": f"hidden {vision.hidden_size}, {vision.num_hidden_layers} layers; Q-Former: hidden "
            f"{former.hidden_size}, {former.num_hidden_layers} layers",
            "pictures": f"{former.num_query_tokens} tokens each",
        }

    def network(self, *, dtype: torch.dtype, device: torch.device) -> TinyGptvNetwork:
        """See Checkpoint of shared.family."""
        return read(self.folder, self.config, dtype=dtype, device=device)

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[Square]:
        """See Checkpoint of shared.family."""
        tokens, work = self.config.picture_tokens, self.config.picture_work
        side = self.config.vision_config.image_size
        return [preprocessing.square(picture, side, tokens=tokens, work=work) for picture in pictures]

    def raw_ids(self, prompt: str, pictures: Sequence[EncodedPicture]) -> list[int]:
        """See Checkpoint of shared.family. The prompt is cut at each tag, and the pieces are tokenised apart."""
        first, *others = prompt.split(TAG)
        if len(others) != len(pictures):
            raise ConfigError(f"{len(pictures)} images need {TAG} as many times in the prompt; it has {len(others)}")
        ids = self.tokenizer.trusted(first)
        for number, (picture, piece) in enumerate(zip(pictures, others, strict=True), start=1):
            ids += [-number] * picture.tokens + self.tokenizer.trusted(piece)
        if not 0 < len(ids) <= self.context:
            raise ConfigError(f"the prompt takes {len(ids)} positions; this model takes 1 to {self.context}")
        return ids

    def computed(self, network: TinyGptvNetwork, pictures: Sequence[EncodedPicture]) -> Mapping[str, NDArray[Any]]:
        """image_tokens, float32 [pictures, 32, hidden], with pictures only: what stands in their places."""
        if not pictures:
            return {}
        return {"image_tokens": torch.stack(network.embed_images(cast(Sequence[Square], pictures))).numpy()}
