"""Downloads are read in every form that they are published in, and nothing in them is run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.tinygptv.convert import convert
from moderation.models.tinygptv.family import Checkpoint
from tests.support import tinygptv_artefacts as artefacts
from tests.support.tinygptv_artefacts import Downloads, equal, tensors_of


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert(folder / "out", Downloads().write(folder / "in"))
    return folder / "out"


@pytest.mark.parametrize("form", ["bin-shards", "safetensors", "safetensors-shards"])
def test_every_form_of_the_language_models_weights(converted: Path, tmp_path: Path, form: str) -> None:
    downloads = Downloads()
    inputs = downloads.write(tmp_path / "in")
    artefacts.write_phi(tmp_path / "other", downloads.phi, downloads.phi_config, form)
    convert(tmp_path / "out", replace(inputs, phi=tmp_path / "other"))
    assert equal(tensors_of(tmp_path / "out"), tensors_of(converted))


def test_a_language_model_with_the_slow_tokenizers_files(converted: Path, tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    whole = json.loads((inputs.phi / "tokenizer.json").read_text())
    (inputs.phi / "tokenizer.json").unlink()
    (inputs.phi / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (inputs.phi / "merges.txt").write_text("\n".join(["#version: 0.2", *whole["model"]["merges"], ""]))
    runs = {token["content"]: token["id"] for token in whole["added_tokens"][1:]}
    (inputs.phi / "added_tokens.json").write_text(json.dumps(runs))
    convert(tmp_path / "out", inputs)
    text = "###Human: guns  for sale\t\t<|endoftext|> Yes"
    slow, fast = (Checkpoint(folder, None) for folder in (tmp_path / "out", converted))
    assert slow.tokenizer.trusted(text) == fast.tokenizer.trusted(text)
    assert "merges.txt" in {path.name for path in slow.files}
    assert not [path for path in slow.files if not any(map(path.match, Checkpoint.wanted))], (
        "all are fetched of a hub id"
    )
    sums = json.loads((tmp_path / "out" / "config.json").read_text())["conversion"]["inputs"][2]["sha256"]
    assert {"vocab.json", "merges.txt", "added_tokens.json"} <= set(sums)


class Runs:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("option", ["vit", "qformer", "stage", "phi"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, option: str) -> None:
    inputs = Downloads().write(tmp_path / "in")
    named: Path = getattr(inputs, option)
    path = named / "pytorch_model.bin" if option == "phi" else named
    content = torch.load(path, weights_only=True)
    torch.save({**content, "extra": Runs(tmp_path / "run")}, path)
    with pytest.raises(ConfigError, match=r"refused, and nothing in it was run: it holds \w+\.mkdir") as caught:
        convert(tmp_path / "out", inputs)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "run").exists(), "the file would have run code"


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "missing", "list"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    inputs = Downloads().write(tmp_path / "in")
    path = inputs.stage
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif damage == "list":
        torch.save([torch.zeros(1)], path)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_text("no torch file" if damage == "text" else "")
    with pytest.raises(ConfigError, match=r"stage\.pth"):
        convert(tmp_path / "out", inputs)


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    """torch.save keeps a tied head and embedding as one, and parts of a larger tensor as parts."""
    downloads = Downloads()
    downloads.phi["lm_head.weight"] = downloads.phi["model.embed_tokens.weight"]
    norms = torch.rand(2, 160).half()
    for layer in range(2):
        downloads.phi[f"model.layers.{layer}.input_layernorm.bias"] = norms[layer]
    inputs = downloads.write(tmp_path / "in")
    kept = torch.load(inputs.phi / "pytorch_model.bin")
    assert kept["lm_head.weight"].data_ptr() == kept["model.embed_tokens.weight"].data_ptr()
    convert(tmp_path / "out", inputs)
    made = tensors_of(tmp_path / "out")
    assert torch.equal(made["llama_model.lm_head.weight"], downloads.phi["model.embed_tokens.weight"])
    assert torch.equal(made["llama_model.model.embed_tokens.weight"], downloads.phi["model.embed_tokens.weight"])
    for layer in range(2):
        assert torch.equal(made[f"llama_model.model.layers.{layer}.input_layernorm.bias"], norms[layer])


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor[:-1].clone(), r"was torch\.float16 \[72, 160\] and is now torch\.float16 \[71, 160\]"),
        (torch.Tensor.float, r"was torch\.float16 \[72, 160\] and is now torch\.float32 \[72, 160\]"),
        (None, "is gone|is not readable any more"),
    ],
    ids=["shape", "dtype", "gone"],
)
def test_a_file_that_is_another_when_it_is_read_again(
    tmp_path: Path, form: str, change: Callable[[Tensor], Tensor] | None, message: str
) -> None:
    downloads, name = Downloads(), "model.layers.1.mlp.fc1.weight"
    inputs = downloads.write(tmp_path / "in")
    artefacts.write_phi(tmp_path / "before", downloads.phi, downloads.phi_config, form)
    whole = downloads.phi.pop(name)
    if change is not None:
        downloads.phi[name] = change(whole)
    artefacts.write_phi(tmp_path / "after", downloads.phi, downloads.phi_config, form)

    def replace_weights(line: str) -> None:
        if line.startswith("model-00001"):
            for path in (tmp_path / "after").glob("*model*"):
                path.replace(tmp_path / "before" / path.name)

    with pytest.raises(ConfigError, match=rf"{tmp_path}/before/.*model.*: {name} ({message})"):
        convert(tmp_path / "out", replace(inputs, phi=tmp_path / "before"), shard=100_000, progress=replace_weights)
    assert not list(tmp_path.glob("out*")), "nothing is left"
