"""H2OVL's network against transformers' own InternVL on the seeded checkpoint: nothing shared but weights and tiles."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moderation import models
from moderation.dev.seeds import h2ovl
from moderation.models.h2ovl.template import SLOT
from moderation.models.h2ovl.tokenizer import Tokenizer
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.scores import scores
from moderation.settings import ModelSettings
from moderation.types import Content
from tests.support.builders import mass_of
from tests.support.small_model import a_content, a_picture, questions

CASES = {
    "text": a_content("free crypto, click the link"),
    "one picture, cut twice": a_content("what is this image?", a_picture(300, 200, seed=1)),
    "two pictures": a_content("", a_picture(90, 250, seed=2), a_picture(400, 90, seed=3)),
}
# A part of a published name -> of transformers' name.
RENAMED = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_model.": "model.vision_tower.",
    "class_embedding": "cls_token",
    "position_embedding": "position_embeddings",
    "patch_embedding": "patch_embeddings.projection",
    "encoder.layers": "encoder.layer",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
    ".norm1": ".layernorm_before",
    ".norm2": ".layernorm_after",
    "attn.proj": "attention.projection_layer",
    "mlp1.0": "model.multi_modal_projector.layer_norm",
    "mlp1.1": "model.multi_modal_projector.linear_1",
    "mlp1.3": "model.multi_modal_projector.linear_2",
}


class Reference:
    """A checkpoint in the published layout as transformers' InternVLForConditionalGeneration, at batch 1."""

    def __init__(self, folder: Path, slot: int) -> None:
        transformers: Any = importlib.import_module("transformers")  # slow to import, and its types are loose
        config = json.loads((folder / "config.json").read_text())
        self.slot, text, vision = slot, config["llm_config"], config["vision_config"]
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps")
        self.model = transformers.InternVLForConditionalGeneration(
            transformers.InternVLConfig(
                text_config=transformers.MistralConfig(**text),
                vision_config=transformers.InternVLVisionConfig(
                    **{name: vision[name] for name in names},
                    image_size=[vision["image_size"]] * 2,
                    patch_size=[vision["patch_size"]] * 2,
                    attention_bias=True,
                    use_qk_norm=False,
                    norm_type="layer_norm",
                    use_mean_pooling=True,
                ),
                image_token_id=slot,
                vision_feature_layer=-1,
                vision_feature_select_strategy="default",
                tie_word_embeddings=False,
            )
        ).eval()
        weights: dict[str, Tensor] = {}
        for name, value in load_file(folder / "model.safetensors").items():
            if ".attn.qkv." in name:
                for part, rows in zip("qkv", value.chunk(3), strict=True):
                    weights[_renamed(name).replace("attn.qkv", f"attention.{part}_proj")] = rows
            else:
                weights[_renamed(name)] = value
        self.model.load_state_dict(weights)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], pictures: Sequence[EncodedPicture]) -> Tensor:
        """Of the last position, [vocabulary]. ids below zero are slots, filled in order."""
        tokens = torch.tensor([[self.slot if id < 0 else id for id in ids]])
        pixels = torch.cat([picture.pixels for picture in pictures]) if pictures else None
        out: Tensor = self.model(input_ids=tokens, pixel_values=pixels, use_cache=False).logits[0, -1]
        return out


def _renamed(name: str) -> str:
    for published, other in RENAMED.items():
        name = name.replace(published, other)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("h2ovl")
    h2ovl.write(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionClassifier[Any, Any]:
    model = models.load(ModelSettings(name=str(folder), device="cpu"))
    assert isinstance(model, VisionClassifier)
    return model


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, Tokenizer(folder).token(SLOT))


@pytest.mark.parametrize("content", CASES.values(), ids=CASES.keys())
def test_a_tree_equals_transformers_on_separate_prompts(
    model: VisionClassifier[Any, Any], reference: Reference, content: Content
) -> None:
    (window,) = model.encode(content, questions(3))
    row = model.score([window])[0]
    worst = 0.0
    for branch, score in zip(window.tree.branches, row, strict=True):
        logits = reference.logits(window.tree.shared + branch, window.pictures)
        expected = scores(logits[None], *model.checkpoint.template.answers)[0]
        worst = max(worst, abs(score.margin - expected.margin), abs(mass_of(score) - mass_of(expected)))
    print(f"largest difference from transformers: {worst:.1e} log-odds")
    assert worst < 1e-4
