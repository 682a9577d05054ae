"""The seeded checkpoint and what tests ask of it, and the same checkpoint on transformers' classes to compare with."""

from __future__ import annotations

import atexit
import importlib
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from safetensors.torch import load_file
from torch import Tensor, nn

from moderation.dev.checkpoint import seeded
from moderation.media.decoding import decode
from moderation.models.phi3.family import Phi3Vision, Window, load
from moderation.models.phi3.network import LONG, SHORT
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import tree
from moderation.models.shared.scores import scores
from moderation.models.shared.tokenizer import Tokenizer
from moderation.models.shared.tree import Tree
from moderation.settings import MediaSettings, ModelSettings
from moderation.types import Content, Question, Score
from tests.support.builders import a_file, an_image

torch.set_num_threads(1)  # threads that wait for each other on a busy machine are slower than one


@cache
def seeded_folder() -> Path:
    """One seeded checkpoint for the whole run."""
    parent = tempfile.TemporaryDirectory(prefix="moderation-tests-")
    atexit.register(parent.cleanup)
    return seeded(Path(parent.name) / "seeded")


def settings(**knobs: Any) -> ModelSettings:
    return ModelSettings(**{"name": str(seeded_folder()), "device": "cpu", **knobs})


@cache
def a_model(**knobs: Any) -> Phi3Vision:
    return load(settings(**knobs))


@cache
def a_tokenizer() -> Tokenizer:
    return Tokenizer(seeded_folder())


def a_picture(width: int = 200, height: int = 150, seed: int = 0) -> Picture:
    """A noisy gradient."""
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 150, width)[None, :, None] + np.zeros((height, 1, 3))
    return Image.fromarray((slope + random.uniform(0, 105, (height, width, 3))).astype(np.uint8))


def a_content(text: str = "", *pictures: Picture) -> Content:
    return Content(text=text, pictures=pictures, digest="")


def questions(count: int) -> list[Question]:
    """Policies of different lengths."""
    nouns = ["spam", "weapons", "hate", "drugs", "insult", "threats", "nude", "children", "money", "crypto"]
    return [
        Question(
            f"policy-{i}", f"Does this post show {nouns[i % 10]}? " + f"Not {nouns[i // 10 + 3]} number {i}. " * (i % 4)
        )
        for i in range(count)
    ]


def alone(model: Phi3Vision, window: Window, branch: int, *, long: bool | None = None) -> Score:
    """The score of one branch as a plain causal prompt of its own: no tree, no other post, no other policy."""
    prompt = Tree(window.tree.shared + window.tree.branches[branch], ())
    if long is None:
        long = len(prompt.shared) > model.network.config.original_max_position_embeddings
    with torch.inference_mode():
        packed = tree.pack([prompt], model.network.device)
        hidden = model.network(packed, model.network.embed_images(window.pictures), [LONG if long else SHORT])
        logits = model.network.logits(hidden[-1:])
    return scores(logits, *model.checkpoint.template.answers)[0]


class Reference:
    """A checkpoint in the published layout on transformers' own Phi3ForCausalLM and CLIPVisionModel, at batch 1.

    Nothing of moderation.models but the crops is used. The rope factors follow transformers: the prompt's length.
    """

    def __init__(self, folder: Path) -> None:
        transformers: Any = importlib.import_module("transformers")  # slow to import, and its types are loose
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        vision = config["img_processor"].get("vision_config", {})
        self.side = vision.get("image_size", 336) // vision.get("patch_size", 14) // 2
        language = {name: config[name] for name in _SHARED_SIZES}
        rope = {
            "rope_type": "longrope",
            "rope_theta": config["rope_theta"],
            "original_max_position_embeddings": config["original_max_position_embeddings"],
            "short_factor": config["rope_scaling"]["short_factor"],
            "long_factor": config["rope_scaling"]["long_factor"],
        }
        self.language = transformers.Phi3ForCausalLM(
            transformers.Phi3Config(**language, rope_parameters=rope, pad_token_id=0, attn_implementation="sdpa")
        ).eval()
        self.language.load_state_dict({name: value for name, value in weights.items() if ".vision_embed" not in name})
        self.tower = transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(**{**_CLIP_LARGE, **vision}, attn_implementation="sdpa")
        ).eval()
        at = "model.vision_embed_tokens."
        prefix = at + "img_processor.vision_model."
        self.tower.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        wide, size = 4 * self.tower.config.hidden_size, config["hidden_size"]
        self.projection = nn.Sequential(nn.Linear(wide, size), nn.GELU(), nn.Linear(size, size))
        self.projection.load_state_dict(
            {
                k.removeprefix(at + "img_projection."): v
                for k, v in weights.items()
                if k.startswith(at + "img_projection.")
            }
        )
        self.row_end, self.picture_end = weights[at + "sub_GN"].flatten(), weights[at + "glb_GN"].flatten()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], pictures: Sequence[Crops]) -> Tensor:
        """Of the last position, [vocabulary]. ids below zero are slots, filled in order."""
        embeds = self.language.get_input_embeddings()(torch.tensor(ids).clamp(min=0))
        slots = [place for place, id in enumerate(ids) if id < 0]
        features = [row for picture in pictures for row in self.projection(torch.stack(self._rows(picture)))]
        for place, row in zip(slots, features, strict=True):
            embeds[place] = row
        out: Tensor = self.language(inputs_embeds=embeds[None], use_cache=False, logits_to_keep=1).logits[0, -1]
        return out

    def _rows(self, picture: Crops) -> list[Tensor]:
        states = self.tower(picture.pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        side = self.side

        def token(crop: int, row: int, col: int) -> Tensor:
            patches = [(2 * row + i) * 2 * side + 2 * col + j for i in (0, 1) for j in (0, 1)]
            return torch.cat([states[crop, patch] for patch in patches])

        rows: list[Tensor] = []
        for row in range(picture.rows * side):
            for col in range(picture.cols * side):
                crop = 1 + row // side * picture.cols + col // side
                rows.append(token(crop, row % side, col % side))
            rows.append(self.row_end)
        rows.append(self.picture_end)
        for row in range(side):
            rows += [token(0, row, col) for col in range(side)]
            rows.append(self.row_end)
        return rows


_SHARED_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
    "original_max_position_embeddings",
)
_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


def thin_pictures() -> tuple[Picture, ...]:
    """Dividers and spacers of a page, as `media` shows them to a model."""
    sizes = (600, 1), (1, 101), (1_920, 1)
    files = [a_file(an_image(*size)) for size in sizes]
    return tuple(picture for file in files for picture in decode(file, MediaSettings()))
