"""TinyGPT-V's four downloads, small, with values drawn from their names; and their tensors at any size."""

from __future__ import annotations

import atexit
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from moderation.dev.checkpoint import seeded
from moderation.dev.seeds.phi3 import WORDS
from moderation.dev.seeds.tinygptv import tokenizer_of
from moderation.models.tinygptv.convert import Files

Shapes = dict[str, tuple[int, ...]]
LLM = "llama_model.base_model.model.model."


@cache
def seeded_folder() -> Path:
    """One small converted folder for the whole run."""
    parent = tempfile.TemporaryDirectory(prefix="moderation-tests-")
    atexit.register(parent.cleanup)
    return seeded(Path(parent.name) / "tinygptv", "tinygptv")


@dataclass(frozen=True)
class Sizes:
    """Of all four. blocks: in the tower's file, one more than are used."""

    tower: int = 88
    tower_mlp: int = 96
    blocks: int = 3
    qformer: int = 64
    qformer_mlp: int = 80
    qformer_layers: int = 2
    queries: int = 4
    t5: int = 4096
    projection: int = 48
    hidden: int = 160
    heads: int = 2
    layers: int = 2
    mlp: int = 72
    vocabulary: int = 1280
    rank: int = 4


PUBLISHED = Sizes(1408, 6144, 40, 768, 3072, 12, 32, 4096, 4096, 2560, 32, 32, 10240, 51200, 64)


def vit(sizes: Sizes) -> Shapes:
    width = sizes.tower
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 257, width),
        **_linear("patch_embed.proj", width, 3, 14, 14),
        **_norm("norm", width),
        **_linear("head", 10, width),
    }
    for block in range(sizes.blocks):
        at = f"blocks.{block}."
        shapes |= {
            **_norm(at + "norm1", width),
            **_norm(at + "norm2", width),
            at + "attn.q_bias": (width,),
            at + "attn.v_bias": (width,),
            at + "attn.qkv.weight": (3 * width, width),
            **_linear(at + "attn.proj", width, width),
            **_linear(at + "mlp.fc1", sizes.tower_mlp, width),
            **_linear(at + "mlp.fc2", width, sizes.tower_mlp),
        }
    return shapes


def qformer(sizes: Sizes) -> Shapes:
    return {
        "query_tokens": (1, sizes.queries, sizes.qformer),
        **_norm("ln_vision", sizes.tower),
        **_bert(sizes),
        **_linear("t5_proj", sizes.t5, sizes.qformer),
    }


def phi(sizes: Sizes) -> Shapes:
    hidden = sizes.hidden
    shapes: Shapes = {
        "model.embed_tokens.weight": (sizes.vocabulary, hidden),
        **_norm("model.final_layernorm", hidden),
        **_linear("lm_head", sizes.vocabulary, hidden),
    }
    for layer in range(sizes.layers):
        at = f"model.layers.{layer}."
        shapes |= {
            **_linear(at + "self_attn.query_key_value", 3 * hidden, hidden),
            **_linear(at + "self_attn.dense", hidden, hidden),
            **_linear(at + "mlp.fc1", sizes.mlp, hidden),
            **_linear(at + "mlp.fc2", hidden, sizes.mlp),
            **_norm(at + "input_layernorm", hidden),
        }
    return shapes


