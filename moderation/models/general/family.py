"""A checkpoint whose class transformers has: a folder, its small files read and checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image as Picture

from moderation.errors import ConfigError, PostError
from moderation.models.general import network
from moderation.models.general.network import CachedNetwork
from moderation.models.general.pictures import GeneralWindow, Pictures, Shown
from moderation.models.general.processor import Processor, library
from moderation.models.general.template import GeneralTemplate
from moderation.models.shared import checkpoint
from moderation.models.shared.family import Checkpoint as Base
from moderation.models.shared.family import refuse_crops
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tree import Tree
from moderation.types import Reason

SMALL = ("*.json", "*.jinja", "*.model", "*.txt")  # beside the weights: what transformers reads
UNREAD = frozenset({"generation_config.json", "OK"})
TOWERS = ("vision", "visual", "image", "multi_modal_projector", "mlp1")  # in names of a tower's tensors


class Checkpoint(Base[Any, GeneralWindow]):
    """See shared.family.Checkpoint. The class and the processor are those of transformers."""

    wanted: ClassVar[Sequence[str]] = (*checkpoint.WANTED, *SMALL)

    template: GeneralTemplate  # type: ignore[assignment]  # the classifier asks for the words around a text as one

    def __init__(self, folder: Path, num_crops: int | None) -> None:
        refuse_crops(num_crops, "the files of the checkpoint say how its processor cuts pictures")
        self.folder = folder
        self.kind = checkpoint.model_type(str(folder), None)
        self.config = network.config_of(folder, self.kind)
        self.class_ = network.class_of(self.kind)
        self._caution()
        self.slot = network.slot_of(folder, self.config)
        self.context = self._positions()
        self.processor = Processor(folder, self.kind)
        self.template = GeneralTemplate(folder, self.processor, self.slot)
        self._slot_text: str = self.processor.tokenizer.convert_ids_to_tokens(self.slot)
        self._inputs = inspect.signature(network.run_class(self.kind).forward).parameters
        self._tower_share = self._tower()

    @property
    def files(self) -> Sequence[Path]:
        """See Base. All small files count: which of them a class of transformers reads is the class's affair."""
        small = {path for pattern in SMALL for path in self.folder.glob(pattern) if path.name not in UNREAD}
        return [*sorted(small), *checkpoint.weight_files(self.folder)]

    @property
    def decisive(self) -> Mapping[str, object]:
        """See Base. Another release of transformers may compute something else."""
        return {"transformers": library().__version__, "class": self.class_, "processor": self.processor.class_}

    @property
    def rows(self) -> Mapping[str, str]:
        """See Base."""
        text = self.config.get_text_config()
        return {
            "class": f"{self.class_} of transformers {library().__version__}",
            "decoder": f"{getattr(text, 'num_hidden_layers', '?')} layers, hidden {getattr(text, 'hidden_size', '?')}, "
            f"vocabulary {getattr(text, 'vocab_size', '?')}",
            "context": f"{self.context} positions",
            "tower": f"{self._tower_share:.2f} numbers for each of the decoder's",
            "pictures": f"{self.processor.class_}, {type(self.processor.images).__name__}",
            "chat template": self.template.chat.path.name,
        }

    def network(self, *, dtype: torch.dtype, device: torch.device) -> CachedNetwork:
        """See Base."""
        return network.read(self.folder, self.kind, dtype=dtype, device=device)

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[Shown]:
        """See Base."""
        try:
            return Pictures(self.processor, pictures).shown(self._slot_text, self._tower_share)
        except ValueError:  # the processors' own limits, such as that of a picture's shape
            raise PostError(Reason.IMAGE_UNSUPPORTED, "the checkpoint's image processor refuses a picture") from None

    def raw_ids(self, prompt: str, pictures: Sequence[EncodedPicture]) -> list[int]:
        """Raises ConfigError: the original is transformers itself."""
        raise ConfigError(
            f"{self.folder}: transformers' own class runs this checkpoint, so there is no original to compare with"
        )

    def window(self, tree: Tree, pictures: tuple[EncodedPicture, ...], picture_work: int) -> GeneralWindow:
        """See Base."""
        shown = [picture for picture in pictures if isinstance(picture, Shown)]
        processed = shown[0].post.inputs([picture.number for picture in shown]) if shown else {}
        taken = {name: value for name, value in processed.items() if name in self._inputs}
        return GeneralWindow(tree, pictures, picture_work, {**taken, **self.kinds(tree.shared)})

    def kinds(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """The input that says which ids are a picture's, [1, tokens], where the class takes it."""
        if not self.processor.says_kinds:
            return {}
        kinds = torch.tensor([self.processor.kinds([self.slot if id < 0 else id for id in ids])])
        return {name: kinds for name in network.KINDS if name in self._inputs}

    def _caution(self) -> None:
        caution = checkpoint.read_json(self.folder / checkpoint.CONFIG).get("caution")
        self.caution = caution if isinstance(caution, str) else ""

    def _positions(self) -> int:
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(positions, int) or positions < 1:
            raise ConfigError(f"{self.folder / checkpoint.CONFIG}: names no max_position_embeddings of its decoder")
        return positions

    def _tower(self) -> float:
        """The tower's numbers by the decoder's, about."""
        sizes = [
            (any(part in name for part in TOWERS), math.prod(shape))
            for path in checkpoint.weight_files(self.folder)
            for name, shape, _ in checkpoint.header(path)
        ]
        tower = sum(size for is_tower, size in sizes if is_tower)
        return tower / max(1, sum(size for is_tower, size in sizes if not is_tower))
