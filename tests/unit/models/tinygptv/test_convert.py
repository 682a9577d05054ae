"""The converter: every number where it belongs, nothing run, nothing half done, and no two models in one folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moderation import models
from moderation.errors import ConfigError
from moderation.models.tinygptv.convert import Files, convert
from moderation.settings import ModelSettings
from tests.support.small_model import a_content, a_picture, questions
from tests.support.tinygptv_artefacts import LLM, Downloads, equal, tensors_of

SMALL_SHARD = 100_000
STAGE_4 = {"arch": "minigpt_v2", "image_size": 448, "lora_alpha": 16}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert(folder / "out", Downloads().write(folder / "in"))
    return folder / "out"


def test_the_folder_loads_like_any_other(converted: Path) -> None:
    model = models.load(ModelSettings(name=str(converted), device="cpu"))
    windows = model.encode(a_content("Selling guns", a_picture()), questions(3))
    (row,) = model.score(windows)
    assert len(row) == 3
    assert "minigpt4, 224 x 224 pixels" in models.describe(str(converted))


def test_adapters_are_added_in_float32_and_rows_are_split_by_head(converted: Path) -> None:
    downloads, made = Downloads(), tensors_of(converted)
    for layer in range(2):
        at, tuned = f"model.layers.{layer}.self_attn.", f"{LLM}layers.{layer}.self_attn."
        whole = {
            name: downloads.phi[f"{at}{name}.weight"].double()
            + 16
            / 4
            * downloads.stage[f"{tuned}{name}.lora_B.weight"].double()
            @ downloads.stage[f"{tuned}{name}.lora_A.weight"].double()
            for name in ("query_key_value", "dense")
        }
        bias = downloads.phi[f"{at}query_key_value.bias"]
        for place, name in enumerate("qkv"):
            rows = [head * 240 + place * 80 + row for head in range(2) for row in range(80)]
            weight = made[f"llama_model.{at}{name}_proj.weight"]
            assert weight.dtype == torch.float32
            assert (weight - whole["query_key_value"][rows]).abs().max() < 1e-5
            assert torch.equal(made[f"llama_model.{at}{name}_proj.bias"], bias[rows])
        assert (made[f"llama_model.{at}dense.weight"] - whole["dense"]).abs().max() < 1e-5
        assert torch.equal(made[f"llama_model.{at}dense.bias"], downloads.phi[f"{at}dense.bias"])


def test_what_is_not_merged_is_kept_to_the_bit(converted: Path) -> None:
    downloads, made = Downloads(), tensors_of(converted)
    kept = {
        "visual_encoder.blocks.1.attn.qkv.weight": downloads.vit["blocks.1.attn.qkv.weight"],
        "visual_encoder.pos_embed": downloads.vit["pos_embed"],
        "ln_vision.bias": downloads.qformer["ln_vision.bias"],
        "query_tokens": downloads.qformer["query_tokens"],
        "llama_model.model.layers.1.mlp.fc1.weight": downloads.phi["model.layers.1.mlp.fc1.weight"],
        "llama_model.model.layers.1.input_layernorm.bias": downloads.phi["model.layers.1.input_layernorm.bias"],
        "llama_model.lm_head.bias": downloads.phi["lm_head.bias"],
        "llama_proj2.weight": downloads.stage["llama_proj2.weight"],
    }
    for name, tensor in kept.items():
        assert made[name].dtype == tensor.dtype, name
        assert torch.equal(made[name], tensor), name
    assert not [name for name in made if "blocks.2" in name or "head.weight" in name.replace("lm_head", "")]


def test_the_trained_file_overrides_name_by_name(converted: Path, tmp_path: Path) -> None:
    downloads = Downloads(with_qformer=True)
    downloads.stage["visual_encoder.blocks.0.attn.q_bias"] = torch.full((88,), 0.5)
    downloads.stage[LLM.replace("model.model.", "model.") + "lm_head.bias"] = torch.full((1280,), 0.25)
    convert(tmp_path / "out", downloads.write(tmp_path / "in"))
    made, before = tensors_of(tmp_path / "out"), tensors_of(converted)
    trained = {
        "query_tokens": downloads.stage["query_tokens"],
        "Qformer.bert.encoder.layer.0.output_query.dense.weight": downloads.stage[
            "Qformer.bert.encoder.layer.0.output_query.dense.weight"
        ],
        "visual_encoder.blocks.0.attn.q_bias": torch.full((88,), 0.5),
        "llama_model.lm_head.bias": torch.full((1280,), 0.25),
        "llama_model.model.layers.0.input_layernorm.weight": downloads.stage[LLM + "layers.0.input_layernorm.weight"],
        "llama_model.model.final_layernorm.weight": downloads.stage[LLM + "final_layernorm.weight"],
    }
    for name, tensor in trained.items():
        assert torch.equal(made[name], tensor), name
    for name in ("ln_vision.weight", "llama_model.model.embed_tokens.weight", "visual_encoder.blocks.1.attn.q_bias"):
        assert torch.equal(made[name], before[name]), name


def test_norms_that_no_file_has_change_nothing(tmp_path: Path) -> None:
    downloads = Downloads()
    for name in [name for name in downloads.stage if "k_layernorm" in name or "final_layernorm" in name]:
        del downloads.stage[name]
    convert(tmp_path / "out", downloads.write(tmp_path / "in"))
    made = tensors_of(tmp_path / "out")
    at = "llama_model.model.layers.0.self_attn."
    assert torch.equal(made[at + "k_layernorm.weight"], torch.ones(80))
    assert torch.equal(made[at + "q_layernorm.bias"], torch.zeros(80))
    assert not torch.equal(made[at + "q_layernorm.weight"], torch.ones(80))
    own = downloads.phi["model.final_layernorm.weight"]
    assert torch.equal(made["llama_model.model.final_layernorm.weight"], own)


def test_both_spellings_of_adapters(converted: Path, tmp_path: Path) -> None:
    newer = Downloads()
    newer.stage = {
        name.replace(".weight", ".default.weight") if ".lora_" in name else name: tensor
        for name, tensor in newer.stage.items()
    }
    convert(tmp_path / "out", newer.write(tmp_path / "in"))
    assert equal(tensors_of(tmp_path / "out"), tensors_of(converted))


def test_a_trained_file_without_adapters(tmp_path: Path) -> None:
    plain = Downloads()
    plain.stage = {
        name.replace("llama_model.base_model.model.", "llama_model."): tensor
        for name, tensor in plain.stage.items()
        if ".lora_" not in name
    }
    convert(tmp_path / "out", plain.write(tmp_path / "in"))
    made = tensors_of(tmp_path / "out")
    dense = "model.layers.0.self_attn.dense.weight"
    assert torch.equal(made[f"llama_model.{dense}"], plain.phi[dense])
    norm = "llama_model.model.layers.0.input_layernorm.weight"
    assert torch.equal(made[norm], plain.stage[norm])


def test_the_second_variant_has_its_own_positions(tmp_path: Path) -> None:
    downloads = Downloads(model=dict(STAGE_4))
    convert(tmp_path / "out", downloads.write(tmp_path / "in"))
    positions = tensors_of(tmp_path / "out")["visual_encoder.pos_embed"]
    assert positions.shape == (1, 1025, 88)
    assert positions.dtype == torch.float32
    assert torch.equal(positions[:, :1], downloads.vit["pos_embed"][:, :1].float())
    grid = positions[0, 1:].reshape(32, 32, 88)
    known = downloads.vit["pos_embed"][0, 1:].float().reshape(16, 16, 88)
    middle = grid[2:-2, 2:-2].reshape(14, 2, 14, 2, 88).mean(dim=(1, 3))
    assert (middle - known[1:-1, 1:-1]).abs().mean() < known.abs().mean(), "the grid is resized, not shuffled"
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["conversion"]["positions"] == "resized from 256 to 1024 patches here, in float32"
    assert models.describe(str(tmp_path / "out")).count("minigpt_v2, 448 x 448 pixels") == 1


def test_positions_that_were_trained_at_the_size_are_not_resized(tmp_path: Path) -> None:
    downloads = Downloads(model=dict(STAGE_4))
    downloads.stage["visual_encoder.pos_embed"] = torch.rand(1, 1025, 88)
    convert(tmp_path / "out", downloads.write(tmp_path / "in"))
    made = tensors_of(tmp_path / "out")["visual_encoder.pos_embed"]
    assert torch.equal(made, downloads.stage["visual_encoder.pos_embed"])
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["conversion"]["positions"] == "as in the files"


def test_the_folder_says_what_it_was_made_of(tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    lines: list[str] = []
    convert(tmp_path / "out", inputs, progress=lines.append)
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    conversion = content["conversion"]
    assert conversion["adapters"] == {"merged": True, "alpha": 16.0}
    recorded = {each["option"]: (each["name"], each["sha256"]) for each in conversion["inputs"]}
    sums = {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "in").rglob("*") if path.is_file()
    }
    for option, name in (("vit", "eva.pth"), ("qformer", "blip2.pth"), ("stage", "stage.pth")):
        assert recorded[f"--{option}"] == (name, {name: sums[getattr(inputs, option)]})
    assert recorded["--phi"] == ("phi-2", {path.name: sums[path] for path in inputs.phi.iterdir()})
    assert [line for line in lines if line.startswith("not used: eva.pth: blocks.2.")]
    assert "not used: blip2.pth: t5_proj.weight" in lines
    assert lines[-2].startswith("model-00001-of-00001.safetensors")


def renamed_over(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    os.utime(new, ns=(0, path.stat().st_mtime_ns))  # what is left to tell it by is its inode
    new.replace(path)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(4)
        file.seek(0)
        file.write(first)


@pytest.mark.parametrize("moment", ["SHA-256 of", "model-00002"], ids=["before its digest", "after its digest"])
@pytest.mark.parametrize("change", [renamed_over, overwritten])
@pytest.mark.parametrize("name", ["eva.pth", "blip2.pth", "stage.pth", "phi-2/pytorch_model.bin", "phi-2/config.json"])
def test_a_file_that_changes_meanwhile_gives_no_folder(
    tmp_path: Path, name: str, change: Callable[[Path], None], moment: str
) -> None:
    """Its digest would be of the bytes before, or after, and its tensors of either."""
    inputs = Downloads().write(tmp_path / "in")
    path, due = tmp_path / "in" / name, [True]

    def change_once(line: str) -> None:
        if line.startswith(moment) and due:
            due.clear()
            change(path)

    with pytest.raises(ConfigError, match=f"{path}: was changed or replaced while it was read"):
        convert(tmp_path / "out", inputs, shard=SMALL_SHARD, progress=change_once)
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_a_tokenizer_that_changes_meanwhile_gives_no_folder(tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    lines: list[str] = []

    def change_last(line: str) -> None:
        lines.append(line)
        if line.startswith("model-"):
            (inputs.phi / "tokenizer.json").write_text("{}")

    with pytest.raises(ConfigError, match=r"tokenizer\.json: was changed or replaced"):
        convert(tmp_path / "out", inputs, progress=change_last)
    assert len([line for line in lines if line.startswith("model-")]) == 1, "the last moment before it is copied"
    assert not (tmp_path / "out").exists()


def test_shards_are_no_larger_than_asked_and_listed(converted: Path, tmp_path: Path) -> None:
    convert(tmp_path / "out", Downloads().write(tmp_path / "in"), shard=SMALL_SHARD)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    made = tensors_of(tmp_path / "out")
    assert equal(made, tensors_of(converted))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in made.values())
    shards: dict[str, list[str]] = {}
    for name, file in index["weight_map"].items():
        shards.setdefault(file, []).append(name)
    assert len(shards) > 5
    assert all(len(names) == 1 or sum(made[name].nbytes for name in names) <= SMALL_SHARD for names in shards.values())


def test_every_option_that_names_no_file_is_named_at_once(tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    wrong = Files(tmp_path / "nope.pth", tmp_path, inputs.vit, inputs.stage)
    with pytest.raises(ConfigError) as caught:
        convert(tmp_path / "out", wrong)
    assert str(caught.value).split("; ") == [
        f"--vit {tmp_path}/nope.pth: there is no such file",
        f"--qformer {tmp_path}: is a folder, not a file",
        f"--phi {inputs.vit}: is a file, not a folder",
    ]


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    for out in (tmp_path / "out", tmp_path / "out" / "kept"):
        with pytest.raises(ConfigError, match="exists already"):
            convert(out, inputs)
    (tmp_path / "out" / "kept").unlink()
    convert(tmp_path / "out", inputs)
    assert (tmp_path / "out" / "config.json").exists(), "an empty folder is taken"
