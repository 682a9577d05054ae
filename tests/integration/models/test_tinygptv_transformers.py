"""TinyGPT-V's network against a composition of transformers' own modules, with the changes that the original made."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from moderation.models.shared import tree
from moderation.models.shared.tree import Tree
from moderation.models.tinygptv.family import Checkpoint
from moderation.models.tinygptv.network import TinyGptvConfig, TinyGptvNetwork
from tests.support.small_model import a_picture
from tests.support.tinygptv_artefacts import seeded_folder

transformers: Any = importlib.import_module("transformers")  # untyped
blip: Any = importlib.import_module("transformers.models.blip_2.modeling_blip_2")
llama: Any = importlib.import_module("transformers.models.llama.modeling_llama")

TOWER_NAMES = {
    r"cls_token": "embeddings.class_embedding",
    r"pos_embed": "embeddings.position_embedding",
    r"patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"blocks\.(\d+)\.norm": r"encoder.layers.\1.layer_norm",
    r"blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
}


class Reference:
    """The same weights in transformers' modules."""

    def __init__(self, tensors: Mapping[str, Tensor], config: TinyGptvConfig) -> None:
        self.tensors = tensors
        self.tower = self._tower(config)
        self.qformer = self._qformer(config)
        self.language = self._language(config)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        seen = self.tower(pixels).last_hidden_state
        states = self.qformer(self.tensors["query_tokens"].expand(len(pixels), -1, -1), encoder_hidden_states=seen)[0]
        for name in ("llama_proj", "llama_proj2"):
            states = nn.functional.linear(states, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])
        tokens: Tensor = states
        return tokens

    def logits(self, ids: list[int], features: Tensor) -> Tensor:
        """Of the last position. features: of the one picture, in the place of the ids below zero."""
        numbers = torch.tensor(ids)
        hidden = self.language.get_input_embeddings()(numbers.clamp(min=0))
        hidden[numbers < 0] = features
        last: Tensor = self.language(inputs_embeds=hidden[None]).logits[0, -1]
        return last

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}

    def _tower(self, config: TinyGptvConfig) -> Any:
        vision = config.vision_config
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
        sizes = {name: getattr(vision, name) for name in names}
        made = blip.Blip2VisionModel(transformers.Blip2VisionConfig(**sizes, patch_size=vision.patch_size)).eval()
        state = {f"post_layernorm.{name}": each for name, each in self._part("ln_vision.").items()}
        own = self._part("visual_encoder.")
        for layer in range(vision.num_hidden_layers):
            query, value = (own.pop(f"blocks.{layer}.attn.{which}_bias") for which in "qv")
            state[f"encoder.layers.{layer}.self_attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
        for name, each in own.items():
            (renamed,) = {re.sub(old, new, name) for old, new in TOWER_NAMES.items() if re.match(old, name)}
            state[renamed] = each
        made.load_state_dict(state)
        made.post_layernorm.eps = config.vision_norm_eps
        return made

    def _qformer(self, config: TinyGptvConfig) -> Any:
        former = config.qformer_config
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        made = blip.Blip2QFormerModel(
            transformers.Blip2QFormerConfig(
                **{name: getattr(former, name) for name in names}, encoder_hidden_size=config.vision_config.hidden_size
            )
        ).eval()
        state = {
            name.replace("embeddings.LayerNorm", "layernorm").replace("attention.self.", "attention.attention."): each
            for name, each in self._part("Qformer.bert.").items()
        }
        made.load_state_dict(state)
        return made

    def _language(self, config: TinyGptvConfig) -> Any:
        text = config.text_config
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        made = transformers.PhiForCausalLM(
            transformers.PhiConfig(
                **{name: getattr(text, name) for name in names},
                partial_rotary_factor=text.partial_rotary_factor,
                qk_layernorm=True,
                attn_implementation="eager",
            )
        ).eval()
        own = self._part("llama_model.")
        norms = [own.pop(f"model.layers.{layer}.post_layernorm.weight") for layer in range(text.num_hidden_layers)]
        made.load_state_dict(own)
        for layer, weight in zip(made.model.layers, norms, strict=True):
            norm = llama.LlamaRMSNorm(text.hidden_size, eps=1e-6)
            norm.weight.data = weight
            layer.self_attn.dense = nn.Sequential(layer.self_attn.dense, norm)
        made.model.rotary_emb.register_forward_hook(_rounded)
        return made


def _rounded(_module: nn.Module, _input: object, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(table.half().float() for table in tables)


@pytest.fixture(scope="module")
def opened() -> Checkpoint:
    return Checkpoint(seeded_folder(), None)


@pytest.fixture(scope="module")
def network(opened: Checkpoint) -> TinyGptvNetwork:
    return opened.network(dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def reference(opened: Checkpoint) -> Reference:
    return Reference(load_file(seeded_folder() / "model.safetensors"), opened.config)


def test_image_tokens(opened: Checkpoint, network: TinyGptvNetwork, reference: Reference) -> None:
    pictures = opened.encode_pictures([a_picture(200, 80, seed=1), a_picture(50, 90, seed=2)])
    with torch.inference_mode():
        own = torch.stack(network.embed_images(pictures))
        expected = reference.image_tokens(torch.cat([picture.pixels for picture in pictures]))
    assert own.std() > 0.1
    assert (own - expected).abs().max() < 1e-4


def test_logits(opened: Checkpoint, network: TinyGptvNetwork, reference: Reference) -> None:
    pictures = opened.encode_pictures([a_picture(200, 80, seed=1)])
    ids = opened.raw_ids("###Human: <Img><ImageHere></Img> Is this a gun for sale?###Assistant: ", pictures)
    with torch.inference_mode():
        features = network.embed_images(pictures)
        hidden = network(tree.pack([Tree(tuple(ids), ())], network.device), features, [0])
        own = network.logits(hidden[-1:])[0]
        expected = reference.logits(ids, features[0])
    assert own.std() > 0.1
    assert (own - expected).abs().max() < 1e-4
