"""TinyLLaVA's networks against transformers' own classes: nothing shared but the weights, the pixels and the ids."""

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
from torch.nn import functional

from moderation.models import load
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.scores import scores
from moderation.models.tinyllava.preprocessing import Square
from moderation.settings import ModelSettings
from moderation.types import Content
from tests.support import tinyllava
from tests.support.small_model import a_content, a_picture, questions

CASES = {
    "text": a_content("free crypto, click the link"),
    "image": a_content("what is this image?", a_picture(300, 200, seed=1)),
    "two images": a_content("", a_picture(90, 250, seed=2), a_picture(400, 90, seed=3)),
    "long text": a_content("dog cat gun money " * 100),
}
# layout: classes of decoder and tower, names before their tensors, names of the projector, features of the tower
CLASSES: dict[str, tuple[str, str, str, str, Sequence[str], slice]] = {
    "factory": (
        "Phi",
        "Siglip",
        "language_model.",
        "vision_tower._vision_tower.vision_model.",
        ("connector._connector.0", "connector._connector.2"),
        slice(1, None),  # without the first patch
    ),
    "llava": (
        "Llama",
        "CLIP",
        "language_model.",
        "vision_tower.vision_model.",
        ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
        slice(1, None),  # without the class token
    ),
}


class Reference:
    """A checkpoint on transformers' own classes, at batch 1."""

    def __init__(self, layout: str, folder: Path) -> None:
        transformers: Any = importlib.import_module("transformers")  # slow to import, and its types are loose
        decoder, tower, before, before_tower, self.projector, self.features = CLASSES[layout]
        config = json.loads((folder / "config.json").read_text())
        self.weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        text = {**config["text_config"], "attn_implementation": "sdpa", "pad_token_id": 0, "torch_dtype": "float32"}
        self.language = getattr(transformers, f"{decoder}ForCausalLM")(
            getattr(transformers, f"{decoder}Config")(**text)
        ).eval()
        self.language.load_state_dict(self.named(before))
        vision: dict[str, Any] = {**config["vision_config"], "attn_implementation": "sdpa"}
        vision |= {"vision_use_head": False} if tower == "Siglip" else {}
        self.tower = getattr(transformers, f"{tower}VisionModel")(
            getattr(transformers, f"{tower}VisionConfig")(**vision)
        ).eval()
        used = {name: tensor for name, tensor in self.named(before_tower).items() if not name.startswith("head.")}
        self.tower.load_state_dict(used, strict=False)  # the stock layout's post_layernorm has no bias here
        assert self.tower.state_dict().keys() - used.keys() <= {"post_layernorm.bias"}

    def named(self, before: str) -> dict[str, Tensor]:
        return {name.removeprefix(before): self.weights[name] for name in self.weights if name.startswith(before)}

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], pictures: Sequence[Square]) -> Tensor:
        """Of the last position, [vocabulary]. ids below zero are slots, filled in order."""
        embeds = self.language.get_input_embeddings()(torch.tensor(ids).clamp(min=0))
        slots = [place for place, id in enumerate(ids) if id < 0]
        for place, row in zip(slots, [row for picture in pictures for row in self.rows(picture)], strict=True):
            embeds[place] = row
        out: Tensor = self.language(inputs_embeds=embeds[None], use_cache=False, logits_to_keep=1).logits[0, -1]
        return out

    def rows(self, picture: Square) -> Tensor:
        rows: Tensor = self.tower(picture.pixels, output_hidden_states=True).hidden_states[-2][0, self.features]
        for place, name in enumerate(self.projector):
            rows = functional.gelu(rows) if place else rows
            rows = functional.linear(rows, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        return rows


@pytest.fixture(scope="module", params=CLASSES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Reference]:
    parent = tmp_path_factory.mktemp(request.param)
    folder = {"factory": tinyllava.factory, "llava": tinyllava.llava}[request.param](parent)
    model = load(ModelSettings(name=str(folder), device="cpu"))
    assert isinstance(model, VisionClassifier)
    return model, Reference(request.param, folder)


@pytest.mark.parametrize("content", CASES.values(), ids=CASES.keys())
def test_a_tree_equals_transformers_on_separate_prompts(pair: tuple[Any, Reference], content: Content) -> None:
    model, reference = pair
    (window,) = model.encode(content, questions(3))
    worst = 0.0
    for branch, score in zip(window.tree.branches, model.score([window])[0], strict=True):
        logits = reference.logits(window.tree.shared + branch, window.pictures)
        expected = scores(logits[None], *model.checkpoint.template.answers)[0]
        worst = max(worst, abs(score.margin - expected.margin), abs(score.mass - expected.mass))
    print(f"largest difference from transformers: {worst:.1e} log-odds")
    assert worst < 1e-4


def test_norms_over_query_and_key_heads(tmp_path: Path) -> None:
    """An option of Phi that TinyGPT-V takes."""
    folder = tinyllava.factory(tmp_path)
    tinyllava.edit_config(folder, lambda content: content["text_config"].update(qk_layernorm=True))
    random = torch.Generator().manual_seed(1)
    norms = {
        f"language_model.model.layers.{layer}.self_attn.{head}_layernorm.{part}": torch.rand(32, generator=random)
        for layer in range(2)
        for head in "qk"
        for part in ("weight", "bias")
    }
    tinyllava.edit_weights(folder, lambda tensors: tensors.update(norms))
    model = load(ModelSettings(name=str(folder), device="cpu"))
    test_a_tree_equals_transformers_on_separate_prompts((model, Reference("factory", folder)), CASES["image"])
