"""A checkpoint that is damaged, incomplete or of another kind is refused by name; a raw prompt as the original does."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moderation.errors import ConfigError
from moderation.models.h2ovl.family import Checkpoint
from moderation.models.shared.window import room_for_pictures
from tests.support.small_model import a_picture

REMOVED = object()


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, keys: str, value: object) -> None:
    """Sets or removes a key of a JSON file; keys are joined by dots."""
    whole = json.loads(path.read_text())
    *outer, last = keys.split(".")
    part = whole
    for key in outer:
        part = part[key]
    if value is REMOVED:
        del part[last]
    else:
        part[last] = value
    path.write_text(json.dumps(whole))


def load(folder: Path) -> None:
    Checkpoint(folder, None).network(dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llm_config.model_type", "qwen2", r"config\.json: llm_config.*qwen2.*'llama', 'mistral'"),
        ("llm_config.model_type", "llama", ""),
        ("llm_config.attention_bias", True, r"config\.json: llm_config.mistral.attention_bias"),
        ("llm_config.tie_word_embeddings", True, r"llm_config.mistral.tie_word_embeddings"),
        ("llm_config.rope_scaling", {"type": "linear", "factor": 2}, r"llm_config.mistral.rope_scaling"),
        ("llm_config.sliding_window", 4096, r"sliding_window 4096 is shorter than max_position_embeddings 8192"),
        ("llm_config.sliding_window", REMOVED, r"sliding_window 4096 is shorter"),  # the class's default
        ("llm_config.num_key_value_heads", 3, r"num_key_value_heads 3 does not divide num_attention_heads 4"),
        ("llm_config.num_attention_heads", 5, r"5 heads do not divide hidden_size 96"),
        ("llm_config.vocab_size", 700, r"the tokenizer has \d+ tokens and config.json a vocab_size of 700"),
        ("vision_config", REMOVED, r"config\.json: vision_config: Field required"),
        ("vision_config.norm_type", "rms_norm", r"vision_config.norm_type"),
        ("vision_config.qk_normalization", True, r"vision_config.qk_normalization"),
        ("vision_config.image_size", 98, r"image_size 98 must be an even number of patches"),
        ("vision_config.num_attention_heads", 5, r"5 heads do not divide hidden_size 64"),
        ("force_image_size", 224, r"force_image_size 224 is not vision_config.image_size 112"),
        ("downsample_ratio", 0.25, r"downsample_ratio is 0.25; only 0.5 is supported"),
        ("ps_version", "v1", r"ps_version"),
        ("ps_version", REMOVED, r"ps_version: Field required"),
        ("select_layer", -4, r"select_layer -4 is outside 2 layers"),
        ("template", "chatml", r"template: Input should be 'h2ogpt2'"),
    ],
)
def test_a_config_that_is_not_supported(copy: Path, key: str, value: object, message: str) -> None:
    change(copy / "config.json", key, value)
    if not message:
        load(copy)
        return
    with pytest.raises(ConfigError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer_class", "Qwen2Tokenizer", r"tokenizer_config\.json: tokenizer_class"),
        ("add_bos_token", True, r"add_bos_token"),
        ("legacy", False, r"legacy"),
        ("sp_model_kwargs", {"enable_sampling": True}, r"sp_model_kwargs"),
        ("added_tokens_decoder", REMOVED, r"added_tokens_decoder: Field required"),
        ("added_tokens_decoder.1.lstrip", True, r"added_tokens_decoder.1.lstrip"),
        ("added_tokens_decoder.1.content", "<t>", r"has the token <t> as 1, which does not follow on the \d+ pieces"),
        ("added_tokens_decoder.9999", {"content": "<x>"}, r"has the token <x> as 9999"),
    ],
)
def test_a_tokenizer_config_that_is_not_supported(copy: Path, key: str, value: object, message: str) -> None:
    change(copy / "tokenizer_config.json", key, value)
    with pytest.raises(ConfigError, match=message):
        Checkpoint(copy, None)


@pytest.mark.parametrize("name", ["<img>", "</img>", "<IMG_CONTEXT>", "<|end|>"])
def test_a_token_of_the_template_is_missing(copy: Path, name: str) -> None:
    path = copy / "tokenizer_config.json"
    path.write_text(path.read_text().replace(f'"content": "{name}"', '"content": "<other>"'))
    with pytest.raises(ConfigError, match=rf"added_tokens_decoder has no {name.replace('|', '[|]')}"):
        Checkpoint(copy, None)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=name):
        load(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_file_cut_short_is_named(copy: Path, name: str, part: float) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ConfigError, match=name):
        load(copy)


def test_a_tensor_that_is_missing_or_misshapen_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.ls1"]
    tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"][:, :-1].contiguous()
    tensors["language_model.extra"] = torch.zeros(1)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ConfigError) as caught:
        load(copy)
    for part in ("missing: vision_model.encoder.layers.1.ls1", "mlp1.1.weight is", "unexpected: language_model.extra"):
        assert part in str(caught.value)


def test_layers_behind_the_selected_one_are_not_read(copy: Path) -> None:
    change(copy / "config.json", "select_layer", -2)
    opened = Checkpoint(copy, None)
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    assert len(network.vision_model.encoder["layers"]) == 1  # type: ignore[arg-type]


def test_tags_are_filled_in_their_order(opened: Checkpoint) -> None:
    first, second = opened.encode_pictures([a_picture(50, 50), a_picture(100, 50)])
    ids = opened.raw_ids("<|prompt|>A: <image>\nB: <image>\n<image>?<|end|><|answer|>", [first, second])
    words, begin, end = opened.tokenizer.trusted, opened.tokenizer.token("<img>"), opened.tokenizer.token("</img>")
    assert ids == [
        *words("<|prompt|>A: "),
        *(begin, *[-1] * 16, end),
        *words("\nB: "),
        *(begin, *[-2] * 3 * 16, end),
        *words("\n<image>?<|end|><|answer|>"),
    ]


def test_more_pictures_than_tags(opened: Checkpoint) -> None:
    pictures: Any = opened.encode_pictures([a_picture(), a_picture()])
    with pytest.raises(ConfigError, match=r"2 images need a tag <image> each; there are 1"):
        opened.raw_ids("<|prompt|><image><|end|><|answer|>", pictures)
    with pytest.raises(ConfigError, match=r"mark its place with <image>"):
        opened.raw_ids("<|prompt|><image><image><IMG_CONTEXT><|end|><|answer|>", pictures)


def test_num_crops_are_the_tiles_of_a_pass(folder: Path) -> None:
    wide = a_picture(600, 100)
    assert [len(Checkpoint(folder, most).encode_pictures([wide] * 2)[0]) for most in (None, 1, 3, 6)] == [7, 1, 4, 7]
    decisive = [Checkpoint(folder, most).decisive for most in (None, 6, 3)]
    assert decisive[0] == decisive[1] != decisive[2]
    with pytest.raises(ConfigError, match=r"MODERATION_MODEL__NUM_CROPS: with 200 tiles of a pass"):
        Checkpoint(folder, 200)


def test_tiles_that_no_prompt_could_hold_are_refused_at_the_start(folder: Path) -> None:
    """Both passes and the thumbnail count: a picture must never be refused for a setting."""
    for most in range(1, 40):
        try:
            opened = Checkpoint(folder, most)
        except ConfigError:
            continue
        sizes = [(cols * 10, rows * 10) for cols in range(1, 30) for rows in range(1, 30)]
        plans = [opened.tiling.plan(size, twice=True) for size in sizes]
        taken = 1 + max(sum(grid[0] * grid[1] for grid in plan if grid and grid != (1, 1)) for plan in plans)
        assert taken <= opened.tiling.most_tiles
        assert taken * opened.config.tile_tokens <= room_for_pictures(opened.context)


def test_every_file_that_decides_a_score_is_fetched_of_a_hub_id(opened: Checkpoint) -> None:
    """tokenizer.model is in no other family's patterns."""
    names = [path.name for path in opened.files]
    assert {"config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"} == set(names)
    assert all(any(fnmatch(name, pattern) for pattern in Checkpoint.wanted) for name in names)
