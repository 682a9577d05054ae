"""Files that make no model together are refused, and named. Those that were published make one of the known size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.shared.phi import PhiConfig
from moderation.models.tinygptv import PUBLISHED as LISTED
from moderation.models.tinygptv import merge
from moderation.models.tinygptv.artefacts import Artefact, Stored
from moderation.models.tinygptv.convert import convert, shapes
from moderation.models.tinygptv.merge import Inputs
from moderation.models.tinygptv.network import QFormerConfig, TinyGptvConfig, VisionConfig
from tests.support import tinygptv_artefacts as artefacts
from tests.support.tinygptv_artefacts import LLM, PUBLISHED, Downloads, Shapes, Sizes

Change = Callable[[Downloads], object]


def without(part: str, ending: str) -> Change:
    def change(downloads: Downloads) -> None:
        tensors: dict[str, Tensor] = getattr(downloads, part)
        for name in [name for name in tensors if name.endswith(ending)]:
            del tensors[name]

    return change


def put(part: str, name: str, tensor: Tensor) -> Change:
    return lambda downloads: getattr(downloads, part).update({name: tensor})


def of_another(part: str, **sizes: int) -> Change:
    """The file of a model of other sizes."""
    return lambda downloads: setattr(downloads, part, getattr(Downloads(Sizes(**sizes)), part))


def stage_with_another_qformer(downloads: Downloads) -> None:
    downloads.stage = Downloads(Sizes(qformer_layers=3), with_qformer=True).stage


def todays_phi(downloads: Downloads) -> None:
    for name in [name for name in downloads.phi if "query_key_value" in name]:
        for place, part in enumerate(downloads.phi.pop(name).chunk(3)):
            downloads.phi[name.replace("query_key_value", "qkv"[place] + "_proj")] = part.clone()


def configured(**values: Any) -> Change:
    return lambda downloads: downloads.model and downloads.model.update(values)


def phi_configured(**values: Any) -> Change:
    return lambda downloads: downloads.phi_config.update(values)


def adapted(name: str, out: int, into: int) -> Change:
    """Both halves of an adapter of a matrix of the language model, in every layer, with the right shapes."""
    return lambda downloads: downloads.stage.update(
        {
            f"{LLM}layers.{layer}.{name}.lora_{half}.weight": torch.zeros(shape)
            for layer in range(2)
            for half, shape in (("A", (4, into)), ("B", (out, 4)))
        }
    )


def unconfigured(downloads: Downloads) -> None:
    downloads.model = None


NARROW = {"tower": 176}
REFUSED: dict[str, tuple[Change, str]] = {
    "a tower of another model": (of_another("vit", **NARROW), r"blip2\.pth: ln_vision\.weight is \[88\].*need \[176\]"),
    "a Q-Former of another tower": (of_another("qformer", **NARROW), r"--qformer .*ln_vision\.weight is \[176\]"),
    "a Q-Former of another width": (
        of_another("qformer", qformer=128),
        r"stage\.pth: llama_proj\.weight is \[48, 64\]",
    ),
    "a Q-Former of another depth": (stage_with_another_qformer, r"stage\.pth: \d+ tensors that this model lacks"),
    "a BLIP-2 of a smaller T5": (of_another("qformer", t5=2048), "language model of width 2048.*FLAN-T5-XXL"),
    "a language model of another width": (
        lambda d: (
            of_another("phi", hidden=320, heads=4)(d),
            phi_configured(hidden_size=320, num_attention_heads=4)(d),
        ),
        r"stage\.pth: the adapter of .*query_key_value\.weight is \[480, 4\] x \[4, 160\], and the matrix \[960, 320\]",
    ),
    "a language model with more layers": (
        lambda d: (of_another("phi", layers=3)(d), phi_configured(num_hidden_layers=3)(d)),
        r"stage\.pth: trained with 2 layers of the language model, where --phi .* has 3: layer 2 lacks input_layernorm",
    ),
    "a language model with fewer layers": (
        lambda d: (of_another("phi", layers=1)(d), phi_configured(num_hidden_layers=1)(d)),
        r"stage\.pth: 8 tensors that this model lacks: llama_model\.base_model\.model\.model\.layers\.1\.",
    ),
    "a trained file of a larger language model": (
        of_another("stage", hidden=320, heads=4),
        r"and the matrix \[480, 160\]",
    ),
    "a trained file with another projection": (
        put("stage", "llama_proj2.weight", torch.zeros(160, 64)),
        r"llama_proj2\.weight is \[160, 64\], where the others need \[160, 48\]",
    ),
    "a config of another depth": (phi_configured(num_hidden_layers=1), "tensors that this model lacks"),
    "today's Phi-2": (todays_phi, r"has no query_key_value \(it has q_proj, k_proj and v_proj\)"),
    "another kind of model": (phi_configured(model_type="llama"), "model_type is 'llama', not 'phi'"),
    "the tower's file lacks a tensor": (
        without("vit", "blocks.1.norm2.bias"),
        "lacks 1 tensors: .*blocks.1.norm2.bias",
    ),
    "a hole among the tower's blocks": (without("vit", "blocks.0.mlp.fc2.bias"), r"--vit .*: lacks 1 tensors"),
    "BLIP-2's file lacks a tensor": (
        without("qformer", "ln_vision.bias"),
        "--qformer .*: lacks 1 tensors: ln_vision.bias",
    ),
    "Phi-2 lacks a tensor": (without("phi", "fc2.bias"), "--phi .*: lacks 2 tensors: .*mlp.fc2.bias"),
    "the trained file lacks a projection": (
        without("stage", "llama_proj.weight"),
        "lacks llama_proj.weight, so it is not",
    ),
    "an adapter without its other half": (without("stage", "dense.lora_B.weight"), r"dense\.weight lacks lora_B"),
    "an adapter of one layer alone": (
        without("stage", "layers.1.self_attn.dense.lora_A.weight"),
        r"dense\.weight lacks lora_A",
    ),
    "a layer without its adapter": (
        lambda d: [d.stage.pop(name) for name in list(d.stage) if "layers.1.self_attn.dense.lora" in name],
        "layer 1 lacks the adapter of self_attn.dense.weight",
    ),
    "a layer without its norm": (
        without("stage", "layers.0.post_layernorm.weight"),
        "layer 0 lacks post_layernorm.weight",
    ),
    "adapters of two ranks": (
        put("stage", LLM + "layers.0.self_attn.dense.lora_A.weight", torch.zeros(8, 160)),
        r"\[160, 4\] x \[8, 160\], and the matrix \[160, 160\]",
    ),
    "a trained tensor in two spellings": (
        put("stage", "llama_model.model.final_layernorm.weight", torch.ones(160)),
        "final_layernorm.weight is there in two spellings",
    ),
    "an adapter in two spellings": (
        put("stage", LLM + "layers.0.self_attn.dense.lora_A.default.weight", torch.zeros(4, 160)),
        "in two spellings",
    ),
    "an unknown tensor of the tower": (
        put("vit", "blocks.0.attn.rope", torch.zeros(1)),
        r"lacks: blocks\.0\.attn\.rope",
    ),
    "two unused blocks": (put("vit", "blocks.9.norm1.weight", torch.zeros(88)), "--vit"),
    "an unknown tensor of BLIP-2": (put("qformer", "opt_proj.weight", torch.zeros(1)), "lacks: opt_proj.weight"),
    "a trained tensor in BLIP-2's file": (put("qformer", "llama_proj.bias", torch.zeros(48)), "lacks: llama_proj.bias"),
    "an unknown tensor of Phi-2": (put("phi", "model.layers.0.mlp.fc3.bias", torch.zeros(1)), r"lacks: .*fc3\.bias"),
    "an unknown trained tensor": (put("stage", "llama_proj3.weight", torch.zeros(1)), "lacks: llama_proj3.weight"),
    "an adapter of an unknown matrix": (put("stage", LLM + "layers.0.mlp.fc9.lora_A.weight", torch.zeros(1)), "fc9"),
    "adapters of a matrix that the original does not adapt": (
        adapted("mlp.fc1", 72, 160),
        r"stage\.pth: 4 adapters of other matrices than .*query_key_value and dense: .*layers\.0\.mlp\.fc1\.lora_A",
    ),
    "an adapter outside the language model": (
        lambda d: d.stage.update(
            {f"llama_proj.lora_{half}.weight": torch.zeros(shape) for half, shape in (("A", (4, 64)), ("B", (48, 4)))}
        ),
        r"2 adapters of other matrices than .*: llama_proj\.lora_A\.weight, llama_proj\.lora_B\.weight",
    ),
    "whole numbers": (put("vit", "cls_token", torch.zeros(1, 1, 88, dtype=torch.int32)), "cls_token is torch.int32"),
    "a number that is not finite": (put("vit", "cls_token", torch.full((1, 1, 88), torch.nan)), "not finite"),
    "no config of the run": (unconfigured, "add --variant 224 .* or --variant 448"),
    "another architecture": (configured(arch="minigpt5"), "arch 'minigpt5'; supported are minigpt4, minigpt_v2"),
    "an architecture in a list": (configured(arch=["minigpt4"]), r"stage\.pth: its config says arch \['minigpt4'\];"),
    "no architecture": (configured(arch=None), "arch None"),
    "an image size that nothing can hold": (
        configured(image_size=14_000_000_000_000),
        r"stage\.pth: its config says image_size 14000000000000, which is not a number of pixels up to 2048",
    ),
    "an image size of no pixels": (configured(image_size=0), "image_size 0,"),
    "an image size that is no whole number": (configured(image_size=224.5), r"image_size 224\.5,"),
    "an image size that is a truth value": (configured(image_size=True), "image_size True,"),
    "half a patch": (configured(image_size=230), "no whole number of patches"),
    "no strength of adapters": (configured(lora_alpha="high"), "lora_alpha 'high'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_files_that_make_no_model_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    downloads = Downloads()
    change(downloads)
    inputs = downloads.write(tmp_path / "in")
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        convert(tmp_path / "out", inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "nothing is left"
    assert len(str(caught.value)) < 1500


def test_files_in_the_wrong_options_are_refused(tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    for one, other in (("vit", "qformer"), ("vit", "stage"), ("qformer", "stage")):
        swapped = {one: getattr(inputs, other), other: getattr(inputs, one)}
        with pytest.raises(ConfigError, match="so it is not"):
            convert(tmp_path / "out", replace(inputs, **swapped))


def stored(shapes_: Shapes, dtype: torch.dtype) -> dict[str, Stored]:
    def read() -> Tensor:
        raise AssertionError("planning reads no tensor")

    return {name: Stored(shape, dtype, read) for name, shape in shapes_.items()}


@pytest.mark.parametrize("with_qformer", [False, True])
def test_the_published_files_make_a_model_of_the_known_size(with_qformer: bool) -> None:
    files = {
        "--vit": (artefacts.vit(PUBLISHED), torch.float16, 528),
        "--qformer": (artefacts.qformer(PUBLISHED), torch.float32, 260),
        "--phi": (artefacts.phi(PUBLISHED), torch.float16, 325),
        "--stage": (artefacts.stage(PUBLISHED, with_qformer=with_qformer), torch.float32, 517 if with_qformer else 262),
    }
    assert {option: len(names) for option, (names, _, _) in files.items()} == {
        option: count for option, (_, _, count) in files.items()
    }
    vit, qformer, phi, stage = (
        Artefact(option, Path(option), stored(names, dtype), {}) for option, (names, dtype, _) in files.items()
    )
    inputs = Inputs(vit, qformer, phi, stage, lora_alpha=16)
    config = TinyGptvConfig(
        arch="minigpt4",
        vision_config=VisionConfig(),
        qformer_config=QFormerConfig(),
        text_config=PhiConfig(
            hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, partial_rotary_factor=0.4
        ),
    )
    planned, ignored = merge.plan(inputs, config, shapes(config))
    sizes = [tensor.bytes // tensor.dtype.itemsize for tensor in planned]
    assert sum(sizes) == 3_884_473_728
    merged = 32 * 4 * 2560 * 2560
    half = 985_894_528 + 2_779_683_840 - merged - 33 * 2560  # but for Phi-2's norms that were trained
    assert sum(size for tensor, size in zip(planned, sizes, strict=True) if tensor.dtype == torch.float16) == half
    assert sum(tensor.bytes for tensor in planned) == 4 * 3_884_473_728 - 2 * half == LISTED[0].weight_bytes
    positions = (4 * 1025 - 2 * 257) * 1408  # of 448 x 448 pixels, resized in float32
    assert LISTED[1].weight_bytes == LISTED[0].weight_bytes + positions
    assert len([name for name in ignored if "--vit" in name]) == 13 + 4