def stage(sizes: Sizes, *, with_qformer: bool = False) -> Shapes:
    shapes: Shapes = {
        LLM + "final_layernorm.weight": (sizes.hidden,),
        "Qformer.bert.embeddings.position_ids": (1, 512),
        **_linear("llama_proj", sizes.projection, sizes.qformer),
        **_linear("llama_proj2", sizes.hidden, sizes.projection),
    }
    for layer in range(sizes.layers):
        at = f"{LLM}layers.{layer}."
        for name, out in (("query_key_value", 3 * sizes.hidden), ("dense", sizes.hidden)):
            shapes[f"{at}self_attn.{name}.lora_A.weight"] = (sizes.rank, sizes.hidden)
            shapes[f"{at}self_attn.{name}.lora_B.weight"] = (out, sizes.rank)
        for name in ("q_layernorm", "k_layernorm"):
            shapes[f"{at}self_attn.{name}.weight"] = (sizes.hidden // sizes.heads,)
        for name in ("input_layernorm", "post_layernorm"):
            shapes[f"{at}{name}.weight"] = (sizes.hidden,)
    if with_qformer:
        shapes |= {"query_tokens": (1, sizes.queries, sizes.qformer), **_bert(sizes)}
    return shapes


def drawn(artefact: str, shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: _draw(f"{artefact}:{name}", shape).to(dtype) if "position_ids" not in name else torch.arange(512)[None]
        for name, shape in shapes.items()
    }


@dataclass
class Downloads:
    """The tensors of the four, to change before `write`. model: the trainer's config; None: the file has no config."""

    sizes: Sizes = field(default_factory=Sizes)
    with_qformer: bool = False
    model: dict[str, Any] | None = field(
        default_factory=lambda: {"arch": "minigpt4", "image_size": 224, "lora_alpha": 16}
    )

    def __post_init__(self) -> None:
        self.vit = drawn("vit", vit(self.sizes), torch.float16)
        self.qformer = drawn("qformer", qformer(self.sizes), torch.float32)
        self.phi = drawn("phi", phi(self.sizes), torch.float16)
        self.stage = drawn("stage", stage(self.sizes, with_qformer=self.with_qformer), torch.float32)
        self.phi_config: dict[str, Any] = {
            "hidden_size": self.sizes.hidden,
            "intermediate_size": self.sizes.mlp,
            "model_type": "phi",
            "num_attention_heads": self.sizes.heads,
            "num_hidden_layers": self.sizes.layers,
            "partial_rotary_factor": 0.4,
            "qk_layernorm": False,
            "vocab_size": self.sizes.vocabulary,
        }

    def write(self, folder: Path) -> Files:
        """The files, for the converter."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.vit, folder / "eva.pth")
        torch.save({"model": self.qformer}, folder / "blip2.pth")
        run = {} if self.model is None else {"config": {"run": {"seed": 42}, "model": self.model}}
        torch.save({"model": self.stage, "optimizer": {"state": {}}, "epoch": 4, **run}, folder / "stage.pth")
        write_phi(folder / "phi-2", self.phi, self.phi_config)
        return Files(folder / "eva.pth", folder / "blip2.pth", folder / "phi-2", folder / "stage.pth")


def write_phi(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], form: str = "bin") -> None:
    """form: bin or safetensors, in one file or, with `-shards`, in two with an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(WORDS.split())[1]))
    kind, _, many = form.partition("-")
    save: Callable[[dict[str, Tensor], Path], None] = torch.save if kind == "bin" else save_file
    base = "pytorch_model.bin" if kind == "bin" else "model.safetensors"
    if not many:
        save(dict(tensors), folder / base)
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = base.replace(".", f"-0000{number}-of-00002.")
        save({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / f"{base}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = torch.from_numpy(random.standard_normal(size=shape).astype(np.float32))
    if "norm" in name.lower() and name.endswith("weight"):
        return values * 0.2 + 1
    return values * (float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.1)


def _bert(sizes: Sizes) -> Shapes:
    width = sizes.qformer
    shapes: Shapes = {
        "Qformer.bert.embeddings.position_ids": (1, 512),
        **_norm("Qformer.bert.embeddings.LayerNorm", width),
    }
    for layer in range(sizes.qformer_layers):
        at = f"Qformer.bert.encoder.layer.{layer}."
        for part, source in _sources(sizes, layer):
            for name, into in (("query", width), ("key", source), ("value", source)):
                shapes |= _linear(f"{at}{part}.self.{name}", width, into)
            shapes |= {
                **_linear(f"{at}{part}.output.dense", width, width),
                **_norm(f"{at}{part}.output.LayerNorm", width),
            }
        shapes |= {
            **_linear(at + "intermediate_query.dense", sizes.qformer_mlp, width),
            **_linear(at + "output_query.dense", width, sizes.qformer_mlp),
            **_norm(at + "output_query.LayerNorm", width),
        }
    return shapes


def _sources(sizes: Sizes, layer: int) -> Iterator[tuple[str, int]]:
    yield "attention", sizes.qformer
    if layer % 2 == 0:
        yield "crossattention", sizes.tower


def _linear(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Of a converted folder."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )
